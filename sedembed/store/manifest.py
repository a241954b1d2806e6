"""The manifest of a store: which files it counts on, and how to notice that one is missing or damaged.

``manifest.json`` names every Parquet file with its size, rows and sha256. Before a file is replaced, the manifest names
both contents, and afterwards the new one alone; so a store that is opened at any moment is not taken for damaged. A new
file is named after it is in place. One that is not named yet counts too, checked by its own page checksums.

Stores made before there was a manifest open without one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sedembed._utils.files import write_atomic
from sedembed._utils.schema import read_json_object
from sedembed.errors import StoreError

__all__ = ["MANIFEST_FILE", "Content", "Manifest", "content_of"]

MANIFEST_FILE = "manifest.json"
_FORMAT = 1


class Content(NamedTuple):
    """What a file holds.

    Attributes
    ----------
    size : int
        Bytes.
    rows : int
        Rows of the table.
    sha256 : str
        Of the whole file, as 64 hexadecimal digits.
    """

    size: int
    rows: int
    sha256: str


def content_of(data: Any, rows: int) -> Content:
    """Describe a file by its bytes."""
    view = memoryview(data)
    return Content(view.nbytes, rows, hashlib.sha256(view).hexdigest())


@dataclass
class Manifest:
    """The files of a store by name, relative to its directory, each with the contents that it may have."""

    files: dict[str, tuple[Content, ...]] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path) -> Manifest | None:
        """Read the manifest of a store; None if it has none.

        Raises
        ------
        StoreError
            If it is damaged.
        """
        file = directory / MANIFEST_FILE
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"Could not read {file}: {error.strerror or error}. Check its permissions.") from error
        try:
            values = read_json_object(data, "its text")
            files = {name: tuple(Content(*item) for item in items) for name, items in values["files"].items()}
            if values["format"] != _FORMAT or values["sha256"] != _sha256(files):
                raise ValueError("its checksum is wrong")
            return cls(files)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StoreError(
                f"{file} is damaged ({error}); restore it from a copy, or delete it and run embed_folder again, which "
                "reads every file of the store and writes a new manifest."
            ) from error

    def write(self, directory: Path) -> None:
        """Replace the manifest of a store in one step."""
        values = {"format": _FORMAT, "files": self.files, "sha256": _sha256(self.files)}
        write_atomic(directory / MANIFEST_FILE, json.dumps(values) + "\n")

    def names(self, kind: str) -> list[str]:
        """Names of the files in a subdirectory."""
        return [name for name in self.files if name.startswith(f"{kind}/")]

    def fits_size(self, name: str, size: int) -> bool:
        """Whether a file of this size may be what the manifest names; true for one that it does not name."""
        return name not in self.files or any(content.size == size for content in self.files[name])

    def fits(self, name: str, found: Content) -> bool:
        """Whether a file is what the manifest names; true for one that it does not name."""
        return name not in self.files or any(content.sha256 == found.sha256 for content in self.files[name])


def _sha256(files: Mapping[str, tuple[Content, ...]]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
