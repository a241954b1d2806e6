"""Scores of a classifier: accuracy, top-k, MAP, MAUC, d' and lwlrap, overall and class by class."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedembed.errors import InvalidArgumentError

__all__ = ["UndefinedMetricError", "check_name", "compute", "per_class"]

_NAMES = ("accuracy", "macro_accuracy", "map", "mauc", "d_prime", "lwlrap")
_TOP = re.compile(r"top([1-9][0-9]*)")
# Rows are ranked in blocks of about this many scores, so that memory does not grow with the number of clips.
_BLOCK = 1 << 20


class UndefinedMetricError(ValueError):
    """A metric that no class has enough examples for."""


def check_name(name: str) -> None:
    """Check that a metric exists.

    Raises
    ------
    ValueError
        If not; the message lists those that do.
    """
    if not isinstance(name, str) or (name not in _NAMES and _TOP.fullmatch(name) is None):
        raise InvalidArgumentError(
            f"unknown metric {name!r}; choose one of {', '.join(_NAMES)}, or top5 (any whole k from 1)"
        )


def compute(name: str, y: NDArray[Any], scores: NDArray[np.floating]) -> float:
    """Score predictions against the truth by one number; higher is better.

    Parameters
    ----------
    name : str
        - ``accuracy``: share of clips whose highest score is that of their class (micro);
        - ``macro_accuracy``: mean recall over the classes that occur in `y`;
        - ``top5`` (any k from 1): share of clips whose class is among the k highest scores. Of equal scores the one of
          the lowest class index counts as higher, as in `numpy.argmax`, so ``top1`` is ``accuracy``; with k of at
          least C it is 1;
        - ``map``: mean average precision over the classes that have positives. Equal scores are one threshold;
        - ``mauc``: mean area under the ROC curve over the classes that have positives and negatives. Equal scores
          count half;
        - ``d_prime``: sqrt(2) times the inverse normal distribution function of ``mauc``; infinite for 0 and 1;
        - ``lwlrap``: label-weighted label-ranking average precision: for each true label of each clip the precision at
          its rank, averaged over all of them. Equal scores share the lowest rank.
    y : ndarray
        Class indices, integers of shape (N,), or an indicator of booleans, zeros and ones of shape (N, C). The first
        three metrics take only class indices; the others turn them into an indicator.
    scores : ndarray of float, shape (N, C)
        Finite; higher is more likely.

    Returns
    -------
    float
        A fraction from 0 to 1, but for ``d_prime``.

    Raises
    ------
    ValueError
        For an unknown name, shapes that do not fit, class indices out of range, scores that are not finite, no clips;
        as `UndefinedMetricError` if no class has the positives (and negatives) that the metric needs.

    Examples
    --------
    >>> compute("top2", np.array([0, 2]), np.array([[0.1, 0.7, 0.2], [0.5, 0.1, 0.4]]))
    0.5
    """
    check_name(name)
    y, scores = _checked(name, y, scores)
    if y.ndim == 1 and _takes_indices(name):
        found = _found(name, y, scores)
        return float(_recalls(y, found, scores.shape[1])[1].mean() if name == "macro_accuracy" else found.mean())
    truth = _indicator(y, scores)
    if name == "lwlrap":
        sums, counts = _label_precisions(truth, scores)
        if not counts.any():
            raise _undefined(name, "a positive example")
        return float(sums.sum() / counts.sum())
    values = _average_precisions(truth, scores) if name == "map" else _roc_areas(truth, scores)
    values = values[~np.isnan(values)]
    if not len(values):
        raise _undefined(name, "a positive example" if name == "map" else "both positive and negative examples")
    return _d_prime(values.mean()) if name == "d_prime" else float(values.mean())


def per_class(name: str, y: NDArray[Any], scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Score predictions class by class.

    Parameters
    ----------
    name, y, scores
        As for `compute`.

    Returns
    -------
    ndarray of float64, shape (C,)
        Recall for the accuracies, recall among the k highest for top-k, average precision, area under the ROC curve,
        d' of that area, or the mean precision at the rank of the class wherever it is a true label. NaN for a class
        without the examples it needs.

    Raises
    ------
    ValueError
        As for `compute`, but not for classes without examples.
    """
    check_name(name)
    y, scores = _checked(name, y, scores)
    classes = scores.shape[1]
    if y.ndim == 1 and _takes_indices(name):
        recalls = np.full(classes, np.nan)
        occurring, values = _recalls(y, _found(name, y, scores), classes)
        recalls[occurring] = values
        return recalls
    truth = _indicator(y, scores)
    if name == "lwlrap":
        sums, counts = _label_precisions(truth, scores)
        means = np.full(classes, np.nan)
        return np.asarray(np.divide(sums, counts, out=means, where=counts > 0))
    if name == "map":
        return _average_precisions(truth, scores)
    areas = _roc_areas(truth, scores)
    return np.array([_d_prime(area) for area in areas]) if name == "d_prime" else areas


# --- what comes in -------------------------------------------------------------------------------------------------


def _takes_indices(name: str) -> bool:
    return name.endswith("accuracy") or name.startswith("top")


