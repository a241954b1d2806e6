"""Write a store: the journal that lets `embed_folder` be killed at any moment and continue.

A file counts as done once its row is in a shard under `embeddings/`; everything else follows from that. Frame vectors
are put in place just before the shard of their clip, failures are rewritten just before it without the paths it adds,
and the manifest names all of them just after it. Whatever a killed run left half written is deleted by the next one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sedembed._utils.files import (
    atomic_file,
    cannot_write,
    make_folder,
    sha256_of,
    sync_directory,
    write_atomic,
)
from sedembed.errors import StoreError
from sedembed.store.frame_rows import FrameRows
from sedembed.store.layout import (
    FAILURES_FILE,
    FAILURES_SCHEMA,
    FRAMES,
    PARQUET_OPTIONS,
    RECORDINGS_KEY,
    RUN_FILE,
    SHARDS,
    as_lists,
    damaged,
    list_shards,
    name_of,
    naming_damage,
    open_shard,
    read_failures,
    read_run,
    schema_of,
    shard_number,
)
from sedembed.store.manifest import MANIFEST_FILE, Content, Manifest, content_of
from sedembed.store.refusals import refuse_foreign, refuse_other_shard, refuse_others, refuse_read_only, take_lock
from sedembed.store.window_counts import WindowCounts

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["SHARD_ROWS", "StoreWriter"]

logger = logging.getLogger(__name__)

SHARD_ROWS = 500
SHARD_SECONDS = 10.0
# A killed run loses at most a hundredth of its work; a fixed interval would leave a long run in thousands of shards.
SHARD_SHARE = 0.01


class _Row(NamedTuple):
    values: tuple[Any, ...]  # in the order of the columns, path first, up to the embedding
    embedding: NDArray[np.float32]
    tags: NDArray[np.float32] | None
    recording: tuple[int, int] | None

    @property
    def path(self) -> str:
        return str(self.values[0])


class StoreWriter:
    """A store that is being written; one at a time.

    Parameters
    ----------
    directory : Path
        New, empty, or a store of the same settings, which is continued.
    run : dict
        Contents of `run.json`; `settings` and `folder` must be those of the store.

    Attributes
    ----------
    done : set of str
        Paths that had vectors when the store was opened, with windows those of all windows.
    started : dict of str to int
        Paths whose recording is not at its end, and how many of its windows are on disk.
    failures : dict of str to (str, str)
        Error and message of each failed path.

    Raises
    ------
    StoreError
        If the directory is something else, of other settings, in use, damaged or not writable.
    """

    def __init__(self, directory: Path, run: dict[str, Any]) -> None:
        self.directory = directory
        self._schema, self._size = schema_of(run), int(run["settings"]["embedding_size"])
        self._hop: float | None = run["settings"].get("hop")
        self._with_frames = bool(run["settings"]["frames"])
        self._open_frames: set[FrameRows] = set()
        self._rows: list[_Row] = []
        self._staged: list[FrameRows] = []
        self._changed = False
        self._run: dict[str, Any] = {}
        self._manifest = Manifest()
        self._recordings: dict[str, tuple[int, int]] = {}
        self.done: set[str] = set()
        self.started: dict[str, int] = {}
        self.failures: dict[str, tuple[str, str]] = {}
        refuse_foreign(directory)
        try:
            make_folder(directory)
            refuse_read_only(directory)
            self._lock = take_lock(directory)
        except OSError as error:
            raise cannot_write(directory, error) from error
        try:
            self._resume(run)
        except BaseException:
            self._lock.close()
            raise
        self._shared = self.open_frames()
        self._started = self._committed = time.monotonic()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for rows in list(self._open_frames):
            self.drop_frames(rows)
        with contextlib.suppress(OSError):
            self._sweep()
        self._lock.close()

    @property
    def due(self) -> bool:
        """Whether enough has come together for a shard."""
        now = time.monotonic()
        interval = max(SHARD_SECONDS, SHARD_SHARE * (now - self._started))
        return len(self._rows) >= SHARD_ROWS or now - self._committed >= interval

    def open_frames(self) -> FrameRows:
        """Begin the frame vectors of a clip."""
        rows = FrameRows(self.directory / FRAMES, self._size)
        self._open_frames.add(rows)
        return rows

    def drop_frames(self, rows: FrameRows) -> None:
        """Forget the frame vectors of a clip that failed."""
        self._open_frames.discard(rows)
        rows.discard()

    def add(
        self,
        path: str,
        duration: float,
        sample_rate: int,
        channels: int,
        embedding: NDArray[np.float32],
        frames: FrameRows | None = None,
        recording: tuple[int, int] | None = None,
        tags: NDArray[np.float32] | None = None,
    ) -> None:
        """Take the vectors of one file; they are kept from the next `commit` on.

        Parameters
        ----------
        path : str
            Relative to the folder, with forward slashes.
        duration : float
            Seconds.
        sample_rate, channels : int
            Of the file.
        embedding : ndarray of float32, shape (D,)
            The clip vector.
        frames : FrameRows, optional
            What `open_frames` gave, filled.
        recording : (int, int), optional
            Size of the file in bytes and its time of change in ns, taken before it was read (see `unchanged`).
        tags : ndarray of float32, shape (classes,), optional
            Probabilities of the events, in a store that keeps them.
        """
        if frames is not None and frames.on_disk:
            frames.finish()
            self._staged.append(frames)
        elif frames is not None:
            for piece in frames.held:
                self._shared.add(*piece)
            self.drop_frames(frames)
        self._rows.append(_Row((path, duration, sample_rate, channels), embedding, tags, recording))
        self._changed |= self.failures.pop(path, None) is not None

    def add_window(
        self,
        path: str,
        place: tuple[float, float, bool],
        sample_rate: int,
        channels: int,
        embedding: NDArray[np.float32],
        recording: tuple[int, int] | None = None,
        tags: NDArray[np.float32] | None = None,
    ) -> None:
        """Take the vector of the next window of a file; it may be on disk before the file is at its end.

        Parameters
        ----------
        path, sample_rate, channels, embedding, recording, tags
            As for `add`.
        place : (float, float, bool)
            Start and end in seconds, and whether the recording ends with it.
        """
        self._rows.append(_Row((path, *place, sample_rate, channels), embedding, tags, recording))
        if place[2]:
            self._changed |= self.failures.pop(path, None) is not None

    def fail(self, path: str, error: str, message: str) -> None:
        """Record that a file gave no vector; what is not valid UTF-8 is escaped."""
        path, message = (text.encode(errors="backslashreplace").decode() for text in (path, message))
        self._changed |= self.failures.get(path) != (error, message)
        self.failures[path] = (error, message)

    def keep_failures(self, paths: Iterable[str]) -> None:
        """Forget earlier failures of all other paths: these are gone."""
        kept = self.failures.keys() & set(paths) if self.failures else self.failures.keys()
        self._changed |= len(kept) != len(self.failures)
        self.failures = {path: self.failures[path] for path in kept}

    def unchanged(self, path: str, size: int, modified_ns: int) -> bool:
        """Whether a recording is still the one that its vector was made of.

        Parameters
        ----------
        path : str
            One of `done`.
        size, modified_ns : int
            `st_size` and `st_mtime_ns` of the file now.

        Returns
        -------
        bool
            True as well if the store does not know what the file was like, as those made before version 0.2 do not.
        """
        return self._recordings.get(path, (size, modified_ns)) == (size, modified_ns)

    def forget(self, paths: Iterable[str]) -> None:
        """Remove the vectors of recordings, so that they can be added anew.

        Raises
        ------
        StoreError
            If the disk takes no more. What was done stays: each shard is replaced in one step.
        """
        paths = set(paths)
        self._rows = [row for row in self._rows if row.path not in paths]
        gone = paths & (self.done | self.started.keys())
        for file in list_shards(self.directory) if gone else []:
            table, _, recordings = open_shard(file, self._schema, None, self._manifest)
            keep = [number for number, path in enumerate(table["path"].to_pylist()) if path not in gone]
            if len(keep) < len(table):
                left = None if recordings is None else [recordings[number] for number in keep]
                self._write({name_of(file): self._with_recordings(table.take(pa.array(keep, pa.int64())), left)})
        self.done -= gone
        for path in gone:
            self._recordings.pop(path, None)
            self.started.pop(path, None)

    def add_shard(self, table: pa.Table, recordings: list[tuple[int, int]] | None, frames: Iterable[Path] = ()) -> None:
        """Take rows of another store, as one shard that is on disk afterwards.

        Parameters
        ----------
        table : pyarrow.Table
            Rows with all columns of a shard.
        recordings : list of (int, int) or None
            Size and time of change (ns) of each row's recording, if they are known.
        frames : iterable of Path
            Files of frame vectors, which are copied; they may hold frames of other recordings too.

        Raises
        ------
        StoreError
            If the disk takes no more.
        """
        self.commit()
        placed: dict[str, Content] = {}
        for number, file in enumerate(frames):
            target = self.directory / FRAMES / f"frames-{self._next:05d}-{number:05d}.parquet"
            with naming_damage(file):
                rows = int(pq.read_metadata(file).num_rows)
            with atomic_file(target) as opened, file.open("rb") as source:
                shutil.copyfileobj(source, opened, 2**20)
            placed[name_of(target)] = Content(target.stat().st_size, rows, sha256_of(target))
        paths = table["path"].to_pylist()
        name = f"{SHARDS}/vectors-{self._next:05d}.parquet"
        self._changed |= any(self.failures.pop(path, None) is not None for path in paths)
        self._write({**self._failure_table(), name: self._with_recordings(table, recordings)}, placed)
        self._changed = False
        self._next += 1

    def commit(self) -> None:
        """Put on disk what has come together.

        Raises
        ------
        StoreError
            If the disk takes no more. Earlier shards are whole.
        """
        frames = self._place_frames() if self._rows and self._with_frames else {}
        # Failures before the shard: a path that has a vector by now is never listed as failed at the same time.
        tables = self._failure_table()
        if self._rows:
            columns = list(zip(*(row.values for row in self._rows), strict=True))
            arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=False)]
            arrays.append(as_lists([row.embedding[None] for row in self._rows]))
            if "tags" in self._schema.names:
                arrays.append(as_lists([row.tags[None] for row in self._rows if row.tags is not None], np.float16))
            table = pa.table(arrays, schema=self._schema)
            recordings = [row.recording for row in self._rows if row.recording is not None]
            known = recordings if len(recordings) == len(self._rows) else None
            tables[f"{SHARDS}/vectors-{self._next:05d}.parquet"] = self._with_recordings(table, known)
        if tables:
            self._write(tables, frames)
            self._changed = False
        if self._rows:
            logger.debug("shard %d: %d rows", self._next, len(self._rows))
            self._next += 1
            self._note_windows()
            self._rows.clear()
        self._committed = time.monotonic()

    def _note_windows(self) -> None:
        """Note which recordings are on disk in part: those whose last window is still to come."""
        if self._hop is None:
            return
        for row in self._rows:
            if row.values[3]:  # the last one
                self.started.pop(row.path, None)
                self.done.add(row.path)
            else:
                self.started[row.path] = self.started.get(row.path, 0) + 1

    def finish(self) -> None:
        """Commit, and note in the `run.json` of a shard that its run has ended, which merging asks for."""
        self.commit()
        self._set_complete(True)

    def _set_complete(self, complete: bool) -> None:
        shard = self._run.get("shard")
        if shard is not None and shard["complete"] is not complete:
            self._run = {**self._run, "shard": {**shard, "complete": complete}}
            write_atomic(self.directory / RUN_FILE, json.dumps(self._run, indent=2) + "\n")

    def _failure_table(self) -> dict[str, pa.Table]:
        """Table of the failures under the name of its file, if they have changed since the last commit."""
        if not self._changed:
            return {}
        entries = [(path, *failure) for path, failure in sorted(self.failures.items())]
        arrays = [pa.array(column, pa.string()) for column in zip(*entries, strict=True)] or [[], [], []]
        return {FAILURES_FILE: pa.table(arrays, schema=FAILURES_SCHEMA)}

    def _place_frames(self) -> dict[str, Content]:
        if self._shared.held or self._shared.on_disk:
            self._shared.finish()
            self._staged.append(self._shared)
            self._shared = self.open_frames()
        placed: dict[str, Content] = {}
        try:
            for number, rows in enumerate(self._staged):
                file = self.directory / FRAMES / f"frames-{self._next:05d}-{number:05d}.parquet"
                content = Content(rows.partial.stat().st_size, rows.count, sha256_of(rows.partial))
                rows.partial.replace(file)
                placed[name_of(file)] = content
                self._open_frames.discard(rows)
            sync_directory(self.directory / FRAMES)
        except OSError as error:
            raise cannot_write(self.directory / FRAMES, error) from error
        self._staged.clear()
        return placed

    @staticmethod
    def _with_recordings(table: pa.Table, recordings: list[tuple[int, int]] | None) -> pa.Table:
        """Keep size and time of change of recordings beside the columns: these stay the same in every store."""
        return table.replace_schema_metadata(
            None if recordings is None else {RECORDINGS_KEY: json.dumps(recordings, separators=(",", ":"))}
        )

    def _write(self, tables: dict[str, pa.Table], placed: Mapping[str, Content] = MappingProxyType({})) -> None:
        """Write tables in the order given, and name them and the files placed before in the manifest."""
        # Through memory, so that an error of the disk arrives as it is; shards are small.
        data = {}
        for name, table in tables.items():
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink, **PARQUET_OPTIONS)
            data[name] = sink.getvalue().to_pybytes()
        new = {name: (content_of(data[name], len(table)),) for name, table in tables.items()}
        files = self._manifest.files
        replaced = {name: files[name] + content for name, content in new.items() if name in files}
        if replaced:
            Manifest({**files, **replaced}).write(self.directory)
        for name in tables:
            write_atomic(self.directory / name, data[name])
        files.update({**new, **{name: (content,) for name, content in placed.items()}})
        self._manifest.write(self.directory)

    def _resume(self, run: dict[str, Any]) -> None:
        if (self.directory / RUN_FILE).exists():
            known = read_run(self.directory)
            refuse_others(self.directory, known, run)
            refuse_other_shard(self.directory, known, run)
            manifest = Manifest.read(self.directory)
            self._run = known
            self._set_complete(False)
            if manifest is None and known.get("manifest", False):
                logger.warning("%s: %s is missing; a new one is written", self.directory, MANIFEST_FILE)
        else:
            manifest = Manifest()
            manifest.write(self.directory)
            self._run = {**run, "manifest": True}
            write_atomic(self.directory / RUN_FILE, json.dumps(self._run, indent=2) + "\n")
        try:
            (self.directory / SHARDS).mkdir(exist_ok=True)
            if self._with_frames:
                (self.directory / FRAMES).mkdir(exist_ok=True)
            for directory in (SHARDS, FRAMES):
                refuse_read_only(self.directory / directory)
            self._sweep()
        except OSError as error:
            raise cannot_write(self.directory, error) from error
        self._read_files(manifest or Manifest())
        if manifest is None or manifest.files != self._manifest.files:
            self._manifest.write(self.directory)

    def _read_files(self, manifest: Manifest) -> None:
        """Check all files, and learn from them what is done; what is missing and can be made anew is left out."""
        files: dict[str, tuple[Content, ...]] = {}
        windows = WindowCounts()
        shards = list_shards(self.directory)
        for file in shards:
            names = ["path"] if self._hop is None else ["path", "start", "last"]
            table, content, recordings = open_shard(file, self._schema, names, manifest)
            paths = table["path"].to_pylist()
            windows.add(table) if self._hop is not None else self.done.update(paths)
            self._recordings.update(zip(paths, recordings or [], strict=False))
            files[name_of(file)] = (content,)
        self._next = 1 + shard_number(shards[-1]) if shards else 0
        lost = [name for name in manifest.names(SHARDS) if name not in files]
        if lost:
            logger.warning("%s: %s is missing; what was in it is embedded again", self.directory, ", ".join(lost))
        committed = {shard_number(file) for file in shards}
        for name in manifest.names(FRAMES):
            file = self.directory / name
            if shard_number(file) in committed and not file.exists():
                raise StoreError(
                    f"Expected the file {file}, which {MANIFEST_FILE} names, and found none; restore it from a copy, "
                    f"or delete the shard {SHARDS}/vectors-{shard_number(file):05d}.parquet and run embed_folder again."
                )
        for file in list_shards(self.directory, FRAMES):
            name = name_of(file)
            if name in manifest.files:  # their checksum is looked at when they are read
                if not manifest.fits_size(name, file.stat().st_size):
                    raise damaged(file, "its size is not that of the manifest")
                files[name] = manifest.files[name]
                continue
            with naming_damage(file):
                rows = int(pq.read_metadata(file).num_rows)
                files[name] = (Content(file.stat().st_size, rows, sha256_of(file)),)
        file = self.directory / FAILURES_FILE
        if file.exists():
            table = read_failures(self.directory, manifest)
            columns = (table[name].to_pylist() for name in FAILURES_SCHEMA.names)
            self.failures.update({path: (error, text) for path, error, text in zip(*columns, strict=True)})
            files[FAILURES_FILE] = (content_of(file.read_bytes(), len(table)),)
        elif FAILURES_FILE in manifest.files:
            logger.warning("%s: %s is missing; a new one is written", self.directory, FAILURES_FILE)
            self._changed = True
        self._manifest = Manifest(files)
        if self._hop is not None:
            self.done, self.started, broken = windows.summarise(self._hop)
            self.started.update(dict.fromkeys(broken, 0))
            self.forget(broken)

    def _sweep(self) -> None:
        """Remove what was left half written, and frames whose clips were not committed."""
        for directory in (self.directory, self.directory / SHARDS, self.directory / FRAMES):
            for file in directory.glob(".*.partial"):
                file.unlink(missing_ok=True)
        committed = {shard_number(file) for file in list_shards(self.directory)}
        for file in list_shards(self.directory, FRAMES):
            if shard_number(file) not in committed:
                file.unlink(missing_ok=True)
