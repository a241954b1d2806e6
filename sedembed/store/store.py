"""Read back what `embed_folder` wrote: vectors, index, failures, search, export."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from sedembed._utils.files import atomic_file
from sedembed.errors import InvalidArgumentError, MissingVectorError, StoreError
from sedembed.store.layout import (
    FRAMES,
    as_matrix,
    list_shards,
    naming_damage,
    read_failures,
    read_run,
    read_shard,
    shard_number,
    shard_schema,
)
from sedembed.store.nearest import Block, nearest, row_norms
from sedembed.store.search_cache import BusyError, VectorFile

if TYPE_CHECKING:
    from sedembed.types import Frames

__all__ = ["EmbeddingStore", "open_store"]

logger = logging.getLogger(__name__)

# Vectors of smaller stores are searched in memory: 65 536 of 1024 numbers.
IN_MEMORY = 2**28
_SEARCH_ROWS = 8192


def open_store(out: str | os.PathLike[str]) -> EmbeddingStore:
    """Open a directory that `embed_folder` wrote.

    Parameters
    ----------
    out : path
        The directory. It may still be written to: the store shows what was committed when it was opened.

    Returns
    -------
    EmbeddingStore
        Vectors, paths and failures.

    Raises
    ------
    StoreError
        If there is no store, or it is damaged or of a newer format.

    Examples
    --------
    >>> store = open_store("vectors")  # doctest: +SKIP
    >>> store.vectors.shape, store.paths[0]  # doctest: +SKIP
    ((2000, 1024), '1-100032-A-0.wav')
    """
    return EmbeddingStore(out)


class EmbeddingStore:
    """The vectors of a folder, one row for each file that could be read, sorted by path.

    Parameters
    ----------
    directory : path
        What `embed_folder` wrote.

    Attributes
    ----------
    directory : Path
        Where the store is.
    run : dict
        Contents of `run.json`: model, settings, fingerprint, folder, package versions.

    Notes
    -----
    Other programs read the shards directly: `pandas.read_parquet("OUT/embeddings")`,
    `duckdb.sql("select * from 'OUT/embeddings/*.parquet'")`, `datasets.load_dataset("parquet",
    data_files="OUT/embeddings/*.parquet")`. Their rows are in the order in which files were finished.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self.run = read_run(self.directory)
        self._shards = list_shards(self.directory)

    def __repr__(self) -> str:
        return f"EmbeddingStore({str(self.directory)!r}, {len(self)} vectors, {len(self.failures)} failures)"

    def __len__(self) -> int:
        return len(self.index)

    @property
    def embedding_size(self) -> int:
        """Length of a vector."""
        return int(self.run["settings"]["embedding_size"])

    @cached_property
    def _order(self) -> tuple[pa.Table, NDArray[np.int64]]:
        """The index in sorted order, and for each of its rows its place in stored order."""
        copied = self._vector_file.read_index(self._shards)
        if copied is not None:
            return copied
        size = self.embedding_size
        columns = [field.name for field in shard_schema(size) if field.name != "embedding"]
        empty = shard_schema(size).empty_table().select(columns)
        table = pa.concat_tables([empty, *(read_shard(file, size, columns) for file in self._shards)])
        order = pc.sort_indices(table["path"]).to_numpy().astype(np.int64)
        index = table.take(order)
        if pc.count_distinct(index["path"]).as_py() != len(index):
            raise StoreError(
                f"{self.directory} holds more than one vector of one path, so two runs wrote to it at once; "
                "delete it and run embed_folder again"
            )
        return index, order

    @cached_property
    def _place(self) -> NDArray[np.int64]:
        """For each vector in stored order its row."""
        place = np.empty(len(self), np.int64)
        place[self._order[1]] = np.arange(len(self))
        return place

    @property
    def index(self) -> pa.Table:
        """Table of the columns path, duration (s), sample_rate (Hz) and channels, one row a vector."""
        return self._order[0]

    @cached_property
    def paths(self) -> list[str]:
        """Path of each row, relative to the folder, with forward slashes."""
        return list(self.index["path"].to_pylist())

    @cached_property
    def failures(self) -> pa.Table:
        """Table of the columns path, error (name of its class) and message: files that gave no vector."""
        return read_failures(self.directory)

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """All vectors, shape (N, D), in the order of `paths`.

        Read on first use, then kept in memory (4 kB a vector of 1024 numbers); `blocks` does without that, and so does
        `search` in a store of more than 256 MiB.
        """
        vectors = np.empty((len(self), self.embedding_size), np.float32)
        for rows, block in self.blocks():
            vectors[rows] = block
        vectors.flags.writeable = False
        return vectors

    def blocks(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Read the vectors shard by shard, in memory bounded by the largest shard.

        Yields
        ------
        rows : ndarray of int64, shape (n,)
            Which rows of `index` these are.
        vectors : ndarray of float32, shape (n, D)
            Their vectors.
        """
        start = 0
        for file in self._shards:
            block = self._read_vectors(file)
            yield self._place[start : start + len(block)], block
            start += len(block)

    @overload
    def search(self, query: str | int, k: int = 10) -> list[tuple[str, float]]: ...

    @overload
    def search(self, query: ArrayLike | Sequence[str], k: int = 10) -> Any: ...

    def search(self, query: ArrayLike | Sequence[str], k: int = 10) -> Any:
        """Rows most similar to a query, by the cosine of the angle between vectors; exact.

        Parameters
        ----------
        query : array of shape (D,) or (Q, D), str, int or list of str
            A vector, such as `model.embed(...)` gives with the model of the store, or the path or number of a row;
            or several vectors or paths, which is faster than one after the other.
        k : int
            How many to return; fewer if the store is smaller.

        Returns
        -------
        list of (str, float), or for several queries a list of such lists
            Path and cosine, best first; equal ones by path.

        Raises
        ------
        ValueError
            For a query of the wrong shape, not finite or all zeros, or `k` below 1.
        KeyError, IndexError
            For a path or row that is not in the store.

        Notes
        -----
        The cosines are those of float64, and equal vectors have equal ones wherever they are in the store.

        The vectors of a store of up to 256 MiB are read into memory and kept. The first search of a larger one copies
        them to plain files in its directory ``search``, of the size of the vectors, that this and later searches map
        into memory; when the store has grown, the new vectors are added. It can be deleted at any time. Where it
        cannot be written, each search decodes the shards, which is slower and said in the log.
        """
        if k < 1:
            raise InvalidArgumentError(f"k must be at least 1, got {k}")
        queries, several = self._queries(query)
        names = self.index["path"]
        found = [
            [(names[row].as_py(), float(cosine)) for row, cosine in zip(*hits, strict=True)]
            for hits in nearest(self._search_blocks, queries, k)
        ]
        return found if several else found[0]

    def frames(self, path: str) -> Frames:
        """Frame embeddings of one file, if the store was made with ``frames=True``.

        Parameters
        ----------
        path : str
            One of `paths`.

        Returns
        -------
        Frames
            Embeddings (T, D) and the centres of the frames in seconds, as `Embedder.embed_frames` gives them.

        Raises
        ------
        StoreError
            If the store holds no frames.
        KeyError
            If the store holds no such path.
        """
        import pyarrow.dataset as ds

        from sedembed.types import Frames

        if not self.run["settings"]["frames"]:
            raise StoreError(f"{self.directory} holds clip vectors only; make another with embed_folder(frames=True)")
        self._row(path)
        committed = {shard_number(file) for file in self._shards}
        files = [str(file) for file in list_shards(self.directory, FRAMES) if shard_number(file) in committed]
        with naming_damage(self.directory / FRAMES):
            table = ds.dataset(files, format="parquet").to_table(filter=ds.field("path") == path)
        return Frames(as_matrix(table["embedding"], self.embedding_size), table["time"].to_numpy())

    def export(self, path: str | os.PathLike[str]) -> Path:
        """Write one ``.npz`` file with the arrays `vectors` and `paths`; `numpy.load` needs no pickle for it.

        Parameters
        ----------
        path : path
            Ends in ``.npz``; replaced in one step.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        ValueError
            For another ending.
        StoreError
            If it could not be written.
        """
        file = Path(path)
        if file.suffix != ".npz":
            raise InvalidArgumentError(
                f"expected a file name that ends in .npz, got {str(file)!r}; Parquet is there already"
            )
        with atomic_file(file) as opened:
            np.savez(opened, vectors=self.vectors, paths=np.array(self.paths, dtype=np.str_))
        return file

    def _row(self, query: str | int) -> int:
        if isinstance(query, int):
            if not -len(self) <= query < len(self):
                raise MissingVectorError(f"row {query} is not in {self.directory}, which has {len(self)} rows")
            return query % len(self)
        row = pc.index(self.index["path"], query).as_py()
        if row < 0:
            raise MissingVectorError(
                f"{query!r} has no vector in {self.directory}; paths are relative to the embedded folder"
            )
        return int(row)

    def _queries(self, query: ArrayLike | Sequence[str]) -> tuple[NDArray[np.float64], bool]:
        """Make unit vectors of shape (Q, D), and say whether they were several."""
        if isinstance(query, (str, int, np.integer)):
            return self._queries(self._read_row(self._row(query if isinstance(query, str) else int(query))))
        if isinstance(query, (list, tuple)) and query and all(isinstance(item, str) for item in query):
            return self._queries(np.stack([self._read_row(self._row(str(item))) for item in query]))
        vectors = np.asarray(query, np.float64)
        if vectors.ndim not in (1, 2) or vectors.shape[-1] != self.embedding_size or not len(vectors):
            size = self.embedding_size
            raise InvalidArgumentError(
                f"expected one vector of shape ({size},) or several of shape (queries, {size}), got shape "
                f"{vectors.shape}; embed the query with the model of the store"
            )
        # Divided by the largest number first: squares of numbers beyond 1e154 would overflow.
        largest = np.abs(vectors).max(-1, keepdims=True)
        if not np.all((largest > 0) & (largest < np.inf)):
            raise InvalidArgumentError(
                "expected a query of finite numbers that are not all zero; its cosine is not defined"
            )
        scaled = vectors / largest
        return np.atleast_2d(scaled / np.linalg.norm(scaled, axis=-1, keepdims=True)), vectors.ndim == 2

    def _read_vectors(self, file: Path) -> NDArray[np.float32]:
        return as_matrix(read_shard(file, self.embedding_size, ["embedding"])["embedding"], self.embedding_size)

    def _read_row(self, row: int) -> NDArray[np.float32]:
        """Vector of one row, without reading the others."""
        vector: NDArray[np.float32]
        if "vectors" in self.__dict__:
            vector = self.vectors[row]
            return vector
        position = int(self._order[1][row])
        if self._vector_file.rows_of(self._shards) is not None:
            return self._vector_file.row(position)
        for file in self._shards:
            with naming_damage(file):
                count = int(pq.read_metadata(file).num_rows)
            if position < count:
                vector = self._read_vectors(file)[position]
                return vector
            position -= count
        raise StoreError(f"{self.directory} has changed; open it again")

    @cached_property
    def _vector_file(self) -> VectorFile:
        return VectorFile(self.directory, self.embedding_size)

    @cached_property
    def _norms(self) -> NDArray[np.float64]:
        return row_norms(self.vectors)

    def _search_blocks(self) -> Iterator[Block]:
        """All vectors, from the fastest place that there is."""
        if "vectors" in self.__dict__ or 4 * self.embedding_size * len(self) <= IN_MEMORY:
            for start in range(0, len(self), _SEARCH_ROWS):
                part = slice(start, start + _SEARCH_ROWS)
                yield Block(np.arange(len(self))[part], self.vectors[part], self._norms[part])
            return
        try:
            rows = self._vector_file.rows_of(self._shards)
            if rows is None:
                self._vector_file.update(self._shards, self._read_vectors, self.index, self._order[1])
                rows = self._vector_file.rows_of(self._shards)
        except BusyError as error:
            logger.info("%s; reading the shards", error)
            rows = None
        except OSError as error:
            logger.warning("%s: no search cache could be written, so searching is slower: %s", self.directory, error)
            rows = None
        if rows is not None:
            yield from self._vector_file.blocks(self._place, rows)
            return
        for numbers, block in self.blocks():
            yield Block(numbers, block, row_norms(block))
