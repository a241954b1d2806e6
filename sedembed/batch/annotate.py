"""Tags and events of many recordings: the same loop as `embed_folder`, results in the order of the paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sedembed.batch.journal import Journal
from sedembed.batch.loop import FolderRun, Job
from sedembed.detection.detect import OverlappingWindows
from sedembed.detection.events import Event, EventDetector, EventRules, sort_events
from sedembed.engine.provenance import describe_settings
from sedembed.engine.runner import Runner
from sedembed.engine.windows import ClipSum, WindowResult
from sedembed.engine.workers import Pending, Piece, Source
from sedembed.errors import AudioError, StoreError

__all__ = ["Annotation", "detect_recordings", "tag_recordings"]


class Annotation(NamedTuple):
    """What was found in one recording.

    Attributes
    ----------
    path : str
        Relative to the folder.
    duration : float
        In seconds; 0 if it failed.
    values : list
        `Event` objects sorted by onset, or pairs of label and probability, the highest first.
    error : (str, str) or None
        Class and message of the error, if it failed.
    """

    path: str
    duration: float
    values: list[Any]
    error: tuple[str, str] | None


def detect_recordings(
    runner: Runner, folder: Path, paths: Sequence[str], rules: EventRules, out: Path | None = None, **options: Any
) -> Iterator[Annotation]:
    """Detect the events of recordings.

    Parameters
    ----------
    runner : Runner
        The network.
    folder : Path
        Where the recordings are.
    paths : sequence of str
        Which ones, relative to `folder`.
    rules : EventRules
        What an event is.
    out : Path, optional
        Output of the job. Results are then kept in a journal beside it until all were taken, so that the same call
        continues after an interruption.
    **options
        As for `FolderRun`.

    Yields
    ------
    Annotation
        One for each path, in their order.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C, once what is done is kept.
    """
    settings = {"job": "detect", "rules": rules.describe()}
    return _annotate(_DetectJob(runner, rules), folder, paths, settings, out, options)


def tag_recordings(
    runner: Runner, folder: Path, paths: Sequence[str], k: int, out: Path | None = None, **options: Any
) -> Iterator[Annotation]:
    """Find the k strongest sound events of recordings; parameters as for `detect_recordings`."""
    return _annotate(_TagJob(runner, k), folder, paths, {"job": "tag", "k": k}, out, options)


def _annotate(
    job: Job[Any], folder: Path, paths: Sequence[str], settings: dict[str, Any], out: Path | None, options: Any
) -> Iterator[Annotation]:
    settings = {**settings, "model": describe_settings(job.runner), "folder": str(folder.resolve())}
    journal = None if out is None else Journal(out, settings)
    complete = False
    try:
        known = {} if journal is None else {p: r for p, r in journal.results.items() if r["error"] is None}
        run = FolderRun(job, folder, [path for path in paths if path not in known], total=len(paths), **options)
        waiting: dict[str, Annotation] = {path: _from_json(path, result) for path, result in known.items()}
        order = iter(paths)
        following = next(order, None)
        while following is not None and following in waiting:
            yield waiting.pop(following)
            following = next(order, None)
        for source, value, error in run:
            failure = None if error is None else (type(error).__name__, str(error) or repr(error))
            found = Annotation(source.path, source.seconds if error is None else 0.0, value or [], failure)
            if journal is not None:
                journal.add(source.path, _to_json(found))
            waiting[source.path] = found
            while following is not None and following in waiting:
                yield waiting.pop(following)
                following = next(order, None)
        run.raise_if_interrupted(None if journal is None else journal.file)
        complete = True
    finally:
        if journal is not None:
            journal.close(complete=complete)


def _to_json(found: Annotation) -> dict[str, Any]:
    return {"duration": found.duration, "values": [list(value) for value in found.values], "error": found.error}


def _from_json(path: str, result: dict[str, Any]) -> Annotation:
    try:
        values = [Event(*value) if len(value) == 4 else tuple(value) for value in result["values"]]
        return Annotation(path, float(result["duration"]), values, None)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"The journal of an earlier run is damaged ({error!r}); delete it and begin again.") from error


class _DetectJob(Job["_Detection"]):
    batched = False  # one by one, so that the events are those of `Embedder.detect` to the bit

    def __init__(self, runner: Runner, rules: EventRules) -> None:
        super().__init__(runner)
        self._rules, self._windows = rules, OverlappingWindows(runner)
        self.overlap = self._windows.overlap

    def pieces(self, blocks: Iterator[NDArray[np.float32]]) -> Iterator[Piece]:
        for features, samples, last in self._windows.features(blocks):
            yield Piece(features, samples, last)

    def submit(self, pieces: Sequence[Piece]) -> Pending:
        found = [self.runner.frame_probabilities(piece.features) for piece in pieces]
        return lambda: found

    def begin(self) -> _Detection:
        return _Detection(self._windows, self._rules)

    def add(self, source: Source, state: _Detection, piece: Piece, result: NDArray[np.float32]) -> None:
        try:
            state.add(piece, result)
        except AudioError as error:  # this recording fails, the run goes on
            state.error = error

    def finish(self, state: _Detection) -> list[Event]:
        if state.error is not None:
            raise state.error
        return sort_events([*state.events, *state.detector.finish(state.end)])


class _Detection:
    def __init__(self, windows: OverlappingWindows, rules: EventRules) -> None:
        self.detector, self.events, self.end = EventDetector(rules), list[Event](), 0.0
        self._windows, self._number = windows, 0
        self.error: AudioError | None = None

    def add(self, piece: Piece, probabilities: NDArray[np.float32]) -> None:
        output = self._windows.join(self._number, piece.features, probabilities, piece.samples, piece.last)
        self._number += 1
        self.end = output.end
        self.events += self.detector.push(output.probabilities, output.start)


class _TagJob(Job[ClipSum]):
    def __init__(self, runner: Runner, k: int) -> None:
        super().__init__(runner)
        self._k = k

    def pieces(self, blocks: Iterator[NDArray[np.float32]]) -> Iterator[Piece]:
        for window in self.runner.windows(blocks):
            for part in self.runner.parts(window):
                yield Piece(self.runner.features(part), len(part))

    def submit(self, pieces: Sequence[Piece]) -> Pending:
        return self.runner.submit([piece.features for piece in pieces], probabilities=True)

    def begin(self) -> ClipSum:
        return self.runner.new_sum()

    def add(self, source: Source, state: ClipSum, piece: Piece, result: WindowResult) -> None:
        state.add(result)

    def finish(self, state: ClipSum) -> list[tuple[str, float]]:
        probabilities = state.probabilities
        best = probabilities.argsort()[::-1][: self._k]
        return [(self.runner.network.labels[i], float(probabilities[i])) for i in best]
