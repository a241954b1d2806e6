"""Results of a job over many recordings, kept beside its output until that is complete.

One JSON line for each recording. A killed run leaves the file, and the same command continues with what is in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
from pathlib import Path
from typing import IO, Any

from sedembed._utils.files import Lock, LockedError, cannot_write, make_folder
from sedembed.errors import StoreError

__all__ = ["Journal"]

logger = logging.getLogger(__name__)

_SYNC_SECONDS = 5.0


class Journal:
    """A journal of results; one process at a time.

    Parameters
    ----------
    output : Path
        File or folder that the job writes in the end. The journal is the hidden file ``.NAME.journal`` beside it.
    settings : dict
        All that the results depend on. A journal of other settings is begun anew.

    Attributes
    ----------
    results : dict of str to object
        What is known of each recording, by its path.

    Raises
    ------
    StoreError
        If another process writes the journal, or it cannot be written.
    """

    def __init__(self, output: Path, settings: dict[str, Any]) -> None:
        self.file = output.parent / f".{output.name}.journal"
        self.results: dict[str, Any] = {}
        self._head = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        self._synced = time.monotonic()
        try:
            make_folder(output.parent)
            self._lock = Lock(self.file.with_name(f"{self.file.name}.lock"))
        except LockedError:
            raise StoreError(f"Another run is writing {output}; wait until it ends, or name another output.") from None
        except OSError as error:
            raise cannot_write(output, error) from error
        try:
            self._stream = self._open()
        except OSError as error:
            self._lock.close()
            raise cannot_write(self.file, error) from error

    def add(self, path: str, result: Any) -> None:
        """Keep the result of a recording; it may be any JSON value."""
        self.results[path] = result
        try:
            self._stream.write(json.dumps([path, result]).encode() + b"\n")
            self._stream.flush()
            if time.monotonic() - self._synced >= _SYNC_SECONDS:
                os.fsync(self._stream.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise cannot_write(self.file, error) from error

    def close(self, *, complete: bool) -> None:
        """Close the journal; a complete one is removed."""
        self._stream.close()
        if complete:
            self.file.unlink(missing_ok=True)
        self._lock.close()
        with contextlib.suppress(OSError):  # on Windows, while another process tries the lock
            self.file.with_name(f"{self.file.name}.lock").unlink(missing_ok=True)

    def _open(self) -> IO[bytes]:
        """Read what an earlier run left, and open the file to append behind its last whole line."""
        end = 0
        if self.file.exists():
            with self.file.open("rb") as old:
                if old.readline() == self._head.encode() + b"\n":
                    end = old.tell()
                    for line in old:
                        try:
                            path, result = json.loads(line)
                        except (ValueError, TypeError):
                            break  # the line that the killed run was writing
                        if not line.endswith(b"\n"):
                            break
                        self.results[path] = result
                        end += len(line)
        if end:
            logger.info("%s: %d recordings are done already", self.file, len(self.results))
            continued = self.file.open("r+b")
            continued.truncate(end)
            continued.seek(end)
            return continued
        stream = self.file.open("wb")
        stream.write(self._head.encode() + b"\n")
        stream.flush()
        return stream
