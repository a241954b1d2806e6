"""Splits of the training rows for choosing C."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import (
    GroupShuffleSplit,
    KFold,
    ShuffleSplit,
    StratifiedGroupKFold,
    StratifiedKFold,
    check_cv,
)

from sedembed.errors import InvalidArgumentError
from sedembed.probe.fitting import Labels

__all__ = ["fold_splits", "inner_splits"]

HELD_OUT = 20_000

Pair = tuple[NDArray[np.int64], NDArray[np.int64]]


def _given_splits(known: Labels, groups: Any, cv: Any) -> list[Pair]:
    """Rows that a splitter, or an iterable of pairs, leaves in and out."""
    count = len(known.y)
    try:
        pairs = [tuple(map(np.asarray, pair)) for pair in check_cv(cv).split(np.zeros((count, 1)), known.y, groups)]
        good = all(
            len(pair) == 2
            and all(part.ndim == 1 and len(part) and part.dtype.kind in "iu" for part in pair)
            and all(part.min() >= 0 and part.max() < count for part in pair)
            for pair in pairs
        )
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"Expected a number of parts, a splitter, or pairs of row numbers as cv, got {cv!r}: {error}."
        ) from error
    if not pairs or not good:
        raise InvalidArgumentError(f"Expected pairs of row numbers, from 0 to {count - 1}, as cv, got {cv!r}.")
    return [(np.asarray(train), np.asarray(test)) for train, test in pairs]


def fold_splits(folds: NDArray[Any]) -> list[Pair]:
    """Leave the rows of each value out in turn; they must have at least two."""
    values = np.unique(folds)
    if len(values) < 2:
        raise InvalidArgumentError(f"folds must have at least 2 values, got only {values[0]!r}")
    return [(np.flatnonzero(folds != value), np.flatnonzero(folds == value)) for value in values]


def inner_splits(known: Labels, groups: Any, cv: Any, *, once: bool, random_state: int) -> list[Pair]:
    """Split labelled rows for the choice of C.

    Parameters
    ----------
    known : Labels
        Rows of no weight are in no part.
    groups : array (N,), optional
        Rows of one group stay on one side.
    cv : int, splitter or iterable of pairs
        Number of parts, each left out once: stratified where rows have one class each.
    once : bool
        Make one split, with as many rows left out as one of the parts but no more than `HELD_OUT`.
    random_state : int
        Of the shuffling.

    Returns
    -------
    list of (train, test)
        Row numbers; empty if the rows are too few to split.
    """
    usable = np.flatnonzero(known.weights > 0)
    if not isinstance(cv, (int, np.integer)):
        return _given_splits(known, groups, cv)
    if cv < 2:
        raise InvalidArgumentError(f"cv must be at least 2 parts, got {cv}")
    y, groups = known.y[usable], None if groups is None else groups[usable]
    parts = int(cv)
    if groups is not None:
        parts = min(parts, len(np.unique(groups)))
        if parts < 2:
            raise InvalidArgumentError("groups must have at least 2 values, so that one can be left out; got one")
    if y.ndim == 1:
        parts = min(parts, int(np.bincount(y).max()))
    parts = min(parts, len(usable))
    if parts < 2:
        return []
    if once:
        size = min(len(usable) // parts, HELD_OUT)
        one = GroupShuffleSplit if groups is not None else ShuffleSplit
        share = size / len(usable)
        splitter = one(n_splits=1, test_size=share if groups is not None else size, random_state=random_state)
    elif y.ndim == 2:
        # Groups in an order of their own: KFold deals them out, then each row follows its group.
        splitter = KFold(parts, shuffle=True, random_state=random_state)
        if groups is not None:
            values, inverse = np.unique(groups, return_inverse=True)
            return [(usable[np.isin(inverse, a)], usable[np.isin(inverse, b)]) for a, b in splitter.split(values)]
    else:
        kind = StratifiedKFold if groups is None else StratifiedGroupKFold
        splitter = kind(parts, shuffle=True, random_state=random_state)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        pairs = list(splitter.split(np.zeros((len(usable), 1)), y, groups))
    return [(usable[train], usable[test]) for train, test in pairs]
