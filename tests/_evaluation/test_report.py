"""Tests of report."""

from __future__ import annotations

from typing import ClassVar

import pytest

from sedembed._evaluation import evaluate as engine
from sedembed._evaluation import report
from sedembed._evaluation.fits import name_some
from tests._evaluation.evaluate_helpers import TASKS, Folds


@pytest.fixture(autouse=True)
def _tiny_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_TASKS", TASKS)


class TestReport:
    RESULT: ClassVar[dict] = {
        "task": "folds", "model": "a|b", "model_version": "1", "metric": "accuracy", "score": 0.5, "std": None,
        "missing": 0, "partial": False, "paper": None, "split_sizes": {"a": 3, "b": 4},
        "other_metrics": {"top5": 0.75, "d_prime": 1.5, "map": None}, "paper_other_metrics": {"top5": 0.8},
    }  # fmt: skip

    def test_cells(self):
        row = report.format_results([self.RESULT]).splitlines()[1]
        assert row.startswith("folds  a|b 1  accuracy  50.00  –      7      ")
        assert row.endswith("  top5 75.00 (paper 80.00), d_prime 1.500, map –")
        markdown = report.format_results([self.RESULT], markdown=True)
        assert r"| folds | a\|b 1 | accuracy | 50.00 | – | 7 |" in markdown
        assert report.describe_result(self.RESULT) == "folds a|b 1: accuracy 50.00 (paper –)"

    def test_partial_without_missing_clips(self):
        assert report.describe_result({**self.RESULT, "partial": True}).endswith("(partial)")

    def test_task_of_another_version(self):
        comparison = report.compare_models([{**self.RESULT, "task": "gone"}], [Folds()])
        assert [row["task"] for row in comparison["tasks"]] == ["folds", "gone"]
        assert comparison["tasks"][1]["results"]["a|b 1"]["score"] == 0.5
        assert "gone   accuracy  –              50.00" in report.format_comparison(comparison)

    @pytest.mark.parametrize(
        ("count", "expected"), [(2, "0, 1"), (5, "0, 1, 2, 3, 4"), (6, "0, 1, 2, 3, 4, and 1 more")]
    )
    def test_some_names(self, count: int, expected: str):
        assert name_some([str(i) for i in range(count)]) == expected
