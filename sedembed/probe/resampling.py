"""Bootstrap intervals of scores: rows, or groups of rows, drawn again with replacement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sedembed.metrics import UndefinedMetricError, compute

__all__ = ["Difference", "difference_interval", "resampled", "score_interval", "score_of"]

_DRAWS, _FEW_DRAWS = 2000, 200
_PART = 1 << 22  # numbers of units held at once


class Difference(NamedTuple):
    """How much better one probe did than another.

    Attributes
    ----------
    score : float
        Score of the one minus that of the other.
    interval : (float, float)
        Paired 95 % bootstrap interval.
    """

    score: float
    interval: tuple[float, float]

    def __str__(self) -> str:
        return f"{self.score:+.4f} (paired 95 % interval {self.interval[0]:+.4f} to {self.interval[1]:+.4f})"


def score_of(metric: str, truth: NDArray[Any], probabilities: NDArray[np.float64]) -> float:
    """Score of probabilities; NaN where it is not defined."""
    try:
        return compute(metric, truth, probabilities)
    except UndefinedMetricError:
        return math.nan


def score_interval(
    metric: str, truth: NDArray[Any], probabilities: NDArray[np.float64], units: NDArray[np.int64]
) -> tuple[float, float]:
    """95 % interval of a score; the arguments are those of `resampled`."""
    return _middle(resampled(metric, truth, {"": probabilities}, units)[""])


def difference_interval(
    metric: str,
    truth: NDArray[Any],
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    units: NDArray[np.int64],
) -> tuple[float, float]:
    """95 % interval of the score of `first` minus that of `second`, both of the same bootstrap samples."""
    scores = resampled(metric, truth, {"first": first, "second": second}, units)
    return _middle(scores["first"] - scores["second"])


def _middle(scores: NDArray[np.float64]) -> tuple[float, float]:
    """Give the middle 95 % of those that are defined."""
    scores = scores[~np.isnan(scores)]
    if not len(scores):
        return math.nan, math.nan
    low, high = np.quantile(scores, [0.025, 0.975])
    return float(low), float(high)


def resampled(
    metric: str, truth: NDArray[Any], probabilities: Mapping[str, NDArray[np.float64]], units: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Scores of bootstrap samples of units, the same samples for each set of probabilities.

    Parameters
    ----------
    metric : str
        As for `metrics.compute`.
    truth : ndarray
        Class indices (N,) or an indicator (N, C).
    probabilities : mapping of str to ndarray of float64, shape (N, C)
        Of each of several probes, for the same rows.
    units : ndarray of int64, shape (N,)
        Numbers from 0; rows of one number are drawn together.

    Returns
    -------
    dict of str to ndarray of float64, shape (draws,)
        A score for each sample; NaN where it is not defined.
    """
    rng, count = np.random.default_rng(0), int(units.max()) + 1
    if metric == "accuracy":
        sizes = np.bincount(units, minlength=count)
        right = {
            name: np.bincount(units, values.argmax(1) == truth, minlength=count)
            for name, values in probabilities.items()
        }
        accuracies = {name: np.empty(_DRAWS) for name in probabilities}
        step = max(1, _PART // count)
        for start in range(0, _DRAWS, step):
            part = slice(start, min(start + step, _DRAWS))
            weights = rng.multinomial(count, np.full(count, 1 / count), part.stop - start).astype(np.float64)
            for name, of_unit in right.items():
                accuracies[name][part] = weights @ of_unit / (weights @ sizes)
        return accuracies
    members = np.split(np.argsort(units, kind="stable"), np.cumsum(np.bincount(units, minlength=count))[:-1])
    scores = {name: np.empty(_FEW_DRAWS) for name in probabilities}
    for draw in range(_FEW_DRAWS):
        rows = np.concatenate([members[unit] for unit in rng.integers(0, count, count)])
        for name, values in probabilities.items():
            scores[name][draw] = score_of(metric, truth[rows], values[rows])
    return scores
