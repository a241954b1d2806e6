"""What callers hold as vectors and labels, tensors, columns and lists, as NumPy arrays; or the row that is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sedembed.errors import InvalidArgumentError, InvalidTypeError, SedembedError

__all__ = ["check_indicator", "raising_our_own", "refusing_extremes", "to_labels", "to_values", "to_vectors"]

_CURE = "leave such rows out of both vectors and labels"


def to_vectors(X: Any) -> Any:
    """Make vectors of a tensor, or of a column or list of vectors; all else is returned as it is.

    Raises
    ------
    InvalidArgumentError
        For a tensor that is not dense, or a row that is no vector or of another length than the first.
    """
    if _is_tensor(X):
        return _from_tensor(X, "vectors")
    rows = _items(X)
    if rows is None or not any(hasattr(row, "__len__") and not isinstance(row, (str, bytes, dict)) for row in rows):
        return X
    vectors: list[NDArray[Any]] = []
    for number, row in enumerate(rows):
        try:
            vector = _from_tensor(row, "vectors") if _is_tensor(row) else np.asarray(row)
        except ValueError as error:
            raise InvalidArgumentError(
                f"Expected a vector in every row, got a ragged list in row {number}; {_CURE}."
            ) from error
        if vector.ndim != 1 or vector.dtype.kind not in "biuf":
            raise InvalidArgumentError(
                f"Expected a vector of numbers in every row, got {_show(row)} in row {number}; {_CURE}."
            )
        if len(vector) != len(vectors[0] if vectors else vector):
            raise InvalidArgumentError(
                f"Expected vectors of one length, got {len(vectors[0])} numbers in row 0 and {len(vector)} in row "
                f"{number}; embed all recordings with one model."
            )
        vectors.append(vector)
    return np.stack(vectors)


def to_labels(y: Any, name: str = "y") -> NDArray[Any]:
    """Make an array of labels, or an indicator, of an array, tensor, column or list.

    Raises
    ------
    InvalidArgumentError
        For a row without a label or with several, or labels of several types, naming the row.
    """
    array = to_values(y, name)
    if array.ndim == 1 and array.dtype.kind == "S":
        raise InvalidArgumentError(f"Expected labels as text or numbers in {name}, got bytes; decode them.")
    return array


def to_values(y: Any, name: str) -> NDArray[Any]:
    """Make an array of one value for each row, such as labels or groups; errors are those of `to_labels`."""
    if _is_tensor(y):
        return _from_tensor(y, name)
    rows = _items(y)
    if rows is not None:
        for number, row in enumerate(rows):
            if _is_missing(row):
                raise InvalidArgumentError(
                    f"Expected a value for every row in {name}, got {_show(row)} in row {number}; {_CURE}."
                )
        lists = [number for number, row in enumerate(rows) if isinstance(row, (list, tuple, set, dict, np.ndarray))]
        if lists and not _is_rectangular(rows):
            raise InvalidArgumentError(
                f"Expected one label a row in {name}, got {_show(rows[lists[0]])} in row {lists[0]}; for several "
                "labels a row give an indicator: sklearn.preprocessing.MultiLabelBinarizer().fit_transform(labels)."
            )
        if not lists:
            _refuse_mixed(rows, name)
            if len(rows) and not isinstance(rows[0], str) and all(np.isscalar(row) for row in rows):
                return np.array(rows)  # numbers, out of a column that could hold anything
    try:
        array = np.asarray(y)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"Expected an array of labels as {name}, got {_show(y)} ({error}).") from error
    if array.ndim == 1 and array.dtype.kind in "fM" and (missing := array != array).any():
        row = int(missing.argmax())
        raise InvalidArgumentError(f"Expected a value for every row in {name}, got {array[row]} in row {row}; {_CURE}.")
    return array.astype(object) if array.dtype.kind == "T" else array


def check_indicator(y: NDArray[Any], name: str = "y") -> None:
    """Check that an indicator holds nothing but zeros and ones.

    Raises
    ------
    InvalidArgumentError
        For any other value, naming its row and column.
    """
    wrong = ~np.isin(y, (0, 1))
    if wrong.any():
        row, column = (int(place[0]) for place in np.nonzero(wrong))
        raise InvalidArgumentError(
            f"Expected an indicator of zeros and ones as {name}, got {y[row, column]!r} in row {row}, column {column}; "
            f"write ({name} > 0).astype(int) if that is what it means."
        )


@contextmanager
def raising_our_own() -> Iterator[None]:
    """Give the errors of scikit-learn's checks the classes of this library."""
    try:
        yield
    except SedembedError:
        raise
    except ValueError as error:
        raise InvalidArgumentError(str(error)) from error
    except TypeError as error:
        raise InvalidTypeError(str(error)) from error


@contextmanager
def refusing_extremes() -> Iterator[None]:
    """Say which arguments make a fit that cannot be computed."""
    try:
        yield
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise InvalidArgumentError(
            "Expected a fit that float arithmetic can compute, got weights or vectors that are too large for it; "
            "choose a smaller C, class_weight or sample_weight, or scale the vectors."
        ) from error


def _items(x: Any) -> list[Any] | None:
    """Rows of a list, or of a column that may hold anything; None for arrays of one type and for all else."""
    if isinstance(x, (list, tuple)):
        return list(x)
    if isinstance(x, np.ndarray):
        return list(x) if x.dtype == object and x.ndim == 1 else None
    if getattr(x, "ndim", 1) != 1 or isinstance(x, type):
        return None
    for method in ("to_list", "to_pylist"):
        if callable(getattr(x, method, None)):
            return list(getattr(x, method)())
    return None


def _is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating, np.datetime64)) and bool(value != value)


def _is_rectangular(rows: list[Any]) -> bool:
    try:
        array = np.asarray(rows)
    except ValueError:
        return False
    # One list of one text a row is a column of labels, which scikit-learn takes too.
    return array.ndim == 2 and (array.dtype.kind in "biuf" or array.shape[1] == 1)


def _refuse_mixed(rows: list[Any], name: str) -> None:
    """Refuse labels of several types, which NumPy would make texts of."""
    first: dict[str, tuple[int, Any]] = {}
    for number, row in enumerate(rows):
        first.setdefault(_kind(row), (number, row))
    if len(first) > 1:
        (one, a), (other, b) = list(first.values())[:2]
        raise InvalidArgumentError(
            f"Expected labels of one type in {name}, got {_show(a)} in row {one} and {_show(b)} in row {other}; make "
            "them texts: [str(label) for label in labels]."
        )


def _kind(label: Any) -> str:
    for kind, types in (("text", str), ("truth value", (bool, np.bool_)), ("number", (int, float, np.number))):
        if isinstance(label, types):
            return kind
    return type(label).__name__


def _is_tensor(x: Any) -> bool:
    return isinstance(x, torch.Tensor)


def _from_tensor(x: Any, name: str) -> NDArray[Any]:
    x = x.detach().cpu()
    try:
        array: NDArray[Any] = (x.float() if str(x.dtype) in ("torch.bfloat16", "torch.float16") else x).numpy()
    except (TypeError, RuntimeError) as error:
        raise InvalidArgumentError(f"Expected a dense tensor of numbers as {name}, got {x.dtype} ({error}).") from error
    return array


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
