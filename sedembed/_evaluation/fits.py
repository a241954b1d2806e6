"""Fits and scores of a task: a linear probe for each round of the protocol, and the network's own outputs."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sedembed import metrics
from sedembed._evaluation.tasks.base import Clip, Round, Task
from sedembed.errors import DatasetError

if TYPE_CHECKING:
    from sedembed.store.store import EmbeddingStore

__all__ = ["Fit", "Problem", "name_some", "run_rounds"]

logger = logging.getLogger(__name__)

_NAMED = 5  # items that a message names before it says how many more there are


def name_some(items: Sequence[str]) -> str:
    """Name the first few."""
    named = ", ".join(items[:_NAMED])
    return named if len(items) <= _NAMED else f"{named}, and {len(items) - _NAMED} more"


@dataclass
class Fit:
    """Scores of one round in one repeat."""

    name: str
    repeat: int
    score: float
    C: float | None
    other_metrics: dict[str, float]
    per_class: NDArray[np.float64]
    train: int
    validation: int | None
    test: int


class Problem:
    """Vectors and targets of the clips that are there, by their numbers."""

    def __init__(
        self,
        task: Task,
        clips: Sequence[Clip],
        classes: Sequence[str],
        store: EmbeddingStore,
        own: Mapping[str, NDArray[np.float32]],
        normalize: str,
        device: str,
        progress: bool | None,
    ) -> None:
        self.task, self.clips, self.classes, self.own = task, clips, list(classes), own
        self._options: dict[str, Any] = {
            "metric": task.metric,
            "normalize": normalize,
            "device": device,
            "progress": progress,
        }
        row = {path: number for number, path in enumerate(store.paths)}
        self._vectors, self._rows = store.vectors, np.array([row[clip.path] for clip in clips])
        column = {label: number for number, label in enumerate(classes)}
        if task.multilabel:
            self._y: NDArray[Any] = np.zeros((len(clips), len(classes)), np.bool_)
            for number, clip in enumerate(clips):
                self._y[number, [column[label] for label in clip.labels]] = True
        else:
            self._y = np.array([column[clip.labels[0]] for clip in clips], np.int64)
        # A clip that names no group is one of its own.
        names = [clip.group or f"\0{number}" for number, clip in enumerate(clips)]
        self._groups = np.unique(names, return_inverse=True)[1] if any(clip.group for clip in clips) else None

    def is_drawn(self, round_: Round) -> bool:
        """Whether the split that C is tuned on is drawn at random."""
        return not (_has_validation(round_) or _has_folds(round_))

    def known(self, part: NDArray[np.int64]) -> NDArray[np.int64]:
        """Classes that occur in a part."""
        y = self._y[part]
        return np.flatnonzero(y.any(axis=0)) if self.task.multilabel else np.unique(y)

    def probe(self, round_: Round, seed: int, notes: list[str]) -> tuple[NDArray[np.floating], float]:
        """Fit on the training part; return probabilities (test clips, classes) and the C that was chosen.

        A class that the training part lacks has probability zero.
        """
        from sedembed.probe.probe import LinearProbe

        train = round_.train
        probe = LinearProbe(C="auto", random_state=seed, **self._options)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            probe.fit(self._x(train), self._y[train], **self._split(round_, notes))
        notes += [f"round {round_.name}: {warning.message}" for warning in caught]
        found = probe.predict_proba(self._x(round_.test))
        scores = np.zeros((len(round_.test), len(self.classes)), found.dtype)
        known = self.known(train)
        scores[:, known] = found[:, known] if self.task.multilabel else found
        return scores, float(probe.C_)

    def _split(self, round_: Round, notes: list[str]) -> dict[str, Any]:
        """Options of `LinearProbe.fit` that say what C is tuned on; none if it is to split the training part itself."""
        if _has_validation(round_):
            part = np.asarray(round_.validation)
            if not self.task.multilabel:  # a probe cannot be scored on classes that it has not seen
                part = part[np.isin(self._y[part], self.known(round_.train))]
            return {"validation": (self._x(part), self._y[part])} if len(part) else {}
        if _has_folds(round_):
            return {"folds": round_.inner_folds}
        if self._groups is None:
            return {}
        groups = self._groups[round_.train]
        if len(np.unique(groups)) > 1:
            return {"groups": groups}
        notes.append(f"round {round_.name}: C is tuned within one group, for all training clips are of it")
        return {}

    def outputs(self, round_: Round) -> NDArray[np.floating]:
        """Probabilities by the network itself, (test clips, classes)."""
        return np.stack([self.own[self.clips[number].path] for number in round_.test])

    def score(self, round_: Round, scores: NDArray[np.floating]) -> tuple[float, dict[str, float], NDArray[np.float64]]:
        """Metric of the task, its other metrics, and the former by class; NaN where not defined."""
        y, metric = self._y[round_.test], self.task.metric
        others = {name: _compute_or_nan(name, y, scores) for name in self.task.other_metrics}
        return _compute_or_nan(metric, y, scores), others, metrics.per_class(metric, y, scores)

    def _x(self, part: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(self._vectors[self._rows[part]])


def _has_validation(round_: Round) -> bool:
    return round_.validation is not None and len(round_.validation) > 0


def _has_folds(round_: Round) -> bool:
    return round_.inner_folds is not None and len(np.unique(round_.inner_folds)) > 1


def _compute_or_nan(name: str, y: NDArray[Any], scores: NDArray[np.floating]) -> float:
    try:
        return metrics.compute(name, y, scores)
    except metrics.UndefinedMetricError:
        return math.nan


def run_rounds(problem: Problem, rounds: Sequence[Round], repeats: int, notes: list[str]) -> list[Fit]:
    """Fit and score all rounds; what cannot be done is noted.

    Raises
    ------
    DatasetError
        If nothing can be done.
    """
    task, fits = problem.task, list[Fit]()
    for round_ in rounds:
        known = problem.known(round_.train)
        fittable = len(known) >= (1 if task.multilabel and len(problem.classes) > 1 else 2)
        if not len(round_.test) or not (fittable or task.own_outputs):
            lacking = "test clips" if not len(round_.test) else "training clips of two classes"
            notes.append(f"round {round_.name} is left out: there are no {lacking}")
            continue
        unseen = np.setdiff1d(problem.known(round_.test), known)
        if len(unseen):
            names = name_some([problem.classes[number] for number in unseen])
            notes.append(f"round {round_.name} has no training clips of {names}: the probe gives them probability 0")
        if not fittable:
            notes.append(f"round {round_.name} has no training clips: only the network's own outputs are scored")
        drawn = problem.is_drawn(round_)
        if repeats > 1 and not drawn:
            notes.append("fitted once, not repeatedly: the protocol fixes the clips that C is tuned on")
        for repeat in range(repeats if drawn and fittable else 1):
            fit = _run_round(problem, round_, repeat, fittable, notes)
            logger.info("%s %s: %s %.4f, C %s", task.name, round_.name, task.metric, fit.score, fit.C)
            if math.isnan(fit.score):
                notes.append(f"round {round_.name} is left out: {task.metric} is not defined for its test clips")
            else:
                fits.append(fit)
    if not fits:
        raise DatasetError(
            f"what is there of {task.title} is too little to fit and test on ({'; '.join(notes)}); add recordings "
            f"from {task.source}"
        )
    return fits


def _run_round(problem: Problem, round_: Round, repeat: int, fittable: bool, notes: list[str]) -> Fit:
    c = None
    if problem.task.own_outputs:
        score, others, per_class = problem.score(round_, problem.outputs(round_))
        if fittable:
            probabilities, c = problem.probe(round_, repeat, notes)
            probe_score, probe_others, _ = problem.score(round_, probabilities)
            named = {problem.task.metric: probe_score, **probe_others}
            others |= {f"probe_{name}": value for name, value in named.items()}
    else:
        probabilities, c = problem.probe(round_, repeat, notes)
        score, others, per_class = problem.score(round_, probabilities)
    validation = round_.validation
    return Fit(
        round_.name,
        repeat,
        score,
        c,
        others,
        per_class,
        len(round_.train),
        None if validation is None else len(validation),
        len(round_.test),
    )
