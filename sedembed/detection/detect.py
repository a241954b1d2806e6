"""How a recording of any length is heard for its events: windows as long as those the network learnt from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sedembed.detection.events import Event, EventDetector, EventRules, sort_events
from sedembed.errors import InvalidWaveformError

if TYPE_CHECKING:
    from sedembed.embedder import AudioInput, Embedder

__all__ = ["Heard", "detect", "detect_blocks", "hear", "iter_overlapping"]

# Ten seconds: what the networks were trained on. Among other sounds in a window of a minute it overlooks most events.
_WINDOW_SECONDS = 10.0
# What is near the edge of a window is heard again in the next one, with more around it.
_EDGE_SECONDS = 1.0


class Heard(NamedTuple):
    """What the network made of a stretch of sound; stretches follow each other without gap or overlap.

    Frame i of the recording stands for the seconds from i / frame rate to (i + 1) / frame rate.
    """

    features: NDArray[np.float32]  # (feature frames, bins), in dB
    probabilities: NDArray[np.float32]  # (frames, classes)
    start: float  # of the first frame, in seconds
    end: float  # of the stretch; the last one ends with the sound


def iter_overlapping(
    blocks: Iterable[NDArray[np.float32]], size: int, hop: int
) -> Iterator[tuple[NDArray[np.float32], bool]]:
    """Cut a stream of samples into windows that overlap.

    Parameters
    ----------
    blocks : iterable of ndarray of float32, shape (any,)
        Consecutive samples in blocks of any length.
    size, hop : int
        Length of a window and distance from one to the next, in samples.

    Yields
    ------
    window : ndarray of float32, shape (size,); the last one between size - hop + 1 and size, or all there is
        The same windows whatever the lengths of the blocks; none for a stream without samples.
    last : bool
        Whether the sound ends with it.
    """
    pending: list[NDArray[np.float32]] = []
    held = 0
    for block in blocks:
        pending.append(block)
        held += len(block)
        while held > size:
            joined = np.concatenate(pending) if len(pending) > 1 else pending[0]  # an hour in one block: no copies
            yield joined[:size], False
            pending, held = [joined[hop:]], held - hop
    if held:
        yield np.concatenate(pending), True


def hear(model: Embedder, blocks: Iterable[NDArray[np.float32]]) -> Iterator[Heard]:
    """Run a sound, given in blocks of the model's own rate, through the network; memory does not grow with it."""
    rate, network = model.frame_rate, model._network
    samples = round(model.sample_rate / rate)  # of a frame
    window, edge = math.ceil(_WINDOW_SECONDS * rate), round(_EDGE_SECONDS * rate)
    hop = window - 2 * edge
    per_frame, per_feature = round(network.feature_rate / rate), round(model.sample_rate / network.feature_rate)
    # Frames before the one that holds the first centre. A network that hears several frames for each that it gives
    # gives none for them, nor for some at the end: its first and its last one, which hear them, stand for them too.
    late = math.floor(network.first_frame_time * rate)
    first = 0  # frame that the window begins with
    for number, (wave, last) in enumerate(iter_overlapping(blocks, window * samples, hop * samples)):
        features = model._features(np.pad(wave, (0, max(0, network.min_samples - len(wave)))))
        probabilities = model._frame_probabilities(features)
        rest = max(0, len(features) // per_frame - len(probabilities) - late)
        probabilities = np.pad(probabilities, ((late, rest), (0, 0)), mode="edge")
        begin, stop = edge if number else 0, window - edge
        heard_features = stop * per_frame
        if last:
            stop, heard_features = -(-len(wave) // samples), 1 + len(wave) // per_feature
        if not np.isfinite(probabilities).all():
            raise InvalidWaveformError(
                f"the network gives NaN or infinity for this sound, from {first / rate:g} s on; check its level"
            )
        yield Heard(
            features[begin * per_frame : heard_features].numpy(),
            probabilities[begin:stop],
            (first + begin) / rate,
            first / rate + len(wave) / model.sample_rate if last else (first + stop) / rate,
        )
        first += hop


def detect_blocks(
    model: Embedder, blocks: Iterable[NDArray[np.float32]], rules: EventRules
) -> Iterator[tuple[list[Event], float]]:
    """Events that each stretch brings to an end, with the seconds heard so far."""
    detector, end = EventDetector(rules), 0.0
    for heard in hear(model, blocks):
        end = heard.end
        yield detector.push(heard.probabilities, heard.start), end
    yield detector.finish(end), end


def detect(model: Embedder, clip: AudioInput, sample_rate: int | None, rules: EventRules) -> tuple[list[Event], float]:
    """Events of one clip, sorted, and its duration in seconds."""
    events: list[Event] = []
    duration = 0.0
    for new, end in detect_blocks(model, model._blocks(clip, sample_rate), rules):
        events, duration = events + new, end
    return sort_events(events), duration