def _checked(
    name: str, y: NDArray[Any], scores: NDArray[np.floating]
) -> tuple[NDArray[Any], NDArray[np.float32] | NDArray[np.float64]]:
    """Arrays that fit the metric and each other: y of integers (N,) or booleans (N, C), scores (N, C) of floats."""
    y, scores = np.asarray(y), np.asarray(scores)
    if scores.ndim != 2 or scores.dtype.kind not in "fiu":
        raise InvalidArgumentError(
            f"scores must be numbers of shape (N, C), one column a class, got {scores.dtype} of shape {scores.shape}; "
            "for two classes stack the scores of both: np.column_stack([-scores, scores])"
        )
    if y.ndim not in (1, 2) or len(y) != len(scores) or (y.ndim == 2 and y.shape != scores.shape):
        raise InvalidArgumentError(
            f"y must be class indices of shape ({len(scores)},) or an indicator of shape {scores.shape} to fit the "
            f"scores, got shape {y.shape}; give both the same clips and classes in the same order"
        )
    if not scores.size:
        raise InvalidArgumentError(f"{name} needs at least one clip and one class, got scores of shape {scores.shape}")
    if scores.dtype not in (np.float32, np.float64):
        scores = scores.astype(np.float32 if scores.dtype == np.float16 else np.float64)
    if not np.isfinite(scores).all():
        row, column = np.argwhere(~np.isfinite(scores))[0]
        raise InvalidArgumentError(
            f"scores must be finite, got {scores[row, column]} at row {row}, column {column}; check the embeddings and "
            "whether the fit diverged"
        )
    if y.ndim == 1:
        if y.dtype.kind not in "iu":
            raise InvalidArgumentError(
                f"y of shape (N,) must hold integers, the column of each clip's class in the scores, got {y.dtype}; "
                "make them with np.searchsorted(classes, labels)"
            )
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= scores.shape[1]:
            raise InvalidArgumentError(
                f"class indices must lie in 0 to {scores.shape[1] - 1}, the columns of the scores, got "
                f"{low if low < 0 else high}; make them with np.searchsorted(classes, labels)"
            )
        return y, scores
    if _takes_indices(name):
        raise InvalidArgumentError(
            f"{name} needs one class index a clip, shape (N,), got an indicator of shape {y.shape}; use map, mauc, "
            "d_prime or lwlrap, or y.argmax(axis=1) if every row has exactly one 1"
        )
    if y.dtype != np.bool_:
        if y.dtype.kind not in "iuf" or not ((y == 0) | (y == 1)).all():
            raise InvalidArgumentError(
                f"an indicator must hold only zeros and ones, or booleans, got {y.dtype} with other values; "
                "binarise it first, for instance y > 0.5"
            )
        y = y.astype(np.bool_)
    return y, scores


def _indicator(y: NDArray[Any], scores: NDArray[np.floating]) -> NDArray[np.bool_]:
    return y if y.ndim == 2 else y[:, None] == np.arange(scores.shape[1])


def _undefined(name: str, needed: str) -> UndefinedMetricError:
    return UndefinedMetricError(
        f"{name} is not defined here: no class has {needed} among the clips; score more clips together"
    )


# --- one class index a clip ----------------------------------------------------------------------------------------


def _found(name: str, y: NDArray[np.integer], scores: NDArray[np.floating]) -> NDArray[np.bool_]:
    """For each clip, whether its class is among the k highest scores, of equal ones the lowest index first."""
    top = _TOP.fullmatch(name)
    k = int(top[1]) if top else 1
    if k == 1:
        return np.asarray(scores.argmax(axis=1) == y)
    own = scores[np.arange(len(y)), y][:, None]
    before = np.arange(scores.shape[1]) < y[:, None]
    return np.asarray(((scores > own) | ((scores == own) & before)).sum(axis=1) < k)


def _recalls(
    y: NDArray[np.integer], found: NDArray[np.bool_], classes: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Classes that occur, and the share of their clips that was found."""
    counts = np.bincount(y, minlength=classes)
    occurring = np.flatnonzero(counts)
    return occurring, np.bincount(y[found], minlength=classes)[occurring] / counts[occurring]


# --- an indicator --------------------------------------------------------------------------------------------------


def _average_precisions(truth: NDArray[np.bool_], scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Per class the mean, over its positives, of the precision among all that score at least as high."""
    result = np.full(scores.shape[1], np.nan)
    for c, (column, positive) in enumerate(zip(scores.T, truth.T, strict=True)):
        hits = np.sort(column[positive])
        if len(hits):
            above = len(column) - np.searchsorted(np.sort(column), hits, side="left")
            result[c] = ((len(hits) - np.searchsorted(hits, hits, side="left")) / above).mean()
    return result


def _roc_areas(truth: NDArray[np.bool_], scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Per class the share of (positive, negative) pairs in the right order, equal scores counting half."""
    result = np.full(scores.shape[1], np.nan)
    for c, (column, positive) in enumerate(zip(scores.T, truth.T, strict=True)):
        hits, others = column[positive], np.sort(column[~positive])
        if len(hits) and len(others):
            below, up_to = (np.searchsorted(others, hits, side=side).sum() for side in ("left", "right"))
            result[c] = (int(below) + int(up_to)) / (2 * len(hits) * len(others))
    return result


def _label_precisions(
    truth: NDArray[np.bool_], scores: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Per class the sum of the precisions at its rank in the clips it is a true label of, and their number."""
    from scipy.stats import rankdata

    sums = np.zeros(scores.shape[1])
    rows = max(1, _BLOCK // scores.shape[1])
    for start in range(0, len(scores), rows):
        # Wide, for SciPy 1.18 gives ranks in the type of the scores.
        true, block = truth[start : start + rows], scores[start : start + rows].astype(np.float64)
        ranks = rankdata(-block, method="max", axis=1)
        # Labels that are not true rank behind all that are, so this counts the true ones only.
        hits = rankdata(np.where(true, -block, np.inf), method="max", axis=1)
        sums += (hits / ranks).sum(axis=0, where=true)
    return sums, truth.sum(axis=0)


def _d_prime(area: float | np.floating) -> float:
    from scipy.special import ndtri

    return float(np.sqrt(2.0) * ndtri(area))
