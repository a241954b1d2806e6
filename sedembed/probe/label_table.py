"""Tables of labels: a CSV of ``path,label``, and how its rows meet the vectors of a store."""

from __future__ import annotations

import codecs
import csv
import io
import logging
import math
import os
import posixpath
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sedembed._utils.checks import check_path
from sedembed.errors import MissingFileError, ProbeError

__all__ = ["FOLDER", "Aligned", "LabelTable", "indicator", "label_by_folder", "read_labels", "table_of"]

logger = logging.getLogger(__name__)

PATH, LABEL, START, END = "path", "label", "start", "end"
# Instead of a table: the class of a recording is the name of its folder.
FOLDER = "folder"
Places = tuple[NDArray[np.float64], NDArray[np.float64]]
SEPARATOR = ";"
_SHOWN = 60  # characters of a value that an error repeats


@dataclass(frozen=True)
class Aligned:
    """Rows of a store that have labels, in the order of the store.

    Attributes
    ----------
    rows : ndarray of int64, shape (n,)
        Which rows of the store, ascending.
    entries : ndarray of int64, shape (n,)
        Which row of the table belongs to each.
    labels : list of tuple of str, length n
        The labels of each.
    unlabelled : list of str
        Paths of the store that the table does not name.
    absent : list of str
        Paths of the table that the store does not hold.
    """

    rows: NDArray[np.int64]
    entries: NDArray[np.int64]
    labels: list[tuple[str, ...]]
    unlabelled: list[str]
    absent: list[str]


