"""Detection of events in a recording of any length, by overlapping windows as long as those of the training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sedembed.detection.events import Event, EventDetector, EventRules, sort_events
from sedembed.engine.runner import Runner
from sedembed.engine.windows import iter_overlapping
from sedembed.errors import InvalidWaveformError

__all__ = ["WindowOutput", "detect", "detect_blocks", "run_windows"]

# Ten seconds: what the networks were trained on. Among other sounds in a window of a minute it overlooks most events.
_WINDOW_SECONDS = 10.0
# What is near the edge of a window is heard again in the next one, with more around it.
_EDGE_SECONDS = 1.0


class WindowOutput(NamedTuple):
    """Output of the network for a stretch of sound; stretches follow each other without gap or overlap.

    Frame i of the recording stands for the seconds from i / frame rate to (i + 1) / frame rate.
    """

    features: NDArray[np.float32]  # (feature frames, bins), in dB
    probabilities: NDArray[np.float32]  # (frames, classes)
    start: float  # of the first frame, in seconds
    end: float  # of the stretch; the last one ends with the sound


def run_windows(runner: Runner, blocks: Iterable[NDArray[np.float32]]) -> Iterator[WindowOutput]:
    """Run a sound, given in blocks at the network's own rate, through the network in bounded memory."""
    network = runner.network
    rate = network.frame_rate
    samples = round(network.sample_rate / rate)  # of a frame
    window, edge = math.ceil(_WINDOW_SECONDS * rate), round(_EDGE_SECONDS * rate)
    hop = window - 2 * edge
    per_frame, per_feature = round(network.feature_rate / rate), round(network.sample_rate / network.feature_rate)
    # Frames before the one that holds the first centre. A network that hears several frames for each that it gives
    # gives none for them, nor for some at the end: its first and its last one, which hear them, stand for them too.
    late = math.floor(network.first_frame_time * rate)
    first = 0  # frame that the window begins with
    for number, (wave, last) in enumerate(iter_overlapping(blocks, window * samples, hop * samples)):
        features = runner.features(np.pad(wave, (0, max(0, network.min_samples - len(wave)))))
        probabilities = runner.frame_probabilities(features)
        rest = max(0, len(features) // per_frame - len(probabilities) - late)
        probabilities = np.pad(probabilities, ((late, rest), (0, 0)), mode="edge")
        begin, stop = edge if number else 0, window - edge
        kept_features = stop * per_frame
        if last:
            stop, kept_features = -(-len(wave) // samples), 1 + len(wave) // per_feature
        if not np.isfinite(probabilities).all():
            raise InvalidWaveformError(
                f"the network gives NaN or infinity for this sound, from {first / rate:g} s on; check its level"
            )
        yield WindowOutput(
            features[begin * per_frame : kept_features].numpy(),
            probabilities[begin:stop],
            (first + begin) / rate,
            first / rate + len(wave) / network.sample_rate if last else (first + stop) / rate,
        )
        first += hop


def detect_blocks(
    runner: Runner, blocks: Iterable[NDArray[np.float32]], rules: EventRules
) -> Iterator[tuple[list[Event], float]]:
    """Events that each stretch brings to an end, with the seconds processed so far."""
    detector, end = EventDetector(rules), 0.0
    for output in run_windows(runner, blocks):
        end = output.end
        yield detector.push(output.probabilities, output.start), end
    yield detector.finish(end), end


def detect(runner: Runner, blocks: Iterable[NDArray[np.float32]], rules: EventRules) -> tuple[list[Event], float]:
    """Events of one clip, sorted, and its duration in seconds."""
    events: list[Event] = []
    duration = 0.0
    for new, end in detect_blocks(runner, blocks, rules):
        events, duration = events + new, end
    return sort_events(events), duration
