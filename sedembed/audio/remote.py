"""Find and fetch sound files through fsspec: on this machine, s3://, gs://, hf:// and what else it knows."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from sedembed.audio.listing import Listing, list_recordings
from sedembed.audio.reader import AUDIO_EXTENSIONS
from sedembed.errors import InvalidArgumentError, MissingFileError, MissingPackageError

__all__ = ["Location", "locate"]

_MAGIC = "*?["


@dataclass(frozen=True)
class Location:
    """Where recordings are.

    Attributes
    ----------
    url : str
        Folder or prefix that their paths are relative to; a plain path on this machine.
    listing : Listing
        Recordings, and what could not be listed.
    options : dict
        For the file system.
    """

    url: str
    listing: Listing
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path | None:
        """The folder, if it is one of this machine."""
        return None if "://" in self.url else Path(self.url)

    def full(self, path: str) -> str:
        """Path or URL of a recording."""
        return posixpath.join(self.url, path)

    def fetch(self, path: str, target: Path) -> None:
        """Copy a recording to a file of this machine."""
        system, place = _open(self.full(path), self.options)
        system.get_file(place, str(target))


def locate(
    what: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], options: Mapping[str, Any] | None = None
) -> Location:
    """Find sound files by a folder, a pattern, or their names.

    Parameters
    ----------
    what : path, URL, or iterable of these
        A folder or prefix, with all that is below it; a pattern such as ``s3://bucket/**/*.flac``; one file; or files,
        which are taken as they are. Of folders and patterns only files with a suffix of sound are taken.
    options : mapping, optional
        For the file system of fsspec, such as ``{"anon": True}``.

    Raises
    ------
    MissingFileError
        If a folder or pattern has no sound files, or an iterable is empty.
    MissingPackageError
        If fsspec needs a package for these URLs.
    InvalidArgumentError
        For URLs of different kinds, or of a kind that fsspec does not know.
    """
    options = dict(options or {})
    if not isinstance(what, (str, os.PathLike)):
        return _named([os.fspath(item) for item in what], options)
    text = os.fspath(what)
    system, place = _open(text, options)
    local = _is_local(text)
    if local and Path(place).is_dir():
        folder = Path(place).resolve()
        listing = list_recordings(folder)
        listing.refuse_empty(folder)
        return Location(str(folder), listing, options)
    if any(character in text for character in _MAGIC) and not (local and Path(place).exists()):
        # Of the pattern, all folders before the first one with a wildcard.
        parts = place.split("/")
        first = next(number for number, part in enumerate(parts) if any(mark in part for mark in _MAGIC))
        root, found = "/".join(parts[:first]), system.glob(place, detail=True)
    elif system.isdir(place):
        root, found = place, system.find(place, detail=True)
    else:
        return _named([text], options)
    listing = Listing()
    for name, info in sorted(found.items()):
        path = posixpath.relpath(name, root) if root else name.lstrip("/")
        suffix = PurePosixPath(path).suffix.lower()
        if info["type"] != "file" or any(part.startswith(".") for part in path.split("/")):
            continue
        if suffix in AUDIO_EXTENSIONS:
            listing.add(path)
        else:
            listing.suffixes[suffix] += 1
    listing.refuse_empty(Path(text))
    return Location(_shown(system, root, local), listing, options)


def _named(items: list[str], options: dict[str, Any]) -> Location:
    if not items:
        raise MissingFileError("Expected at least one recording, got an empty list.")
    kinds = {item.split("://")[0] if "://" in item else "" for item in items}
    if len(kinds) > 1:
        raise InvalidArgumentError(
            f"Expected paths of one kind, got {', '.join(sorted(kind or 'local' for kind in kinds))}; make a store for "
            "each."
        )
    system, _ = _open(items[0], options)
    places = [_open(item, options)[1] for item in items]
    root = posixpath.commonpath([posixpath.dirname(place) for place in places])
    listing = Listing()
    for path in sorted({posixpath.relpath(place, root) if root else place.lstrip("/") for place in places}):
        listing.add(path)
    return Location(_shown(system, root, _is_local(items[0])), listing, options)


def _open(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """File system of a URL, and the path there."""
    try:
        if _is_local(url):
            return fsspec.filesystem("file"), os.path.abspath(os.path.expanduser(url.removeprefix("file://")))  # noqa: PTH100, PTH111 - of patterns too
        system, place = url_to_fs(url, **options)
    except ImportError as error:
        raise MissingPackageError(f"{url} needs a package that is not installed: {error}.") from error
    except ValueError as error:
        raise InvalidArgumentError(f"Expected a path, or a URL that fsspec knows, got {url!r}: {error}.") from error
    return system, str(place).rstrip("/")


def _is_local(url: str) -> bool:
    return "://" not in url or url.startswith("file://")


def _shown(system: Any, root: str, local: bool) -> str:
    return str(Path(root).resolve()) if local else str(system.unstrip_protocol(root)).rstrip("/")
