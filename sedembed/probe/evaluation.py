"""Cross-validation of a probe: how well one with its parameters does on recordings it has not seen."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_fscore_support

from sedembed._utils.files import write_atomic
from sedembed._utils.plotting import require_matplotlib
from sedembed.errors import InvalidArgumentError, InvalidTypeError
from sedembed.probe.arrays import to_labels, to_values, to_vectors
from sedembed.probe.features import Rows
from sedembed.probe.fitting import Labels
from sedembed.probe.inputs import StoreLabels, places_of, recordings_of
from sedembed.probe.resampling import Difference, difference_interval, score_interval, score_of
from sedembed.probe.splits import inner_splits
from sedembed.store.store import EmbeddingStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sedembed.probe.probe import LinearProbe

__all__ = ["Evaluation", "cross_validate"]

_MOST_CLASSES_WITH_NUMBERS = 20


@dataclass(frozen=True)
class Evaluation:
    """What cross-validation found; every row was scored by a probe that was not fitted on it.

    Attributes
    ----------
    classes : list of str
        Names of the classes, sorted.
    truth : ndarray, shape (N,) of int or (N, C) of bool
        Class of each row, or which classes it has.
    probabilities : ndarray of float64, shape (N, C)
        Out of fold.
    folds : ndarray of int64, shape (N,)
        Fold that each row was scored in, from 0.
    units : ndarray of int64, shape (N,)
        Rows of one number stayed in one fold, and are drawn together for the interval.
    metric : str
        Name of the score.
    score : float
        Over all rows.
    interval : (float, float)
        95 % bootstrap interval of the score, over units. It covers the choice of recordings to score, not that of the
        recordings to fit on.
    fold_scores : list of float
        Of each fold; NaN where not defined.
    C : list of float
        That each fold chose.
    rows : ndarray of int64, shape (N,)
        Row of the store, or of the array, of each row here.
    paths : list of str or None
        Path of each row, if they came from a store.
    places : pair of ndarray of float64 or None
        Start and end of each row in seconds, if they are windows.
    """

    classes: list[str]
    truth: NDArray[Any]
    probabilities: NDArray[np.float64]
    folds: NDArray[np.int64]
    units: NDArray[np.int64]
    metric: str
    score: float
    interval: tuple[float, float]
    fold_scores: list[float]
    C: list[float]
    rows: NDArray[np.int64] = field(repr=False)
    paths: list[str] | None = field(default=None, repr=False)
    places: tuple[NDArray[np.float64], NDArray[np.float64]] | None = field(default=None, repr=False)

    @property
    def multilabel(self) -> bool:
        """Whether rows have any number of classes."""
        return self.truth.ndim == 2

    @property
    def predicted(self) -> NDArray[Any]:
        """Most likely class of each row (N,), or which classes are more likely than not (N, C)."""
        return self.probabilities > 0.5 if self.multilabel else self.probabilities.argmax(1)

    @property
    def accuracy(self) -> float:
        """Share of rows whose most likely class is right; of several labels a row, share of rows with all right."""
        right = self.predicted == self.truth
        return float((right.all(1) if self.multilabel else right).mean())

    @property
    def confusion(self) -> NDArray[np.int64]:
        """Number of rows of each class (first axis) that were taken for each class (second axis), shape (C, C).

        Raises
        ------
        InvalidArgumentError
            For several labels a row.
        """
        if self.multilabel:
            raise InvalidArgumentError(
                "A confusion matrix needs one label a row, and these have several; per_class has a table by class."
            )
        return np.asarray(confusion_matrix(self.truth, self.predicted, labels=np.arange(len(self.classes))))

    @property
    def per_class(self) -> list[dict[str, Any]]:
        """For each class its name, rows, precision, recall, F1 and average precision (None where not defined)."""
        truth = self.truth if self.multilabel else self.truth[:, None] == np.arange(len(self.classes))
        found = self.predicted if self.multilabel else self.predicted[:, None] == np.arange(len(self.classes))
        precision, recall, f1, rows = precision_recall_fscore_support(truth, found, average=None, zero_division=0)
        return [
            {
                "class": name,
                "rows": int(rows[k]),
                "precision": float(precision[k]),
                "recall": float(recall[k]) if rows[k] else None,
                "f1": float(f1[k]) if rows[k] else None,
                "average_precision": float(average_precision_score(truth[:, k], self.probabilities[:, k]))
                if rows[k]
                else None,
            }
            for k, name in enumerate(self.classes)
        ]

    def confused(self, k: int = 20) -> list[dict[str, Any]]:
        """Rows that the probes were most wrong about: the least probability of what is true.

        Parameters
        ----------
        k : int
            How many.

        Returns
        -------
        list of dict
            For each its row, path (and start, end), true and predicted labels, and the probability of the true one; of
            several labels a row, that of its worst decision. Rows that are right are not among them.
        """
        each = self.probabilities
        if self.multilabel:
            right = np.where(self.truth, each, 1 - each).min(1)
            wrong = (self.predicted != self.truth).any(1)
        else:
            right = each[np.arange(len(each)), self.truth]
            wrong = self.predicted != self.truth
        order = [row for row in np.argsort(right, kind="stable") if wrong[row]][:k]
        return [
            {
                **self._place(row),
                "label": self._name(self.truth[row]),
                "predicted": self._name(self.predicted[row]),
                "probability_of_label": float(right[row]),
            }
            for row in order
        ]

    def _place(self, row: int) -> dict[str, Any]:
        place: dict[str, Any] = {"row": int(self.rows[row])} if self.paths is None else {"path": self.paths[row]}
        if self.places is not None:
            place |= {"start": float(self.places[0][row]), "end": float(self.places[1][row])}
        return place

    def _name(self, label: Any) -> str:
        return ";".join(self.classes[k] for k in np.flatnonzero(label)) if self.multilabel else self.classes[label]

    def __str__(self) -> str:
        low, high = self.interval
        units = f"{len(self.truth)} rows"
        if len(np.unique(self.units)) < len(self.truth):
            units += f" in {len(np.unique(self.units))} groups that stay together"
        return (
            f"cross-validated {self.metric} {self.score:.4f} (95 % interval {low:.4f} to {high:.4f}): "
            f"{len(self.fold_scores)} folds, {units}; each row is scored by a probe that was fitted, and whose C was "
            "chosen, without it"
        )

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(row['class'])}</td><td>{row['rows']}</td>"
            + "".join(f"<td>{_show(row[name])}</td>" for name in ("precision", "recall", "f1", "average_precision"))
            + "</tr>"
            for row in self.per_class
        )
        head = "".join(
            f"<th>{name}</th>" for name in ("class", "rows", "precision", "recall", "F1", "average precision")
        )
        return f"<p>{html.escape(str(self))}</p><table><tr>{head}</tr>{rows}</table>"

    def plot(self) -> Figure:
        """Draw the confusion matrix, each row of it as shares; of several labels a row, average precision by class.

        Returns
        -------
        matplotlib.figure.Figure
            To be shown or saved.

        Raises
        ------
        MissingPackageError
            If matplotlib is not installed.
        """
        require_matplotlib()
        from matplotlib.figure import Figure

        side = max(4.0, min(24.0, 2.2 + 0.32 * len(self.classes)))
        figure = Figure((side + 0.8, side), layout="constrained")
        axes = figure.subplots()
        names, ticks = self.classes, np.arange(len(self.classes))
        low, high = self.interval
        axes.set_title(f"{self.metric} {self.score:.3f} ({low:.3f} to {high:.3f})", fontsize=10)
        if self.multilabel:
            values = [row["average_precision"] or 0.0 for row in self.per_class]
            axes.barh(ticks, values, color="#3d7ddb")
            axes.set(xlim=(0, 1), xlabel="average precision", yticks=ticks)
            axes.set_yticklabels(names, fontsize=8)
            axes.invert_yaxis()
            return figure
        counts = self.confusion
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set(xlabel="predicted", ylabel="label", xticks=ticks, yticks=ticks)
        axes.set_xticklabels(names, rotation=90, fontsize=8)
        axes.set_yticklabels(names, fontsize=8)
        if len(names) <= _MOST_CLASSES_WITH_NUMBERS:
            for (i, j), count in np.ndenumerate(counts):
                if count:
                    colour = "white" if shares[i, j] > 0.5 else "black"
                    axes.text(j, i, str(count), ha="center", va="center", fontsize=8, color=colour)
        figure.colorbar(image, ax=axes, label="share of the rows of a class", shrink=0.8)
        return figure

    def compare(self, other: Evaluation) -> Difference:
        """How much better this probe did than another one on the same rows.

        Parameters
        ----------
        other : Evaluation
            Of the same recordings (or windows), labels, folds and groups; usually from the vectors of another model.

        Returns
        -------
        Difference
            This score minus the other, and its paired 95 % interval: each bootstrap sample of units scores both.

        Raises
        ------
        InvalidArgumentError
            If the two are not about the same rows.

        Notes
        -----
        The interval covers the choice of recordings to score. It does not cover that of recordings to fit on, nor how
        the folds were drawn, so it is too narrow rather than too wide. Rows that are alike, such as clips cut from one
        recording, need ``groups``.
        """
        if not isinstance(other, Evaluation):
            raise InvalidTypeError(f"Expected an Evaluation to compare with, got {other!r}; see LinearProbe.evaluate.")
        wrong = next((name for name, same in self._agreement(other).items() if not same), None)
        if wrong is not None:
            raise InvalidArgumentError(
                f"Expected an evaluation of the same rows, got one with other {wrong}; evaluate both probes with the "
                "same labels, folds, groups and metric, on recordings that both stores hold."
            )
        both = (self.probabilities, other.probabilities)
        return Difference(self.score - other.score, difference_interval(self.metric, self.truth, *both, self.units))

    def _agreement(self, other: Evaluation) -> dict[str, bool]:
        """Say of all that a comparison needs whether two evaluations have the same."""
        ours, theirs = (np.stack(e.places) if e.places is not None else np.empty((2, 0)) for e in (self, other))
        return {
            "metrics": self.metric == other.metric,
            "paths": self.paths == other.paths,
            # A network with another rate rounds the seconds of a window otherwise.
            "windows": ours.shape == theirs.shape and bool(np.allclose(ours, theirs, rtol=0, atol=1e-3)),
            "rows": self.paths is not None or np.array_equal(self.rows, other.rows),
            "labels": self.classes == other.classes and np.array_equal(self.truth, other.truth),
            "folds": np.array_equal(self.folds, other.folds),
            "groups": np.array_equal(self.units, other.units),
        }

    def summary(self) -> dict[str, Any]:
        """Give the figures as JSON has them."""
        return {
            "metric": self.metric,
            "score": _number(self.score),
            "interval": [_number(value) for value in self.interval],
            "accuracy": self.accuracy,
            "folds": [{"score": _number(s), "C": c} for s, c in zip(self.fold_scores, self.C, strict=True)],
            "rows": len(self.truth),
            "groups": len(np.unique(self.units)),
            "classes": self.classes,
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a report: figures, tables by class and of the most confused rows, and the confusion matrix.

        Parameters
        ----------
        path : path
            A directory, made if it is not there: ``evaluation.json``, ``per_class.csv``, ``confused.csv``, for one
            label a row ``confusion.csv``, and a picture ``confusion.png`` (``per_class.png`` for several).

        Returns
        -------
        Path
            The directory.

        Raises
        ------
        MissingPackageError
            If matplotlib is not installed.
        StoreError
            If it cannot be written.
        """
        figure = self.plot()
        out = Path(path).expanduser()
        out.mkdir(parents=True, exist_ok=True)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=150)
        write_atomic(out / ("per_class.png" if self.multilabel else "confusion.png"), picture.getvalue())
        write_atomic(out / "evaluation.json", json.dumps(self.summary(), indent=2, ensure_ascii=False) + "\n")
        write_atomic(out / "per_class.csv", _to_csv([list(row.values()) for row in self.per_class], _CLASS_COLUMNS))
        mistakes = self.confused(200)
        columns = list(mistakes[0]) if mistakes else ["path", "label", "predicted", "probability_of_label"]
        write_atomic(out / "confused.csv", _to_csv([list(row.values()) for row in mistakes], columns))
        if not self.multilabel:
            rows = [[name, *counts] for name, counts in zip(self.classes, self.confusion.tolist(), strict=True)]
            write_atomic(out / "confusion.csv", _to_csv(rows, ["label", *self.classes]))
        return out


