"""Workers: threads that each take work of their own, from decoding to the network, with one PyTorch thread.

PyTorch's threads inside one operation lose most of their speed as soon as another program runs. Whole batches need no
such meetings. Recordings are taken in chunks of consecutive ones, and batches are made within a chunk only. So what
runs together does not depend on the number of workers, and results are the same to the bit.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from sedembed._utils.memory import give_back_memory
from sedembed.audio.reader import AudioInfo
from sedembed.engine.runner import MAX_BATCH, Runner
from sedembed.errors import AudioTimeoutError

__all__ = [
    "Piece",
    "Source",
    "Step",
    "WorkerPool",
    "alive",
    "chunk_sizes",
    "current_source",
    "default_workers",
]

_TICK = 1.0
# A decoder stops itself at the limit with a message of its own; only then is its thread given up.
_GRACE = 1.2
# A stopped process (Ctrl-Z, a sleeping laptop) must not look like a decoder that was silent all the while.
_LONGEST_TICK = 10.0
MAX_HANGING = 64

# Recordings of a chunk: enough to fill batches, few enough that some dozens of workers share a small folder.
_LARGEST_CHUNK = 32
_CHUNKS = 12
_SMALL_BATCH = 4
# Batches of features that a worker holds before it runs them, to group windows of similar length.
_BATCHES_HELD = 2
# Seconds after which freed memory goes back to the system: what glibc keeps grows with ever new lengths.
_KEPT = 2.0
# Recordings that may be finished before an earlier one that is slow, or hangs.
_AHEAD = 4096

Pending: TypeAlias = Callable[[], list[Any]]


@dataclass(eq=False)
class Source:
    """A recording on its way to the network.

    Attributes
    ----------
    index : int
        Its place among all.
    path : str
        Relative to the folder; empty if it is no file.
    info : AudioInfo or None
        Native rate and channels, once known.
    seconds : float
        Duration decoded.
    """

    index: int
    path: str = ""
    info: AudioInfo | None = None
    seconds: float = 0.0


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
    start, end : float
        Seconds from the start of the recording, where the job needs to know.
    parts : int
        How many parts of the window follow, whose probabilities are wanted instead of its own.
    part : bool
        Whether it is such a part.
    """

    features: torch.Tensor
    samples: int = 0
    last: bool = False
    start: float = 0.0
    end: float = 0.0
    parts: int = 0
    part: bool = False


class Step(NamedTuple):
    """One window of a recording and what the network gave for it.

    Without a piece it is the end of the recording, with the error if there was one.
    """

    source: Source
    piece: Piece | None = None
    result: Any = None
    error: BaseException | None = None


class _Held(NamedTuple):
    """A window that waits for the network; `number` counts those of its recording."""

    source: Source
    number: int
    piece: Piece


@dataclass(eq=False)
class _Chunk:
    """Consecutive recordings that one worker reads, and the windows of them that wait for the network."""

    left: range  # places of the recordings that are left to read
    held: list[_Held] = field(default_factory=list)
    frames: int = 0  # of what is held


@dataclass
class _Progress:
    """Windows of a recording that are done; they are handed on in their order."""

    passed: int = 0
    waiting: dict[int, Step] = field(default_factory=dict)
    windows: int | None = None  # once all of it was read
    error: BaseException | None = None


class _Stopped(Exception):  # noqa: N818 - a signal, not an error
    """Raised inside a worker to leave its recording."""


class _Worker(threading.Thread):
    """A daemon, so that a decoder that hangs does not hold up the exit."""

    def __init__(self, pool: WorkerPool, work: Callable[[_Worker], None]) -> None:
        super().__init__(name="sedembed-worker", daemon=True)
        self.source: Source | None = None
        self.chunk: _Chunk | None = None
        self.ready = threading.Event()
        self.retired = False
        self.beats = 0  # rises with every sign of life
        self.computing = False  # or waiting: neither is a decoder's silence
        self.seen, self.silence = 0, 0.0
        self._pool, self._do = pool, work

    def run(self) -> None:
        torch.set_num_threads(1)
        # A thread takes the process's number when it first asks for it: that must be before it is set back.
        torch.get_num_threads()
        self.ready.set()
        try:
            self._do(self)
        except _Stopped:
            pass
        except BaseException as error:
            self._pool._fail(error)

    def check(self) -> None:
        if self.retired or self._pool.stopped:
            raise _Stopped


