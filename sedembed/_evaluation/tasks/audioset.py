"""AudioSet: 527 sound events, the task that the networks were trained on (Gemmeke et al. 2017)."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path, PurePosixPath

import numpy as np

from sedembed._evaluation.tasks.base import Clip, Contents, Round, Task, read_table

__all__ = ["AudioSet", "YouTubeFiles", "find_table"]

_TABLE_FOLDERS = ("", "metadata", "annotations", "csv", "csvs")
_BALANCED, _UNBALANCED, _EVALUATION = "balanced_train", "unbalanced_train", "eval"
_SIZES = {_BALANCED: 22_160, _UNBALANCED: 2_041_789, _EVALUATION: 20_371}
_LABELS = "class_labels_indices.csv"

# An id has 11 characters, so where it ends is certain although it may hold "_" and begin with "Y".
_STEM = re.compile(r"(?:([\w-]{11})|Y([\w-]{11}))((?:_\d+(?:\.\d+)?){0,2})", re.ASCII)
_ID = re.compile(r"[\w-]{11}", re.ASCII)


class AudioSet(Task):
    """MAP over the classes of the evaluation set, of a probe trained on the balanced and unbalanced sets.

    C is chosen on an inner split of the training clips. A recording is found by the YouTube id in its name, in whatever
    folder it is.
    """

    name = "audioset"
    title = "AudioSet"
    metric = "map"
    other_metrics = ("mauc", "d_prime")
    multilabel = True
    own_outputs = True
    classes = 527
    clips = sum(_SIZES.values())
    paper = {"talnet": 0.386, "weanet": 0.398}  # noqa: RUF012 - a constant, typed as a Mapping in Task
    paper_other = {"mauc": {"talnet": 0.971, "weanet": 0.972}}  # noqa: RUF012 - as above
    source = "https://research.google.com/audioset/download.html"
    licence = "lists CC BY 4.0; the sounds belong to those who put them on YouTube"
    layout = (
        "balanced_train_segments.csv  (YTID, start_seconds, end_seconds, positive_labels; here or in metadata/)\n"
        "eval_segments.csv  (the same)\n"
        "unbalanced_train_segments.csv  (the same; may be left out)\n"
        "…/Y--PJHxphWEs.wav …  (any folders; Y, start and end may be left out: --PJHxphWEs_30.000_40.000.flac, "
        "--PJHxphWEs_30000.m4a)"
    )

    def read(self, data: Path) -> Contents:
        """See `Task.read`; labels are display names, as in `Embedder.labels`; the group is the YouTube id.

        The unbalanced set is left out, with a note, if its list or all of its recordings are missing.
        """
        tables = {part: find_table(self, data, f"{part}_segments.csv") for part in (_BALANCED, _EVALUATION)}
        classes = _read_classes()
        self._check_labels(data, list(classes))
        recordings = YouTubeFiles(self, data)
        # The evaluation set first: a clip that is also in a training list stays out of training.
        contents = Contents([])
        seen: set[str] = set()
        evaluation = self._read_part(data, tables[_EVALUATION], _EVALUATION, classes, recordings, seen, contents)
        balanced = self._read_part(data, tables[_BALANCED], _BALANCED, classes, recordings, seen, contents)
        unbalanced = self._read_unbalanced(data, classes, recordings, seen, contents)
        contents.clips.extend([*balanced, *unbalanced, *evaluation])
        recordings.conclude(self, data, contents, f"Y{contents.clips[0].group}.wav")
        return contents

    def rounds(self, clips: Sequence[Clip]) -> list[Round]:
        """See `Task.rounds`: one, which tests on the evaluation set."""
        is_test = np.array([clip.part == _EVALUATION for clip in clips], bool)
        train, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
        # Without training clips the network's own outputs can still be scored.
        return [Round(_EVALUATION, train, test)] if len(test) else []

    def _check_labels(self, data: Path, mids: list[str]) -> None:
        name = _look_for(data, _LABELS)
        if name is None:
            return
        rows = read_table(self, data, name, ["index", "mid", "display_name"])
        if [row["mid"] for row in rows] != mids:
            raise self.refuse(
                data,
                f"{name} does not hold the {self.classes} classes in the order of 2017; delete it or fetch it again",
            )

    def _read_unbalanced(
        self,
        data: Path,
        classes: Mapping[str, str],
        recordings: YouTubeFiles,
        seen: set[str],
        contents: Contents,
    ) -> list[Clip]:
        table = f"{_UNBALANCED}_segments.csv"
        name = _look_for(data, table)
        if name is None:
            contents.notes.append(f"{table} is not there: the probe is trained on the balanced set alone")
            return []
        part = Contents([])
        # Without a recording left over there is nothing to look for among two million rows.
        clips = self._read_part(data, name, _UNBALANCED, classes, recordings, seen, part) if recordings.left else []
        if len(part.missing) == len(clips):
            contents.notes.append(f"no recording of {name} is there: the probe is trained on the balanced set alone")
            return []
        contents.missing.extend(part.missing)
        contents.notes.extend(part.notes)
        return clips

    def _read_part(
        self,
        data: Path,
        table: str,
        part: str,
        classes: Mapping[str, str],
        recordings: YouTubeFiles,
        seen: set[str],
        contents: Contents,
    ) -> list[Clip]:
        """Clips of one list; what is missing and what is odd about the list goes to `contents`."""
        clips: list[Clip] = []
        rows = again = 0
        for video, start, end, labels in self._read_segments(data, table, classes):
            rows += 1
            if video in seen:
                again += 1
                continue
            seen.add(video)
            path = recordings.take(video, start, end)
            if path is None:
                path = f"{part}_segments/Y{video}.wav"
                contents.missing.append(path)
            clips.append(Clip(path, labels, part, video))
        if not rows:
            raise self.refuse(data, f"{table} names no recordings; fetch it again")
        if again:
            contents.notes.append(
                f"{table} names {again} recordings that a list names before; these are left out of it"
            )
        if rows < _SIZES[part]:
            contents.notes.append(f"incomplete: {table} names {rows} of {_SIZES[part]} recordings")
        return clips

    def _read_segments(
        self, data: Path, table: str, classes: Mapping[str, str]
    ) -> Iterator[tuple[str, float, float, tuple[str, ...]]]:
        """Video, start and end in seconds, and labels of each row."""
        known: dict[str, tuple[str, ...]] = {}
        try:
            with (data / table).open(newline="", encoding="utf-8-sig") as stream:
                reader = csv.reader(stream, skipinitialspace=True, strict=True)
                for row in reader:
                    if not row or row[0].startswith("# ") or row[0] == "YTID":
                        continue
                    problem = _find_problem(row)
                    if problem is None and row[3] not in known:
                        mids = dict.fromkeys(mid.strip() for mid in row[3].split(","))
                        unknown = [mid for mid in mids if mid not in classes]
                        if unknown:
                            problem = f"has the class {unknown[0]!r}, which is none of the {self.classes}"
                        else:
                            known[row[3]] = tuple(classes[mid] for mid in mids)
                    if problem is not None:
                        raise self.refuse(data, f"line {reader.line_num} of {table} {problem}; fetch it again")
                    yield row[0], float(row[1]), float(row[2]), known[row[3]]
        except (UnicodeDecodeError, csv.Error, OSError) as error:
            raise self.refuse(data, f"{table} cannot be read ({error}); fetch it again") from error


def _find_problem(row: list[str]) -> str | None:
    if row[0].startswith("#"):
        return f"begins with {row[0]!r}: a spreadsheet program has saved it and lost the ids that begin with a dash"
    if len(row) != 4:
        return f"has {len(row)} columns, expected YTID, start_seconds, end_seconds and labels in double quotes"
    if _ID.fullmatch(row[0]) is None:
        return f"begins with {row[0]!r}, expected a YouTube id of 11 characters"
    try:
        if 0 <= float(row[1]) < float(row[2]) < np.inf:
            return None
    except ValueError:
        pass
    return f"has {row[1]!r} and {row[2]!r} as start and end, expected seconds in this order"


def _read_classes() -> dict[str, str]:
    """Machine id to display name, in the order of the networks' outputs."""
    text = files("sedembed.models").joinpath(_LABELS).read_text(encoding="utf-8")
    return {row["mid"]: row["display_name"] for row in csv.DictReader(text.splitlines())}


