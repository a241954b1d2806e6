"""Cross-validation over the folds that a data set is distributed in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sedembed._evaluation.tasks.base import Clip, Round, Task
from sedembed.errors import DatasetError

__all__ = ["leave_one_fold_out"]


def leave_one_fold_out(task: Task, clips: Sequence[Clip]) -> list[Round]:
    """Make one round for each fold: a test on it, a fit on all others; parts are named ``fold1``, ``fold2``, ….

    C is tuned by leaving out each training fold in turn, or on an inner split if there is only one. A fold without
    clips gives no round.

    Raises
    ------
    DatasetError
        If there are clips of only one fold, or none.
    """
    folds = np.array([int(clip.part.removeprefix("fold")) for clip in clips], np.int64)
    present = np.unique(folds)
    if len(present) < 2:
        raise DatasetError(
            f"{task.title} needs clips of at least two folds, to fit on one and test on the other, got {len(clips)} "
            f"clips of {len(present)}; add recordings of other folds, from {task.source}"
        )
    rounds = []
    for fold in present:
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        inner = folds[train] if len(present) > 2 else None
        rounds.append(Round(f"fold{fold}", train, test, inner_folds=inner))
    return rounds