@dataclass(frozen=True)
class LabelTable:
    """What a CSV of labels says.

    Attributes
    ----------
    paths : list of str
        Each once, as in the file but with forward slashes and without a leading ``./``.
    labels : list of tuple of str
        Labels of each path: exactly one, or any number if the table is multi-label.
    multilabel : bool
        Whether any cell of the table holds a ``;``.
    columns : dict of str to list of str
        The other columns that have a name, such as a fold; one value a path.
    file : str
        Where the table came from, for messages.
    parts : list of (float, float) or None
        Start and end in seconds of the part of the recording that each line labels; a path then has any number of
        lines.
    """

    paths: list[str]
    labels: list[tuple[str, ...]]
    multilabel: bool
    columns: dict[str, list[str]] = field(default_factory=dict)
    file: str = "the table of labels"
    parts: list[tuple[float, float]] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def classes(self) -> list[str]:
        """Every label that occurs, sorted."""
        return sorted({label for labels in self.labels for label in labels})

    def column(self, name: str) -> list[str]:
        """Values of one of the other columns, in the order of `paths`.

        Raises
        ------
        ProbeError
            If the file has no such column.
        """
        if name not in self.columns:
            has = f"it has {', '.join(map(repr, self.columns))}" if self.columns else "it has path and label only"
            raise ProbeError(f"{self.file} has no column {name!r} beside path and label; {has}: check the name")
        return self.columns[name]

    def align(self, store_paths: Sequence[str], places: Places | None = None) -> Aligned:
        """Match the table with the rows of a store.

        Slashes of either kind, ``./`` and the two ways of writing accents in Unicode are taken for the same.

        A row that is a window has the labels of its recording or, where the table has start and end, of the parts
        that it shares at least half of: half of the window, or half of the part. If rows have one label, it is that of
        the part it shares most of.

        Parameters
        ----------
        store_paths : sequence of str
            `EmbeddingStore.paths`.
        places : pair of ndarray of float64, shape (N,), optional
            Start and end of each row in seconds, in a store with windows.

        Returns
        -------
        Aligned
            What matches, and what does not on either side; it is for the caller to report that.

        Raises
        ------
        ProbeError
            If nothing matches, two paths of the store cannot be told apart, or parts are labelled of a store that has
            no windows.
        """
        if self.parts is not None and places is None:
            raise ProbeError(
                f"{self.file} labels parts of recordings by start and end, and the store has one vector for each "
                "recording; embed the folder with a window, or leave out these columns."
            )
        rows: dict[str, list[int]] = {}
        for row, path in enumerate(store_paths):
            known = rows.setdefault(_key(path), [])
            if known and (places is None or store_paths[known[0]] != path):
                raise ProbeError(
                    f"the store holds {store_paths[known[0]]!r} and {path!r}, which labels cannot tell apart; rename "
                    "one of the files and embed the folder again"
                )
            known.append(row)
        lines: dict[str, list[int]] = {}
        for entry, key in enumerate(map(_key, self.paths)):
            lines.setdefault(key, []).append(entry)
        found: dict[int, tuple[int, tuple[str, ...]]] = {}
        for key, entries in lines.items():
            for row in rows.get(key, ()):
                if self.parts is None or places is None:
                    found[row] = entries[0], self.labels[entries[0]]
                elif (labelled := self._of_window(entries, places[0][row], places[1][row])) is not None:
                    found[row] = labelled
        if not found:
            reason = self._mismatch(store_paths)
            if self.parts is not None and any(key in rows for key in lines):
                reason = "no part that it labels shares half of a window; check that start and end are seconds"
            raise ProbeError(f"none of the {len(self)} paths of {self.file} has a vector: {reason}")
        order = sorted(found)
        return Aligned(
            rows=np.array(order, np.int64),
            entries=np.array([found[row][0] for row in order], np.int64),
            labels=[found[row][1] for row in order],
            unlabelled=[path for row, path in enumerate(store_paths) if row not in found],
            absent=list(dict.fromkeys(path for path in self.paths if _key(path) not in rows)),
        )

    def _of_window(self, entries: Sequence[int], start: float, end: float) -> tuple[int, tuple[str, ...]] | None:
        """Labels of a window, and the line that gives most of them; None if it has none and needs one."""
        assert self.parts is not None
        shared: dict[int, float] = {}
        for entry in entries:
            first, last = self.parts[entry]
            overlap = min(end, last) - max(start, first)
            if overlap >= 0.5 * min(end - start, last - first) - 1e-9:
                shared[entry] = overlap
        if not shared:
            return (entries[0], ()) if self.multilabel else None
        most = max(shared, key=lambda entry: shared[entry])
        if not self.multilabel:
            return most, self.labels[most]
        return most, tuple(dict.fromkeys(label for entry in shared for label in self.labels[entry]))

    def _mismatch(self, store_paths: Sequence[str]) -> str:
        """Say why nothing matches, with one path of each side."""
        if not store_paths:
            return "the store is empty; embed the folder first"
        same_kinds: list[tuple[Callable[[str], str], str]] = [
            (_name, "write paths relative to the embedded folder"),
            (lambda path: _key(path).casefold(), "upper and lower case differ: write paths as they are on disk"),
            (lambda path: posixpath.splitext(_key(path))[0], "the suffixes differ: write paths as they are on disk"),
            (
                lambda path: posixpath.splitext(_name(path))[0],
                "write paths relative to the embedded folder, with suffix",
            ),
        ]
        for kind, cure in same_kinds:
            known = {kind(path): path for path in reversed(store_paths)}
            for path in self.paths:
                if kind(path) in known:
                    return f"the table has {_short(path)} where the store has {_short(known[kind(path)])}; {cure}"
        return (
            f"the table has {_short(self.paths[0])}, and the store {_short(store_paths[0])}; label the recordings that "
            "were embedded, by their paths relative to the embedded folder"
        )


def indicator(labels: Sequence[tuple[str, ...]], classes: Sequence[str]) -> NDArray[np.bool_]:
    """Which label belongs to which row.

    Parameters
    ----------
    labels : sequence of tuple of str, length N
        Labels of each row.
    classes : sequence of str, length C
        The columns.

    Returns
    -------
    ndarray of bool, shape (N, C)
        True where the row has the label.

    Raises
    ------
    ProbeError
        For a label that is none of the classes.
    """
    columns = {name: column for column, name in enumerate(classes)}
    found = np.zeros((len(labels), len(columns)), np.bool_)
    for row, names in enumerate(labels):
        for name in names:
            if name not in columns:
                raise ProbeError(
                    f"label {_short(name)} is none of the {len(columns)} classes; remove it, or fit a probe with it"
                )
            found[row, columns[name]] = True
    return found


