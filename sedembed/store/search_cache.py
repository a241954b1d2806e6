"""A copy of the vectors of a large store that can be mapped into memory; made by the first search.

Decoding Parquet takes about thirty times as long as computing the cosines. In ``OUT/search``:

- ``vectors.f32``, ``norms.f64``, ``sums.u64``: rows in the order of the shards, their lengths and their checksums (the
  sum of the bits read as whole numbers), little-endian;
- ``index-N.arrow``: the index of the store in the order of paths, and each row's place among the vectors;
- ``state.json``: which shards are in them, written last. What it does not name does not count.

Shards are hardly ever changed, so new ones are appended. Each process checks once what it reads; a damaged copy is made
anew. The directory can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
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

from sedembed._utils.files import Lock, LockedError, sha256_of, write_atomic
from sedembed._utils.schema import read_json_object
from sedembed.store.nearest import Block, row_norms

__all__ = ["BusyError", "DamagedCopyError", "VectorFile"]

logger = logging.getLogger(__name__)

DIRECTORY = "search"
_FORMAT = 2
_BLOCK_BYTES = 2**25
_POSITION = "position"
_STATE = "state.json"


class BusyError(OSError):
    """Another process is writing the file."""


class DamagedCopyError(Exception):
    """The copy is not what was written; it is to be dropped and made anew."""


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
        self._checked = 0  # rows found to be right

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
            data = (self.directory / state["index"]).read_bytes()
            if hashlib.sha256(data).hexdigest() != state["index_sha256"]:
                return None
            # One thread: one of Arrow's that lets go of `data` while Python ends would abort the process.
            options = pa.ipc.IpcReadOptions(use_threads=False)
            table = pa.ipc.open_file(pa.BufferReader(data), options=options).read_all()
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

        Raises
        ------
        DamagedCopyError
            If the files are not what was written.
        """
        norms = np.fromfile(self.directory / "norms.f64", "<f8", rows)
        sums = np.fromfile(self.directory / "sums.u64", "<u8", rows)
        if self._checked < rows:
            state = self._read_state()
            found = {name: sha256_of(self.directory / name) for name in ("norms.f64", "sums.u64")}
            if state is None or found != state["sha256"]:
                raise DamagedCopyError
        step = max(1, _BLOCK_BYTES // (4 * self._size))
        with (self.directory / "vectors.f32").open("rb") as opened:
            for start in range(0, rows, step):
                shape = (min(step, rows - start), self._size)
                # A map for each part: what is read is given back, and memory stays bounded.
                vectors = np.memmap(opened, "<f4", "r", offset=4 * self._size * start, shape=shape)
                part = slice(start, start + len(vectors))
                if self._checked < start + len(vectors) and not np.array_equal(_row_sums(vectors), sums[part]):
                    raise DamagedCopyError
                self._checked = max(self._checked, start + len(vectors))
                yield Block(place[part], vectors.view(np.ndarray), norms[part])

    def row(self, position: int) -> NDArray[np.float32]:
        """One vector by its place in the file.

        Raises
        ------
        DamagedCopyError
            If it is not what was written.
        """
        offset = 4 * self._size * position
        vector = np.fromfile(self.directory / "vectors.f32", "<f4", self._size, offset=offset)
        expected = np.fromfile(self.directory / "sums.u64", "<u8", 1, offset=8 * position)
        if len(vector) != self._size or not np.array_equal(_row_sums(vector[None]), expected):
            raise DamagedCopyError
        return vector

    def drop(self) -> None:
        """Forget the copy; the next `update` makes a new one."""
        self._checked = 0
        with contextlib.suppress(OSError):
            (self.directory / _STATE).unlink(missing_ok=True)

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
            keep = {"vectors.f32": known * 4 * self._size, "norms.f64": known * 8, "sums.u64": known * 8}
            bar = tqdm(total=missing, unit="vector", desc="preparing search", disable=None)
            with (
                self._open("vectors.f32", keep) as vectors,
                self._open("norms.f64", keep) as norms,
                self._open("sums.u64", keep) as sums,
                bar,
            ):
                for shard in shards[len(entries) :]:
                    matrix = read(shard)
                    vectors.write(matrix.astype("<f4", copy=False).data)
                    norms.write(row_norms(matrix).astype("<f8", copy=False).data)
                    sums.write(_row_sums(matrix).astype("<u8", copy=False).data)
                    entries.append([*_identities([shard])[0], len(matrix)])
                    bar.update(len(matrix))
                for opened in (vectors, norms, sums):
                    opened.flush()
                    os.fsync(opened.fileno())
            name = f"index-{len(index)}.arrow"
            table = index.append_column(_POSITION, pa.array(order))
            sink = pa.BufferOutputStream()
            with pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
            data = sink.getvalue().to_pybytes()
            self._replace(name, data)
            state = {
                "format": _FORMAT,
                "embedding_size": self._size,
                "shards": entries,
                "index": name,
                "index_sha256": hashlib.sha256(data).hexdigest(),
                "sha256": {file: sha256_of(self.directory / file) for file in ("norms.f64", "sums.u64")},
            }
            self._replace(_STATE, json.dumps({**state, "check": _digest(state)}).encode())
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
            (self.directory / _STATE).unlink(missing_ok=True)
            file.unlink(missing_ok=True)
            return file.open("wb")
        opened = file.open("r+b")
        opened.truncate(keep[name])
        opened.seek(keep[name])
        return opened

    def _replace(self, name: str, data: bytes) -> None:
        write_atomic(self.directory / name, data)

    def _read_state(self) -> dict[str, Any] | None:
        """Contents of ``state.json``, if the files hold what it says."""
        try:
            state = read_json_object((self.directory / _STATE).read_bytes(), _STATE)
            if state.pop("check", None) != _digest(state) or state["format"] != _FORMAT:
                return None
            rows = sum(entry[3] for entry in state["shards"])
            sizes = {name: (self.directory / name).stat().st_size for name in ("vectors.f32", "norms.f64", "sums.u64")}
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return None
        whole = sizes["vectors.f32"] >= rows * 4 * self._size and min(sizes["norms.f64"], sizes["sums.u64"]) >= rows * 8
        return state if state["embedding_size"] == self._size and whole else None

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


def _digest(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _row_sums(vectors: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Checksum of each row: the sum of its bits read as whole numbers; as fast as memory is."""
    wide = vectors.shape[1] % 2 == 0
    bits = np.ascontiguousarray(vectors).view(np.uint64 if wide else np.uint32)
    sums: NDArray[np.uint64] = bits.sum(axis=1, dtype=np.uint64)
    return sums
