"""The encoder of MTEB, in the benchmark's own evaluation of a task whose data were made here."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sedembed.errors import InvalidArgumentError, MissingPackageError
from sedembed.loading import load_model


def test_without_the_benchmark(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "mteb", None)
    monkeypatch.setitem(sys.modules, "mteb.models", None)
    monkeypatch.delitem(sys.modules, "sedembed.benchmarks.mteb", raising=False)
    with pytest.raises(MissingPackageError, match='pip install "mteb'):
        importlib.import_module("sedembed.benchmarks.mteb")


@pytest.fixture
def encoder(small_weanet_dir: Path) -> Any:
    pytest.importorskip("mteb", reason="needs the benchmark: pip install mteb")
    from sedembed.benchmarks.mteb import SedembedEncoder

    return SedembedEncoder(small_weanet_dir, device="cpu")


def clips(count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    kinds = [rng.standard_normal(24_000) * 0.1, 0.3 * np.sin(np.arange(24_000) * 0.2)]
    return [
        {"array": (kinds[i % 2] + 0.01 * rng.standard_normal(24_000)).astype(np.float32), "sampling_rate": 24_000}
        for i in range(count)
    ]


def test_encode(encoder: Any, small_weanet_dir: Path):
    from mteb.models.models_protocols import EncoderProtocol

    assert isinstance(encoder, EncoderProtocol)
    sounds = clips(5)
    found = encoder.encode(
        [{"audio": sounds[:3]}, {"audio": sounds[3:]}], task_metadata=None, hf_split="", hf_subset="", prompt_type=None
    )
    expected = load_model(small_weanet_dir, device="cpu").embed(sounds)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(InvalidArgumentError, match=r"with audio, got \['text'\]"):
        encoder.encode([{"text": ["a"]}], task_metadata=None, hf_split="", hf_subset="")


def test_a_task_of_the_benchmark(encoder: Any, monkeypatch: pytest.MonkeyPatch):
    import datasets
    import mteb

    task = mteb.get_task("ESC50")
    rows = datasets.Dataset.from_dict({"audio": clips(40), "target": [i % 2 for i in range(40)]})
    monkeypatch.setattr(task, "load_data", lambda **_: None)
    task.dataset, task.data_loaded = datasets.DatasetDict({"train": rows}), True
    (result,) = mteb.evaluate(encoder, [task], cache=None).task_results
    assert result.get_score() >= 0.9  # of two kinds of sound
