"""Read back what `embed_folder` wrote: vectors, index, failures, search, export."""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from sedembed.errors import StoreError
from sedembed.store.nearest import Block, nearest, row_norms
from sedembed.store.search_cache import BusyError, VectorFile

if TYPE_CHECKING:
    from sedembed.types import Frames

__all__ = ["EmbeddingStore", "open_store"]

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
RUN_FILE = "run.json"
FAILURES_FILE = "failures.parquet"
SHARDS = "embeddings"
FRAMES = "frames"
# Vectors of smaller stores are searched in memory: 65 536 of 1024 numbers.
IN_MEMORY = 2**28
_SEARCH_ROWS = 8192
FAILURES_SCHEMA = pa.schema([("path", pa.string()), ("error", pa.string()), ("message", pa.string())])


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
            raise ValueError(f"k must be at least 1, got {k}")
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
        with damage_named(self.directory / FRAMES):
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
            raise ValueError(f"expected a file name that ends in .npz, got {str(file)!r}; Parquet is there already")
        with atomic_file(file) as opened:
            np.savez(opened, vectors=self.vectors, paths=np.array(self.paths, dtype=np.str_))
        return file

    def _row(self, query: str | int) -> int:
        if isinstance(query, int):
            if not -len(self) <= query < len(self):
                raise IndexError(f"row {query} is not in {self.directory}, which has {len(self)} rows")
            return query % len(self)
        row = pc.index(self.index["path"], query).as_py()
        if row < 0:
            raise KeyError(f"{query!r} has no vector in {self.directory}; paths are relative to the embedded folder")
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
            raise ValueError(
                f"expected one vector of shape ({size},) or several of shape (queries, {size}), got shape "
                f"{vectors.shape}; embed the query with the model of the store"
            )
        # Divided by the largest number first: squares of numbers beyond 1e154 would overflow.
        largest = np.abs(vectors).max(-1, keepdims=True)
        if not np.all((largest > 0) & (largest < np.inf)):
            raise ValueError("expected a query of finite numbers that are not all zero; its cosine is not defined")
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
            with damage_named(file):
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
            logger.warning("%s: searching takes longer than it could, for no copy was made: %s", self.directory, error)
            rows = None
        if rows is not None:
            yield from self._vector_file.blocks(self._place, rows)
            return
        for numbers, block in self.blocks():
            yield Block(numbers, block, row_norms(block))


# --- files, shared with the writer ---------------------------------------------------------------------------------


def shard_schema(embedding_size: int) -> pa.Schema:
    """Columns of a shard of clip vectors."""
    return pa.schema(
        [
            ("path", pa.string()),
            ("duration", pa.float64()),
            ("sample_rate", pa.int32()),
            ("channels", pa.int32()),
            ("embedding", pa.list_(pa.float32(), embedding_size)),
        ]
    )


def frames_schema(embedding_size: int) -> pa.Schema:
    """Columns of a shard of frame vectors."""
    return pa.schema(
        [("path", pa.string()), ("time", pa.float64()), ("embedding", pa.list_(pa.float32(), embedding_size))]
    )


def as_matrix(column: pa.ChunkedArray, embedding_size: int) -> NDArray[np.float32]:
    """Rows of an embedding column, shape (rows, embedding_size)."""
    flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate([np.zeros(0, np.float32), *flat]).reshape(-1, embedding_size)


def shard_number(file: Path) -> int:
    """Return the number of a shard; frames shards carry that of the shard they were committed with."""
    return int(file.name.split("-")[1].split(".")[0])


def list_shards(directory: Path, kind: str = SHARDS) -> list[Path]:
    """Finished shards in the order in which they were written; files half written begin with a dot."""
    return sorted((directory / kind).glob(f"{'vectors' if kind == SHARDS else FRAMES}-*.parquet"), key=shard_number)


def read_shard(file: Path, embedding_size: int, columns: list[str]) -> pa.Table:
    """Columns of one shard, checked against what this library writes."""
    with damage_named(file), pq.ParquetFile(file, page_checksum_verification=True) as opened:
        if not opened.schema_arrow.equals(shard_schema(embedding_size)):
            raise ValueError(f"its columns are {opened.schema_arrow.names}, of other names or types than expected")
        return opened.read(columns)


def read_failures(directory: Path) -> pa.Table:
    """Failures of a store; an empty table if there were none."""
    file = directory / FAILURES_FILE
    if not file.exists():
        return FAILURES_SCHEMA.empty_table()
    with damage_named(file):
        return pq.read_table(file, schema=FAILURES_SCHEMA, partitioning=None)


def read_run(directory: Path) -> dict[str, Any]:
    """Contents of `run.json`."""
    file = directory / RUN_FILE
    try:
        run = json.loads(file.read_bytes())
        version = run["format_version"]
        _ = run["fingerprint"], run["settings"]["embedding_size"], run["settings"]["frames"], run["folder"]
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(
            f"expected a store at {directory}, found no {RUN_FILE} there; make one with embed_folder"
        ) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StoreError(
            f"{file} is damaged ({error!r}); restore it from a copy, or delete the store and run embed_folder again"
        ) from error
    if version != FORMAT_VERSION:
        raise StoreError(
            f"{directory} has format {version}, and this sedembed reads format {FORMAT_VERSION}; "
            "use the version of sedembed that wrote it, or embed the folder again"
        )
    return dict(run)


@contextmanager
def damage_named(file: Path) -> Iterator[None]:
    """Turn what pyarrow raises about a damaged file into a `StoreError` that names it."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise StoreError(
            f"{file} is damaged ({error}); restore it from a copy, or delete it and run embed_folder again, "
            "which embeds the files that were in it"
        ) from error


@contextmanager
def atomic_file(file: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears under its name complete or not at all, whatever ends the process."""
    partial = file.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        partial.replace(file)
        sync_directory(file.parent)
    except OSError as error:
        raise cannot_write(file, error) from error
    finally:
        partial.unlink(missing_ok=True)


def cannot_write(file: Path, error: OSError) -> StoreError:
    """Make the error for a disk that takes no more, with its cause and cure."""
    return StoreError(
        f"could not write {file}: {error.strerror or error}; make room or choose another place, then run the same "
        "command again: what was written before is kept"
    )


def sync_directory(directory: Path) -> None:
    """Make renames in a directory last through a power cut, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
