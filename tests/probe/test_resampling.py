"""Bootstrap intervals, against the exact distribution of a resampled mean and against loops of our own."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from sedembed.probe.resampling import difference_interval, resampled, score_interval

SAMPLES = 2000


def problem(rows: int = 60, skills: tuple[float, ...] = (0.9, 0.7)) -> tuple[np.ndarray, list[np.ndarray]]:
    """Classes, and probabilities that are right with each of the given chances, of three classes."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, rows)
    found = []
    for skill in skills:
        best = np.where(rng.random(rows) < skill, truth, (truth + 1) % 3)
        found.append(0.2 + 0.4 * np.eye(3)[best])
    return truth, found


def exact_quantiles(values: np.ndarray, at: tuple[float, ...]) -> list[float]:
    """Quantiles of the mean of as many draws with replacement from whole numbers from -1 to 1, by convolution."""
    single = np.array([np.mean(values == v) for v in (-1, 0, 1)])
    total = np.ones(1)
    for _ in values:
        total = np.convolve(total, single)
    means = np.arange(-len(values), len(values) + 1) / len(values)
    return [float(means[np.searchsorted(np.cumsum(total), q)]) for q in at]


def around(q: float) -> tuple[float, float]:
    """Where the quantile of so many samples lies in all but one of a thousand cases, as quantiles of the exact one."""
    spread = 3.3 * np.sqrt(q * (1 - q) / SAMPLES)
    return q - spread, q + spread


class TestExact:
    def test_score(self):
        truth, (found, _) = problem()
        low, high = score_interval("accuracy", truth, found, np.arange(60))
        right = (found.argmax(1) == truth).astype(int)
        for value, q in ((low, 0.025), (high, 0.975)):
            first, last = exact_quantiles(right, around(q))
            assert first <= value <= last
        assert low < right.mean() < high

    def test_paired_difference(self):
        truth, (first, second) = problem()
        low, high = difference_interval("accuracy", truth, first, second, np.arange(60))
        each = (first.argmax(1) == truth).astype(int) - (second.argmax(1) == truth).astype(int)
        for value, q in ((low, 0.025), (high, 0.975)):
            least, most = exact_quantiles(each, around(q))
            assert least <= value <= most

    def test_shared_mistakes_cancel(self):
        truth, (first, _) = problem(skills=(0.6, 0.6))
        second = first.copy()
        second[:2] = second[:2, [1, 2, 0]]
        low, high = difference_interval("accuracy", truth, first, second, np.arange(60))
        assert high - low < 0.15
        alone = score_interval("accuracy", truth, first, np.arange(60))
        assert alone[1] - alone[0] > 0.2

    def test_groups_are_drawn_together(self):
        truth, (first, second) = problem(300)
        units = np.sort(np.random.default_rng(1).integers(0, 40, 300))
        units = np.unique(units, return_inverse=True)[1]
        found = difference_interval("accuracy", truth, first, second, units)
        rng, scores, count = np.random.default_rng(7), [], units.max() + 1
        each = (first.argmax(1) == truth).astype(int) - (second.argmax(1) == truth).astype(int)
        for _ in range(4000):
            rows = np.concatenate([np.flatnonzero(units == u) for u in rng.integers(0, count, count)])
            scores.append(np.mean(each[rows]))
        np.testing.assert_allclose(found, np.quantile(scores, [0.025, 0.975]), atol=0.008)


def test_the_same_samples_for_all():
    truth, (first, _) = problem(50)
    for metric, labels in (("accuracy", truth), ("map", np.eye(3, dtype=bool)[truth])):
        draws = resampled(metric, labels, {"a": first, "b": first}, np.arange(50))
        assert (draws["a"] == draws["b"]).all()
        assert len(np.unique(draws["a"])) > 5


def test_any_metric_is_that_of_the_drawn_rows():
    rng = np.random.default_rng(3)
    truth, found = rng.random((40, 2)) < 0.5, rng.random((40, 2))
    scores = resampled("map", truth, {"": found}, np.arange(40))[""]
    rng = np.random.default_rng(0)  # that of the library
    for score in scores[:20]:
        rows = rng.integers(0, 40, 40)
        assert score == pytest.approx(average_precision_score(truth[rows], found[rows], average="macro"))


def test_many_units_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch):
    truth, (first, _) = problem(50)
    whole = resampled("accuracy", truth, {"": first}, np.arange(50))[""]
    monkeypatch.setattr("sedembed.probe.resampling._PART", 170)
    assert (resampled("accuracy", truth, {"": first}, np.arange(50))[""] == whole).all()


def test_undefined_scores_are_left_out():
    truth = np.zeros((30, 2), bool)
    truth[0] = True
    low, high = score_interval("mauc", truth, np.random.default_rng(0).random((30, 2)), np.arange(30))
    assert 0 <= low <= high <= 1
