"""Tests of examples/self_teaching.py: its noise, its scores, and a small run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def example() -> ModuleType:
    path = Path(__file__).parents[1] / "examples" / "self_teaching.py"
    spec = importlib.util.spec_from_file_location("self_teaching", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["self_teaching"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_noise_is_exactly_its_share_and_never_the_true_class(example, share):
    true = np.repeat(np.arange(50), 32)
    given = example.corrupt(true, 50, share, 1)
    assert (given != true).sum() == round(1600 * share)
    assert given.min() >= 0
    assert given.max() < 50
    np.testing.assert_array_equal(given, example.corrupt(true, 50, share, 1))
    if share:
        assert (given != example.corrupt(true, 50, share, 2)).any()


def test_noise_takes_every_other_class_equally(example):
    true = np.full(49_000, 7)
    given = example.corrupt(true, 50, 1.0, 0)
    counts = np.bincount(given, minlength=50)
    assert counts[7] == 0
    others = np.delete(counts, 7)
    assert ((others - 1000) ** 2 / 1000).sum() < 90  # chi-squared with 48 degrees of freedom: p < 0.0003


def test_score_of_predictions(example):
    true, given = np.array([0, 1, 2, 3]), np.array([0, 1, 3, 0])
    found = example.score(np.array([0, 2, 2, 0]), true, given)
    assert found == {
        "train_accuracy_true": 0.5,
        "train_accuracy_given": 0.5,
        "corrupted_found_true": 0.5,
        "corrupted_kept_wrong": 0.5,
    }


@pytest.fixture
def esc50(tmp_path, write_esc50) -> Path:
    return write_esc50(tmp_path / "esc50", seconds=3.0)


def test_experiment_runs_and_continues(example, esc50, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["--data", str(esc50), "--out", str(out), "--noise", "0.5", "--seeds", "1", "--steps", "2"]
    example.main([*command, "--stages", "1", "--no-control"])
    first = (out / "results.csv").read_text()
    example.main([*command, "--stages", "1"])
    rows = example.read_table(out / "results.csv")
    assert (out / "results.csv").read_text().startswith(first)
    assert [(row["training"], row["stage"], row["steps"]) for row in rows] == [
        ("self-taught", "0", "2"),
        ("self-taught", "1", "2"),
        ("labels alone", "0", "4"),
    ]
    assert {(row["clips"], row["corrupted"], row["test_clips"]) for row in rows} == {("16", "8", "4")}
    capsys.readouterr()
    example.main(["--out", str(out), "--report"])
    printed = capsys.readouterr().out
    assert "8 of 16 labels wrong (50%)" in printed
    assert printed.count("\n| stage ") == 2
    # Nobody is trained on fold 5.
    names = {path.name for path in example.read_esc50(esc50)[0].paths}
    assert len(names) == 16
    assert not any(name.startswith("5-") for name in names)


def test_report_compares_seeds_in_pairs(example):
    def row(seed, training, stage, accuracy):
        values = dict.fromkeys(example.COLUMNS, "0")
        return {**values, "noise": "0.3", "seed": seed, "training": training, "stage": stage, "test_accuracy": accuracy}

    rows = [row("0", "self-taught", "0", "0.4"), row("1", "self-taught", "0", "0.6")]
    rows += [row("0", "self-taught", "1", "0.45"), row("1", "self-taught", "1", "0.61")]
    lines = example.report(rows).splitlines()
    assert lines[4].startswith("| stage 0 | 2 | 0 | 50.0 ± 14.1 |  |")
    assert lines[5].startswith("| stage 1 | 2 | 0 | 53.0 ± 11.3 | +3.0 ± 2.8 |")