def label_by_folder(paths: Sequence[str]) -> LabelTable:
    """Label recordings by the first folder of their paths: ``dog/001.wav`` is a dog.

    Parameters
    ----------
    paths : sequence of str
        Relative, with forward slashes. Those in no folder get no label and are left out, with a warning in the log.

    Returns
    -------
    LabelTable
        In the order given.

    Raises
    ------
    ProbeError
        If the folders are fewer than two.
    """
    inside = [path for path in paths if "/" in path]
    folders = [path.split("/", 1)[0] for path in inside]
    if len(set(folders)) < 2:
        raise ProbeError(
            f"Expected a folder for each class, such as dog/001.wav and cat/001.wav, got {len(set(folders))} among "
            f"{len(paths)} recordings. Sort them into folders, or give a CSV of path,label."
        )
    if len(inside) < len(paths):
        logger.warning("%d recordings are in no folder of a class and were left out", len(paths) - len(inside))
    return LabelTable(inside, [(name,) for name in folders], False, {}, "the folders")


def table_of(labels: str | os.PathLike[str], paths: Sequence[str]) -> LabelTable:
    """Read a CSV of labels, or for "folder" take the first folder of each path."""
    return label_by_folder(list(dict.fromkeys(paths))) if labels == FOLDER else read_labels(labels)


def read_labels(path: str | os.PathLike[str]) -> LabelTable:
    """Read a CSV of labels.

    The first line names the columns, among them ``path`` (relative to the embedded folder) and ``label``. A ``;`` in
    any label cell makes the whole table multi-label: cells hold labels separated by ``;``, an empty one means that
    nothing applies. With the columns ``start`` and ``end`` (seconds) a line labels a part of a recording. Other columns
    are kept. UTF-8; quotes as usual in CSV.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    LabelTable
        Its rows, in order; lines that repeat an earlier one are left out with a warning in the log.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ProbeError
        If it is a directory, not UTF-8, not a CSV, lacks a column, a path or a label, or contradicts itself. The
        message names the line.

    Examples
    --------
    >>> table = read_labels("labels.csv")  # doctest: +SKIP
    >>> table.paths[0], table.labels[0], table.multilabel  # doctest: +SKIP
    ('kitchen/001.wav', ('Dishes', 'Water'), True)
    """
    file = check_path(path, "the table of labels")
    rows = _rows(_decode(file), file)
    header = _header(rows, file)
    parted = START in header and END in header
    parts: list[tuple[float, float]] = []
    paths: list[str] = []
    cells: list[str] = []
    lines: list[int] = []
    others: dict[str, list[str]] = {name: [] for name in header if name not in ("", PATH, LABEL)}
    if parted:
        del others[START], others[END]
    seen: dict[object, int] = {}
    repeated = 0
    for line, row in rows:
        values = dict(zip(header, row, strict=False))
        if len(row) != len(header):
            cure = "put quotes around a value that holds a comma" if len(row) > len(header) else "complete the line"
            raise _refuse(file, line, f"expected {len(header)} values, one a column, got {len(row)}; {cure}")
        clean = _clean(values[PATH])
        if not clean:
            raise _refuse(file, line, "the path is empty; name the recording, or remove the line")
        part = _part(values, file, line) if parted else (0.0, 0.0)
        first = seen.setdefault((_key(clean), part), len(paths))
        if first < len(paths):
            differs = "label" if set(_split(values[LABEL])) != set(_split(cells[first])) else ""
            differs = differs or next((name for name in others if values[name].strip() != others[name][first]), "")
            if differs:
                raise _refuse(
                    file,
                    line,
                    f"{_short(clean)} was on line {lines[first]} already, with another {differs}; keep one line for "
                    f"each path, and separate several labels by {SEPARATOR!r}",
                )
            repeated += 1
            continue
        paths.append(clean)
        cells.append(values[LABEL])
        lines.append(line)
        parts.append(part)
        for name, column in others.items():
            column.append(values[name].strip())
    if not paths:
        raise ProbeError(f"{file} has a header and no rows; add a line for each recording")
    if repeated:
        logger.warning("%s: %d lines repeat earlier ones and were left out", file, repeated)
    multilabel = any(SEPARATOR in cell for cell in cells)
    if not multilabel:
        for line, name, cell in zip(lines, paths, cells, strict=True):
            if not cell.strip():
                raise _refuse(
                    file,
                    line,
                    f"{_short(name)} has no label; give it one, remove the line, or, if the labels are several of "
                    f"which none may apply, write {SEPARATOR!r} as its label",
                )
    labels = [_split(cell) for cell in cells]
    return LabelTable(paths, labels, multilabel, others, str(file), parts if parted else None)


