"""What a probe is given: vectors, where they come from, and labels by name."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import _check_sample_weight, column_or_1d

from sedembed.errors import InvalidArgumentError, ProbeError
from sedembed.metrics import UndefinedMetricError, compute
from sedembed.probe.arrays import check_indicator, raising_our_own, to_values
from sedembed.probe.features import Rows
from sedembed.probe.fitting import Labels
from sedembed.probe.label_table import Aligned, LabelTable, indicator, table_of
from sedembed.store.store import EmbeddingStore

if TYPE_CHECKING:
    from sedembed.embedder import Embedder

__all__ = [
    "Scorer",
    "StoreLabels",
    "aligned_column",
    "check_large",
    "class_factors",
    "column_numbers",
    "identity",
    "is_large",
    "one_a_row",
    "places_of",
    "recordings_of",
    "row_weights",
    "validation_labels",
    "widened",
]


class Scorer:
    """A metric of labels and scores."""

    def __init__(self, metric: str) -> None:
        self.metric = metric

    def __call__(self, labels: Labels, scores: NDArray[np.floating]) -> float:
        """Score of the decisions `scores` (rows, classes) against the true labels."""
        if self.metric == "accuracy" and labels.weights.any():
            return float(np.average(scores.argmax(1) == labels.y, weights=labels.weights))
        try:
            return compute(self.metric, labels.y, scores)
        except UndefinedMetricError:
            return math.nan


class StoreLabels:
    """Labels of some rows of a store, by name.

    Parameters
    ----------
    rows : ndarray of int64, shape (n,)
        Which rows.
    y : ndarray
        Names (n,), or an indicator of bool (n, C).
    classes : ndarray of str, shape (C,)
        Names of the classes.
    """

    def __init__(self, rows: NDArray[np.int64], y: NDArray[Any], classes: NDArray[Any]) -> None:
        self.rows, self.y, self.classes = rows, y, classes

    @classmethod
    def read(
        cls, path: str | os.PathLike[str], store: EmbeddingStore, known: NDArray[Any] | None = None
    ) -> StoreLabels:
        """Read a CSV of labels, or the names of folders, and align them with the rows of a store."""
        table = table_of(path, store.paths)
        aligned = table.align(store.paths, places_of(store))
        if aligned.absent:
            warnings.warn(
                f"{path} labels {len(aligned.absent)} paths that have no vector in {store.directory}, such as "
                f"{aligned.absent[0]!r}; they are left out",
                UserWarning,
                stacklevel=4,
            )
        return cls.of(aligned, table.multilabel or known is not None, known)

    @classmethod
    def of(cls, aligned: Aligned, multilabel: bool, known: NDArray[Any] | None = None) -> StoreLabels:
        """Take the labels of a table that was aligned; `known` are the classes of an indicator."""
        classes = np.array(sorted({name for names in aligned.labels for name in names}), np.str_)
        if known is not None:
            classes = known
        if multilabel:
            return cls(aligned.rows, indicator(aligned.labels, classes.tolist()), classes)
        return cls(aligned.rows, np.array([names[0] for names in aligned.labels], np.str_), classes)

    def take(self, which: NDArray[Any]) -> StoreLabels:
        """Labels of some of the rows."""
        return StoreLabels(self.rows[which], self.y[which], self.classes)


def aligned_column(table: LabelTable, aligned: Aligned, name: str) -> list[str]:
    """Values of a column in the aligned rows; none may be empty."""
    column = table.column(name)
    for entry in aligned.entries:
        if not column[entry]:
            raise ProbeError(
                f"{table.file}: the column {name!r} is empty for {table.paths[entry]!r}; fill it in, or remove the line"
            )
    return [column[entry] for entry in aligned.entries]


def column_numbers(table: LabelTable, aligned: Aligned, name: str | None, rows: int) -> NDArray[np.int64] | None:
    """Give for each row of a store the number of the value that a column of labels has; -1 without a label."""
    if name is None:
        return None
    numbers = np.full(rows, -1)
    numbers[aligned.rows] = np.unique(aligned_column(table, aligned, name), return_inverse=True)[1]
    return numbers


def places_of(store: EmbeddingStore) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Start and end of each row in seconds; None in a store without windows."""
    return (store.index["start"].to_numpy(), store.index["end"].to_numpy()) if store.windows else None


