"""Detection of events in a recording of any length, by overlapping windows as long as those of the training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sedembed.detection.events import Event, EventDetector, EventRules, sort_events
from sedembed.engine.clips import run_pieces
from sedembed.engine.inputs import naming_clip
from sedembed.engine.runner import Runner
from sedembed.engine.windows import iter_overlapping, refuse_nonfinite
from sedembed.engine.workers import Pending, Piece

__all__ = [
    "OverlappingWindows",
    "WindowOutput",
    "detect",
    "detect_blocks",
    "detect_clips",
    "detect_latest",
    "run_windows",
]

# The networks were trained on at most ten seconds; in windows of a minute they miss most events.
_WINDOW_SECONDS = 10.0
# What is near the edge of a window is in the next one too, with more around it.
_EDGE_SECONDS = 1.0


class WindowOutput(NamedTuple):
    """Output of the network for a stretch of sound; stretches follow each other without gap or overlap.

    Frame i of the recording stands for the seconds from i / frame rate to (i + 1) / frame rate.
    """

    features: NDArray[np.float32]  # (feature frames, bins), in dB
    probabilities: NDArray[np.float32]  # (frames, classes)
    start: float  # of the first frame, in seconds
    end: float  # of the stretch; the last one ends with the sound


class OverlappingWindows:
    """Windows of ten seconds that overlap, and the stretch of sound for which each one counts.

    Parameters
    ----------
    runner : Runner
        The network.
    """

    def __init__(self, runner: Runner) -> None:
        network = runner.network
        self._runner, self._rate = runner, network.frame_rate
        self._samples = round(network.sample_rate / self._rate)  # of a frame
        self._window = math.ceil(_WINDOW_SECONDS * self._rate)
        self._edge = round(_EDGE_SECONDS * self._rate)
        self._hop = self._window - 2 * self._edge
        self._per_frame = round(network.feature_rate / self._rate)
        self._per_feature = round(network.sample_rate / network.feature_rate)
        # Frames before the one that holds the first centre. A network whose frames overlap gives no output for them,
        # nor for some at the end: its first and its last frame, which cover them, stand for them too.
        self._late = math.floor(network.first_frame_time * self._rate)

    @property
    def overlap(self) -> float:
        """Seconds that a window shares with the next one."""
        return 2 * self._edge / self._rate

    def features(self, blocks: Iterable[NDArray[np.float32]]) -> Iterator[tuple[torch.Tensor, int, bool]]:
        """Yield features, number of samples, and whether it is the last one, of each window of a sound."""
        shortest = self._runner.network.min_samples
        for wave, last in iter_overlapping(blocks, self._window * self._samples, self._hop * self._samples):
            yield self._runner.features(np.pad(wave, (0, max(0, shortest - len(wave))))), len(wave), last

    def join(
        self, number: int, features: torch.Tensor, probabilities: NDArray[np.float32], samples: int, last: bool
    ) -> WindowOutput:
        """Cut the output of a window to the stretch for which it counts.

        Parameters
        ----------
        number : int
            Of the window, from 0.
        features, samples, last
            What `features` gave.
        probabilities : ndarray of float32, shape (frames, classes)
            What the network gave.

        Raises
        ------
        InvalidWaveformError
            If there is NaN or infinity among the probabilities.
        """
        rate, first = self._rate, number * self._hop
        rest = max(0, len(features) // self._per_frame - len(probabilities) - self._late)
        probabilities = np.pad(probabilities, ((self._late, rest), (0, 0)), mode="edge")
        begin, stop = self._edge if number else 0, self._window - self._edge
        kept_features = stop * self._per_frame
        if last:
            stop, kept_features = -(-samples // self._samples), 1 + samples // self._per_feature
        refuse_nonfinite(probabilities, f"the sound from {first / rate:g} s on")
        return WindowOutput(
            features[begin * self._per_frame : kept_features].numpy(),
            probabilities[begin:stop],
            (first + begin) / rate,
            first / rate + samples / self._runner.network.sample_rate if last else (first + stop) / rate,
        )


def run_windows(runner: Runner, blocks: Iterable[NDArray[np.float32]]) -> Iterator[WindowOutput]:
    """Run a sound, given in blocks at the network's own rate, through the network in bounded memory."""
    windows = OverlappingWindows(runner)
    for number, (features, samples, last) in enumerate(windows.features(blocks)):
        yield windows.join(number, features, runner.frame_probabilities(features), samples, last)


