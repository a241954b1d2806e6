"""Files and folders on the command line: what to read, and what failed."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sedembed.cli.common import GOOD, SOME_FAILED, complain
from sedembed.errors import InvalidArgumentError, MissingFileError

if TYPE_CHECKING:
    from sedembed.batch.annotate import Annotation

__all__ = ["Recordings", "find_recordings", "is_url"]


# A path keeps one of the two slashes of a URL.
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:/")


@dataclass
class Recordings:
    """Recordings to work on.

    Attributes
    ----------
    folder : Path
        Where they are.
    paths : list of str
        Which ones, relative to the folder.
    failed : int
        How many failed so far; each was said on stderr.
    bar : bool or None
        Whether to show a progress bar; None on a terminal only.
    """

    folder: Path
    paths: list[str]
    failed: int
    bar: bool | None

    @property
    def exit_code(self) -> int:
        """Exit code of the command."""
        return SOME_FAILED if self.failed else GOOD

    def report(self, found: Iterable[Annotation]) -> Iterator[Annotation]:
        """Pass on what is good; say on stderr what failed, and count it."""
        for annotation in found:
            if annotation.error is None:
                yield annotation
            else:
                self.failed += 1
                complain(f"{annotation.path}: {': '.join(annotation.error)}")


def find_recordings(paths: Sequence[Path]) -> Recordings:
    """Find the recordings that files, folders and globs stand for.

    Paths of results are relative to the folder, or for several arguments to the folder that holds them all.

    Raises
    ------
    MissingFileError
        For a folder without sound files, a name of nothing, or a glob that nothing matches.
    """
    chosen = [match for path in paths for match in _expand(path)]
    if len(chosen) == 1 and chosen[0].is_dir():
        files, failed = _list_folder(chosen[0])
        return Recordings(chosen[0], files, failed, None)
    if len(chosen) == 1:
        return Recordings(chosen[0].parent, [chosen[0].name], 0, None)
    folder = Path(os.path.commonpath([path if path.is_dir() else path.parent for path in map(Path.absolute, chosen)]))
    found: dict[str, None] = {}
    failed = 0
    for path in chosen:
        place = path.absolute().relative_to(folder)
        if path.is_dir():
            files, broken = _list_folder(path)
            failed += broken
            found |= dict.fromkeys((place / name).as_posix() for name in files)
        else:
            found[place.as_posix()] = None
    return Recordings(folder, list(found), failed, None)


def is_url(text: str) -> bool:
    """Say whether an argument is a URL."""
    return _URL.match(text) is not None


def _expand(path: Path) -> list[Path]:
    """Files and folders that an argument stands for: itself, or what a glob matches."""
    if path.exists():
        return [path]
    if not glob.has_magic(str(path)):
        if found := _URL.match(str(path)):
            raise InvalidArgumentError(
                f"Expected a file or folder on this machine, got a URL ({found[0]}...); download it."
            )
        raise MissingFileError(f"Expected a recording or a folder at {path}, found nothing. Check the spelling.")
    from sedembed.audio.reader import AUDIO_EXTENSIONS

    anchor = Path(path.anchor)
    matches = sorted(anchor.glob(str(path.relative_to(anchor))))
    sounds = [match for match in matches if match.is_dir() or match.suffix.lower() in AUDIO_EXTENSIONS]
    if not sounds:
        raise MissingFileError(f"Expected sound files that match {path}, found none.")
    # With ** a folder matches, and so does all in it.
    return [match for match in sounds if match.is_file()] or sounds


def _list_folder(folder: Path) -> tuple[list[str], int]:
    """List the recordings of a folder, and count what failed; both and what is ignored are said on stderr."""
    from sedembed.audio.listing import list_recordings

    listing = list_recordings(folder)
    listing.refuse_empty(folder)
    for name, (error, message) in listing.failures.items():
        complain(f"{name}: {error}: {message}")
    if listing.ignored:
        complain(listing.describe_ignored())
    return listing.files, len(listing.failures)