def alive(blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """Pass blocks of a decoder on; each is a sign of life of the worker that reads it."""
    worker = threading.current_thread()
    for block in blocks:
        if isinstance(worker, _Worker):
            worker.beats += 1
            worker.check()
        yield block


def current_source() -> Source | None:
    """Give the recording that the calling thread is reading, if it is a worker."""
    thread = threading.current_thread()
    return thread.source if isinstance(thread, _Worker) else None


def chunk_sizes(recordings: int) -> list[int]:
    """Sizes of the chunks of so many recordings; batches are made within a chunk only.

    All are equal but for the last ones: small, so that no worker has a large one left when the others are done.
    """
    if recordings <= _CHUNKS * _SMALL_BATCH:
        return _repeat(max(1, min(_SMALL_BATCH, -(-recordings // 2))), recordings)
    size = min(_LARGEST_CHUNK, _SMALL_BATCH * -(-recordings // (_CHUNKS * _SMALL_BATCH)))  # whole batches
    large = (recordings - size // 2) // size
    return [*_repeat(size, large * size), *_repeat(_SMALL_BATCH, recordings - large * size)]


def _repeat(size: int, total: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]


def default_workers(device: torch.device) -> int:
    """Count the workers that use the machine: on a CPU as many as PyTorch has threads, else the processor's cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, torch.get_num_threads()) if device.type == "cpu" else cores


class WorkerPool:
    """Reads recordings and runs the network on their windows, on several threads.

    On a CPU each worker does both. On another device workers read, and one more thread runs the network.

    Parameters
    ----------
    runner : Runner
        The network.
    recordings : int
        How many there are.
    source : callable
        Makes the source of each, given its place in the order in which results are wanted; called once.
    read : callable
        Gives the windows of a source; called from several threads. What it takes from a decoder goes through `alive`.
    submit : callable
        Starts the network on the windows of one batch, and gives a function that returns their results.
    workers : int
        Number of threads.
    max_items : int
        Most windows of a batch.
    timeout : float
        Longest silence of a decoder, in seconds.
    ahead : int
        Recordings that may be read before an earlier one is released.
    chunks : sequence of int, optional
        Recordings of each chunk, enough for all; by default what `chunk_sizes` gives.
    """

    def __init__(
        self,
        runner: Runner,
        recordings: int,
        source: Callable[[int], Source],
        read: Callable[[Source], Iterator[Piece]],
        submit: Callable[[Sequence[Piece]], Pending],
        *,
        workers: int,
        max_items: int = MAX_BATCH,
        timeout: float = math.inf,
        ahead: int = _AHEAD,
        chunks: Sequence[int] | None = None,
    ) -> None:
        self.left = recordings  # whose end was not taken yet
        self.stopped = False
        self._runner, self._source, self._read, self._submit = runner, source, read, submit
        self._max_items, self._timeout, self._ahead = max_items, timeout, ahead
        self._most_frames = _BATCHES_HELD * runner.max_batch_frames
        self._changed = threading.Condition()  # guards all below
        sizes = chunk_sizes(recordings) if chunks is None else chunks
        starts = itertools.accumulate(sizes, initial=0)
        parts = (range(recordings)[start : start + size] for start, size in zip(starts, sizes, strict=False))
        self._chunks = deque(_Chunk(part) for part in parts if part)
        self._reading = 0  # workers that read
        self._batches: deque[list[_Held]] = deque()  # ready for the network
        self._progress: dict[Source, _Progress] = {}  # of those that were begun
        self._steps: deque[Step] = deque()  # ready to be taken
        self._frames = 0  # of these steps
        self._released = 0
        self._error: BaseException | None = None
        self._hanging: list[_Worker] = []
        self._tick = min(_TICK, timeout / 4)
        self._watched = time.monotonic()
        self._gave_back = self._watched
        self._shared = runner.device.type == "cpu"
        # One recording may have many windows; several have one each at least.
        count = workers if recordings == 1 else min(workers, recordings)
        with self._changed:  # they begin when all are there
            self._workers = [self._start(_Worker(self, self._work)) for _ in range(count)]
            if not self._shared:
                self._feeder = self._start(_Worker(self, self._feed))

    # --- the caller's side -----------------------------------------------------------------------------------------

    def take(self) -> list[Step]:
        """Wait for at least one step, a second at most, and take all that are there.

        Returns
        -------
        list of Step
            In the order of each recording; perhaps empty. The end of a recording is counted off `left`.

        Raises
        ------
        AudioTimeoutError
            If so many decoders hang that the disk must be the reason.
        Exception
            What the network raised.
        """
        with self._changed:
            self._watch()
            if not self._steps and self._error is None:
                self._changed.wait(self._tick)
            if self._error is not None and not self._steps:
                raise self._error
            steps = list(self._steps)
            self._steps.clear()
            self._frames = 0
            self.left -= sum(step.piece is None for step in steps)
            self._changed.notify_all()
        return steps

    def release(self, count: int) -> None:
        """Say that the results of the first `count` recordings are no longer waited for."""
        with self._changed:
            self._released = count
            self._changed.notify_all()

    def close(self) -> None:
        """Stop the workers; those that do not answer are left behind."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()
        deadline = time.monotonic() + 2.0
        for worker in self._workers:
            worker.join(max(0.0, deadline - time.monotonic()))

    # --- the workers' side -----------------------------------------------------------------------------------------

    def _start(self, worker: _Worker) -> _Worker:
        threads = torch.get_num_threads()
        worker.start()
        worker.ready.wait()
        torch.set_num_threads(threads)  # what the worker set for itself is also the default of later threads
        return worker

    def _work(self, worker: _Worker) -> None:
        """Run batches that are ready, else read a chunk, until all is done."""
        while (task := self._next_task(worker)) is not None:
            if isinstance(task, _Chunk):
                self._read_chunk(worker, task)
            else:
                self._run(task)

    def _next_task(self, worker: _Worker) -> _Chunk | list[_Held] | None:
        with self._changed:
            while True:
                worker.check()
                if self._batches and self._shared:
                    return self._batches.popleft()
                if self._chunks and self._chunks[0].left.start < self._released + self._ahead:
                    self._reading += 1
                    worker.chunk = self._chunks.popleft()
                    return worker.chunk
                if not self._chunks and not self._reading:
                    return None
                self._changed.wait()

    def _read_chunk(self, worker: _Worker, chunk: _Chunk) -> None:
        while (source := self._next_source(worker, chunk)) is not None:
            error: BaseException | None = None
            number = 0
            try:
                for piece in self._read(source):
                    self._hold(worker, chunk, _Held(source, number, piece))
                    number += 1
            except _Stopped:
                raise
            except BaseException as problem:
                error = problem
            with self._changed:
                worker.check()
                self._end(source, number, error)
        self._flush(worker, chunk)
        with self._changed:
            worker.check()
            worker.chunk = None
            self._reading -= 1
            self._changed.notify_all()

    def _next_source(self, worker: _Worker, chunk: _Chunk) -> Source | None:
        with self._changed:
            worker.check()
            worker.source = None
            worker.beats += 1
            if chunk.left:
                worker.source = self._source(chunk.left[0])
                chunk.left = chunk.left[1:]
                self._progress[worker.source] = _Progress()
            return worker.source

    def _hold(self, worker: _Worker, chunk: _Chunk, held: _Held) -> None:
        with self._changed:
            worker.check()
            worker.beats += 1
            chunk.held.append(held)
            chunk.frames += len(held.piece.features)
        if chunk.frames >= self._most_frames:
            self._flush(worker, chunk)

    def _flush(self, worker: _Worker, chunk: _Chunk) -> None:
        """Put the windows of a chunk into batches, and run some of them if nobody else is free to."""
        worker.computing = True
        with self._changed:
            held, chunk.held, chunk.frames = chunk.held, [], 0
            for batch in self._runner.plan([len(one.piece.features) for one in held], self._max_items):
                self._batches.append([held[i] for i in batch])
            self._changed.notify_all()
        while (batch_ := self._surplus(worker)) is not None:
            self._run(batch_)
        worker.beats += 1
        worker.computing = False

    def _surplus(self, worker: _Worker) -> list[_Held] | None:
        """Batch to run before more is read; None if there is one at most for each of the other workers."""
        with self._changed:
            worker.check()
            while not self._shared and len(self._batches) > _BATCHES_HELD:
                self._changed.wait()
                worker.check()
            return self._batches.popleft() if self._shared and len(self._batches) >= len(self._workers) else None

    def _run(self, batch: list[_Held]) -> None:
        self._deliver(batch, self._start_batch(batch))
        if (now := time.monotonic()) > self._gave_back + _KEPT:
            self._gave_back = now  # two workers that both come here do no harm
            give_back_memory()

    def _feed(self, worker: _Worker) -> None:
        """Run the network on another device: a batch is copied there while the one before it is computed."""
        started: deque[tuple[list[_Held], Pending]] = deque()
        while True:
            with self._changed:
                while not self._batches and not started:
                    worker.check()
                    if not self._chunks and not self._reading:
                        return
                    self._changed.wait()
                batch = self._batches.popleft() if self._batches else None
                self._changed.notify_all()
            if batch is not None:
                started.append((batch, self._start_batch(batch)))
            if batch is None or len(started) > 1:
                self._deliver(*started.popleft())

    def _start_batch(self, batch: list[_Held]) -> Pending:
        try:
            return self._submit([one.piece for one in batch])
        except BaseException as error:
            self._fail(error)
            raise _Stopped from error

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _deliver(self, batch: list[_Held], pending: Pending) -> None:
        try:
            results = pending()
        except BaseException as error:
            self._fail(error)
            raise _Stopped from error
        with self._changed:
            while self._frames > self._most_frames and not self.stopped:
                self._changed.wait()
            for one, result in zip(batch, results, strict=True):
                if one.source in self._progress:
                    self._progress[one.source].waiting[one.number] = Step(one.source, one.piece, result)
                    self._pass_on(one.source)
            self._changed.notify_all()

    def _end(self, source: Source, windows: int, error: BaseException | None) -> None:
        """Note that all of a recording was read; what comes of one that was given up is ignored."""
        if source in self._progress:
            self._progress[source].windows, self._progress[source].error = windows, error
            self._pass_on(source)
            self._changed.notify_all()

    def _pass_on(self, source: Source) -> None:
        progress = self._progress[source]
        while progress.error is None and progress.passed in progress.waiting:
            step = progress.waiting.pop(progress.passed)
            progress.passed += 1
            self._steps.append(step)
            self._frames += 0 if step.piece is None else len(step.piece.features)
        if progress.error is not None or progress.windows == progress.passed:
            self._steps.append(Step(source, error=progress.error))
            del self._progress[source]

    def _watch(self) -> None:
        """Give up workers that were silent for too long; their recordings end with an error."""
        now = time.monotonic()
        passed = min(now - self._watched, _LONGEST_TICK)
        if passed < self._tick:
            return
        self._watched = now
        for number, worker in enumerate(self._workers):
            source, chunk = worker.source, worker.chunk
            live = source is None or chunk is None or worker.computing or worker.beats != worker.seen
            worker.silence = 0.0 if live else worker.silence + passed
            worker.seen = worker.beats
            if source is None or chunk is None or worker.silence < _GRACE * self._timeout:
                continue
            worker.retired = True
            self._chunks.appendleft(chunk)  # another one reads the rest of it
            self._reading -= 1
            message = (
                f"Expected sound within {self._timeout:g} s, but the decoder hangs on {source.path}; "
                "check that the file plays, or allow more time."
            )
            self._end(source, 0, AudioTimeoutError(message))
            self._hanging = [other for other in [*self._hanging, worker] if other.is_alive()]
            if len(self._hanging) > MAX_HANGING:
                raise AudioTimeoutError(
                    f"{len(self._hanging)} decoders hang at once, the last on {source.path}; check the disk or the "
                    "network share that holds the files, then run the same command again."
                )
            self._workers[number] = self._start(_Worker(self, self._work))
