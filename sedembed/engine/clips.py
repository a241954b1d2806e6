"""Clips: the network on the windows of some clips, or of one long one, by workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedembed.engine.runner import MAX_BATCH, Runner
from sedembed.engine.windows import ClipSum, WindowResult
from sedembed.engine.workers import Pending, Piece, Source, WorkerPool, default_workers

__all__ = ["add_piece", "run_clips", "run_pieces", "with_parts"]


def with_parts(runner: Runner, piece: Piece, window: NDArray[np.float32]) -> Iterator[Piece]:
    """Give a window, and if it is long its parts, which have the probabilities."""
    parts = runner.parts(window)
    if len(parts) == 1:
        yield piece
        return
    yield piece._replace(parts=len(parts))
    for part in parts:
        yield Piece(runner.features(part), len(part), part=True)


def add_piece(total: ClipSum, piece: Piece, result: WindowResult) -> None:
    """Add what the network gave for a piece of `with_parts`: a long window counts for the embedding only."""
    if piece.part:
        total.add_probabilities(result)
    else:
        total.add(result if piece.parts == 0 else WindowResult(result.frames))


def run_clips(
    runner: Runner,
    clips: int,
    windows: Callable[[int], Iterator[NDArray[np.float32]]],
    *,
    probabilities: bool = False,
    workers: int | None = None,
) -> Iterator[tuple[int, WindowResult]]:
    """Run the network on the windows of several clips, or on those of a long one.

    Parameters
    ----------
    runner : Runner
        The network.
    clips : int
        How many there are.
    windows : callable
        Gives the windows of a clip; called from several threads.
    probabilities : bool
        Also pool the probabilities of the events.
    workers : int, optional
        Number of threads; by default `default_workers`.

    Yields
    ------
    (int, WindowResult)
        Index of the clip and result of its next window. Those of one clip come in order, those of several mixed.

    Raises
    ------
    Exception
        What `windows` raises; of several errors, that of the first clip.
    """

    def read(index: int) -> Iterator[Piece]:
        return (Piece(runner.features(window), len(window)) for window in windows(index))

    def submit(pieces: Sequence[Piece]) -> Pending:
        return runner.submit([piece.features for piece in pieces], probabilities=probabilities)

    for index, _, result in run_pieces(runner, clips, read, submit, workers=workers):
        yield index, result


def run_pieces(
    runner: Runner,
    clips: int,
    read: Callable[[int], Iterator[Piece]],
    submit: Callable[[Sequence[Piece]], Pending],
    *,
    workers: int | None = None,
    max_items: int = MAX_BATCH,
) -> Iterator[tuple[int, Piece, Any]]:
    """`run_clips` for windows and results of any kind: `read` gives the former, `submit` the latter.

    Yields
    ------
    (int, Piece, object)
        Index of the clip, its next window and the result of that.
    """
    workers = default_workers(runner.device) if workers is None else workers
    pool = WorkerPool(
        runner, clips, Source, lambda source: read(source.index), submit, workers=workers, max_items=max_items
    )
    ended: dict[int, BaseException | None] = {}
    first = 0
    try:
        while pool.left:
            for step in pool.take():
                if step.piece is not None:
                    yield step.source.index, step.piece, step.result
                else:
                    ended[step.source.index] = step.error
            while first in ended:
                error = ended.pop(first)
                if error is not None:
                    raise error
                first += 1
            pool.release(first)
    finally:
        pool.close()
