"""Events: from the probability of a sound in every frame to when it begins and ends."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sedembed.errors import InvalidArgumentError, InvalidTypeError
from sedembed.models.labels import find_label

__all__ = ["DEFAULT_THRESHOLD", "Event", "EventDetector", "EventRules", "sort_events"]

DEFAULT_THRESHOLD = 0.3
_LONGEST_MEDIAN = 60.0  # seconds: memory grows with it, and nothing that long is a median of events


class Event(NamedTuple):
    """A sound event in a recording.

    Attributes
    ----------
    label : str
        Name of the sound, one of the model's `labels`.
    onset, offset : float
        Start and end in seconds from the start of the recording.
    probability : float
        Highest frame probability within the event, after the median filter; at least the threshold.
    """

    label: str
    onset: float
    offset: float
    probability: float


def sort_events(events: Iterable[Event]) -> list[Event]:
    """Sort events by onset, then offset, then label."""
    return sorted(events, key=lambda event: (event.onset, event.offset, event.label))


@dataclass(frozen=True)
class EventRules:
    """How frame probabilities become events: the options of `Embedder.detect`, checked and counted in frames.

    Attributes
    ----------
    labels : tuple of str
        Names of the sounds looked for.
    classes : ndarray of int64, shape (labels,)
        Their columns among the model's.
    thresholds : ndarray of float32, shape (labels,)
        A frame is active from this probability on.
    median, min_duration, max_gap : int
        Length of the median filter (odd), of the shortest event and of the longest gap bridged, in frames.
    frame_rate : float
        Frames per second.
    """

    labels: tuple[str, ...]
    classes: NDArray[np.int64]
    thresholds: NDArray[np.float32]
    median: int
    min_duration: int
    max_gap: int
    frame_rate: float

    @classmethod
    def check(
        cls,
        names: Sequence[str],
        frame_rate: float,
        threshold: float | Mapping[str, float] | ArrayLike = DEFAULT_THRESHOLD,
        labels: str | Iterable[str] | None = None,
        median: float = 0.3,
        min_duration: float = 0.0,
        max_gap: float = 0.2,
    ) -> EventRules:
        """Make rules for a model that has these `names` and this rate, or raise ValueError with the cure."""
        thresholds = _thresholds(names, threshold)
        if labels is not None and not isinstance(labels, Iterable):
            raise InvalidTypeError(f"Expected names of sound events as labels, got {labels!r}; see model.labels.")
        wanted = list(names) if labels is None else [labels] if isinstance(labels, str) else list(labels)
        if not all(isinstance(label, str) for label in wanted):
            raise InvalidTypeError(f"Expected names of sound events as labels, got {labels!r}; see model.labels.")
        if not wanted:
            raise InvalidArgumentError("labels needs at least one sound event, got none; leave it out to look for all")
        classes = np.array(sorted({_column(names, label, "labels") for label in wanted}), dtype=np.int64)
        frames = round(_seconds("median", median, _LONGEST_MEDIAN) * frame_rate)
        return cls(
            labels=tuple(names[i] for i in classes),
            classes=classes,
            thresholds=thresholds[classes],
            median=frames + 1 - frames % 2,
            # The margin keeps 0.3 s at 10 frames a second from being 2.9999999999999996 or 3.0000000000000004 frames.
            min_duration=math.ceil(_seconds("min_duration", min_duration) * frame_rate - 1e-6),
            max_gap=math.floor(_seconds("max_gap", max_gap) * frame_rate + 1e-6),
            frame_rate=frame_rate,
        )

    def describe(self) -> dict[str, Any]:
        """All that decides the events, as plain values for JSON."""
        return {
            "labels": list(self.labels),
            "thresholds": [float(value) for value in self.thresholds],
            "median": self.median,
            "min_duration": self.min_duration,
            "max_gap": self.max_gap,
        }


def _thresholds(names: Sequence[str], threshold: float | Mapping[str, float] | ArrayLike) -> NDArray[np.float32]:
    values = np.full(len(names), DEFAULT_THRESHOLD)
    if isinstance(threshold, Mapping):
        for label, value in threshold.items():
            values[_column(names, label, "threshold")] = _as_numbers(value)
    else:
        given = _as_numbers(threshold)
        if given.shape not in ((), values.shape):
            raise InvalidArgumentError(
                f"threshold as an array needs one number for each of the {len(names)} labels, got shape "
                f"{given.shape}; pass a mapping from label to threshold to set a few"
            )
        values[:] = given
    bad = ~((values >= 0.0) & (values <= 1.0))
    if bad.any():
        raise InvalidArgumentError(
            f"threshold is a probability from 0 to 1, such as {DEFAULT_THRESHOLD}, got {values[bad][0]:g} for "
            f"{names[int(bad.argmax())]!r}"
        )
    return values.astype(np.float32)


def _as_numbers(value: object) -> NDArray[np.float64]:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"threshold must be a number, a mapping from label to number, or an array, got {value!r}"
        ) from error


def _column(names: Sequence[str], label: str, option: str) -> int:
    return names.index(find_label(names, label, option))


def _seconds(name: str, value: float, longest: float = math.inf) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not (0.0 <= number <= longest) or math.isinf(number):
        limit = "" if math.isinf(longest) else f" and at most {longest:g}"
        raise InvalidArgumentError(f"{name} must be a number of seconds, at least 0{limit}, got {value!r}")
    return number


@dataclass
class _Open:
    """An event that may still go on: frames [start, stop)."""

    start: int
    stop: int
    probability: float


class EventDetector:
    """Frame probabilities in, piece by piece; events out as soon as they are decided.

    The events are the same however the frames are cut into pieces: those of `scipy.ndimage.median_filter` over the
    whole track, thresholded, gaps bridged, then short events dropped. Memory is bounded by a piece and the median.

    Parameters
    ----------
    rules : EventRules
        What is an event.
    """

    def __init__(self, rules: EventRules) -> None:
        self._rules = rules
        self._held = np.empty((0, len(rules.labels)), np.float32)  # context of the filter and frames not yet decided
        self._pushed = self._decided = 0
        self._open: dict[int, _Open] = {}
        self._pieces: list[tuple[int, float]] = []  # first frame of each piece and when it begins

    def push(self, probabilities: NDArray[np.float32], start: float) -> list[Event]:
        """Take the next frames in.

        Parameters
        ----------
        probabilities : ndarray, shape (frames, classes)
            In the order of the model's labels.
        start : float
            When the first of them begins, in seconds.

        Returns
        -------
        list of Event
            Those that are over.
        """
        if len(probabilities):
            self._pieces.append((self._pushed, start))
            self._pushed += len(probabilities)
            piece = np.asarray(probabilities[:, self._rules.classes], dtype=np.float32)
            self._held = np.concatenate([self._held, piece])
        return self._decide(self._pushed - self._rules.median // 2, math.inf)

    def finish(self, duration: float) -> list[Event]:
        """End the recording, `duration` seconds long; no event reaches beyond it."""
        events = self._decide(self._pushed, duration)
        return events + self._close(list(self._open), duration)

    def _decide(self, until: int, duration: float) -> list[Event]:
        """Decide the frames before `until`."""
        if until <= self._decided:
            return []
        first = self._pushed - len(self._held)
        # A median reaches the threshold only if some frame does; most of 527 sounds never do.
        columns = np.flatnonzero((self._held >= self._rules.thresholds).any(0))
        smooth = self._smooth(self._held[:, columns])[self._decided - first : until - first]
        active = smooth >= self._rules.thresholds[columns]
        over: list[Event] = []
        for i, column in enumerate(columns.tolist()):
            edges = np.flatnonzero(np.diff(active[:, i], prepend=False, append=False))
            if not len(edges):
                continue
            peaks = np.maximum.reduceat(smooth[:, i], edges[::2])  # frames between runs are below them
            runs = (edges + self._decided).reshape(-1, 2).tolist()
            for (start, stop), peak in zip(runs, peaks.tolist(), strict=True):
                event = self._open.get(column)
                if event is not None and start - event.stop <= self._rules.max_gap:
                    event.stop, event.probability = stop, max(event.probability, peak)
                else:
                    over += self._close([column], duration)
                    self._open[column] = _Open(start, stop, peak)
        self._decided = until
        ended = [column for column, event in self._open.items() if until - event.stop > self._rules.max_gap]
        over += self._close(ended, duration)
        # Half a filter before the first undecided frame is what its median needs.
        self._held = self._held[max(0, until - self._rules.median // 2 - first) :]
        oldest = min([until, *(event.start for event in self._open.values())])
        while len(self._pieces) > 1 and self._pieces[1][0] <= oldest:
            del self._pieces[0]
        return sort_events(over)

    def _smooth(self, track: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._rules.median == 1 or not track.size:
            return track
        from scipy.ndimage import median_filter

        return np.asarray(median_filter(track, size=(self._rules.median, 1), mode="reflect"))

    def _close(self, columns: Iterable[int], duration: float) -> list[Event]:
        events = []
        for column in columns:
            event = self._open.pop(column, None)
            if event is not None and event.stop - event.start >= self._rules.min_duration:
                onset, offset = self._begin(event.start), self._begin(event.stop - 1, 1)
                events.append(Event(self._rules.labels[column], onset, min(offset, duration), event.probability))
        return sort_events(events)

    def _begin(self, frame: int, later: int = 0) -> float:
        """Begin of a frame, or of the one `later` frames after it if that followed at once, in seconds."""
        first, start = self._pieces[bisect_right(self._pieces, frame, key=lambda piece: piece[0]) - 1]
        return start + (frame - first + later) / self._rules.frame_rate
