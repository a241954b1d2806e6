"""Kinetics-700: 700 human actions by sound alone (Carreira et al. 2019, Smaira et al. 2020)."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sedembed._evaluation.tasks.audioset import YouTubeFiles, find_table
from sedembed._evaluation.tasks.base import Clip, Contents, Round, Task, read_table

__all__ = ["Kinetics700"]

_TRAIN, _TEST = "train", "validate"
# Of the 2020 edition; that of 2019 has 542 357 and 34 824, later copies of both lists some thousand less.
_SIZES = {_TRAIN: 542_352, _TEST: 34_125}
_SHORT = 0.95
_HELD_OUT = 20_525
_SEED = 15213
_ID = re.compile(r"[\w-]{11}", re.ASCII)


class _Segment(NamedTuple):
    video: str
    start: float
    end: float
    label: str

    @property
    def stem(self) -> str:
        return f"{self.video}_{round(self.start):06d}_{round(self.end):06d}"


class Kinetics700(Task):
    """Accuracy (top-1) and top-5 on the official validation set, from the sound of the videos.

    C is chosen on 20 525 training clips that are held out, whatever the edition of the lists; in partial copies on as
    large a share. Which ones depends on the YouTube ids alone: each class gives its share, those of smallest hashes.
    """

    name = "kinetics700"
    title = "Kinetics-700"
    metric = "accuracy"
    other_metrics = ("top5",)
    classes = 700
    clips = sum(_SIZES.values())
    paper = {"talnet": 0.159, "weanet": 0.180}  # noqa: RUF012 - a constant, typed as a Mapping in Task
    paper_other = {"top5": {"talnet": 0.305, "weanet": 0.330}}  # noqa: RUF012 - as above
    source = "https://github.com/cvdfoundation/kinetics-dataset"
    licence = "lists CC BY 4.0; the videos belong to those who put them on YouTube"
    layout = (
        "train.csv  (label,youtube_id,time_start,time_end; here or in annotations/)\n"
        "validate.csv or val.csv  (the same)\n"
        "train/abseiling/__NrybzYzUg_000415_000425.mp4 …  (any folders, or none; or the sound alone as .wav, .flac, "
        ".m4a)\n"
        "validate/abseiling/3E7Jib8Yq5M_000118_000128.mp4 …  (the same)"
    )

    def read(self, data: Path) -> Contents:
        """See `Task.read`; the group is the YouTube id. The test set of the challenge is not used."""
        train = find_table(self, data, "train.csv")
        test = find_table(self, data, "validate.csv", "val.csv")
        recordings = YouTubeFiles(self, data)
        contents = Contents([])
        seen: set[str] = set()
        # The test set first: a clip that is also in the training list stays out of training.
        tests = self._read_part(data, test, _TEST, recordings, seen, contents)
        trains = self._read_part(data, train, _TRAIN, recordings, seen, contents)
        contents.clips.extend([*trains, *tests])
        self._check_classes(data, train, test, trains, tests, contents)
        recordings.conclude(self, data, contents, contents.clips[0].path, unused="test")
        return contents

    def rounds(self, clips: Sequence[Clip]) -> list[Round]:
        """See `Task.rounds`: one, with a part of the training clips held out for validation."""
        test = np.flatnonzero([clip.part == _TEST for clip in clips])
        training = np.flatnonzero([clip.part == _TRAIN for clip in clips])
        validation = _hold_out(clips, training)
        train = np.setdiff1d(training, validation)
        if not len(train) or not len(test):
            return []
        return [Round(_TEST, train, test, validation if len(validation) else None)]

    def _read_part(
        self, data: Path, table: str, part: str, recordings: YouTubeFiles, seen: set[str], contents: Contents
    ) -> list[Clip]:
        """Clips of one list; what is missing and what is odd about the list goes to `contents`."""
        clips: list[Clip] = []
        rows = read_table(self, data, table, ["label", "youtube_id", "time_start", "time_end"])
        for line, row in enumerate(rows, 2):
            segment = self._read_segment(data, table, line, row)
            if segment.stem in seen:
                continue
            seen.add(segment.stem)
            path = recordings.take(segment.video, segment.start, segment.end, times=True)
            if path is None:
                path = f"{part}/{segment.label}/{segment.stem}.mp4"
                contents.missing.append(path)
            clips.append(Clip(path, (segment.label,), part, segment.video))
        if not rows:
            raise self.refuse(data, f"{table} names no clips; fetch it again")
        if len(clips) < len(rows):
            contents.notes.append(
                f"{table} names {len(rows) - len(clips)} clips that a list names before; these are left out of it"
            )
        if len(rows) < _SHORT * _SIZES[part]:
            contents.notes.append(
                f"incomplete: {table} names {len(rows)} clips; the edition of 2020 has {_SIZES[part]}, others about as "
                "many"
            )
        return clips

    def _read_segment(self, data: Path, table: str, line: int, row: dict[str, str]) -> _Segment:
        label, video = row["label"].strip(), row["youtube_id"].strip()
        problem = None
        start = end = 0.0
        try:
            start, end = float(row["time_start"]), float(row["time_end"])
        except ValueError:
            problem = f"{row['time_start']!r} and {row['time_end']!r} as start and end, expected seconds"
        if problem is None and not 0 <= start < end < np.inf:
            problem = f"{row['time_start']!r} and {row['time_end']!r} as start and end, expected seconds in this order"
        if _ID.fullmatch(video) is None:
            problem = f"{video!r} as youtube_id, expected 11 characters"
        if not label:
            problem = "no label"
        if problem is not None:
            raise self.refuse(data, f"line {line} of {table} has {problem}; fetch it again")
        return _Segment(video, start, end, label)

    def _check_classes(
        self, data: Path, train: str, test: str, trains: list[Clip], tests: list[Clip], contents: Contents
    ) -> None:
        taught = {clip.labels[0] for clip in trains}
        tested = {clip.labels[0] for clip in tests}
        if len(taught | tested) > self.classes:
            raise self.refuse(
                data,
                f"{train} and {test} have {len(taught | tested)} classes, expected {self.classes}; they are not of one "
                "edition, fetch both again",
            )
        if len(taught) < self.classes:
            contents.notes.append(f"incomplete: {train} has {len(taught)} of {self.classes} classes")
        if tested - taught:
            contents.notes.append(
                f"incomplete: {len(tested - taught)} classes of {test} have no clip in {train}, the first "
                f"{min(tested - taught)!r}"
            )


def _hold_out(clips: Sequence[Clip], training: NDArray[np.int64]) -> NDArray[np.int64]:
    """Choose the validation clips: the same share of each class, but never all of one."""
    whole = len(training) >= _SHORT * _SIZES[_TRAIN]  # a list of any edition, which differ by some thousand clips
    count = _HELD_OUT if whole else round(len(training) * _HELD_OUT / _SIZES[_TRAIN])
    # A video that gives several clips would be on both sides.
    uses = Counter(clips[i].group for i in training)
    by_label: dict[str, list[tuple[bytes, int]]] = defaultdict(list)
    for i in training:
        video = clips[i].group
        if uses[video] == 1:
            digest = hashlib.blake2b(f"{_SEED} {video}".encode(), digest_size=16).digest()
            by_label[clips[i].labels[0]].append((digest, int(i)))
    candidates = sum(map(len, by_label.values()))
    shares = {label: count * len(members) / candidates for label, members in by_label.items()}
    sizes = {label: min(int(share), len(by_label[label]) - 1) for label, share in shares.items()}
    # What rounding down leaves goes to the largest remainders.
    for label in sorted(shares, key=lambda label: (int(shares[label]) - shares[label], label)):
        if sum(sizes.values()) >= count:
            break
        sizes[label] += sizes[label] < len(by_label[label]) - 1
    chosen = [i for label, members in by_label.items() for _, i in sorted(members)[: sizes[label]]]
    return np.array(sorted(chosen), np.int64)