def _part(values: dict[str, str], file: Path, line: int) -> tuple[float, float]:
    try:
        start, end = float(values[START]), float(values[END])
    except ValueError:
        start, end = math.nan, math.nan
    if not 0 <= start < end < math.inf:
        raise _refuse(
            file,
            line,
            f"expected start and end in seconds, 0 <= start < end, got {_short(values[START])} and "
            f"{_short(values[END])}; correct them",
        )
    return start, end


def _decode(file: Path) -> str:
    if file.is_dir():
        raise ProbeError(f"expected a CSV of labels at {file}, got a directory; name the file")
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise MissingFileError(
            f"Expected a CSV of labels with the columns path and label at {file}, found nothing."
        ) from None
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ProbeError(f'{file} is in UTF-16; save it as UTF-8 (in a spreadsheet: "CSV UTF-8")')
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _refuse(
            file, line, f'byte 0x{data[error.start]:02x} is not UTF-8; save it as UTF-8 (in a spreadsheet: "CSV UTF-8")'
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise _refuse(file, line, "expected text, got a zero byte; save it as CSV in UTF-8")
    return text


def _rows(text: str, file: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, each with the number of its first line."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise _refuse(
                file, line, f"not valid CSV ({error}); close every quote, and write a quote within one twice"
            ) from None
        if any(cell.strip() for cell in row):
            yield line, row


def _header(rows: Iterator[tuple[int, list[str]]], file: Path) -> list[str]:
    line, row = next(rows, (0, []))
    if not line:
        raise ProbeError(f"{file} is empty; expected a first line {PATH},{LABEL} and a line for each recording")
    header = [cell.strip() for cell in row]
    missing = [name for name in (PATH, LABEL) if name not in header]
    if missing:
        cure = f"name the columns of paths and labels {PATH!r} and {LABEL!r}"
        if len(header) == 1 and any(mark in header[0] for mark in "\t;|"):
            cure = "separate columns by commas"
        raise _refuse(
            file,
            line,
            f"expected a header with the columns {PATH} and {LABEL}, {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing from {_short(','.join(header))}; {cure}",
        )
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise _refuse(file, line, f"the column {twice[0]!r} is there twice; rename or remove one")
    return header


def _split(cell: str) -> tuple[str, ...]:
    """Labels of a cell, each once."""
    return tuple(dict.fromkeys(label for part in cell.split(SEPARATOR) if (label := part.strip())))


def _clean(path: str) -> str:
    path = path.strip().replace("\\", "/")
    return posixpath.normpath(path) if path else ""


def _key(path: str) -> str:
    # A disk may hold é as two characters where the table holds one.
    return unicodedata.normalize("NFC", _clean(path))


def _name(path: str) -> str:
    return posixpath.basename(_key(path))


def _short(value: str) -> str:
    return repr(value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…")


def _refuse(file: Path, line: int, problem: str) -> ProbeError:
    return ProbeError(f"{file}, line {line}: {problem}")
