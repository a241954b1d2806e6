"""One vector for each recording, its embedding or its event probabilities, written to a store."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sedembed.batch.loop import FolderRun, Job
from sedembed.engine.runner import Runner
from sedembed.engine.windows import WINDOW_SECONDS, ClipSum, WindowResult
from sedembed.engine.workers import Pending, Piece, Source
from sedembed.store.writer import FrameRows, StoreWriter

__all__ = ["VectorJob", "write_vectors"]

logger = logging.getLogger(__name__)


class Vector(NamedTuple):
    """Vector of a recording, and its frame vectors if they are kept."""

    values: NDArray[np.float32]
    frames: FrameRows | None


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
    """

    def __init__(
        self, runner: Runner, writer: StoreWriter, *, frames: bool = False, probabilities: bool = False
    ) -> None:
        super().__init__(runner)
        self.writer = writer
        self._frames, self._probabilities = frames, probabilities
        self.large = frames

    def pieces(self, blocks: Iterator[NDArray[np.float32]]) -> Iterator[Piece]:
        """Cut into windows of a minute."""
        for window in self.runner.windows(blocks):
            yield Piece(self.runner.features(window), len(window))

    def submit(self, pieces: Sequence[Piece]) -> Pending:
        """Start the network on one batch."""
        return self.runner.submit([piece.features for piece in pieces], probabilities=self._probabilities)

    def begin(self) -> _Clip:
        """Begin with an empty sum."""
        return _Clip(self.runner.new_sum(), self.writer.open_frames() if self._frames else None)

    def add(self, source: Source, state: _Clip, piece: Piece, result: WindowResult) -> None:
        """Add a window to the sum; its frames go to disk if they are many."""
        state.sum.add(result)
        if state.frames is not None:
            times = self.runner.frame_times(len(result.frames), state.windows * WINDOW_SECONDS)
            state.frames.add(source.path, times, result.frames)
        state.windows += 1

    def finish(self, state: _Clip) -> Vector:
        """Pool the windows."""
        return Vector(state.sum.probabilities if self._probabilities else state.sum.embedding, state.frames)

    def drop(self, state: _Clip) -> None:
        """Forget the frames of a recording that failed."""
        if state.frames is not None:
            self.writer.drop_frames(state.frames)


def write_vectors(job: VectorJob, folder: Path, paths: Sequence[str], **options: Any) -> None:
    """Write the vectors of recordings that are new or have changed; `options` are those of `FolderRun`.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C, once what is done is on disk.
    """
    writer = job.writer
    # Before they are read: one that changes meanwhile differs from this in the next run.
    recordings = {path: recording for path in paths if (recording := _recording(folder / path)) is not None}
    changed = [path for path in recordings if path in writer.done and not writer.unchanged(path, *recordings[path])]
    if changed:
        some = ", ".join(changed[:3]) + (", ..." if len(changed) > 3 else "")
        logger.warning("%s: embedded again, because they have changed: %d files (%s)", folder, len(changed), some)
        writer.forget(changed)
    left = [path for path in paths if path not in writer.done]
    if len(left) < len(paths):
        logger.info("%s: %d files are done already", writer.directory, len(paths) - len(left))
    run = FolderRun(job, folder, left, total=len(paths), **options)
    for source, vector, error in run:
        if error is not None or source.info is None:
            writer.fail(source.path, type(error).__name__, str(error) or repr(error))
        else:
            info = source.info
            writer.add(
                source.path,
                source.seconds,
                info.sample_rate,
                info.channels,
                vector.values,
                vector.frames,
                recordings.get(source.path),
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