def recordings_of(store: EmbeddingStore, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Give the number of the recording of every row, if rows are windows of at least two recordings."""
    if not store.windows:
        return None
    numbers: NDArray[np.int64] = np.unique(np.array(store.paths), return_inverse=True)[1]
    return numbers if len(np.unique(numbers[rows])) > 1 else None


def identity(vectors: EmbeddingStore | Embedder) -> dict[str, Any]:
    """Name, version and weights of the model that vectors come from."""
    from sedembed.engine.provenance import describe_run

    if not isinstance(vectors, EmbeddingStore) and not hasattr(vectors, "runner"):
        raise InvalidArgumentError(
            f"Expected a loaded model or a store, got {vectors!r}; pass load_model(...), the model of the vectors."
        )
    if isinstance(vectors, EmbeddingStore):
        settings, name = vectors.run["settings"], vectors.run["model"]["name"]
    else:
        settings, name = describe_run(vectors.runner, Path())["settings"], vectors.record.name
    return {
        "name": name,
        "version": settings["model_version"],
        "sha256": settings["model_sha256"],
        "front_end_version": settings["front_end_version"],
        "precision": settings["precision"],
    }


def is_large(X: Any, max_memory: int) -> bool:
    """Whether an array is to be read in blocks rather than copied by scikit-learn's checks."""
    return isinstance(X, np.memmap) or (isinstance(X, np.ndarray) and X.ndim == 2 and X.size * 4 > max_memory)


def widened(X: Any) -> Any:
    """Make float16 float32; scikit-learn would make it float64."""
    return X.astype(np.float32) if isinstance(X, np.ndarray) and X.dtype == np.float16 else X


def check_large(X: NDArray[Any]) -> None:
    """Check the shape and type of vectors that may not fit into memory."""
    if X.ndim != 2 or X.dtype.kind != "f":
        raise InvalidArgumentError(f"expected vectors of floats of shape (N, D), got {X.dtype} of shape {X.shape}")
    for places, block in Rows(X, block_rows=512).blocks():
        if not np.isfinite(block).all():
            row = int(places[~np.isfinite(block).all(1)][0])
            raise InvalidArgumentError(
                f"expected finite vectors, got NaN or infinity in row {row}; leave such rows out"
            )


def row_weights(sample_weight: ArrayLike, count: int) -> NDArray[np.float64]:
    """Check weights of rows."""
    with raising_our_own():
        weights: NDArray[np.float64] = _check_sample_weight(
            sample_weight, np.empty((count, 1)), dtype=np.float64, ensure_non_negative=True
        )
    if not np.isfinite(weights).all():
        raise InvalidArgumentError("Expected finite sample_weight, got NaN or infinity; give such rows the weight 0.")
    if not weights.any():
        raise InvalidArgumentError("sample_weight is zero for every row; give at least some rows a weight")
    return weights


def class_factors(
    class_weight: Mapping[Any, float] | str, classes: NDArray[Any], y: NDArray[Any], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weight of each class where it is absent and where it is present, (2, C)."""
    factors = np.ones((2, len(classes)))
    if not isinstance(class_weight, str):
        named = dict(class_weight)
        if y.ndim == 1:
            with raising_our_own():
                factors[1] = compute_class_weight(named, classes=classes, y=classes[y])
            return factors
        unknown = set(named) - set(classes.tolist())
        if unknown:
            raise InvalidArgumentError(f"class_weight names {sorted(unknown, key=str)}, which are no classes")
        factors[1] = [named.get(name, 1.0) for name in classes.tolist()]
        return factors
    if class_weight != "balanced":
        raise InvalidArgumentError(f'class_weight must be a dict, "balanced" or None, got {class_weight!r}')
    if y.ndim == 1:
        present = np.bincount(y, weights, len(classes))
        factors[1] = weights.sum() / (len(classes) * np.maximum(present, np.finfo(float).tiny))
        return factors
    present = weights @ y
    for row, amount in ((0, weights.sum() - present), (1, present)):
        factors[row] = np.divide(weights.sum(), 2 * amount, out=np.ones_like(amount), where=amount > 0)
    return factors


def one_a_row(name: str, values: Any, rows: int) -> NDArray[Any] | None:
    """Check values that belong to rows."""
    if values is None:
        return None
    array = to_values(values, name)
    if array.shape != (rows,):
        raise InvalidArgumentError(f"{name} must have one value a row, {rows} in all, got shape {array.shape}")
    return array


def validation_labels(y: NDArray[Any], rows: int, classes: NDArray[Any], *, multilabel: bool) -> Labels:
    """Check the labels of rows that choose C, and turn them into numbers of the classes.

    Parameters
    ----------
    y : ndarray, shape (N,) or (N, C)
        Classes, or for a multi-label task an indicator.
    rows : int
        How many vectors there are.
    classes : ndarray, shape (C,)
        Of the rows that are fitted, sorted.
    multilabel : bool
        Whether rows have any number of classes.
    """
    if rows != len(y):
        raise InvalidArgumentError(f"validation has {rows} vectors and {len(y)} labels; give as many of both")
    if multilabel:
        if y.ndim != 2 or y.shape[1] != len(classes):
            raise InvalidArgumentError(
                f"validation labels must be an indicator (N, {len(classes)}) like y, got shape {y.shape}"
            )
        check_indicator(y, "the validation labels")
        return Labels(y.astype(bool), len(classes), np.ones(len(y)))
    y = column_or_1d(y)
    if _is_text(y) != _is_text(classes):
        raise InvalidArgumentError(
            f"Expected validation labels of the type of y, {classes.dtype}, got {y.dtype}; convert them."
        )
    where = np.searchsorted(classes, y).clip(max=len(classes) - 1)
    if (classes[where] != y).any():
        strange = y[classes[where] != y].tolist()[0]
        raise InvalidArgumentError(f"validation has the class {strange!r}, which y does not have; leave such rows out")
    return Labels(where, len(classes), np.ones(len(y)))


def _is_text(labels: NDArray[Any]) -> bool:
    return labels.dtype.kind in "OU"
