"""A copy of a data set on disk: is it the right folder, and which of the recordings are in it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from sedembed._evaluation.tasks.base import Clip, Contents, Task

__all__ = ["any_case", "check_root", "compare", "whole_number"]


def check_root(task: Task, data: Path, metadata: str) -> None:
    """Refuse a folder without this metadata file, naming the right one if it is just above or below."""
    if (data / metadata).is_file():
        return
    if not data.exists():
        raise task.refuse(data, "there is no such folder")
    if not data.is_dir():
        raise task.refuse(data, "it is a file; unpack it and give the folder")
    near = [*data.absolute().parents[:2], *sorted(entry for entry in data.iterdir() if entry.is_dir())]
    right = next((folder for folder in near if (folder / metadata).is_file()), None)
    where = "" if right is None else f"; it is in {right}, so give that folder"
    raise task.refuse(data, f"{metadata} is not there{where}")


def whole_number(
    task: Task, data: Path, metadata: str, line: int, row: Mapping[str, str], column: str, allowed: range
) -> int:
    """Read a whole number of a metadata file, within its range."""
    try:
        value = int(row[column])
    except ValueError:
        value = None
    if value is None or value not in allowed:
        raise task.refuse(
            data,
            f"line {line} of {metadata} has {row[column]!r} as {column}, expected a whole number from {allowed[0]} to "
            f"{allowed[-1]}; fetch it again",
        )
    return value


def any_case(files: Collection[str], named: Collection[str]) -> Callable[[str], str | None]:
    """Make a function that finds the file of a recording: of its very name, else of another case or suffix.

    Parameters
    ----------
    files : collection of str
        Files that are there.
    named : collection of str
        All paths of the metadata: a file that one of them names exactly is given to no other.
    """
    exact = set(files)
    loose: dict[str, str] = {}
    for file in sorted(exact.difference(named)):
        loose.setdefault(_stem(file).casefold(), file)
    return lambda path: path if path in exact else loose.get(_stem(path).casefold())


def compare(
    task: Task,
    data: Path,
    metadata: str,
    clips: Sequence[Clip],
    sizes: Mapping[str, int],
    unused: Collection[str] = (),
) -> Contents:
    """Compare the clips of the metadata with the full data set and with the files under ``audio/``.

    A recording may have another suffix than the metadata say; its `Clip.path` is then that of the file.

    Parameters
    ----------
    task, data
        For error messages, and the folder.
    metadata : str
        Where the clips were read from, for error messages.
    clips : sequence of Clip
        With paths as distributed.
    sizes : mapping of str to int
        Clips in each part of the full data set.
    unused : collection of str
        Paths as distributed of recordings that the metadata name but the protocol does not use.

    Raises
    ------
    DatasetError
        If a recording is named twice or by no file name, a part has more clips than it should, ``audio/`` is not
        there or cannot be listed, or none of the recordings is in it.
    """
    if not clips:
        raise task.refuse(data, f"{metadata} names no recordings; fetch it again")
    path, times = Counter(clip.path for clip in clips).most_common(1)[0]
    if times > 1:
        raise task.refuse(data, f"{metadata} names {path} {times} times; fetch it again")
    unnamed = next((clip for clip in clips if not PurePosixPath(clip.path).suffix), None)
    if unnamed is not None:
        raise task.refuse(data, f"{metadata} names {unnamed.path!r}, which is no sound file; fetch it again")
    notes = _compare_sizes(task, data, metadata, clips, sizes)
    files = _list_audio(task, data)
    exact, by_stem = set(files), defaultdict(list)
    for file in files:
        by_stem[_stem(file)].append(file)

    def find(path: str) -> str | None:
        return path if path in exact else next(iter(by_stem[_stem(path)]), None)

    found = {clip.path: find(clip.path) for clip in clips}
    missing = [path for path, file in found.items() if file is None]
    if len(missing) == len(clips):
        there = f"audio/ holds other sound files such as {files[0]}" if files else "audio/ holds no sound files"
        raise task.refuse(
            data, f"none of the {len(clips)} recordings that {metadata} names is there; {there}, expected {missing[0]}"
        )
    named = {file for file in (*found.values(), *map(find, unused)) if file is not None}
    suffixes = Counter(PurePosixPath(file).suffix.lower() for file in found.values() if file is not None)
    notes += [
        f"{count} recordings are {suffix} files, distributed as .wav"
        for suffix, count in suffixes.items()
        if suffix != ".wav"
    ]
    return Contents(
        clips=[replace(clip, path=found[clip.path] or clip.path) for clip in clips],
        missing=missing,
        extra=[file for file in files if file not in named],
        notes=notes,
    )


def _compare_sizes(task: Task, data: Path, metadata: str, clips: Sequence[Clip], sizes: Mapping[str, int]) -> list[str]:
    counts = Counter(clip.part for clip in clips)
    for part, size in sizes.items():
        if counts[part] > size:
            raise task.refuse(
                data,
                f"{metadata} puts {counts[part]} clips into {part}, which has {size}; it is of another edition or was "
                "changed, fetch it again",
            )
    total = sum(sizes.values())
    return [] if len(clips) == total else [f"incomplete: {metadata} names {len(clips)} of {total} recordings"]


def _list_audio(task: Task, data: Path) -> list[str]:
    # Not at the top: it brings torch, and a list of the tasks should not wait for that.
    from sedembed.audio.listing import list_recordings

    try:
        listing = list_recordings(data / "audio")
    except (FileNotFoundError, NotADirectoryError):
        raise task.refuse(data, "it has no folder audio/") from None
    for path, (_, message) in listing.failures.items():
        raise task.refuse(data, f"audio/{path} cannot be used: {message}")
    return [f"audio/{file}" for file in listing.files]


def _stem(path: str) -> str:
    return path.removesuffix(PurePosixPath(path).suffix)
