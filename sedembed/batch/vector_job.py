"""Vectors of recordings, one for each or one for each window, written to a store."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sedembed.batch.loop import FolderRun, Job
from sedembed.engine.clips import add_piece, with_parts
from sedembed.engine.runner import Runner
from sedembed.engine.windows import WINDOW_SECONDS, ClipSum, Hops, WindowResult
from sedembed.engine.workers import Pending, Piece, Source, current_source
from sedembed.errors import AudioError
from sedembed.store.frame_rows import FrameRows
from sedembed.store.writer import StoreWriter

__all__ = ["VectorJob", "WindowJob", "write_vectors"]

logger = logging.getLogger(__name__)


class Vector(NamedTuple):
    """Vector of a recording, its frame vectors and its probabilities if they are kept."""

    values: NDArray[np.float32]
    frames: FrameRows | None
    tags: NDArray[np.float32] | None


@dataclass
class _Clip:
    sum: ClipSum
    frames: FrameRows | None
    windows: int = 0


class VectorJob(Job[_Clip]):
    """Pool the windows of each recording to one vector.

    Parameters
    ----------
    runner : Runner
        The network.
    writer : StoreWriter
        Where vectors go.
    frames : bool
        Keep the frame embeddings too.
    probabilities : bool
        The vector is that of the event probabilities instead of the embedding.
    tags : bool
        Keep the event probabilities beside the embedding.
    """

    def __init__(
        self,
        runner: Runner,
        writer: StoreWriter,
        *,
        frames: bool = False,
        probabilities: bool = False,
        tags: bool = False,
    ) -> None:
        super().__init__(runner)
        self.writer = writer
        self._frames, self._probabilities, self._tags = frames, probabilities, tags
        self.large = frames

    def pieces(self, blocks: Iterator[NDArray[np.float32]]) -> Iterator[Piece]:
        """Cut into windows of a minute, and into their parts where probabilities are wanted."""
        for window in self.runner.windows(blocks):
            if self._probabilities:
                yield from (Piece(self.runner.features(part), len(part)) for part in self.runner.parts(window))
                continue
            piece = Piece(self.runner.features(window), len(window))
            yield from with_parts(self.runner, piece, window) if self._tags else [piece]

    def submit(self, pieces: Sequence[Piece]) -> Pending:
        """Start the network on one batch."""
        features = [piece.features for piece in pieces]
        return self.runner.submit(features, probabilities=self._probabilities or self._tags)

    def begin(self) -> _Clip:
        """Begin with an empty sum."""
        return _Clip(self.runner.new_sum(), self.writer.open_frames() if self._frames else None)

    def add(self, source: Source, state: _Clip, piece: Piece, result: WindowResult) -> None:
        """Add a window to the sum; its frames go to disk if they are many."""
        add_piece(state.sum, piece, result)
        if piece.part:
            return
        if state.frames is not None:
            times = self.runner.frame_times(len(result.frames), state.windows * WINDOW_SECONDS)
            state.frames.add(source.path, times, result.frames)
        state.windows += 1

    def finish(self, state: _Clip) -> Vector:
        """Pool the windows."""
        values = state.sum.probabilities if self._probabilities else state.sum.embedding
        return Vector(values, state.frames, state.sum.probabilities if self._tags else None)

    def drop(self, state: _Clip) -> None:
        """Forget the frames of a recording that failed."""
        if state.frames is not None:
            self.writer.drop_frames(state.frames)


@dataclass
class _Windows:
    error: AudioError | None = None
    piece: Piece | None = None  # the window whose parts are awaited
    sum: ClipSum | None = None  # of it
    left: int = 0  # of its parts


class WindowJob(Job[_Windows]):
    """Give each window of a recording a vector; they go to disk before the recording is at its end.

    Parameters
    ----------
    runner : Runner
        The network.
    writer : StoreWriter
        Where vectors go. Windows that it has on disk from an interrupted run are not computed again.
    hops : Hops
        The windows.
    tags : bool
        Keep the event probabilities beside the embeddings.
    """

    def __init__(self, runner: Runner, writer: StoreWriter, hops: Hops, *, tags: bool = False) -> None:
        super().__init__(runner)
        self.writer = writer
        self._hops, self._tags = hops, tags
        self._known: dict[str, int] = {}
        self._recordings: dict[str, tuple[int, int]] = {}

    def prepare(self, recordings: dict[str, tuple[int, int]]) -> None:
        """Take size and time of change of the recordings, before any is read, and what is on disk of each."""
        self._recordings, self._known = recordings, dict(self.writer.started)

    def pieces(self, blocks: Iterator[NDArray[np.float32]]) -> Iterator[Piece]:
        """Cut into windows, and pass over those that are on disk."""
        source = current_source()
        known = self._known.get(source.path, 0) if source is not None else 0
        for window, start, end, last in itertools.islice(self.runner.hops(blocks, self._hops), known, None):
            piece = Piece(self.runner.features(window), len(window), last, start, end)
            yield from with_parts(self.runner, piece, window) if self._tags else [piece]

    def submit(self, pieces: Sequence[Piece]) -> Pending:
        """Start the network on one batch."""
        return self.runner.submit([piece.features for piece in pieces], probabilities=self._tags)

    def begin(self) -> _Windows:
        """Begin a recording."""
        return _Windows()

    def add(self, source: Source, state: _Windows, piece: Piece, result: WindowResult) -> None:
        """Write the vector of a window."""
        if state.error is not None or source.info is None:
            return
        if state.piece is None or state.sum is None or not piece.part:
            state.piece, state.sum, state.left = piece, self.runner.new_sum(), piece.parts
        else:
            state.left -= 1
        add_piece(state.sum, piece, result)
        if state.left > 0:
            return
        try:
            values, tags = state.sum.embedding, state.sum.probabilities if self._tags else None
        except AudioError as error:
            state.error = error
            return
        place, info = (state.piece.start, state.piece.end, state.piece.last), source.info
        recording = self._recordings.get(source.path)
        self.writer.add_window(source.path, place, info.sample_rate, info.channels, values, recording, tags)
        if self.writer.due:
            self.writer.commit()

    def finish(self, state: _Windows) -> None:
        """Refuse a recording for which the network gave NaN."""
        if state.error is not None:
            raise state.error


def write_vectors(job: VectorJob | WindowJob, folder: Path, paths: Sequence[str], **options: Any) -> None:
    """Write the vectors of recordings that are new or have changed; `options` are those of `FolderRun`.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C, once what is done is on disk.
    """
    writer = job.writer
    # Before they are read: one that changes meanwhile differs from this in the next run.
    recordings = {path: recording for path in paths if (recording := _recording(folder / path)) is not None}
    known = writer.done | writer.started.keys()
    changed = [path for path in recordings if path in known and not writer.unchanged(path, *recordings[path])]
    if changed:
        some = ", ".join(changed[:3]) + (", ..." if len(changed) > 3 else "")
        logger.warning("%s: embedded again, because they have changed: %d files (%s)", folder, len(changed), some)
        writer.forget(changed)
    if isinstance(job, WindowJob):
        job.prepare(recordings)
    left = [path for path in paths if path not in writer.done]
    if len(left) < len(paths):
        logger.info("%s: %d files are done already", writer.directory, len(paths) - len(left))
    run: FolderRun[Any] = FolderRun(job, folder, left, total=len(paths), **options)
    for source, vector, error in run:
        if error is not None or source.info is None:
            writer.fail(source.path, type(error).__name__, str(error) or repr(error))
            writer.forget([source.path])  # its first windows may be on disk
        elif vector is not None:
            info = source.info
            writer.add(
                source.path,
                source.seconds,
                info.sample_rate,
                info.channels,
                vector.values,
                vector.frames,
                recordings.get(source.path),
                vector.tags,
            )
        if writer.due:
            writer.commit()
    writer.commit()
    run.raise_if_interrupted(writer.directory)


def _recording(file: Path) -> tuple[int, int] | None:
    """Size and time of change (ns) of a file; None if it cannot be looked at, which reading it reports."""
    try:
        status = file.stat()
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns
