"""What a target task is: its files, its protocol, and the paper's figures."""

from __future__ import annotations

import csv
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sedembed.errors import DatasetError

__all__ = ["Clip", "Contents", "Round", "Task", "read_table"]


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording that the protocol uses."""

    path: str  # relative to the data folder, with forward slashes
    labels: tuple[str, ...]  # one for a multi-class task
    part: str  # fold or split, as the distributors name it
    group: str = ""  # recordings of one group are never on both sides of an inner split


@dataclass(frozen=True)
class Contents:
    """What a copy of a data set holds, compared with what it should hold."""

    clips: list[Clip]  # all that the protocol uses, on disk or not, in the order of the metadata
    missing: list[str] = field(default_factory=list)  # paths of clips that are not on disk
    extra: list[str] = field(default_factory=list)  # sound files on disk that the metadata do not name
    excluded: dict[str, str] = field(default_factory=dict)  # path to reason: known to be broken, left out
    notes: list[str] = field(default_factory=list)  # what a reader of the result should know


@dataclass(frozen=True)
class Round:
    """One fit and one test; arrays of int64 index the clips that were given to `Task.rounds`.

    C is tuned on `validation` where there is one, else by leaving out each of `inner_folds` (one number for each
    clip of `train`) in turn, else on an inner split of `train` by `Clip.group`.
    """

    name: str
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    validation: NDArray[np.int64] | None = None
    inner_folds: NDArray[np.int64] | None = None


class Task(ABC):
    """One target task; subclasses hold facts and read files, the engine does the rest."""

    name: ClassVar[str]  # as on the command line
    title: ClassVar[str]
    metric: ClassVar[str]  # a name that `metrics.compute` knows; also what C is tuned by
    other_metrics: ClassVar[tuple[str, ...]] = ()
    multilabel: ClassVar[bool] = False
    classes: ClassVar[int]  # of the full data set
    paper: ClassVar[Mapping[str, float]]  # model to score, a fraction (Kumar et al. 2021, Table 2)
    paper_other: ClassVar[Mapping[str, Mapping[str, float]]] = MappingProxyType({})  # the same for `other_metrics`
    source: ClassVar[str]  # where to get the data
    licence: ClassVar[str]
    layout: ClassVar[str]  # the expected files, one a line, for error messages and `--list`
    clips: ClassVar[int]  # of the full data set, for `--list`
    own_outputs: ClassVar[bool] = False  # the labels are the network's own events: score its probabilities, too

    @abstractmethod
    def read(self, data: Path) -> Contents:
        """Read the metadata and look which of the recordings are there.

        Raises
        ------
        DatasetError
            If the folder is not laid out as `layout` says; the message names what is missing and the cure.
        """

    @abstractmethod
    def rounds(self, clips: Sequence[Clip]) -> list[Round]:
        """Fits and tests of the protocol over these clips: all of the data set, or with ``--partial`` what is there."""

    def refuse(self, data: Path, problem: str) -> DatasetError:
        """Make the error for a folder that cannot be used."""
        return DatasetError(
            f"{data} is not a usable copy of {self.title}: {problem}. Expected:\n{self.layout}\n"
            f"Get it from {self.source} ({self.licence})"
        )


def read_table(task: Task, data: Path, name: str, columns: Sequence[str], delimiter: str = ",") -> list[dict[str, str]]:
    """Rows of a metadata file with a header, after checking that it is there and has the columns.

    Raises
    ------
    DatasetError
        If the file is missing, not text, or lacks a column.
    """
    file = data / name
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, delimiter=delimiter)
            found = list(reader.fieldnames or [])
            absent = [column for column in columns if column not in found]
            if absent:
                raise task.refuse(data, f"{name} lacks the columns {absent}, it has {found}; fetch it again")
            rows = list(reader)
    except FileNotFoundError:
        raise task.refuse(data, f"{name} is not there") from None
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise task.refuse(data, f"{name} cannot be read ({error}); fetch it again") from error
    short = next((i for i, row in enumerate(rows, 2) if any(row[column] is None for column in columns)), None)
    if short is not None:
        raise task.refuse(data, f"line {short} of {name} is cut short; fetch it again")
    return rows
