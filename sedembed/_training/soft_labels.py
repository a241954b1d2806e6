"""Tables of soft labels: what somebody else's network says about the clips, matched by name."""

from __future__ import annotations

import csv
import logging
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from sedembed.errors import DatasetError

__all__ = ["read_soft_labels"]

logger = logging.getLogger(__name__)

_SHOWN = 5  # names that an error repeats
_ARRAYS = ("clips", "classes", "probabilities")


def read_soft_labels(path: Path, clips: Sequence[str], classes: Sequence[str]) -> NDArray[np.float32]:
    """Read a table of soft labels, its rows and columns brought into the order of a training set.

    Parameters
    ----------
    path : Path
        ``.csv`` or ``.parquet``: the first column holds names of clips, each other column is named for a class.
        ``.npz``: the arrays ``clips`` (N,), ``classes`` (C,) and ``probabilities`` (N, C).
    clips : sequence of str, length n
        Names of the training clips. The table may hold more, and in any order.
    classes : sequence of str, length c
        Names of the classes. The table may hold more, and in any order.

    Returns
    -------
    ndarray of float32, shape (n, c)
        Values in [0, 1].

    Raises
    ------
    DatasetError
        If the file cannot be read, names a clip or a class twice, lacks a clip or a class, or holds anything but
        numbers from 0 to 1 for them.
    """
    readers = {".csv": _from_csv, ".parquet": _from_parquet, ".npz": _from_npz}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DatasetError(f"{path}: expected a table of soft labels that ends in .csv, .parquet or .npz.")
    if not path.is_file():
        raise DatasetError(f"Expected a table of soft labels at {path}, which is not there. Check the path.")
    values = reader(path, clips, classes)
    outside = ~((values >= 0) & (values <= 1))  # NaN is outside, too
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise DatasetError(
            f"{path}: expected finite values from 0 to 1, got {int(outside.sum())} others, the first "
            f"{values[row, column]} for the class {classes[column]!r} of the clip {clips[row]!r}."
        )
    return values


def _from_csv(path: Path, clips: Sequence[str], classes: Sequence[str]) -> NDArray[np.float32]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            header = next(csv.reader(stream), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: cannot be read as CSV: {error}") from error
    _check_header(path, header, classes)
    types = {header[0]: pa.string(), **dict.fromkeys(classes, pa.float64())}
    options = arrow_csv.ConvertOptions(column_types=types, include_columns=list(types), strings_can_be_null=False)
    parsing = arrow_csv.ParseOptions(newlines_in_values=True)
    try:
        table = arrow_csv.read_csv(path, parse_options=parsing, convert_options=options)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path}: cannot be read as CSV: {error}") from error
    return _from_arrow(path, table, clips, classes)


def _from_parquet(path: Path, clips: Sequence[str], classes: Sequence[str]) -> NDArray[np.float32]:
    try:
        header = parquet.read_schema(path).names
        _check_header(path, header, classes)
        table = parquet.read_table(path, columns=[header[0], *classes])
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path}: cannot be read as Parquet: {error}") from error
    return _from_arrow(path, table, clips, classes)


def _from_npz(path: Path, clips: Sequence[str], classes: Sequence[str]) -> NDArray[np.float32]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            absent = [name for name in _ARRAYS if name not in archive]
            if absent:
                raise DatasetError(f"{path}: expected the arrays {', '.join(_ARRAYS)}; {', '.join(absent)} missing.")
            names, columns, values = (archive[name] for name in _ARRAYS)
    except DatasetError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path}: cannot be read as an archive of plain arrays: {error}") from error
    if names.ndim != 1 or columns.ndim != 1 or values.shape != (len(names), len(columns)):
        raise DatasetError(
            f"{path}: expected probabilities of shape ({names.size}, {columns.size}), one row a clip and one column a "
            f"class, got {values.shape}."
        )
    if values.dtype.kind not in "fiub":
        raise DatasetError(f"{path}: expected probabilities to be numbers, got {values.dtype}.")
    column_of = _places(path, [str(name) for name in columns], classes, "class", "column")
    row_of = _places(path, [str(name) for name in names], clips, "clip", "row")
    _report_rest(path, len(names) - len(clips))
    return np.asarray(values[np.ix_(row_of, column_of)], np.float32)


def _check_header(path: Path, header: Sequence[str], classes: Sequence[str]) -> None:
    if len(header) < 2:
        raise DatasetError(f"{path}: expected a column of clip names and a column for each class, got {list(header)}.")
    if header[0] in classes:
        raise DatasetError(f"{path}: expected the first column to hold clip names, but it is the class {header[0]!r}.")
    _places(path, header[1:], classes, "class", "column")
    if header.count(header[0]) > 1:
        raise DatasetError(f"{path}: expected one column {header[0]!r}, which holds the clip names, got several.")


def _from_arrow(path: Path, table: Any, clips: Sequence[str], classes: Sequence[str]) -> NDArray[np.float32]:
    names = table.column(0)
    if not (pa.types.is_string(names.type) or pa.types.is_large_string(names.type)):
        raise DatasetError(f"{path}: expected the first column to hold clip names (text), got {names.type}.")
    rows = _places(path, names.to_pylist(), clips, "clip", "row")
    _report_rest(path, len(names) - len(clips))
    values = np.empty((len(clips), len(classes)), np.float32)
    for index, name in enumerate(classes):
        column = table.column(name)
        if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
            raise DatasetError(f"{path}: expected the column {name!r} to hold numbers, got {column.type}.")
        # Empty cells become NaN, which the check of the range refuses.
        values[:, index] = column.cast(pa.float64()).to_numpy()[rows]
    return values


def _places(path: Path, there: Sequence[str], wanted: Sequence[str], kind: str, line: str) -> NDArray[np.intp]:
    """Where each wanted name is among those that are there; all must be, and each once."""
    position = {name: index for index, name in enumerate(there)}
    if len(position) < len(there):
        needed = set(wanted)
        again = [name for name, count in Counter(there).items() if count > 1 and name in needed]
        if again:
            raise DatasetError(f"{path}: expected one {line} for each {kind}, got several for {_list(again)}.")
    absent = [name for name in wanted if name not in position]
    if absent:
        raise DatasetError(
            f"{path}: expected a {line} for each {kind} of the training set, {len(absent)} of {len(wanted)} missing: "
            f"{_list(absent)}. Names must be the same to the letter."
        )
    return np.array([position[name] for name in wanted], np.intp)


def _report_rest(path: Path, rest: int) -> None:
    if rest:
        logger.info("%s: %d rows of clips that are not in the training set are left out", path, rest)


def _list(names: Iterable[str]) -> str:
    shown = list(names)
    rest = len(shown) - _SHOWN
    return ", ".join(map(repr, shown[:_SHOWN])) + (f" and {rest} more" if rest > 0 else "")
