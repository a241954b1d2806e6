"""Tests of fits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sedembed._evaluation import evaluate as engine
from sedembed.store.store import open_store
from tests._evaluation.evaluate_helpers import TASKS, copied, finished, fitted, plain, run, run_embedded, written  # noqa: F401


@pytest.fixture(autouse=True)
def _tiny_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_TASKS", TASKS)


class TestTuning:
    def test_validation_part(self, run_embedded: Callable, plain: Path, tmp_path: Path, fitted: list[dict]):
        assert run_embedded("validated", "--data", plain) == 0
        (call,) = fitted
        vectors, labels = call["validation"]
        store = open_store(tmp_path / "results" / "stores" / "validated-untrained")
        np.testing.assert_array_equal(vectors, store.vectors[12:])  # c-12 to c-17
        assert labels.tolist() == [0, 1, 2, 0, 1, 2]
        assert not {"folds", "groups"} & call.keys()
        (fold,) = written(tmp_path, "validated")["folds"]
        assert (fold["train"], fold["validation"], fold["test"]) == (6, 6, 6)
        assert written(tmp_path, "validated")["std"] is None

    def test_groups(self, run_embedded: Callable, plain: Path, fitted: list[dict]):
        assert run_embedded("split", "--data", plain) == 0
        (call,) = fitted
        assert len(call["groups"]) == 12
        assert np.unique(call["groups"], return_counts=True)[1].tolist() == [3, 3, 3, 3]
        assert not {"folds", "validation"} & call.keys()

    def test_neither(self, run: Callable, copied: Path, fitted: list[dict]):
        lines = [line.rpartition(",")[0] for line in (copied / "labels.csv").read_text().splitlines()[1:]]
        (copied / "labels.csv").write_text("\n".join(["path,labels,part,group", *(f"{line}," for line in lines)]))
        assert run("split", "--data", copied) == 0
        assert not {"folds", "groups", "validation"} & fitted[0].keys()

    def test_repeats_draw_other_inner_splits(
        self, run_embedded: Callable, plain: Path, tmp_path: Path, fitted: list[dict]
    ):
        assert run_embedded("split", "--data", plain, "--repeats", 3) == 0
        result = written(tmp_path, "split")
        assert len({call["random_state"] for call in fitted}) == len(fitted) == 3
        assert [(fold["name"], fold["repeat"]) for fold in result["folds"]] == [("split", i) for i in range(3)]
        scores = [fold["score"] for fold in result["folds"]]
        assert result["std"] == pytest.approx(np.std(scores, ddof=1))
        assert result["repeats"] == 3

    def test_nothing_to_draw(self, run_embedded: Callable, plain: Path, tmp_path: Path, fitted: list[dict]):
        assert run_embedded("folds", "--data", plain, "--repeats", 2) == 0
        assert len(fitted) == 3
        assert any("fitted once" in note for note in written(tmp_path, "folds")["notes"])