_CLASS_COLUMNS = ["class", "rows", "precision", "recall", "f1", "average_precision"]


def _to_csv(rows: Sequence[Sequence[Any]], columns: Sequence[str]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([f"{value:.6g}" if isinstance(value, float) else value for value in row] for row in rows)
    return text.getvalue()


def _show(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


# --- cross-validation ----------------------------------------------------------------------------------------------


def cross_validate(probe: LinearProbe, X: Any, y: Any, folds: Any = 5, groups: Any = None) -> Evaluation:
    """Cross-validate a probe; see `LinearProbe.evaluate`."""
    if not isinstance(X, EmbeddingStore):
        X = to_vectors(X)
        if isinstance(y, (str, os.PathLike)):
            raise InvalidArgumentError("labels from a CSV need a store as X, whose paths they name; got an array")
    labels = _labels_of(X, y)
    truth, classes = _encode(labels)
    known = Labels(truth, len(classes), np.ones(len(truth)))
    if groups is None and isinstance(X, EmbeddingStore):
        groups = recordings_of(X, labels.rows)
    groups, fold_of = (
        None if values is None or isinstance(values, (int, np.integer)) else _one_a_row(name, values, len(X))
        for name, values in (("groups", groups), ("folds", folds))
    )
    own = None if groups is None else groups[labels.rows]
    if fold_of is not None:
        values = np.unique(fold_of[labels.rows])
        pairs = [(np.flatnonzero(fold_of[labels.rows] != v), np.flatnonzero(fold_of[labels.rows] == v)) for v in values]
    else:
        pairs = inner_splits(known, own, folds, once=False, random_state=probe.random_state)
    if len(pairs) < 2:
        raise InvalidArgumentError(
            f"Expected rows for at least two folds, got {len(truth)} labelled rows of {len(classes)} classes; label "
            "more recordings."
        )
    probabilities, fold_numbers = np.zeros((len(truth), len(classes))), np.zeros(len(truth), np.int64)
    chosen: list[float] = []
    for number, (train, test) in enumerate(pairs):
        fitted = clone(probe)
        fitted.fit(
            *_part(X, labels, train), **_inner(groups, fold_of, labels.rows[train], isinstance(X, EmbeddingStore))
        )
        chosen.append(fitted.C_)
        columns = np.searchsorted(classes, fitted.classes_) if truth.ndim == 1 else np.arange(len(classes))
        for places, block in Rows(X, labels.rows[test]).blocks():
            probabilities[np.ix_(test[places], columns)] = fitted.predict_proba(block)
        fold_numbers[test] = number
    units = np.unique(own, return_inverse=True)[1] if own is not None else np.arange(len(truth))
    metric = probe.metric or ("map" if truth.ndim == 2 else "accuracy")
    names = [str(name) for name in classes.tolist()]
    store = X if isinstance(X, EmbeddingStore) else None
    places_all = None if store is None else places_of(store)
    return Evaluation(
        names,
        truth,
        probabilities,
        fold_numbers,
        units,
        metric,
        score_of(metric, truth, probabilities),
        score_interval(metric, truth, probabilities, units),
        [score_of(metric, truth[test], probabilities[test]) for _, test in pairs],
        chosen,
        labels.rows,
        None if store is None else [store.paths[row] for row in labels.rows],
        None if places_all is None else (places_all[0][labels.rows], places_all[1][labels.rows]),
    )


def _labels_of(X: Any, y: Any) -> StoreLabels:
    if isinstance(y, StoreLabels):
        return y
    if isinstance(X, EmbeddingStore) and isinstance(y, (str, os.PathLike)):
        return StoreLabels.read(y, X)
    if y is None:
        raise InvalidArgumentError("requires y to be passed: an array of labels, or the path of a CSV of path,label")
    values = to_labels(y)
    if len(values) != len(X):
        raise InvalidArgumentError(f"X has {len(X)} rows and y {len(values)}; give as many labels as vectors")
    classes: NDArray[Any] = np.arange(values.shape[1]) if values.ndim == 2 else np.unique(values)
    return StoreLabels(np.arange(len(values)), values.astype(bool) if values.ndim == 2 else values, classes)


def _encode(labels: StoreLabels) -> tuple[NDArray[Any], NDArray[Any]]:
    """Class indices or an indicator, and the classes."""
    if labels.y.ndim == 2:
        return labels.y.astype(bool), labels.classes
    classes, codes = np.unique(labels.y, return_inverse=True)
    return codes, classes


def _one_a_row(name: str, values: Any, count: int) -> NDArray[Any]:
    array = to_values(values, name)
    if array.shape != (count,):
        raise InvalidArgumentError(f"{name} must have one value a row, {count} in all, got shape {array.shape}")
    return array


def _part(X: Any, labels: StoreLabels, train: NDArray[np.int64]) -> tuple[Any, Any]:
    """Vectors and labels of some rows, as `LinearProbe.fit` takes them."""
    part = labels.take(train)
    return (X, part) if isinstance(X, EmbeddingStore) else (X[part.rows], part.y)


def _inner(groups: Any, folds: Any, rows: NDArray[np.int64], is_store: bool) -> dict[str, Any]:
    """Say how C is chosen within the training part: by the other folds, or else without parting groups."""
    for name, values in (("folds", folds), ("groups", groups)):
        if values is not None and len(np.unique(values[rows])) > 1:
            return {name: values if is_store else values[rows]}
    return {}
