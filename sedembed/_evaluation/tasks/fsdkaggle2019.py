"""FSDKaggle2019 (Fonseca et al. 2019): 80 sound events, several a clip, learnt from clean or from noisy labels."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from sedembed._evaluation.tasks.base import Clip, Contents, Round, Task, read_table
from sedembed._evaluation.tasks.recordings import any_case, check_root
from sedembed.errors import DatasetError

__all__ = ["FSDKaggle2019Curated", "FSDKaggle2019Noisy"]

_META = "FSDKaggle2019.meta"
_TEST = "FSDKaggle2019.audio_test"
_CLASSES = 80
_TEST_ROWS = 4_481
_WRONG_LABEL = "its label is wrong: the distributors mixed up file names"
_SILENT = "it holds no signal: the distributors' format conversion failed"


class _FSDKaggle2019(Task):
    """What both tasks share: everything but the training set."""

    metric = "lwlrap"
    other_metrics = ("map", "mauc")
    multilabel = True
    classes = _CLASSES
    source = "https://zenodo.org/records/3612637"

    _training: ClassVar[str]  # as the distributors name it
    _training_rows: ClassVar[int]
    _known_bad: ClassVar[Mapping[str, str]] = {}  # file name to reason
    _cure: ClassVar[str]  # how the archive of the training recordings is extracted

    def read(self, data: Path) -> Contents:
        """Read three CSV files and list two folders; see `Task.read`."""
        audio = f"FSDKaggle2019.audio_{self._training}"
        self._check_layout(data, audio)
        vocabulary = self._read_vocabulary(data)
        clips: list[Clip] = []
        missing: list[str] = []
        extra: list[str] = []
        excluded: dict[str, str] = {}
        notes: list[str] = []
        for folder, part, full in ((audio, self._training, self._training_rows), (_TEST, "test", _TEST_ROWS)):
            name = f"{_META}/{part}_post_competition.csv"
            named = self._read_part(data, name, folder, vocabulary, full)
            if len(named) < full:
                notes.append(f"incomplete: {name} has {len(named)} of {full} rows")
            there = self._list(data, folder)
            if (data / folder / folder).is_dir():
                raise self.refuse(data, f"the recordings lie one folder too deep; move {folder}/{folder} to {folder}")
            find = any_case(there, [clip.path for clip in named])
            found = {clip.path: find(clip.path) for clip in named}
            extra += sorted(there.difference(file for file in found.values() if file is not None))
            for clip in named:
                path = found[clip.path] or clip.path
                reason = self._known_bad.get(clip.path.removeprefix(f"{audio}/"))
                if reason is not None:
                    excluded[path] = reason
                    continue
                clips.append(replace(clip, path=path))
                if found[clip.path] is None:
                    missing.append(path)
        if excluded:
            used = sum(clip.part == self._training for clip in clips)
            notes.append(f"{used} of {used + len(excluded)} training clips are used, the others are known to be bad")
        return Contents(clips, missing, extra, excluded, notes)

    def rounds(self, clips: Sequence[Clip]) -> list[Round]:
        """Make the one round: the whole training set, C tuned on the public part of the test set.

        Raises
        ------
        DatasetError
            If these clips hold none of the training or none of the test set.
        """
        train, validation, test = (
            np.array([i for i, clip in enumerate(clips) if clip.part == part], dtype=np.int64)
            for part in (self._training, "Public", "Private")
        )
        for indices, needed in ((train, f"of audio_{self._training}"), (test, "of audio_test with usage Private")):
            if not len(indices):
                raise DatasetError(
                    f"{self.title} needs recordings {needed}, found none among {len(clips)} clips; add some"
                )
        return [Round(self._training, train, test, validation if len(validation) else None)]

    def _check_layout(self, data: Path, audio: str) -> None:
        if (data / "train_curated.csv").is_file():
            raise self.refuse(
                data, "it is of the Kaggle competition, without test labels; get the later Zenodo release"
            )
        if (data / _META / _META).is_dir():
            raise self.refuse(data, f"the metadata lie one folder too deep; move {_META}/{_META} to {_META}")
        check_root(self, data, f"{_META}/test_post_competition.csv")
        for folder, cure in ((audio, self._cure), (_TEST, f"extract {_TEST}.zip there")):
            if not (data / folder).is_dir():
                raise self.refuse(data, f"it has no folder {folder}; {cure}")

    def _read_vocabulary(self, data: Path) -> frozenset[str]:
        name = f"{_META}/vocabulary.csv"
        try:
            with (data / name).open(newline="", encoding="utf-8-sig") as stream:
                rows = [row for row in csv.reader(stream) if row]
        except FileNotFoundError:
            raise self.refuse(data, f"{name} is not there; extract {_META}.zip again") from None
        except (UnicodeDecodeError, csv.Error, OSError) as error:
            raise self.refuse(data, f"{name} cannot be read ({error}); fetch it again") from error
        names = frozenset(row[1] for row in rows if len(row) == 2)
        if [row[0] for row in rows] != [str(i) for i in range(_CLASSES)] or len(names) != _CLASSES:
            raise self.refuse(
                data,
                f"{name} should hold {_CLASSES} lines of index and class name, without a header, but has {len(rows)} "
                f"with {len(names)} names, the first {','.join(rows[0]) if rows else ''!r}; fetch it again",
            )
        return names

    def _list(self, data: Path, folder: str) -> set[str]:
        """List the sound files under a folder, relative to the data folder."""
        # Not at the top: it brings torch, and a list of the tasks should not wait for that.
        from sedembed.audio.listing import list_recordings

        listing = list_recordings(data / folder)
        for path, (_, message) in listing.failures.items():
            raise self.refuse(data, f"{folder}/{path} cannot be used: {message}")
        return {f"{folder}/{path}" for path in listing.files}

    def _read_part(self, data: Path, name: str, folder: str, vocabulary: frozenset[str], full: int) -> list[Clip]:
        """Make clips of what one of the CSV files names, the known bad ones included."""
        test = folder == _TEST
        rows = read_table(self, data, name, ("fname", "labels", "usage") if test else ("fname", "labels"))
        if not rows or len(rows) > full:
            raise self.refuse(data, f"{name} has {len(rows)} rows, the release has {full}; fetch it again")
        clips: dict[str, Clip] = {}
        for line, row in enumerate(rows, 2):
            file, labels = row["fname"], tuple(row["labels"].split(","))
            part = row["usage"] if test else self._training
            problem = None
            if not file or Path(file).name != file or "\\" in file:
                problem = f"has fname {file!r}, which is not a file name"
            elif file in clips:
                problem = f"names {file} a second time"
            elif unknown := sorted(set(labels) - vocabulary):
                problem = f"has labels that are not in vocabulary.csv: {unknown}"
            elif len(set(labels)) < len(labels):
                problem = f"has a label twice: {row['labels']}"
            elif test and part not in ("Public", "Private"):
                problem = f"has usage {part!r} instead of Public or Private"
            if problem:
                raise self.refuse(data, f"line {line} of {name} {problem}; fetch the file again")
            clips[file] = Clip(f"{folder}/{file}", labels, part)
        return list(clips.values())


class FSDKaggle2019Curated(_FSDKaggle2019):
    """Learn from the 4 970 clips labelled by hand, less 6 that are known to be bad."""

    name = "fsdkaggle2019-curated"
    title = "FSDKaggle2019 (curated)"
    paper: ClassVar[Mapping[str, float]] = {"talnet": 0.720, "weanet": 0.728}
    licence = "CC BY 4.0 as a whole; each clip CC0, CC BY, CC BY-NC or CC Sampling+"
    clips = 4_970 - 6 + _TEST_ROWS
    layout = f"""\
