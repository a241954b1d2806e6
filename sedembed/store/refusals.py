"""What a directory may not hold when a store is written to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sedembed._utils.files import Lock, LockedError, cannot_write
from sedembed.errors import StoreError
from sedembed.store.layout import RUN_FILE
from sedembed.store.manifest import MANIFEST_FILE

__all__ = ["refuse_foreign", "refuse_other_shard", "refuse_others", "refuse_read_only", "take_lock"]

_LOCK_FILE = ".lock"


def refuse_foreign(directory: Path) -> None:
    """Refuse a directory that holds something else than a store."""
    try:
        names = {entry.name for entry in directory.iterdir()}
    except FileNotFoundError:
        return
    except OSError as error:
        raise cannot_write(directory, error) from error
    # A run killed before its run.json leaves a lock, an empty manifest and a temporary file.
    others = sorted(name for name in names if name not in (_LOCK_FILE, MANIFEST_FILE) and not name.endswith(".partial"))
    if others and RUN_FILE not in names:
        raise StoreError(
            f"Expected an empty directory or a store at {directory}, found {others[0]!r} and no {RUN_FILE}; "
            "choose another directory."
        )


def refuse_others(directory: Path, old: dict[str, Any], new: dict[str, Any], other: Path | None = None) -> None:
    """Refuse to mix vectors of different settings, or of two folders.

    Parameters
    ----------
    directory : Path
        A store.
    old : dict
        Its `run.json`.
    new : dict
        That of this run, or of a store that is merged with it.
    other : Path, optional
        Where that store is.
    """
    now = "now" if other is None else f"in {other}"
    if old["fingerprint"] != new["fingerprint"]:
        before, after = old["settings"], new["settings"]
        differing = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)] or ["fingerprint"]
        what = "; ".join(f"{key} is {before.get(key)!r} there and {after.get(key)!r} {now}" for key in differing)
        cure = "use the same ones, or another output directory." if other is None else "merge stores of the same ones."
        raise StoreError(f"{directory} was made with other settings ({what}); {cure}")
    if old["folder"] != new["folder"]:
        about = "this run" if other is None else str(other)
        cure = "use another output directory or" if other is None else "merge stores of one folder or"
        raise StoreError(
            f"{directory} holds the vectors of {old['folder']!r}, {about} is about {new['folder']!r}; {cure}, if the "
            f'folder has only moved, correct "folder" in {directory / RUN_FILE}'
        )


def refuse_other_shard(directory: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuse to continue one shard of a job with another."""
    before, now = (
        "the whole folder" if shard is None else f"the shard {shard['index']}/{shard['count']}"
        for shard in (old.get("shard"), new.get("shard"))
    )
    if before != now:
        raise StoreError(
            f"{directory} holds {before}, this run is about {now}; give each shard an output directory of its own."
        )


def refuse_read_only(directory: Path) -> None:
    """Refuse a directory in which no files can be made."""
    if directory.exists() and not os.access(directory, os.W_OK | os.X_OK):
        raise StoreError(f"No files can be made in {directory}; change its permissions or choose another directory.")


def take_lock(directory: Path) -> Lock:
    """Lock the store until this is closed or the process ends, however it ends."""
    try:
        return Lock(directory / _LOCK_FILE)
    except LockedError:
        raise StoreError(
            f"Another run is writing to {directory}; wait until it ends, or choose another output directory."
        ) from None
