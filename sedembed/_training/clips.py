"""Labelled clips to train on, and AudioSet as people hold it: lists of segments and folders of recordings."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sedembed._evaluation.tasks.audioset import AudioSet
from sedembed._evaluation.tasks.base import Clip
from sedembed.errors import DatasetError, InvalidArgumentError
from sedembed.models.labels import load_labels

__all__ = ["ClipSet", "check_share", "choose_part", "hold_out", "read_audioset", "read_audioset_parts"]

logger = logging.getLogger(__name__)

PARTS = ("balanced_train", "unbalanced_train", "eval")


@dataclass(frozen=True)
class ClipSet:
    """Recordings and their labels.

    Parameters
    ----------
    names : tuple of str
        Unique; a YouTube id, or a path relative to the data folder. Crops, order and caches go by them.
    paths : tuple of Path
        The recordings.
    targets : ndarray of float32, shape (clips, classes)
        Hard or soft, in [0, 1].
    classes : tuple of str
        Names of the columns.
    members : tuple of ndarray of int64, optional
        For each class the clips that class-balanced sampling draws for it; by default those whose target is at least
        0.5. `with_targets` keeps them, so that soft targets do not change who is drawn.

    Raises
    ------
    DatasetError
        If the parts do not fit each other, names repeat, or a target is not in [0, 1].
    """

    names: tuple[str, ...]
    paths: tuple[Path, ...]
    targets: NDArray[np.float32]
    classes: tuple[str, ...]
    members: tuple[NDArray[np.int64], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        count = len(self.names)
        if len(self.paths) != count:
            raise DatasetError(f"Expected one path for each of the {count} names, got {len(self.paths)}.")
        if len(set(self.names)) != count:
            raise DatasetError("Names of clips must differ. Use paths relative to the data folder.")
        object.__setattr__(self, "targets", self._checked(self.targets))
        if not self.members:
            columns = (np.flatnonzero(self.targets[:, c] >= 0.5) for c in range(len(self.classes)))
            object.__setattr__(self, "members", tuple(columns))
        if len(self.members) != len(self.classes):
            raise DatasetError(f"Expected members of {len(self.classes)} classes, got {len(self.members)}.")

    def __len__(self) -> int:
        return len(self.names)

    def _checked(self, targets: NDArray[np.float32]) -> NDArray[np.float32]:
        targets = np.asarray(targets)
        expected = (len(self.names), len(self.classes))
        if targets.shape != expected:
            raise DatasetError(f"Expected targets of shape {expected}, (clips, classes), got {targets.shape}.")
        if targets.dtype.kind not in "fiub":
            raise DatasetError(f"Expected targets that are numbers, got {targets.dtype}.")
        # The minimum and maximum of an array with NaN are NaN, which no comparison lets pass.
        if targets.size and not (targets.min() >= 0 and targets.max() <= 1):
            raise DatasetError(f"Expected targets in [0, 1], got values from {targets.min()} to {targets.max()}.")
        return np.asarray(targets, dtype=np.float32)

    def with_targets(self, targets: NDArray[np.float32]) -> ClipSet:
        """Return the same clips with other targets, (clips, classes) in [0, 1]; who is drawn for a class stays."""
        return replace(self, targets=targets)

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> ClipSet:
        """Return some of the clips, in the order given."""
        chosen = np.asarray(indices, np.int64)
        place = np.full(len(self), -1, np.int64)
        place[chosen] = np.arange(len(chosen))
        members = tuple(np.sort(place[own][place[own] >= 0]) for own in self.members)
        return ClipSet(
            tuple(self.names[i] for i in chosen),
            tuple(self.paths[i] for i in chosen),
            self.targets[chosen],
            self.classes,
            members,
        )


def hold_out(clips: ClipSet, share: float) -> tuple[ClipSet, ClipSet]:
    """Split clips into a training and a validation part by a hash of their names.

    A clip stays on its side whatever other clips there are.

    Parameters
    ----------
    clips : ClipSet
        To split.
    share : float
        Expected share of the validation part.

    Returns
    -------
    train, validation : ClipSet
        Both in the order of `clips`.

    Raises
    ------
    DatasetError
        If one side is empty, or no class has both clips with and without it in the validation part.
    """
    limit = int(share * 2**64)
    digests = (hashlib.sha256(name.encode(errors="surrogateescape")).digest() for name in clips.names)
    kept = np.fromiter((int.from_bytes(digest[:8], "big") < limit for digest in digests), np.bool_, len(clips))
    train, validation = clips.select(np.flatnonzero(~kept)), clips.select(np.flatnonzero(kept))
    if not len(train) or not len(validation):
        raise DatasetError(
            f"Of {len(clips)} clips a share of {share:g} leaves {len(train)} to train on and {len(validation)} to "
            "validate on. Choose another validation_share, or validate on the evaluation list."
        )
    return train, validation


def read_audioset(data: Path, part: str) -> tuple[ClipSet, list[str]]:
    """Read one part of a copy of AudioSet.

    Parameters
    ----------
    data : Path
        Folder with `balanced_train_segments.csv`, `eval_segments.csv`, perhaps `unbalanced_train_segments.csv`, and
        recordings in any folders, named by YouTube id with or without a leading Y and times.
    part : {"train", "balanced_train", "unbalanced_train", "eval"}
        "train" is balanced and unbalanced together. A clip that is in the evaluation list is in no training part.

    Returns
    -------
    clips : ClipSet
        Those that are there, with the 527 classes in the order of the networks; names are YouTube ids.
    missing : list of str
        Those that the list names and that are not there, as the paths that were expected.

    Raises
    ------
    DatasetError
        If the folder is not laid out so, or holds no recording of the part.
    """
    if part not in ("train", *PARTS):
        raise InvalidArgumentError(f"Part must be train, {', '.join(PARTS)}, got {part!r}.")
    return choose_part(read_audioset_parts(data), data, part)


def choose_part(parts: Mapping[str, tuple[ClipSet, list[str]]], data: Path, part: str) -> tuple[ClipSet, list[str]]:
    """Take a part, or "train", from what `read_audioset_parts` gave; see `read_audioset`."""
    if part == "train":
        clips, missing = _join(parts["balanced_train"], parts["unbalanced_train"])
    else:
        clips, missing = parts[part]
    if not len(clips):
        raise DatasetError(
            f"{data} holds none of the {len(missing)} recordings of the part {part}. "
            "Put them anywhere under that folder, named by their YouTube id."
        )
    return clips, missing


def read_audioset_parts(data: Path) -> dict[str, tuple[ClipSet, list[str]]]:
    """All three parts of a copy of AudioSet at once; see `read_audioset`. A part may be empty."""
    contents = AudioSet().read(data)
    for note in contents.notes:
        logger.warning("%s", note.replace("the probe is trained on", "training is on"))
    absent = set(contents.missing)
    return {part: _collect(data, (clip for clip in contents.clips if clip.part == part), absent) for part in PARTS}


def check_share(found: int, missing: int, least: float, part: str) -> None:
    """Say how many clips of a part are there; DatasetError if that is less than a share of `least`."""
    total = found + missing
    logger.info("%s: %d of %d clips are there", part, found, total)
    if missing:
        logger.warning("%s: %d of %d clips are missing", part, missing, total)
    if found < least * total:
        share = f"{found / total:.3f}"
        raise DatasetError(
            f"Only {found} of the {total} clips of the part {part} are there, a share of {share}. Put the rest under "
            f"the data folder, take the list of a part that you do not have out of it, or set min_share below {share}."
        )


def _collect(data: Path, clips: Iterable[Clip], absent: set[str]) -> tuple[ClipSet, list[str]]:
    columns = {name: c for c, name in enumerate(load_labels())}
    there: list[Clip] = []
    missing: list[str] = []
    for clip in clips:
        if clip.path in absent:
            missing.append(clip.path)
        else:
            there.append(clip)
    targets = np.zeros((len(there), len(columns)), np.float32)
    for row, clip in enumerate(there):
        for label in clip.labels:
            targets[row, columns[label]] = 1.0
    names = tuple(clip.group for clip in there)
    return ClipSet(names, tuple(data / clip.path for clip in there), targets, tuple(columns)), missing


def _join(first: tuple[ClipSet, list[str]], second: tuple[ClipSet, list[str]]) -> tuple[ClipSet, list[str]]:
    (a, a_missing), (b, b_missing) = first, second
    if not len(b):
        return a, [*a_missing, *b_missing]
    members = tuple(np.concatenate((x, y + len(a))) for x, y in zip(a.members, b.members, strict=True))
    targets = np.concatenate((a.targets, b.targets))
    clips = ClipSet((*a.names, *b.names), (*a.paths, *b.paths), targets, a.classes, members)
    return clips, [*a_missing, *b_missing]
