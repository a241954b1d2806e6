"""The vectors of a large store once more, as plain numbers that can be mapped into memory; made by the first search.

Parquet takes some thirty times as long to decode as the cosines take to compute. In ``OUT/search``:

- ``vectors.f32``, ``norms.f64``: rows in the order of the shards, little-endian;
- ``index-N.arrow``: the index of the store in the order of paths, and each row's place among the vectors;
- ``state.json``: which shards are in them, written last. What it does not name does not count.

Shards never change, so new ones are appended. The directory can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from sedembed._utils.files import Lock, LockedError, write_atomic
from sedembed.store.nearest import Block, row_norms

__all__ = ["BusyError", "VectorFile"]

logger = logging.getLogger(__name__)

DIRECTORY = "search"
_FORMAT = 1
_BLOCK_BYTES = 2**25
_POSITION = "position"


class BusyError(OSError):
    """Another process is writing the file."""


class VectorFile:
    """The plain copy of the vectors of one store.

    Parameters
    ----------
    store : Path
        Directory of the store.
    embedding_size : int
        Length of a vector.
    """

    def __init__(self, store: Path, embedding_size: int) -> None:
        self.directory = store / DIRECTORY
        self._size = embedding_size

    def rows_of(self, shards: list[Path]) -> int | None:
        """Count the vectors of these shards; None if they are not all in the file."""
        state = self._read_state()
        wanted = _identities(shards)
        if state is None or [entry[:3] for entry in state["shards"][: len(wanted)]] != wanted:
            return None
        return int(sum(entry[3] for entry in state["shards"][: len(wanted)]))

    def read_index(self, shards: list[Path]) -> tuple[pa.Table, NDArray[np.int64]] | None:
        """Index of a store of exactly these shards, and the place of each of its rows among the vectors."""
        try:
            state = self._read_state()
            if state is None or [entry[:3] for entry in state["shards"]] != _identities(shards):
                return None
            with pa.memory_map(str(self.directory / state["index"])) as source:
                table = pa.ipc.open_file(source).read_all()
        except (OSError, pa.ArrowException):
            return None
        return table.drop_columns([_POSITION]), table[_POSITION].to_numpy()

    def blocks(self, place: NDArray[np.int64], rows: int) -> Iterator[Block]:
        """Map the first rows into memory, a part at a time.

        Parameters
        ----------
        place : ndarray of int64, shape (rows,)
            Row of the store of each vector of the file.
        rows : int
            What `rows_of` gave.

        Yields
        ------
        Block
            All rows once.
        """
        norms = np.fromfile(self.directory / "norms.f64", "<f8", rows)
        step = max(1, _BLOCK_BYTES // (4 * self._size))
        with (self.directory / "vectors.f32").open("rb") as opened:
            for start in range(0, rows, step):
                shape = (min(step, rows - start), self._size)
                # A map for each part: what is read is given back, and memory stays bounded.
                vectors = np.memmap(opened, "<f4", "r", offset=4 * self._size * start, shape=shape)
                part = slice(start, start + len(vectors))
                yield Block(place[part], vectors.view(np.ndarray), norms[part])

    def row(self, position: int) -> NDArray[np.float32]:
        """One vector by its place in the file."""
        offset = 4 * self._size * position
        return np.fromfile(self.directory / "vectors.f32", "<f4", self._size, offset=offset)

    def update(
        self,
        shards: list[Path],
        read: Callable[[Path], NDArray[np.float32]],
        index: pa.Table,
        order: NDArray[np.int64],
    ) -> None:
        """Bring the file up to these shards.

        Parameters
        ----------
        shards : list of Path
            Of the store, in their order.
        read : function
            Reads the vectors of a shard, shape (rows, D).
        index : pyarrow.Table
            Index of the store.
        order : ndarray of int64
            Place of each of its rows among the vectors.

        Raises
        ------
        OSError
            If the disk takes no more or is read-only; a `BusyError` if another process is at it.
        StoreError
            If a shard is damaged.
        """
        self.directory.mkdir(exist_ok=True)
        with self._lock():
            entries = self._common(shards)
            known = sum(entry[3] for entry in entries)
            missing = len(index) - known
            logger.info("%s: copying %d vectors for search", self.directory, missing)
            names = {"vectors.f32": known * 4 * self._size, "norms.f64": known * 8}
            bar = tqdm(total=missing, unit="vector", desc="preparing search", disable=None)
            with self._open("vectors.f32", names) as vectors, self._open("norms.f64", names) as norms, bar:
                for shard in shards[len(entries) :]:
                    matrix = read(shard)
                    vectors.write(matrix.astype("<f4", copy=False).data)
                    norms.write(row_norms(matrix).astype("<f8", copy=False).data)
                    entries.append([*_identities([shard])[0], len(matrix)])
                    bar.update(len(matrix))
                for opened in (vectors, norms):
                    opened.flush()
                    os.fsync(opened.fileno())
            name = f"index-{len(index)}.arrow"
            table = index.append_column(_POSITION, pa.array(order))
            sink = pa.BufferOutputStream()
            with pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
            self._replace(name, sink.getvalue())
            state = {"format": _FORMAT, "embedding_size": self._size, "shards": entries, "index": name}
            self._replace("state.json", json.dumps(state).encode())
            for file in (*self.directory.glob("index-*.arrow"), *self.directory.glob(".*.partial")):
                if file.name != name:
                    with contextlib.suppress(OSError):
                        file.unlink()

    def _common(self, shards: list[Path]) -> list[list[Any]]:
        """Entries that can stay, all of them or none: shards are only ever added, unless somebody mended the store."""
        state = self._read_state()
        entries: list[list[Any]] = [] if state is None else state["shards"]
        if [entry[:3] for entry in entries] == _identities(shards[: len(entries)]):
            return entries
        return []

    def _open(self, name: str, keep: dict[str, int]) -> IO[bytes]:
        """Open to append behind what stays; anew rather than emptied, for another process may have it mapped."""
        file = self.directory / name
        if keep[name] == 0:
            (self.directory / "state.json").unlink(missing_ok=True)
            file.unlink(missing_ok=True)
            return file.open("wb")
        opened = file.open("r+b")
        opened.truncate(keep[name])
        opened.seek(keep[name])
        return opened

    def _replace(self, name: str, data: bytes | pa.Buffer) -> None:
        write_atomic(self.directory / name, bytes(data))

    def _read_state(self) -> dict[str, Any] | None:
        """Contents of ``state.json``, if the files hold what it says."""
        try:
            state = json.loads((self.directory / "state.json").read_bytes())
            rows = sum(entry[3] for entry in state["shards"])
            sizes = {name: (self.directory / name).stat().st_size for name in ("vectors.f32", "norms.f64")}
            usable = state["format"] == _FORMAT and state["embedding_size"] == self._size
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return None
        whole = sizes["vectors.f32"] >= rows * 4 * self._size and sizes["norms.f64"] >= rows * 8
        return dict(state) if usable and whole else None

    def _lock(self) -> Lock:
        """Keep other processes from writing."""
        try:
            return Lock(self.directory / ".lock")
        except LockedError as error:
            raise BusyError("another search is preparing it") from error


def _identities(shards: list[Path]) -> list[list[str | int]]:
    """Name, size and time of change in ns of each shard: these say whether it is still the one that was copied."""
    status = [(shard.name, shard.stat()) for shard in shards]
    return [[name, found.st_size, found.st_mtime_ns] for name, found in status]