FSDKaggle2019.audio_train_curated/*.wav
{_TEST}/*.wav
{_META}/train_curated_post_competition.csv
{_META}/test_post_competition.csv
{_META}/vocabulary.csv"""

    _training = "train_curated"
    _training_rows = 4_970
    _cure = "extract FSDKaggle2019.audio_train_curated.zip there"
    _known_bad: ClassVar[Mapping[str, str]] = {
        "f76181c4.wav": _WRONG_LABEL,
        "77b925c2.wav": _WRONG_LABEL,
        "6a1f682a.wav": _WRONG_LABEL,
        "c7db12aa.wav": _WRONG_LABEL,
        "7752cc8a.wav": _WRONG_LABEL,
        "1d44b0bd.wav": _SILENT,
    }


class FSDKaggle2019Noisy(_FSDKaggle2019):
    """Learn from the 19 815 sound tracks of videos, labelled by machine."""

    name = "fsdkaggle2019-noisy"
    title = "FSDKaggle2019 (noisy)"
    paper: ClassVar[Mapping[str, float]] = {"talnet": 0.510, "weanet": 0.503}
    licence = (
        "CC BY 4.0 as a whole; each clip CC BY 2.0 or CC BY-SA 2.0, for testing CC0, CC BY, CC BY-NC or CC Sampling+"
    )
    clips = 19_815 + _TEST_ROWS
    layout = f"""\
FSDKaggle2019.audio_train_noisy/*.wav
{_TEST}/*.wav
{_META}/train_noisy_post_competition.csv
{_META}/test_post_competition.csv
{_META}/vocabulary.csv"""

    _training = "train_noisy"
    _training_rows = 19_815
    _cure = (
        "join its seven parts by zip -s 0 FSDKaggle2019.audio_train_noisy.zip --out noisy.zip, extract noisy.zip there"
    )
