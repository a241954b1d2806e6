"""Damaged probes and tables of labels are refused by a sentence, or give what the whole ones gave.

``pytest -n0 -m slow tests/probe/test_damage_fuzz.py`` tries thousands.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sedembed import LinearProbe
from sedembed.errors import MissingFileError, ProbeError
from sedembed.probe.label_table import read_labels
from tests.damage_helpers import DAMAGES

X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
CSV = (
    "path,label,fold\n"
    'kitchen/001.wav,Dishes,1\n"a, b.wav",Water,2\nété/2.flac,"Rain; heavy",1\n./c.ogg,Dog,2\n'
    "d\\e.wav,Cat,3\nf.wav,Bird;Dog,1\n"
)


def damaged(data: bytes, rng: np.random.Generator) -> bytes | None:
    after = DAMAGES[rng.integers(len(DAMAGES))](bytearray(data), rng)
    return None if after is None else bytes(after)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    probe = LinearProbe(1.0, class_weight={"cat": 2.0}, progress=False)
    probe.fit(X, np.array(["cat", "dog", "été"], object)[np.arange(40) % 3])
    return probe.save(tmp_path_factory.mktemp("probes") / "whole")


def try_probes(whole: Path, directory: Path, seeds: range) -> Counter[str]:
    """No damaged probe gives other names, numbers or parameters than the whole one."""
    probe = LinearProbe.load(whole)
    expected, names, parameters = probe.predict_proba(X), probe.predict(X).tolist(), probe.get_params()
    counts = Counter[str]()
    for seed in seeds:
        rng = np.random.default_rng(seed)
        out = directory / "probe"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(whole, out)
        file = out / ("probe.json", "probe.safetensors")[rng.integers(2)]
        after = damaged(file.read_bytes(), rng)
        if after == file.read_bytes():
            continue
        if after is None:
            file.unlink()
        else:
            file.write_bytes(after)
        try:
            found = LinearProbe.load(out)
        except ProbeError as error:
            counts["refused"] += 1
            assert len(str(error)) < 1000, seed  # noqa: PT017
            continue
        counts["harmless"] += 1
        assert file.name == "probe.json", f"seed {seed}: {file.name}"
        np.testing.assert_array_equal(found.predict_proba(X), expected, f"seed {seed}")
        assert found.predict(X).tolist() == names, f"seed {seed}"
        assert found.get_params() == parameters, f"seed {seed}"
    return counts


def try_labels(directory: Path, seeds: range) -> Counter[str]:
    """A table that is read is a table: each path once, a label for each, as many values as paths."""
    counts, file = Counter[str](), directory / "labels.csv"
    for seed in seeds:
        rng = np.random.default_rng(seed)
        data: bytes | None = CSV.encode()
        for _ in range(rng.integers(1, 4)):
            data = None if data is None else damaged(data, rng)
        file.unlink(missing_ok=True)
        if data is not None:
            file.write_bytes(data)
        try:
            table = read_labels(file)
        except (ProbeError, MissingFileError) as error:
            counts["refused"] += 1
            assert str(file) in str(error), seed  # noqa: PT017
            assert len(str(error)) < 1000, seed  # noqa: PT017
            continue
        counts["read"] += 1
        assert len(table.paths) == len(set(table.paths)) == len(table.labels) > 0, seed
        assert all(len(column) == len(table.paths) for column in table.columns.values()), seed
        assert all(table.paths), seed
        assert table.multilabel or all(len(labels) == 1 and labels[0] for labels in table.labels), seed
        assert "\0" not in "".join(table.paths), seed
    return counts


def test_some_hundred_probes(whole: Path, tmp_path: Path):
    counts = try_probes(whole, tmp_path, range(300))
    assert counts["refused"] > 200


def test_some_hundred_tables(tmp_path: Path):
    counts = try_labels(tmp_path, range(400))
    assert counts["refused"] > 100
    assert counts["read"] > 20


@pytest.mark.slow
def test_thousands_of_probes(whole: Path, tmp_path: Path):
    counts = try_probes(whole, tmp_path, range(1000, 5000))
    assert counts["refused"] > 3000


@pytest.mark.slow
def test_thousands_of_tables(tmp_path: Path):
    counts = try_labels(tmp_path, range(1000, 7000))
    assert counts["refused"] > 2000
