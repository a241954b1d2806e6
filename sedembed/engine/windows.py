"""Windows: how a recording of any length becomes pieces of bounded length, and how their results become one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sedembed.errors import InvalidArgumentError, InvalidWaveformError

__all__ = [
    "LATEST_SECONDS",
    "PART_SECONDS",
    "WINDOW_SECONDS",
    "ClipSum",
    "Hops",
    "WindowResult",
    "iter_hops",
    "iter_latest",
    "iter_overlapping",
    "iter_windows",
    "plan_batches",
    "refuse_nonfinite",
]

WINDOW_SECONDS = 60.0
# Of a stream with a hop: as long as the clips of the training.
LATEST_SECONDS = 10.0
# The network runs on so much at once for probabilities, as in training: over minutes it overlooks short events.
PART_SECONDS = 10.0


def iter_windows(blocks: Iterable[NDArray[np.float32]], size: int, minimum: int) -> Iterator[NDArray[np.float32]]:
    """Cut a stream of samples into windows.

    Parameters
    ----------
    blocks : iterable of ndarray of float32, shape (any,)
        Consecutive samples in blocks of any length.
    size : int
        Length of a window in samples.
    minimum : int
        Shortest input of the network in samples. A shorter remainder joins the window before it; a shorter clip is
        padded with zeros.

    Yields
    ------
    ndarray of float32, shape (between minimum and size + minimum - 1,)
        The same windows whatever the lengths of the blocks; none for a stream without samples.
    """
    pending: list[NDArray[np.float32]] = []
    held = 0
    first = True
    for block in blocks:
        pending.append(block)
        held += len(block)
        # A full window waits until what follows it is known to be long enough for a window of its own.
        while held >= size + minimum:
            joined = np.concatenate(pending)
            yield joined[:size]
            first = False
            pending, held = [joined[size:]], held - size
    if held == 0:
        return
    rest = np.concatenate(pending)
    if first and held < minimum:
        rest = np.pad(rest, (0, minimum - held))
    yield rest


def iter_latest(
    blocks: Iterable[NDArray[np.float32]], window: int, hop: int, frame: int
) -> Iterator[tuple[NDArray[np.float32], int, int]]:
    """Cut a sound into windows that end a hop apart, each given as soon as its last sample is there.

    Parameters
    ----------
    blocks : iterable of ndarray of float32, shape (any,)
        The sound.
    window, hop : int
        Longest window and distance of their ends, in samples; multiples of `frame`.
    frame : int
        Every window begins at a multiple of so many samples.

    Yields
    ------
    window : ndarray of float32, shape (samples,)
        The samples from start to end.
    start, end : int
        In samples. The last end is that of the sound.
    """
    held, first, total, end = np.empty(0, np.float32), 0, 0, hop
    for block in blocks:
        held = np.concatenate((held, block))
        total += len(block)
        while total >= end:
            start = max(0, end - window)
            yield held[start - first : end - first], start, end
            held, first, end = held[start - first :], start, end + hop
    if total > end - hop:
        start = max(0, -(-(total - window) // frame) * frame)
        yield held[start - first :], start, total


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


def iter_hops(
    blocks: Iterable[NDArray[np.float32]], size: int, hop: int
) -> Iterator[tuple[NDArray[np.float32], int, bool]]:
    """Cut a stream of samples into windows of equal length, the last of which ends with the sound.

    Parameters
    ----------
    blocks : iterable of ndarray of float32, shape (any,)
        Consecutive samples in blocks of any length.
    size, hop : int
        Length of a window and distance from one to the next, in samples; `hop` is at most `size`.

    Yields
    ------
    window : ndarray of float32, shape (size,); of a shorter sound all there is
        The same windows whatever the lengths of the blocks; none for a stream without samples.
    start : int
        Its first sample: a multiple of `hop`, but for the last window.
    last : bool
        Whether the sound ends with it.
    """
    held = np.empty(0, np.float32)  # from the sample `first` on: the window before the next one is kept
    first = start = 0
    for block in blocks:
        held = np.concatenate((held, block)) if len(held) else block
        while first + len(held) > start + size:
            yield held[start - first : start - first + size], start, False
            held, first = held[start - first :], start
            start += hop
    end = first + len(held)
    if end:
        begin = max(0, end - size)
        yield held[begin - first :], begin, True


@dataclass(frozen=True)
class Hops:
    """Windows of a recording that get a vector each.

    Parameters
    ----------
    window : float
        Length of a window in seconds.
    hop : float
        From the start of one window to that of the next, in seconds.
    """

    window: float
    hop: float

    @classmethod
    def check(cls, window: float, hop: float | None, shortest: float) -> Hops:
        """Check lengths that a caller gives; without a hop, windows follow one another.

        Parameters
        ----------
        window, hop
            As above.
        shortest : float
            Shortest window of the network, in seconds.

        Raises
        ------
        InvalidArgumentError
            For what is no number of seconds, or out of range.
        """
        if not _is_seconds(window) or not shortest <= window <= WINDOW_SECONDS:
            raise InvalidArgumentError(
                f"Expected a window from {shortest:g} to {WINDOW_SECONDS:g} seconds, got {window!r}; without a window, "
                "a recording of any length gets one vector."
            )
        if hop is not None and (not _is_seconds(hop) or not 0.01 <= hop <= window):
            raise InvalidArgumentError(
                f"Expected a hop from 0.01 seconds to the length of the window, {window:g}, got {hop!r}; by default "
                "it is that length."
            )
        return cls(float(window), float(window if hop is None else hop))

    def samples(self, rate: int) -> tuple[int, int]:
        """Length of a window and hop in samples."""
        return round(self.window * rate), round(self.hop * rate)


def _is_seconds(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


@dataclass(frozen=True)
class WindowResult:
    """What the network gave for one window.

    Attributes
    ----------
    frames : ndarray of float32, shape (frames, embedding size)
        Frame embeddings.
    probabilities : ndarray of float32, shape (classes,), or None
        Of the events in the window, where they were asked for.
    """

    frames: NDArray[np.float32]
    probabilities: NDArray[np.float32] | None = None


@dataclass
class ClipSum:
    """Adds up the windows of one clip; the order of windows does not matter.

    Attributes
    ----------
    embedding_maximum : bool
        Whether the embedding is the maximum of the frame embeddings rather than their mean.
    unit_length : bool
        Whether the embedding is then scaled to unit length.
    """

    embedding_maximum: bool = False
    unit_length: bool = False
    frames: int = 0
    _sum: NDArray[np.float64] | None = field(default=None, repr=False)
    _probabilities: NDArray[np.float32] | None = field(default=None, repr=False)

    def add(self, window: WindowResult) -> None:
        """Take one more window in."""
        if self.embedding_maximum:
            most = window.frames.max(0).astype(np.float64)
            self._sum = most if self._sum is None else np.maximum(self._sum, most)
        else:
            total = window.frames.sum(0, dtype=np.float64)
            self._sum = total if self._sum is None else self._sum + total
        self.frames += len(window.frames)
        self.add_probabilities(window)

    def add_probabilities(self, window: WindowResult) -> None:
        """Take in the probabilities alone, where there are some."""
        if window.probabilities is not None:
            before = window.probabilities if self._probabilities is None else self._probabilities
            self._probabilities = np.maximum(before, window.probabilities)

    @property
    def embedding(self) -> NDArray[np.float32]:
        """Mean or maximum over all frames of all windows, shape (embedding size,)."""
        if self._sum is None:
            raise InvalidArgumentError("a clip without windows has no embedding; add a window first")
        pooled = self._sum if self.embedding_maximum else self._sum / self.frames
        if self.unit_length:
            norm = np.sqrt(np.square(pooled).sum())
            if norm > 0:  # all zeros have no direction and stay zeros
                with np.errstate(invalid="ignore"):  # infinities become NaN, which is refused below
                    pooled = pooled / norm
        return refuse_nonfinite(pooled.astype(np.float32))

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """The highest of all windows, shape (classes,)."""
        if self._probabilities is None:
            raise InvalidArgumentError("no probabilities were asked of the network for this clip")
        return refuse_nonfinite(self._probabilities)


def refuse_nonfinite(values: NDArray[np.float32], what: str = "this sound") -> NDArray[np.float32]:
    """Pass on what a network gave for a sound, of any shape: the one check of what leaves a network.

    Raises
    ------
    InvalidWaveformError
        If there is NaN or infinity in it.
    """
    if not np.isfinite(values).all():
        raise InvalidWaveformError(
            f"Expected finite numbers from the network, got NaN or infinity for {what}; check its level: full scale "
            "is 1."
        )
    return values


def plan_batches(lengths: Sequence[int], max_items: int, max_frames: int, max_padding: float = 0.2) -> list[list[int]]:
    """Group windows of similar length.

    Parameters
    ----------
    lengths : sequence of int
        Feature frames of each window.
    max_items, max_frames : int
        Most windows, and most frames including padding, of one batch; a single window may be longer.
    max_padding : float
        Greatest share of a window's padded length that may be padding.

    Returns
    -------
    list of list of int
        Indices into `lengths`; every index once, longest batch first.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        batch = batches[-1] if batches else None
        if (
            batch is None
            or len(batch) >= max_items
            or (len(batch) + 1) * lengths[batch[0]] > max_frames
            or lengths[index] < (1.0 - max_padding) * lengths[batch[0]]
        ):
            batches.append([index])
        else:
            batch.append(index)
    return batches
