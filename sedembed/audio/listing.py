"""Find the sound files under a folder."""

from __future__ import annotations

import itertools
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from sedembed.audio.reader import AUDIO_EXTENSIONS
from sedembed.errors import MissingFileError, NotAFolderError

__all__ = ["Listing", "check_folder", "list_recordings"]

logger = logging.getLogger(__name__)


@dataclass
class Listing:
    """What a folder holds.

    Attributes
    ----------
    files : list of str
        Sound files, as paths relative to the folder with forward slashes, sorted.
    failures : dict of str to (str, str)
        Error and message of each folder that could not be listed and each file whose name is not valid UTF-8.
    suffixes : Counter of str
        How many other files there are of each suffix; these are ignored.
    """

    files: list[str] = field(default_factory=list)
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)
    suffixes: Counter[str] = field(default_factory=Counter)

    @property
    def ignored(self) -> int:
        """How many files are ignored."""
        return self.suffixes.total()

    def describe_ignored(self) -> str:
        """Say what is ignored, in a sentence; empty if nothing is."""
        if not self.suffixes:
            return ""
        named = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in self.suffixes.most_common(5))
        more = len(self.suffixes) - 5
        others = f" and {more} more suffixes" if more > 0 else ""
        files = "file is" if self.ignored == 1 else "files are"
        return f"{self.ignored} {files} ignored, because the suffix is not one of sound: {named}{others}."

    def refuse_empty(self, folder: Path) -> None:
        """Refuse a folder without sound files.

        Raises
        ------
        MissingFileError
            If there are none.
        """
        if not self.files and not self.failures:
            raise MissingFileError(
                f"Expected sound files in {folder}, found none among {self.ignored} files. Supported are "
                f"{' '.join(sorted(AUDIO_EXTENSIONS))}."
            )

    def shard(self, index: int, count: int, sizes: Sequence[int]) -> Listing:
        """Every `count`-th block of files of these sizes, from number `index` on, and so many of the failures."""
        blocks = list(zip(itertools.accumulate(sizes, initial=0), sizes, strict=False))[index::count]
        files = [path for start, size in blocks for path in self.files[start : start + size]]
        return Listing(files, dict(sorted(self.failures.items())[index::count]), self.suffixes)

    def add(self, path: str) -> None:
        """Take a file, if a store can hold its name."""
        if _is_utf8(path):
            self.files.append(path)
        else:
            self.failures[path] = ("UnicodeError", "the name is not valid UTF-8; rename the file")


def list_recordings(folder: Path, skip: Path | None = None) -> Listing:
    """Find the sound files under a folder, but not under `skip`; relative paths with forward slashes, sorted."""
    check_folder(folder)
    listing = Listing()
    skipped = _identity(skip) if skip is not None and skip.exists() else None
    # Each directory with those above it: a link to one of them is a loop, a link elsewhere is not.
    pending: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]
    while pending:
        prefix, above = pending.pop()
        try:
            here = _identity(folder / prefix)
            if here == skipped:
                continue
            if here in above:
                logger.warning("%s links back to a folder that it is in; not followed", prefix)
                continue
            with os.scandir(folder / prefix) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    path = f"{prefix}/{entry.name}" if prefix else entry.name
                    if _is_directory(entry):
                        pending.append((path, (*above, here)))
                    elif PurePosixPath(entry.name).suffix.lower() not in AUDIO_EXTENSIONS:
                        listing.suffixes[PurePosixPath(entry.name).suffix.lower()] += 1
                    else:
                        listing.add(path)
        except OSError as error:
            listing.failures[prefix or "."] = (type(error).__name__, f"{error}; no file in this folder was embedded")
    listing.files.sort()
    return listing


def check_folder(folder: Path) -> None:
    """Refuse what is no folder.

    Raises
    ------
    MissingFileError, NotAFolderError
        If there is nothing, or a file.
    """
    if not folder.exists():
        raise MissingFileError(f"Expected a folder of sound files at {folder}, found nothing. Check the spelling.")
    if not folder.is_dir():
        raise NotAFolderError(f"Expected a folder of sound files, got the file {folder}. embed() takes a single file.")


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: if its suffix is one of sound, the decoder says what is wrong
        return False


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
