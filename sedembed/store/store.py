"""Read back what `embed_folder` wrote: vectors, index, failures, search, export."""

from __future__ import annotations

import bisect
import html
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from sedembed._utils.checks import check_flag, check_path, check_type
from sedembed._utils.files import atomic_file
from sedembed.errors import InvalidArgumentError, MissingPackageError, MissingVectorError, StoreError
from sedembed.store.layout import (
    FRAMES,
    as_matrix,
    check_files,
    frames_schema,
    list_shards,
    read_failures,
    read_frames,
    read_run,
    schema_of,
    shard_number,
)
from sedembed.store.manifest import Manifest
from sedembed.store.nearest import unit_vectors
from sedembed.store.reader import StoreReader
from sedembed.store.rows import Hit, Recording

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

    from sedembed.types import Frames

__all__ = ["EmbeddingStore", "open_store"]

_NATIVE = ("duration", "sample_rate", "channels")
_PLACE = ("start", "end")
_STATE = ("directory", "run", "_schema", "_manifest", "_shards")


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

    In a store that was made with ``window=`` a row is a window of a recording; the rows of a path are in the order of
    time, and `index`, recordings and hits carry ``start`` and ``end`` in seconds.

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
    data_files="OUT/embeddings/*.parquet")`. A run without windows, also one that was interrupted and continued, writes
    rows in the order of `vectors`. What a later run adds comes after them, and windows of recordings that were read at
    once are mixed, as are merged stores; sort by path and start there.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = check_path(directory, "the directory of a store")
        self.run = read_run(self.directory)
        self._schema = schema_of(self.run)
        self._manifest, self._shards = check_files(self.directory, self.run)

    def __repr__(self) -> str:
        return f"EmbeddingStore({str(self.directory)!r}, {len(self)} vectors, {len(self.failures)} failures)"

    def _repr_html_(self) -> str:
        model = self.run.get("model", {}).get("name", "")
        units = {"start": " (s)", "end": " (s)", "duration": " (s)", "sample_rate": " (Hz)"}
        names = self.index.column_names
        head = "".join(f"<th>{name.replace('_', ' ')}{units.get(name, '')}</th>" for name in names)
        cells = [
            [f"{value:.2f}" if isinstance(value, float) else html.escape(str(value)) for value in row.values()]
            for row in self.index.slice(0, 5).to_pylist()
        ]
        rows = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in cells)
        return (
            f"<p>{html.escape(str(self.directory))}: {len(self)} vectors of {self.embedding_size} numbers, "
            f"{len(self.failures)} failures, model {html.escape(model)}</p>"
            f"<table><tr>{head}</tr>{rows}</table>"
        )

    def __getstate__(self) -> dict[str, Any]:
        # What has been read stays behind: a process that unpickles the store reads what it needs.
        return {name: value for name, value in self.__dict__.items() if name in _STATE}

    def __len__(self) -> int:
        return len(self.index)

    def __iter__(self) -> Iterator[Recording]:
        return (self._recording(row) for row in range(len(self)))

    @overload
    def __getitem__(self, row: int | str) -> Recording: ...

    @overload
    def __getitem__(self, row: slice) -> list[Recording]: ...

    def __getitem__(self, row: int | str | slice) -> Recording | list[Recording]:
        """One recording by its row or path, or several by a slice of rows (`rows_of`), with vectors."""
        if isinstance(row, slice):
            return [self._recording(number) for number in range(*row.indices(len(self)))]
        if isinstance(row, bool) or not isinstance(row, (int, np.integer, str)):
            raise InvalidArgumentError(f"Expected the number or path of a row, or a slice of rows, got {row!r}.")
        return self._recording(self._row(row if isinstance(row, str) else int(row)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All vectors, for `numpy.asarray`."""
        return np.array(self.vectors, dtype) if copy else np.asarray(self.vectors, dtype)

    def to_pandas(self, vectors: bool = False) -> pd.DataFrame:
        """Table of the recordings for pandas, in the order of `vectors`.

        Parameters
        ----------
        vectors : bool
            Add a column ``embedding`` of arrays of shape (D,).

        Returns
        -------
        pandas.DataFrame
            Columns path, duration (s), sample_rate (Hz), channels; with windows also start and end (s).

        Raises
        ------
        MissingPackageError
            If pandas is not installed.
        """
        check_flag(vectors, "vectors")
        try:
            frame = self.index.to_pandas()
        except ImportError as error:
            raise MissingPackageError("to_pandas needs pandas: pip install pandas.") from error
        if vectors:
            frame["embedding"] = list(self.vectors)
        return frame

    @property
    def manifest(self) -> Manifest | None:
        """Files that the store counted on when it was opened; for the library's own use."""
        return self._manifest

    @property
    def embedding_size(self) -> int:
        """Length of a vector."""
        return int(self.run["settings"]["embedding_size"])

    @cached_property
    def _reader(self) -> StoreReader:
        return StoreReader(self.directory, self._schema, self._shards, self._manifest, self.embedding_size)

    @property
    def index(self) -> pa.Table:
        """Table of the columns path, duration (s), sample_rate (Hz) and channels, one row a vector.

        With windows, start and end (s) follow the path.
        """
        return self._reader.index

    @cached_property
    def paths(self) -> list[str]:
        """Path of each row, relative to the folder, with forward slashes."""
        return list(self.index["path"].to_pylist())

    @property
    def windows(self) -> bool:
        """Whether a row is a window of a recording."""
        return "window" in self.run["settings"]

    def rows_of(self, path: str) -> slice:
        """Rows of a recording: one, or with windows one for each, in the order of time.

        Raises
        ------
        KeyError
            If the store holds no such path.
        """
        check_type(path, str, "path", "pass one of store.paths")
        try:
            first = pc.index(self.index["path"], path).as_py()
        except UnicodeEncodeError:  # no store holds such a name
            first = -1
        if first < 0:
            raise MissingVectorError(
                f"{path!r} has no vector in {self.directory}; paths are relative to the embedded folder."
            )
        end = bisect.bisect_right(self.paths, path) if self.windows else first + 1
        return slice(first, end)

    @cached_property
    def tags(self) -> NDArray[np.float16] | None:
        """Probabilities of the events, shape (N, classes), in the order of `paths`; None without ``tags=True``."""
        if "tags" not in self._schema.names:
            return None
        return self._reader.column("tags", int(self.run["settings"]["tags"]), np.float16)

    @cached_property
    def failures(self) -> pa.Table:
        """Table of the columns path, error (name of its class) and message: files that gave no vector."""
        return read_failures(self.directory, self._manifest)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """All vectors, shape (N, D), in the order of `paths`.

        Read on first use, then kept in memory (4 kB a vector of 1024 numbers); `blocks` does without that, and so does
        `search` in a store of more than 256 MiB.
        """
        return self._reader.vectors

    def blocks(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Read the vectors shard by shard, in memory bounded by the largest shard.

        Yields
        ------
        rows : ndarray of int64, shape (n,)
            Which rows of `index` these are.
        vectors : ndarray of float32, shape (n, D)
            Their vectors.
        """
        return self._reader.blocks("embedding", self.embedding_size, np.float32)

    @overload
    def search(self, query: str | int, k: int = 10) -> list[Hit]: ...

    @overload
    def search(self, query: ArrayLike | Sequence[str], k: int = 10) -> Any: ...

    def search(self, query: ArrayLike | Sequence[str], k: int = 10) -> Any:
        """Find the recordings most similar to a query, by the cosine of the angle between vectors; exact.

        Parameters
        ----------
        query : array of shape (D,) or (Q, D), str, int or list of str
            A vector, such as `model.embed(...)` gives with the model of the store, or the path or number of a row;
            or several vectors or paths, which is faster than one after the other. A recording of the store that is
            asked for by path or number is left out of its own hits; of a recording of several windows, give the
            number of a row.
        k : int
            How many to return; fewer if the store is smaller.

        Returns
        -------
        list of Hit, or for several queries a list of such lists
            Path and score (cosine), with windows also start and end (s); best first, equal ones by path.

        Raises
        ------
        InvalidArgumentError
            For a query of the wrong type or shape, not finite or all zeros, or for `k` that is no whole number of at
            least 1. It is a ValueError.
        MissingVectorError
            For a path or row that is not in the store. It is a KeyError and an IndexError.

        Notes
        -----
        The cosines are those of float64, and equal vectors have equal ones wherever they are in the store.

        The vectors of a store of up to 256 MiB are read into memory and kept. The first search of a larger one copies
        them to plain files in its directory ``search``, of the size of the vectors, that this and later searches map
        into memory; when the store has grown, the new vectors are added. It can be deleted at any time; damage is
        noticed and the copy made anew. Where it cannot be written, each search decodes the shards, which is slower and
        said in the log.
        """
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise InvalidArgumentError(f"k must be a whole number of at least 1, got {k!r}.")
        queries, own, several = self._queries(query)
        count = int(k) + (1 if own is not None else 0)
        found = []
        for number, (rows, cosines) in enumerate(self._reader.nearest(queries, count)):
            hits = zip(rows, cosines, strict=True)
            chosen = [(row, cosine) for row, cosine in hits if own is None or row != own[number]][: int(k)]
            found.append([self._hit(int(row), float(cosine)) for row, cosine in chosen])
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
            If the store holds no frames, or they are damaged or missing.
        KeyError
            If the store holds no such path.
        """
        from sedembed.types import Frames

        check_type(path, str, "path", "pass one of store.paths")
        if not self.run["settings"]["frames"]:
            raise StoreError(f"{self.directory} holds clip vectors only; make another with embed_folder(frames=True).")
        shard, _ = self._reader.find(self._row(path))
        number = shard_number(shard)
        files = [file for file in list_shards(self.directory, FRAMES) if shard_number(file) == number]
        tables = [read_frames(file, self.embedding_size, path, self._manifest) for file in files]
        table = pa.concat_tables([frames_schema(self.embedding_size).empty_table(), *tables])
        if not len(table):
            raise StoreError(
                f"{self.directory / FRAMES} is damaged (no file holds the frames of {path!r}); restore it from a copy, "
                f"or delete {shard} and run embed_folder again."
            )
        return Frames(as_matrix(table["embedding"], self.embedding_size), table["time"].to_numpy())

    def export(self, path: str | os.PathLike[str]) -> Path:
        """Write one ``.npz`` file with the arrays `vectors` and `paths`; `numpy.load` needs no pickle for it.

        With windows, ``start`` and ``end`` (s) stand beside them; and ``tags`` where the store keeps them.

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
        file = check_path(path, "path")
        if file.suffix != ".npz":
            raise InvalidArgumentError(
                f"Expected a file name that ends in .npz, got {str(file)!r}; Parquet is there already."
            )
        arrays: dict[str, Any] = {"vectors": self.vectors, "paths": np.array(self.paths, dtype=np.str_)}
        arrays |= {name: self.index[name].to_numpy() for name in _PLACE if self.windows}
        if self.tags is not None:
            arrays["tags"] = self.tags
        with atomic_file(file) as opened:
            np.savez(opened, **arrays)
        return file

    def _row(self, query: str | int) -> int:
        if isinstance(query, int):
            if not -len(self) <= query < len(self):
                raise MissingVectorError(f"row {query} is not in {self.directory}, which has {len(self)} rows.")
            return query % len(self)
        rows = self.rows_of(query)
        if rows.stop - rows.start > 1:
            raise InvalidArgumentError(
                f"Expected one row, and {query!r} has {rows.stop - rows.start} windows; give the number of a row, from "
                f"{rows.start} to {rows.stop - 1}."
            )
        return int(rows.start)

    def _recording(self, row: int) -> Recording:
        values = self.index.slice(row, 1).to_pylist()[0]
        native = (values[name] for name in _NATIVE)
        return Recording(values["path"], self._reader.vector(row), *native, *(values.get(name) for name in _PLACE))

    def _hit(self, row: int, score: float) -> Hit:
        place = [self.index[name][row].as_py() for name in _PLACE if self.windows]
        return Hit(self.index["path"][row].as_py(), score, *place)

    def _queries(self, query: ArrayLike | Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.int64] | None, bool]:
        """Make unit vectors of shape (Q, D); with the rows that were asked for, and whether they were several."""
        if isinstance(query, (bool, np.bool_)) or query is None:
            raise InvalidArgumentError(f"Expected a vector, or the path or number of a row, got {query!r}.")
        if isinstance(query, (str, int, np.integer)):
            row = self._row(query if isinstance(query, str) else int(query))
            return unit_vectors(self._reader.vector(row), self.embedding_size), np.array([row]), False
        if isinstance(query, (list, tuple)) and query and all(isinstance(item, str) for item in query):
            rows = np.array([self._row(str(item)) for item in query])
            vectors = np.stack([self._reader.vector(int(row)) for row in rows])
            return unit_vectors(vectors, self.embedding_size), rows, True
        try:
            vectors = np.asarray(query, np.float64)
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(
                f"Expected a vector of real numbers, or paths or the number of a row, got {type(query).__name__}."
            ) from error
        return unit_vectors(vectors, self.embedding_size), None, vectors.ndim == 2
