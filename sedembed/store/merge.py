"""merge_stores: make one store of several, such as the shards of a job that ran on many machines."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sedembed._utils.checks import check_path
from sedembed._utils.files import sha256_of
from sedembed.errors import InvalidArgumentError, StoreError
from sedembed.store.layout import (
    FRAMES,
    damaged,
    list_shards,
    name_of,
    open_shard,
    read_failures,
    schema_of,
    shard_number,
)
from sedembed.store.manifest import Content
from sedembed.store.refusals import refuse_others
from sedembed.store.store import EmbeddingStore, open_store
from sedembed.store.writer import SHARD_ROWS, StoreWriter

__all__ = ["RowBuffer", "merge_stores"]

logger = logging.getLogger(__name__)

_Recording = tuple[int, int]


def merge_stores(
    out: str | os.PathLike[str], stores: Iterable[str | os.PathLike[str] | EmbeddingStore]
) -> EmbeddingStore:
    """Make one store of several that were made of one folder with the same settings.

    Running it again continues after an interruption, and takes in what the stores have gained since.

    Parameters
    ----------
    out : path
        Directory of the merged store: new, empty, or of an earlier merge.
    stores : iterable of path or EmbeddingStore
        What to merge, for instance one store for each `shard` of `embed_folder`.

    Returns
    -------
    EmbeddingStore
        Every recording once, in the order of paths: the store that a single run over the folder gives. A recording
        that failed in one store and has a vector in another has the vector. One that is in two stores with the same
        vector is taken once.

    Raises
    ------
    StoreError
        If there is no store to merge, stores differ in settings or folder, a shard is missing or not finished, a
        recording has different vectors in two of them, a store is damaged, or `out` is one of them or something else
        than a store.

    Examples
    --------
    >>> for i in range(4):  # doctest: +SKIP
    ...     embed_folder("recordings", f"vectors-{i}", shard=(i, 4))
    >>> store = merge_stores("vectors", [f"vectors-{i}" for i in range(4)])  # doctest: +SKIP
    """
    if isinstance(stores, (str, os.PathLike)):
        raise InvalidArgumentError(f"Expected a list of stores to merge, got the one path {os.fspath(stores)!r}.")
    opened = [store if isinstance(store, EmbeddingStore) else open_store(store) for store in stores]
    if not opened:
        raise StoreError("Expected at least one store to merge, got none; name the stores.")
    out = check_path(out, "out")
    _refuse_same_place(out, opened)
    for store in opened[1:]:
        refuse_others(opened[0].directory, _without_shard(opened[0].run), _without_shard(store.run), store.directory)
    sources = [_Source.read(store) for store in opened]
    _check_complete(sources)
    owners = _owners(sources)
    with StoreWriter(out, _without_shard(opened[0].run)) as writer:
        stale = [path for path, (_, about) in owners.items() if path in writer.done and _changed(writer, path, about)]
        # Of a recording that an interrupted merge copied in part, all windows are copied again.
        writer.forget([*stale, *writer.started])
        failures = _failures(sources, owners)
        writer.keep_failures(failures)
        for path, failure in failures.items():
            writer.fail(path, *failure)
        batch = RowBuffer()
        for number, source in enumerate(sources):
            for table, recordings, frames in source.tables(owners, number, writer.done):
                batch.add(table, recordings, frames)
                # A file of frames may also hold old ones of a recording that has changed: it stays with its own rows.
                if frames or batch.rows >= SHARD_ROWS:
                    batch.write(writer)
        batch.write(writer)
        writer.commit()
    logger.info("%s: %d stores merged", out, len(opened))
    return open_store(out)


@dataclass
class _Source:
    """A store to merge, and what is known of each of its recordings: size and time of change, or None."""

    store: EmbeddingStore
    files: list[Path]
    recordings: dict[str, _Recording | None]

    @classmethod
    def read(cls, store: EmbeddingStore) -> _Source:
        files = list_shards(store.directory)
        recordings: dict[str, _Recording | None] = {}
        for file in files:
            table, _, about = open_shard(file, schema_of(store.run), ["path"], store.manifest)
            known: Sequence[_Recording | None] = about or [None] * len(table)
            recordings.update(zip(table["path"].to_pylist(), known, strict=True))
        return cls(store, files, recordings)

    def tables(
        self, owners: dict[str, tuple[int, _Recording | None]], number: int, done: set[str]
    ) -> Iterator[tuple[pa.Table, list[_Recording] | None, list[Path]]]:
        """Yield the rows of each file that this store gives to the merged one, and the files of their frames."""
        schema, manifest = schema_of(self.store.run), self.store.manifest
        frames = list_shards(self.store.directory, FRAMES)
        for file in self.files:
            table, _, about = open_shard(file, schema, None, manifest)
            paths = table["path"].to_pylist()
            keep = [row for row, path in enumerate(paths) if owners[path][0] == number and path not in done]
            if keep:
                kept = None if about is None else [about[row] for row in keep]
                own = [other for other in frames if shard_number(other) == shard_number(file)]
                for other in own:
                    self._check_frames(other)
                yield table.take(pa.array(keep, pa.int64())), kept, own

    def _check_frames(self, file: Path) -> None:
        manifest = self.store.manifest
        if manifest is not None and not manifest.fits(name_of(file), Content(0, 0, sha256_of(file))):
            raise damaged(file, "its checksum is not that of the manifest")


@dataclass
class RowBuffer:
    """Rows of other stores that go into one file of a store."""

    tables: list[pa.Table] = field(default_factory=list)
    recordings: list[_Recording] | None = field(default_factory=list)
    frames: list[Path] = field(default_factory=list)
    rows: int = 0

    def add(self, table: pa.Table, recordings: list[_Recording] | None, frames: Sequence[Path] = ()) -> None:
        """Take rows, what is known of their recordings, and files with their frames."""
        self.tables.append(table.replace_schema_metadata(None))
        self.rows += len(table)
        self.frames.extend(frames)
        self.recordings = None if recordings is None or self.recordings is None else self.recordings + recordings

    def write(self, writer: StoreWriter) -> None:
        """Write the rows as one file, and begin anew."""
        if self.tables:
            writer.add_shard(pa.concat_tables(self.tables), self.recordings, self.frames)
        self.__init__()  # type: ignore[misc]


def _without_shard(run: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in run.items() if key not in ("shard", "manifest")}


def _refuse_same_place(out: Path, stores: Sequence[EmbeddingStore]) -> None:
    places = [store.directory.resolve() for store in stores]
    if out.resolve() in places:
        raise StoreError(f"{out} is one of the stores to merge; name another directory for the merged store.")
    for number, place in enumerate(places):
        if place in places[:number]:
            raise StoreError(f"{stores[number].directory} is named twice; name each store to merge once.")


def _check_complete(sources: Sequence[_Source]) -> None:
    """Refuse shards of different counts, a set of shards with gaps, and one whose run has not ended."""
    shards = set[tuple[int, int]]()
    for source in sources:
        shard = source.store.run.get("shard")
        if shard is None:
            continue
        index, count = shard["index"], shard["count"]
        shards.add((index, count))
        if not shard["complete"]:
            raise StoreError(
                f"{source.store.directory}, the shard {index}/{count}, is not complete: its run has not ended. Run the "
                "same command again, then merge."
            )
    counts = sorted({count for _, count in shards})
    if len(counts) > 1:
        raise StoreError(f"The stores are shards of {' and of '.join(map(str, counts))}; merge those of one job.")
    missing = (
        [f"{index}/{counts[0]}" for index in range(counts[0]) if (index, counts[0]) not in shards] if counts else []
    )
    if missing and len(shards) == len(sources):
        raise StoreError(f"The shards {', '.join(missing)} are missing; name all shards of the job.")


def _owners(sources: Sequence[_Source]) -> dict[str, tuple[int, _Recording | None]]:
    """Say which store gives each path, and what its recording was like; refuse paths with different vectors."""
    owners: dict[str, tuple[int, _Recording | None]] = {}
    twice: dict[str, list[int]] = {}
    for number, source in enumerate(sources):
        for path, about in source.recordings.items():
            if path in owners:
                twice.setdefault(path, [owners[path][0]]).append(number)
            else:
                owners[path] = (number, about)
    for path, numbers in twice.items():
        first, *others = (sources[number].store for number in numbers)
        for other in others:
            if not np.array_equal(_vectors_of(first, path), _vectors_of(other, path)):
                raise StoreError(
                    f"{path} has different vectors in {first.directory} and {other.directory}, so the file changed "
                    "between the two runs; run both again, then merge."
                )
    return owners


def _vectors_of(store: EmbeddingStore, path: str) -> NDArray[np.float32]:
    """Vectors of a recording, one or one for each window."""
    return np.stack([recording.vector for recording in store[store.rows_of(path)]])


def _failures(
    sources: Sequence[_Source], owners: dict[str, tuple[int, _Recording | None]]
) -> dict[str, tuple[str, str]]:
    failures: dict[str, tuple[str, str]] = {}
    for source in sources:
        for row in read_failures(source.store.directory, source.store.manifest).to_pylist():
            if row["path"] not in owners:
                failures.setdefault(row["path"], (row["error"], row["message"]))
    return failures


def _changed(writer: StoreWriter, path: str, about: _Recording | None) -> bool:
    return about is not None and not writer.unchanged(path, *about)
