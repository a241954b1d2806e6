"""Files that appear complete or not at all, locks, and checksums."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from sedembed.errors import WriteError

__all__ = [
    "Lock",
    "LockedError",
    "atomic_file",
    "cannot_write",
    "make_folder",
    "refuse_file",
    "sha256_of",
    "sync_directory",
    "write_atomic",
]

logger = logging.getLogger(__name__)

# Files that were still being written when a process was killed end like this.
PARTIAL_SUFFIX = ".partial"
_IS_WINDOWS = os.name == "nt"  # where a file that is open cannot be replaced
_SHARING_SECONDS = 2.0


@contextmanager
def atomic_file(file: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears under its name complete or not at all, whatever ends the process.

    A link stays, and what it points to is replaced. What is no regular file, such as a pipe or ``/dev/null``, is
    written to and never replaced.

    Parameters
    ----------
    file : Path
        What to write; its folder must be there.

    Raises
    ------
    WriteError
        If it cannot be written, with the cause and what to do.
    """
    try:
        target = Path(os.path.realpath(file))
        if target.exists() and not stat.S_ISREG(target.stat().st_mode):
            if target.is_dir():
                raise WriteError(f"Expected the name of a file, got the folder {file}; name a file in it.")
            with target.open("wb") as opened:
                yield opened
            return
        partial = target.with_name(f".{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
        try:
            with partial.open("wb") as opened:
                yield opened
                opened.flush()
                os.fsync(opened.fileno())
            _replace(partial, target)
            sync_directory(target.parent)
        finally:
            partial.unlink(missing_ok=True)
    except WriteError:
        raise
    except OSError as error:
        raise cannot_write(file, error) from error


def _replace(partial: Path, target: Path) -> None:
    """Put a file in the place of another; on Windows wait until readers and virus scanners have closed that."""
    deadline = time.monotonic() + _SHARING_SECONDS
    while True:
        try:
            partial.replace(target)
        except PermissionError:
            if not _IS_WINDOWS or time.monotonic() > deadline:
                raise
            time.sleep(_SHARING_SECONDS / 40)
        else:
            return


def refuse_file(folder: Path) -> None:
    """Refuse an output folder whose name a file has, before the work rather than after.

    Raises
    ------
    WriteError
        If a file is there.
    """
    if folder.exists() and not folder.is_dir():
        raise WriteError(f"Expected a folder at {folder}, got a file; choose another place.")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, if they are missing.

    Raises
    ------
    WriteError
        If a file is there, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error


def write_atomic(file: Path, data: bytes | str) -> None:
    """Write a file that appears complete or not at all; text as UTF-8. See `atomic_file`."""
    with atomic_file(file) as opened:
        opened.write(data.encode() if isinstance(data, str) else data)


def cannot_write(file: Path, error: OSError) -> WriteError:
    """Make the error for what cannot be written, with its cause and what to do."""
    if isinstance(error, WriteError):
        return error
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return WriteError(f"Expected a folder at {file}, got a file there or above it; choose another place.")
    return WriteError(
        f"Could not write {file}: {error.strerror or error}. Make room or choose another place, then run the same "
        "command again: what was written before is kept."
    )


def sync_directory(directory: Path) -> None:
    """Make renames in a directory last through a power cut, where the system can."""
    if _IS_WINDOWS:
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(file: Path) -> str:
    """Sha256 of a file, as 64 hexadecimal digits, read in bounded memory."""
    with file.open("rb") as opened:
        digest = hashlib.sha256()
        while block := opened.read(2**20):
            digest.update(block)
    return digest.hexdigest()


class LockedError(OSError):
    """Another process holds the lock."""


class Lock:
    """A lock file, held until `close` or the end of the process, however that ends.

    Parameters
    ----------
    file : Path
        The lock file; it stays when the lock is given up.

    Raises
    ------
    LockedError
        If another process holds the lock.
    OSError
        If the file cannot be made.
    """

    def __init__(self, file: Path) -> None:
        self._lock = FileLock(file)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise LockedError(f"another process holds {file}") from None
        except NotImplementedError as error:
            logger.warning("%s cannot be locked (%s): make sure that only one run writes there", file, error)

    def close(self) -> None:
        """Give the lock up."""
        self._lock.release()

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
