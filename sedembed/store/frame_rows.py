"""Frame vectors of clips on their way to disk."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sedembed._utils.files import cannot_write
from sedembed.store.layout import PARQUET_OPTIONS, as_lists, frames_schema

__all__ = ["FrameRows"]

_FRAME_ROWS = 2048


class FrameRows:
    """Frame vectors on their way to disk: few stay in memory, many go to a file of their own.

    Parameters
    ----------
    directory : Path
        Where the file goes, under a temporary name.
    embedding_size : int
        Length of a vector.
    """

    def __init__(self, directory: Path, embedding_size: int) -> None:
        self.partial = directory / f".{uuid.uuid4().hex}.partial"
        self.held: list[tuple[str, NDArray[np.float64], NDArray[np.float32]]] = []
        self.count = 0  # rows taken so far
        self._schema = frames_schema(embedding_size)
        self._file: IO[bytes] | None = None
        self._writer: Any = None

    @property
    def on_disk(self) -> bool:
        """Whether there were too many rows to hold."""
        return self._file is not None

    def add(self, path: str, times: NDArray[np.float64], embeddings: NDArray[np.float32]) -> None:
        """Take the frames of one window."""
        self.held.append((path, times, embeddings))
        self.count += len(times)
        if sum(len(times) for _, times, _ in self.held) >= _FRAME_ROWS:
            self._write()

    def finish(self) -> None:
        """Write what is held and close the file."""
        self._write()
        assert self._file is not None  # after a write
        try:
            self._writer.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            raise cannot_write(self.partial, error) from error

    def discard(self) -> None:
        """Close and remove the file."""
        self.held.clear()
        if self._writer is not None:
            with contextlib.suppress(pa.ArrowException, OSError, ValueError):
                self._writer.close()
            self._writer.is_open = False  # else a close that failed is tried again when it is collected
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        with contextlib.suppress(OSError):
            self.partial.unlink(missing_ok=True)

    def _write(self) -> None:
        try:
            if self._file is None:
                self._file = self.partial.open("wb")
                self._writer = pq.ParquetWriter(self._file, self._schema, **PARQUET_OPTIONS)
            if self.held:
                paths = [path for path, times, _ in self.held for _ in times]
                times = np.concatenate([times for _, times, _ in self.held])
                columns = [pa.array(paths, pa.string()), times, as_lists([rows for _, _, rows in self.held])]
                self._writer.write_table(pa.table(columns, schema=self._schema))
                self.held.clear()
        except OSError as error:
            raise cannot_write(self.partial, error) from error