def detect_blocks(
    runner: Runner, blocks: Iterable[NDArray[np.float32]], rules: EventRules
) -> Iterator[tuple[list[Event], float]]:
    """Events that each stretch brings to an end, with the seconds processed so far."""
    detector, end = EventDetector(rules), 0.0
    for output in run_windows(runner, blocks):
        end = output.end
        yield detector.push(output.probabilities, output.start), end
    yield detector.finish(end), end


def detect_latest(
    runner: Runner, windows: Iterable[tuple[NDArray[np.float32], int, int]], rules: EventRules
) -> Iterator[tuple[list[Event], float]]:
    """Events that each of the windows of `Runner.latest_windows` brings to an end, with the seconds processed so far.

    Of each window only the frames count that are new; each frame of the sound counts once.
    """
    network, detector = runner.network, EventDetector(rules)
    samples, done, seconds = round(network.sample_rate / network.frame_rate), 0, 0.0
    late = math.floor(network.first_frame_time * network.frame_rate)
    per_frame = round(network.feature_rate / network.frame_rate)
    for wave, start, end in windows:
        padded = np.pad(wave, (0, max(0, network.min_samples - len(wave))))
        features = runner.features(padded)
        probabilities = runner.frame_probabilities(features)
        first, frames = start // samples, -(-len(wave) // samples)
        # As in `OverlappingWindows.join`: the first and the last frame stand for what they cover.
        rest = max(0, len(features) // per_frame - len(probabilities) - late)
        probabilities = np.pad(probabilities, ((late, rest), (0, 0)), mode="edge")
        new = refuse_nonfinite(
            probabilities[done - first : frames], f"this sound, from {start / network.sample_rate:g} s on"
        )
        began, done, seconds = done / network.frame_rate, first + frames, end / network.sample_rate
        yield detector.push(new, began), seconds
    yield detector.finish(seconds), seconds


def detect(runner: Runner, blocks: Iterable[NDArray[np.float32]], rules: EventRules) -> tuple[list[Event], float]:
    """Events of one clip, sorted, and its duration in seconds."""
    events: list[Event] = []
    duration = 0.0
    for new, end in detect_blocks(runner, blocks, rules):
        events, duration = events + new, end
    return sort_events(events), duration


def detect_clips(
    runner: Runner, clips: int, blocks: Callable[[int], Iterable[NDArray[np.float32]]], rules: EventRules
) -> list[list[Event]]:
    """Events of several clips, sorted, by several workers.

    Parameters
    ----------
    runner : Runner
        The network.
    clips : int
        How many there are.
    blocks : callable
        Gives the samples of a clip at the network's own rate; called from several threads.
    rules : EventRules
        What an event is.
    """
    windows = OverlappingWindows(runner)

    def read(index: int) -> Iterator[Piece]:
        return (Piece(*window) for window in windows.features(blocks(index)))

    def submit(pieces: Sequence[Piece]) -> Pending:
        found = [runner.frame_probabilities(piece.features) for piece in pieces]
        return lambda: found

    events: list[list[Event]] = [[] for _ in range(clips)]
    detectors, ends, numbers = [EventDetector(rules) for _ in range(clips)], [0.0] * clips, [0] * clips
    # One window a batch, so that the events are those of a single clip to the bit.
    for index, piece, probabilities in run_pieces(runner, clips, read, submit, max_items=1):
        with naming_clip(index, clips):
            output = windows.join(numbers[index], piece.features, probabilities, piece.samples, piece.last)
        numbers[index] += 1
        ends[index] = output.end
        events[index] += detectors[index].push(output.probabilities, output.start)
    return [sort_events([*events[i], *detectors[i].finish(ends[i])]) for i in range(clips)]
