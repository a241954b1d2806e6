"""Vectors of a store, read from wherever that is fastest: memory, the search copy, or the shards."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sedembed.errors import StoreError
from sedembed.store.layout import as_matrix, naming_damage, read_shard
from sedembed.store.manifest import Manifest
from sedembed.store.nearest import Block, nearest, row_norms
from sedembed.store.search_cache import BusyError, DamagedCopyError, VectorFile

__all__ = ["StoreReader"]

logger = logging.getLogger(__name__)

# Vectors of smaller stores are searched in memory: 65 536 of 1024 numbers.
IN_MEMORY = 2**28
_SEARCH_ROWS = 8192


class StoreReader:
    """The shards of a store as they were when it was opened, their rows sorted by path and time.

    Parameters
    ----------
    directory : Path
        The store.
    schema : pyarrow.Schema
        Columns of its shards.
    shards : list of Path
        These.
    manifest : Manifest or None
        What they are checked against.
    embedding_size : int
        Length of a vector.
    """

    def __init__(
        self, directory: Path, schema: pa.Schema, shards: list[Path], manifest: Manifest | None, embedding_size: int
    ) -> None:
        self._directory, self._schema, self._size = directory, schema, embedding_size
        self._shards, self._manifest = shards, manifest
        self._copy = VectorFile(directory, embedding_size)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def index(self) -> pa.Table:
        """Columns but vectors and tags, one row a vector; with windows also the duration of the recording."""
        return self._order[0]

    @cached_property
    def _order(self) -> tuple[pa.Table, NDArray[np.int64]]:
        """The index in sorted order, and for each of its rows its place in stored order."""
        copied = self._copy.read_index(self._shards)
        if copied is not None:
            return copied
        columns = [name for name in self._schema.names if name not in ("embedding", "tags", "last")]
        windows = "start" in columns
        empty = self._schema.empty_table().select(columns)
        shards = (read_shard(file, self._schema, columns, self._manifest) for file in self._shards)
        table = pa.concat_tables([empty, *(shard.replace_schema_metadata(None) for shard in shards)])
        keys = ["path", "start"] if windows else ["path"]
        order = pc.sort_indices(table, [(key, "ascending") for key in keys]).to_numpy().astype(np.int64)
        index = table.take(order)
        if len(index.group_by(keys).aggregate([])) != len(index):
            raise StoreError(
                f"{self._directory} holds more than one vector of one path, so two runs wrote to it at once; "
                "delete it and run embed_folder again."
            )
        return (_with_durations(index) if windows else index), order

    @cached_property
    def _place(self) -> NDArray[np.int64]:
        """For each vector in stored order its row."""
        place = np.empty(len(self), np.int64)
        place[self._order[1]] = np.arange(len(self))
        return place

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """All vectors, shape (N, D), kept in memory from then on."""
        return self.column("embedding", self._size, np.float32)

    @cached_property
    def _norms(self) -> NDArray[np.float64]:
        return row_norms(self.vectors)

    def column(self, name: str, size: int, dtype: type[Any]) -> NDArray[Any]:
        """Read a column of lists: a read-only matrix of shape (N, size)."""
        matrix = np.empty((len(self), size), dtype)
        for rows, block in self.blocks(name, size, dtype):
            matrix[rows] = block
        matrix.flags.writeable = False
        return matrix

    def blocks(self, name: str, size: int, dtype: type[Any]) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        """Yield rows and values of a column of lists, shard by shard."""
        start = 0
        for file in self._shards:
            block = as_matrix(read_shard(file, self._schema, [name], self._manifest)[name], size, dtype)
            yield self._place[start : start + len(block)], block
            start += len(block)

    def vector(self, row: int) -> NDArray[np.float32]:
        """Read the vector of one row, without reading the others."""
        vector: NDArray[np.float32]
        if "vectors" in self.__dict__ or self._is_small:
            vector = self.vectors[row]
            return vector
        if self._copy.rows_of(self._shards) is not None:
            try:
                return self._copy.row(int(self._order[1][row]))
            except DamagedCopyError:
                self._drop_copy()
        file, place = self.find(row)
        vector = self._read_vectors(file)[place]
        return vector

    def find(self, row: int) -> tuple[Path, int]:
        """Find the shard of a row, and its place there."""
        position = int(self._order[1][row])
        for file in self._shards:
            with naming_damage(file):
                count = int(pq.read_metadata(file).num_rows)
            if position < count:
                return file, position
            position -= count
        raise StoreError(f"{self._directory} has changed; open it again.")

    def nearest(self, queries: NDArray[np.float64], k: int) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Find the k nearest vectors of each query: rows and cosines, as `sedembed.store.nearest.nearest` does."""
        try:
            return nearest(self._search_blocks, queries, k)
        except DamagedCopyError:
            self._drop_copy()
            return nearest(self._search_blocks, queries, k)

    @property
    def _is_small(self) -> bool:
        """Whether the vectors are kept in memory once read."""
        return 4 * self._size * len(self) <= IN_MEMORY

    def _read_vectors(self, file: Path) -> NDArray[np.float32]:
        table = read_shard(file, self._schema, ["embedding"], self._manifest)
        return as_matrix(table["embedding"], self._size)

    def _drop_copy(self) -> None:
        logger.warning("%s: the search copy is damaged and is made anew", self._directory)
        self._copy.drop()

    def _search_blocks(self) -> Iterator[Block]:
        """All vectors, from the fastest place that there is."""
        if "vectors" in self.__dict__ or self._is_small:
            for start in range(0, len(self), _SEARCH_ROWS):
                part = slice(start, start + _SEARCH_ROWS)
                yield Block(np.arange(len(self))[part], self.vectors[part], self._norms[part])
            return
        try:
            rows = self._copy.rows_of(self._shards)
            if rows is None:
                self._copy.update(self._shards, self._read_vectors, self.index, self._order[1])
                rows = self._copy.rows_of(self._shards)
        except BusyError as error:
            logger.info("%s; reading the shards", error)
            rows = None
        except OSError as error:
            logger.warning("%s: no search cache could be written, so searching is slower: %s", self._directory, error)
            rows = None
        if rows is not None:
            yield from self._copy.blocks(self._place, rows)
            return
        for numbers, block in self.blocks("embedding", self._size, np.float32):
            yield Block(numbers, block, row_norms(block))


def _with_durations(index: pa.Table) -> pa.Table:
    """Add the column duration to sorted rows of windows: a recording is as long as its last window says."""
    codes = index["path"].combine_chunks().dictionary_encode().indices.to_numpy()
    last = np.append(np.flatnonzero(np.diff(codes)), len(codes) - 1) if len(codes) else np.empty(0, np.int64)
    lengths = np.diff(last, prepend=-1)
    durations = np.repeat(index["end"].to_numpy()[last], lengths)
    return index.add_column(index.column_names.index("end") + 1, "duration", pa.array(durations, pa.float64()))
