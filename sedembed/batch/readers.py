"""Threads that read, resample and transform files ahead of the network, and are left behind when they hang."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sedembed.audio.reader import AudioInfo, AudioReader
from sedembed.errors import AudioTimeoutError

__all__ = ["Piece", "ReaderPool", "Source", "Step", "current_source"]

_TICK = 1.0
# A decoder stops itself at the limit with a message of its own; only then is its thread given up.
_GRACE = 1.2
# A stopped process (Ctrl-Z, a sleeping laptop) must not look like a decoder that was silent all the while.
_LONGEST_TICK = 10.0
MAX_HANGING = 64


@dataclass(eq=False)
class Source:
    """A file on its way through the decoders.

    Attributes
    ----------
    path : str
        Relative to the folder.
    info : AudioInfo or None
        Native rate and channels, once known.
    seconds : float
        Duration decoded.
    closed : bool
        It is finished or given up; what still comes from it is ignored.
    """

    path: str
    info: AudioInfo | None = None
    seconds: float = 0.0
    closed: bool = False


class Piece(NamedTuple):
    """One window of a recording.

    Attributes
    ----------
    features : torch.Tensor, shape (feature frames, bins)
        What the network runs on.
    samples : int
        Length of the window at the network's rate.
    last : bool
        Whether the recording ends with it, where the job needs to know.
    """

    features: torch.Tensor
    samples: int = 0
    last: bool = False


class Step(NamedTuple):
    """One window of a file; without a piece, the end of it, with the error if there was one."""

    source: Source
    piece: Piece | None
    error: BaseException | None = None

    @property
    def weight(self) -> int:
        """Feature frames, at least one."""
        return 1 if self.piece is None else len(self.piece.features)


class _FrameQueue(queue.Queue[Step]):
    """A queue bounded by the number of feature frames in it."""

    def _init(self, maxsize: int) -> None:
        self._steps: deque[Step] = deque()
        self._frames = 0

    def _qsize(self) -> int:
        return self._frames

    def _put(self, item: Step) -> None:
        self._steps.append(item)
        self._frames += item.weight

    def _get(self) -> Step:
        item = self._steps.popleft()
        self._frames -= item.weight
        return item


class _Stopped(Exception):  # noqa: N818 - a signal, not an error
    """Raised inside a worker to leave its file."""


class _Worker(threading.Thread):
    """Takes one file after the other; a daemon, so that a decoder that hangs does not hold up the exit."""

    def __init__(self, pool: ReaderPool) -> None:
        super().__init__(name="sedembed-reader", daemon=True)
        self.source: Source | None = None
        self.ready = threading.Event()
        self.retired = False
        self.beats = 0  # rises with every sign of life
        self.waiting = False  # for the network, which is no silence
        self.seen, self.silence = 0, 0.0
        self._pool = pool

    def run(self) -> None:
        torch.set_num_threads(1)  # of this thread: the files are what runs in parallel
        self.ready.set()
        with contextlib.suppress(_Stopped):
            while (source := self._pool._next(self)) is not None:
                try:
                    self._read(source)
                except _Stopped:
                    raise
                except BaseException as error:
                    self._put(Step(source, None, error))
                else:
                    self._put(Step(source, None))

    def _read(self, source: Source) -> None:
        pool = self._pool
        with AudioReader(pool.folder / source.path, sample_rate=pool.sample_rate, timeout=pool.timeout) as reader:
            source.info = reader.info
            for piece in pool.pieces(self._alive(reader.blocks())):
                self._put(Step(source, piece))
            source.seconds = reader.seconds

    def _alive(self, blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        for block in blocks:
            self.beats += 1
            if self.retired or self._pool.stopped:
                raise _Stopped
            yield block

    def _put(self, step: Step) -> None:
        self.waiting = True
        while not (self.retired or self._pool.stopped):
            with contextlib.suppress(queue.Full):
                self._pool.queue.put(step, timeout=0.2)
                self.waiting = False
                self.beats += 1
                return
        raise _Stopped


def current_source() -> Source | None:
    """File that the calling thread is reading, if it is one of the decoders."""
    thread = threading.current_thread()
    return thread.source if isinstance(thread, _Worker) else None


class ReaderPool:
    """Reads files ahead of the network, a bounded number of windows at a time.

    Workers hand in windows in whatever order they come, and `take` accepts any: nobody waits for a certain file, so
    the bound cannot cause a deadlock.

    Parameters
    ----------
    folder : Path
        Where they are.
    paths : sequence of str
        What to read, relative to `folder`.
    pieces : callable
        Cuts the blocks of a file into windows and gives their features; called from several threads.
    sample_rate : int
        Rate that `pieces` expects, in Hz.
    workers : int
        Number of threads.
    ahead : int
        Feature frames that may wait.
    timeout : float
        Longest silence of a decoder, in seconds.
    """

    def __init__(
        self,
        folder: Path,
        paths: Sequence[str],
        pieces: Callable[[Iterator[NDArray[np.float32]]], Iterator[Piece]],
        *,
        sample_rate: int,
        workers: int,
        ahead: int,
        timeout: float,
    ) -> None:
        self.folder, self.pieces = folder, pieces
        self.sample_rate, self.timeout = sample_rate, timeout
        self.queue = _FrameQueue(maxsize=ahead)
        self.stopped = False
        self.left = len(paths)
        self._paths = iter(paths)
        self._lock = threading.Lock()
        self._hanging: list[_Worker] = []
        self._tick = min(_TICK, timeout / 4)
        self._watched = time.monotonic()
        self._workers = [self._start() for _ in range(min(workers, len(paths)))]

    def take(self, most: int, most_frames: int) -> list[Step]:
        """Wait for at least one step, a second at most, and take what else is there.

        Parameters
        ----------
        most, most_frames : int
            Steps, and feature frames, after which to stop.

        Returns
        -------
        list of Step
            In the order of each file; perhaps empty. The end of a file is counted off `left`.

        Raises
        ------
        AudioTimeoutError
            If so many decoders hang that the disk must be the reason.
        """
        steps, frames = self._watch(), 0
        while len(steps) < most and frames < most_frames:
            try:
                step = self.queue.get(timeout=self._tick) if not steps else self.queue.get_nowait()
            except queue.Empty:
                break
            if not step.source.closed:
                steps.append(step)
                frames += step.weight
                if step.piece is None:
                    self._close(step.source)
        return steps

    def close(self) -> None:
        """Stop the workers; those that do not answer are left behind."""
        self.stopped = True
        deadline = time.monotonic() + 2.0
        for worker in self._workers:
            worker.join(max(0.0, deadline - time.monotonic()))

    def _start(self) -> _Worker:
        threads = torch.get_num_threads()
        worker = _Worker(self)
        worker.start()
        worker.ready.wait()
        torch.set_num_threads(threads)  # what the worker set for itself is also the default of later threads
        return worker

    def _close(self, source: Source) -> None:
        source.closed = True
        self.left -= 1

    def _next(self, worker: _Worker) -> Source | None:
        with self._lock:
            path = None if worker.retired or self.stopped else next(self._paths, None)
            worker.source = None if path is None else Source(path)
            worker.beats += 1
            return worker.source

    def _watch(self) -> list[Step]:
        """Give up workers that were silent for too long; their files end with an error."""
        now = time.monotonic()
        passed = min(now - self._watched, _LONGEST_TICK)
        if passed < self._tick:
            return []
        self._watched = now
        steps = []
        for number, worker in enumerate(self._workers):
            with self._lock:
                alive = worker.source is None or worker.waiting or worker.beats != worker.seen
                worker.silence = 0.0 if alive else worker.silence + passed
                worker.seen = worker.beats
                source = worker.source
                if source is None or source.closed or worker.silence < _GRACE * self.timeout:
                    continue
                worker.retired = True
            self._close(source)
            message = (
                f"Expected sound within {self.timeout:g} s, but the decoder hangs on {source.path}; "
                "check that the file plays, or allow more time."
            )
            steps.append(Step(source, None, AudioTimeoutError(message)))
            self._hanging = [other for other in [*self._hanging, worker] if other.is_alive()]
            if len(self._hanging) > MAX_HANGING:
                raise AudioTimeoutError(
                    f"{len(self._hanging)} decoders hang at once, the last on {source.path}; check the disk or the "
                    "network share that holds the files, then run the same command again."
                )
            self._workers[number] = self._start()
        return steps
