"""A file or a folder on the command line: what to read, and what failed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sedembed.cli.common import GOOD, SOME_FAILED, complain
from sedembed.errors import InvalidArgumentError

if TYPE_CHECKING:
    from sedembed.batch.annotate import Annotation

__all__ = ["Recordings", "find_recordings"]


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


def find_recordings(path: Path) -> Recordings:
    """Find the recordings that a file or a folder stands for.

    Raises
    ------
    MissingFileError
        For a folder without sound files.
    """
    from sedembed.audio.listing import list_recordings

    if not path.exists() and (found := _URL.match(str(path))):
        raise InvalidArgumentError(
            f"Expected a file or folder on this machine, got a URL ({found[0]}...); download it."
        )
    if not path.is_dir():
        return Recordings(path.parent, [path.name], 0, False)
    listing = list_recordings(path)
    listing.refuse_empty(path)
    for name, (error, message) in listing.failures.items():
        complain(f"{name}: {error}: {message}")
    if listing.ignored:
        complain(listing.describe_ignored())
    return Recordings(path, listing.files, len(listing.failures), None)