# --- shared with Kinetics-700 --------------------------------------------------------------------------------------


def _look_for(data: Path, *names: str) -> str | None:
    """Path of a metadata file relative to the data folder, under the first of its names that is in a usual place."""
    places = ((PurePosixPath(folder) / name).as_posix() for folder in _TABLE_FOLDERS for name in names)
    return next((place for place in places if (data / place).is_file()), None)


def find_table(task: Task, data: Path, *names: str) -> str:
    """Path of a metadata file relative to the data folder, under any of its usual names and in its usual places.

    Raises
    ------
    DatasetError
        If it is not there; the message names the folder it is in if that is just above or below.
    """
    found = _look_for(data, *names)
    if found is not None:
        return found
    if not data.exists():
        raise task.refuse(data, "there is no such folder")
    if not data.is_dir():
        raise task.refuse(data, "it is a file; unpack it and give the folder")
    near = [*data.absolute().parents[:2], *sorted(entry for entry in data.iterdir() if entry.is_dir())]
    right = next((folder for folder in near if _look_for(folder, *names)), None)
    where = "" if right is None else f"; it is in {right}, so give that folder"
    raise task.refuse(data, f"{' or '.join(names)} is not there{where}")


class YouTubeFiles:
    """Recordings under a folder, found by the YouTube id in their names; the folder is walked once.

    Names are ``ID``, ``YID``, ``ID_START`` or ``ID_START_END``, with times in seconds or milliseconds.

    Parameters
    ----------
    task, data
        The folder, and the task for error messages.

    Raises
    ------
    DatasetError
        If there is no sound or video file at all.
    """

    def __init__(self, task: Task, data: Path) -> None:
        # Not at the top: it brings torch, and a list of the tasks should not wait for that.
        from sedembed.audio.listing import list_recordings

        listing = list_recordings(data)
        if not listing.files:
            raise task.refuse(data, "there is no sound or video file in it; give the folder that holds them, too")
        self._strangers: list[str] = []
        self._unlisted = listing.failures
        self._by_video: dict[str, tuple[str, ...]] = {}
        self._taken = 0
        for path in listing.files:
            match = _STEM.fullmatch(PurePosixPath(path).stem)
            if match is None:
                self._strangers.append(path)
            else:
                video = match[1] or match[2]
                self._by_video[video] = (*self._by_video.get(video, ()), path)

    @property
    def left(self) -> bool:
        """Whether there are recordings of videos that have not been taken."""
        return bool(self._by_video)

    def take(self, video: str, start: float, end: float, *, times: bool = False) -> str | None:
        """Path of the recording of a video from `start` to `end` in seconds; it is used for no other clip.

        Of several, sound goes before video; with `times`, only names that hold start and end count.
        """
        candidates = self._by_video.get(video)
        if candidates is None:
            return None
        fitting = [path for path in candidates if _fits(path, start, end, times)]
        if not fitting:
            return None
        best = min(fitting, key=lambda path: (PurePosixPath(path).suffix.lower() in _VIDEO, path))
        rest = tuple(path for path in candidates if path != best)
        if rest:
            self._by_video[video] = rest
        else:
            del self._by_video[video]
        self._taken += 1
        return best

    def conclude(self, task: Task, data: Path, contents: Contents, example: str, unused: str | None = None) -> None:
        """List unused recordings as extra, except in folders named `unused`, and refuse a folder without any clip."""
        left = [path for paths in self._by_video.values() for path in paths]
        extra = sorted(
            path for path in (*left, *self._strangers) if unused is None or unused not in PurePosixPath(path).parts[:-1]
        )
        if not self._taken:
            found = f"{extra[0]} is the first file" if extra else f"all files are in folders named {unused}"
            raise task.refuse(
                data,
                f"none of the {len(contents.clips)} recordings that the lists name is there ({example} would be the "
                f"first, {found}); give the folder that holds lists and recordings",
            )
        contents.extra.extend(extra)
        if self._unlisted:
            path, (_, message) = next(iter(self._unlisted.items()))
            shown = path.encode(errors="backslashreplace").decode()
            contents.notes.append(f"{len(self._unlisted)} names were passed over, the first {shown}: {message}")


_VIDEO = frozenset({".3gp", ".mp4", ".m4v", ".mkv", ".webm", ".mov", ".avi", ".flv", ".wmv", ".mpg", ".mpeg", ".ogv"})


def _fits(path: str, start: float, end: float, times: bool) -> bool:
    match = _STEM.fullmatch(PurePosixPath(path).stem)
    named = [float(number) for number in match[3].split("_")[1:]] if match else []
    if not named:
        return not times
    if times and len(named) < 2:
        return False
    pairs = list(zip(named, (start, end), strict=False))
    return any(all(abs(time / unit - wanted) < 1e-3 for time, wanted in pairs) for unit in (1, 1000))
