"""Damaged model directories are refused by a sentence, or load into a network of finite numbers.

A changed weight in a directory of one's own cannot be told from another model: its sha256 becomes its version.
``pytest -n0 -m slow tests/models/test_damage_fuzz.py`` tries a thousand.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from sedembed.errors import ModelNotFoundError, WeightsError
from sedembed.models.weanet import WEANet, WEANetConfig
from sedembed.models.weights import load_network, resolve, save_pretrained
from tests.damage_helpers import DAMAGES


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = WEANetConfig(channels=(2, 2, 2, 2), segment_channels=3, hidden_channels=(3, 2), classes=4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return save_pretrained(WEANet(config).eval(), tmp_path_factory.mktemp("models") / "whole")


def try_models(whole: Path, directory: Path, seeds: range) -> Counter[str]:
    counts, config, version = Counter[str](), load_network(whole).config, resolve(whole).record.version
    for seed in seeds:
        rng = np.random.default_rng(seed)
        out = directory / "model"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(whole, out)
        file = out / ("config.json", "model.safetensors")[rng.integers(2)]
        before = file.read_bytes()
        after = DAMAGES[rng.integers(len(DAMAGES))](bytearray(before), rng)
        if after is None:
            file.unlink()
        elif bytes(after) == before:
            continue
        else:
            file.write_bytes(bytes(after))
        try:
            network = load_network(out)
        except (WeightsError, ModelNotFoundError) as error:
            counts["refused"] += 1
            assert len(str(error)) < 2000, seed  # noqa: PT017
            continue
        counts["loaded"] += 1
        assert network.config == config, f"seed {seed}: {file.name}"
        assert all(tensor.isfinite().all() for tensor in network.state_dict().values()), seed
        # Only the weights themselves may differ, and then the version does.
        assert file.name == "config.json" or resolve(out).record.version != version, seed
    return counts


def test_some_hundred_models(whole: Path, tmp_path: Path):
    counts = try_models(whole, tmp_path, range(150))
    assert counts["refused"] > 50


@pytest.mark.slow
def test_a_thousand_models(whole: Path, tmp_path: Path):
    counts = try_models(whole, tmp_path, range(1000, 2500))
    assert counts["refused"] > 500
