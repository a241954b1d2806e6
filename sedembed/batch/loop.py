"""The loop over many recordings that embedding, tagging and detection share.

Workers read, resample and transform files and run the network. The calling thread gives each recording's result, or the
error that it met, in the order of the recordings.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, NamedTuple, TextIO, TypeVar

import numpy as np
import soundfile
from numpy.typing import NDArray
from tqdm import tqdm

from sedembed.audio.reader import AudioReader
from sedembed.engine.runner import MAX_BATCH, Runner
from sedembed.engine.workers import Pending, Piece, Source, Step, WorkerPool, alive, current_source, default_workers
from sedembed.errors import AudioError, InvalidArgumentError

__all__ = ["FolderRun", "Job", "Outcome", "check_options"]

logger = logging.getLogger(__name__)
# Of its own, so that a program that lists failures itself can leave it out.
failures = logging.getLogger(f"{__name__}.failures")

_State = TypeVar("_State")
_MOST_WORKERS = 1024  # threads

# Recordings that may be done before an earlier one that is slow: many where results are small.
_AHEAD, _FEW_AHEAD = 4096, 256


class Job(ABC, Generic[_State]):
    """What is made of each recording.

    Attributes
    ----------
    batched : bool
        Whether several windows go through the network at once.
    large : bool
        Whether results are more than a few kilobytes.
    overlap : float
        Seconds that a window shares with the next one.
    """

    batched = True
    large = False
    overlap = 0.0

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    @abstractmethod
    def pieces(self, blocks: Iterator[NDArray[np.float32]]) -> Iterator[Piece]:
        """Cut the samples of a recording into windows, and give their features; called from several threads."""

    @abstractmethod
    def submit(self, pieces: Sequence[Piece]) -> Pending:
        """Start the network on one batch of windows, of one recording or several; called from several threads.

        Returns
        -------
        callable
            Waits for the results and gives them in the order of `pieces`.
        """

    @abstractmethod
    def begin(self) -> _State:
        """Begin a recording."""

    @abstractmethod
    def add(self, source: Source, state: _State, piece: Piece, result: Any) -> None:
        """Take the next window of a recording in."""

    @abstractmethod
    def finish(self, state: _State) -> Any:
        """Make the result of a recording.

        Raises
        ------
        AudioError
            If the network gives NaN or infinity.
        """

    def drop(self, state: _State) -> None:
        """Forget a recording that failed."""


class Outcome(NamedTuple):
    """What became of one recording.

    Attributes
    ----------
    source : Source
        Its path, native format and duration.
    value : object
        What `Job.finish` gave; None if it failed.
    error : Exception or None
        Why it failed.
    """

    source: Source
    value: Any
    error: Exception | None


class FolderRun(Generic[_State]):
    """One pass over recordings; iterating gives an `Outcome` for each, in their order.

    The first Ctrl-C ends the iteration and sets `interrupted`, so that what is done can be kept; the second one does
    what it always does.

    Parameters
    ----------
    job : Job
        What to make of each.
    folder : Path
        Where the recordings are.
    paths : sequence of str
        Which ones, relative to `folder`.
    total : int, optional
        Recordings of the whole job, done ones included, for the progress bar.
    workers : int, optional
        Threads; by default as many as PyTorch uses, or one for each core if the network runs on a GPU.
    batch_size : int, optional
        Most windows in one batch of the network.
    timeout : float
        Longest silence of a decoder, in seconds.
    progress : bool, optional
        Show a progress bar; by default if stderr is a terminal.
    description : str, optional
        Before the bar.
    chunks : sequence of int, optional
        How many recordings at a time share batches; by default `chunk_sizes` of how many there are.
    """

    def __init__(
        self,
        job: Job[_State],
        folder: Path,
        paths: Sequence[str],
        *,
        total: int | None = None,
        workers: int | None = None,
        batch_size: int | None = None,
        timeout: float = 60.0,
        progress: bool | None = None,
        description: str | None = None,
        chunks: Sequence[int] | None = None,
    ) -> None:
        self.interrupted = False
        self.total = len(paths) if total is None else total
        self.left = len(paths)
        self._job, self._folder, self._paths = job, folder, paths
        self._workers = workers or default_workers(job.runner.device)
        self._batch_size = MAX_BATCH if batch_size is None else int(batch_size)
        self._timeout, self._progress, self._description = timeout, progress, description
        self._chunks = chunks
        self._states: dict[Source, _State] = {}
        self._bar: tqdm[Any] = tqdm(disable=True)
        self._counts_seconds = False

    def __iter__(self) -> Iterator[Outcome]:
        if not self._paths:
            return
        # A single file may be hours long: its bar counts seconds of sound.
        length = _read_length(self._folder / self._paths[0]) if self.total == 1 else None
        self._bar = bar = tqdm(
            total=self.total if length is None else round(length, 1),
            initial=self.total - self.left if length is None else 0,
            unit="file" if length is None else " s",
            desc=self._description,
            disable=None if self._progress is None else not self._progress,
        )
        self._counts_seconds = length is not None
        seconds, started = 0.0, time.monotonic()
        with bar, _warnings_logged(), _interrupts_noted() as interrupted:
            for outcome in self._outcomes(interrupted):
                self.left -= 1
                if outcome.error is None:
                    seconds += outcome.source.seconds
                    speed = seconds / max(time.monotonic() - started, 1e-3)
                    bar.set_postfix_str(f"{speed:.0f} s of sound/s", refresh=False)
                if self._counts_seconds:
                    bar.update(max(0.0, (bar.total or 0.0) - bar.n))
                else:
                    bar.update()
                yield outcome

    def _outcomes(self, interrupted: threading.Event) -> Iterator[Outcome]:
        """Give what is done in the order of the recordings; after Ctrl-C all that is done by then."""
        pool = WorkerPool(
            self._job.runner,
            len(self._paths),
            lambda index: Source(index, self._paths[index]),
            self._read,
            self._job.submit,
            workers=self._workers,
            max_items=self._batch_size if self._job.batched else 1,
            timeout=self._timeout,
            ahead=_FEW_AHEAD if self._job.large else _AHEAD,
            chunks=self._chunks,
        )
        done: dict[int, Outcome] = {}
        following = 0
        try:
            while pool.left and not interrupted.is_set():
                for step in pool.take():
                    outcome = self._take(step)
                    if outcome is not None:
                        done[outcome.source.index] = outcome
                while following in done:
                    yield done.pop(following)
                    following += 1
                pool.release(following)
            for index in sorted(done):
                yield done.pop(index)
        finally:
            self.interrupted = interrupted.is_set()
            pool.close()
            for state in self._states.values():
                self._job.drop(state)
            self._states.clear()

    def _read(self, source: Source) -> Iterator[Piece]:
        rate = self._job.runner.network.sample_rate
        with AudioReader(self._folder / source.path, sample_rate=rate, timeout=self._timeout) as reader:
            source.info = reader.info
            yield from self._job.pieces(alive(reader.blocks()))
            source.seconds = reader.seconds

    def _take(self, step: Step) -> Outcome | None:
        source = step.source
        if step.piece is None:
            return self._finish(source, step.error)
        if source not in self._states:
            self._states[source] = self._job.begin()
        self._job.add(source, self._states[source], step.piece, step.result)
        if self._counts_seconds and not step.piece.part:
            seconds = step.piece.samples / self._job.runner.network.sample_rate
            # The header may promise less than there is.
            left = max(0.0, (self._bar.total or 0.0) - self._bar.n)
            self._bar.update(min(left, round(seconds - (0.0 if step.piece.last else self._job.overlap), 3)))
        return None

    def raise_if_interrupted(self, kept_in: Path | None) -> None:
        """Raise `KeyboardInterrupt` if Ctrl-C ended the iteration, saying where the finished part is kept."""
        if self.interrupted:
            kept = "" if kept_in is None else f" and kept in {kept_in}; run the same command again to continue"
            raise KeyboardInterrupt(f"interrupted: {self.total - self.left} of {self.total} files are done{kept}")

    def _finish(self, source: Source, error: BaseException | None) -> Outcome:
        if error is not None and not isinstance(error, Exception):
            raise error
        state = self._states.pop(source, None)
        value = None
        if error is None and (state is None or source.info is None):
            error = AudioError("The file gave no samples; leave it out or fetch it again.")
        if error is None and state is not None:
            try:
                value = self._job.finish(state)
            except AudioError as problem:
                error = problem
        if error is not None:
            if state is not None:
                self._job.drop(state)
            failures.warning("%s: %s: %s", source.path, type(error).__name__, error)
        return Outcome(source, value, error)


def _read_length(file: Path) -> float | None:
    """Seconds that the header of a file promises; None if it says nothing."""
    try:
        return float(soundfile.info(file).duration) or None
    except (OSError, soundfile.SoundFileError):
        return None


def check_options(workers: int | None, batch_size: int | None, timeout: float) -> None:
    """Check the options of a run over many recordings.

    Raises
    ------
    InvalidArgumentError
        For one that is not positive.
    """
    for name, value in (("workers", workers), ("batch_size", batch_size)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1):
            raise InvalidArgumentError(f"{name} must be a whole number of at least 1, or None, got {value!r}")
    if workers is not None and workers > _MOST_WORKERS:
        raise InvalidArgumentError(f"workers must be at most {_MOST_WORKERS}, got {workers}; one a core is enough.")
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float, np.number)) or not timeout > 0:
        raise InvalidArgumentError(f"timeout must be a positive number of seconds, got {timeout!r}")


# --- warnings and Ctrl-C -------------------------------------------------------------------------------------------


@contextmanager
def _warnings_logged() -> Iterator[None]:
    """Log what the decoders warn about under the path of the file, whatever the filters say."""
    with warnings.catch_warnings():
        warnings.filterwarnings("always", module=r"sedembed\.")
        show = warnings.showwarning

        def log(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            source = current_source()
            if source is None:
                show(message, category, filename, lineno, file, line)
            else:
                logger.warning("%s: %s", source.path, message)

        warnings.showwarning = log
        yield


@contextmanager
def _interrupts_noted() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a flag; the second does what it always does."""
    interrupted = threading.Event()
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupted
        return

    def note(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        interrupted.set()

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
