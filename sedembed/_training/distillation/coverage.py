"""Choose segments so that a given duration covers as many sound events as possible."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

__all__ = ["choose_by_coverage"]

_ENOUGH = 5.0  # summed probability of an event from which more of it is worth half


def choose_by_coverage(
    probabilities: NDArray[np.floating],
    seconds: NDArray[np.floating],
    budget: float,
    known: NDArray[np.floating] | None = None,
) -> NDArray[np.int64]:
    """Choose segments greedily by what they add to the events so far, per second of sound.

    The worth of an event grows with the logarithm of its summed probability, so rare events come first and common ones
    still count.

    Parameters
    ----------
    probabilities : ndarray, shape (segments, classes)
        Of the teacher.
    seconds : ndarray, shape (segments,)
        Duration of each segment.
    budget : float
        Seconds to choose at most.
    known : ndarray, shape (classes,), optional
        Summed probabilities of the audio that is there already.

    Returns
    -------
    ndarray of int64, shape (chosen,)
        Indices in the order of choice.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    durations = np.maximum(np.asarray(seconds, dtype=np.float64), 1e-3)
    amounts = np.zeros(p.shape[1]) if known is None else np.asarray(known, dtype=np.float64).copy()

    def gain(index: int) -> float:
        return float(np.log1p(p[index] / (_ENOUGH + amounts)).sum() / durations[index])

    # Gains only fall while segments are added: a segment whose fresh gain still leads is the best one.
    heap = [(-gain(index), index) for index in range(len(p))]
    heapq.heapify(heap)
    chosen: list[int] = []
    left = budget
    while heap:
        _, index = heapq.heappop(heap)
        if durations[index] > left:
            continue
        fresh = gain(index)
        if heap and fresh < -heap[0][0]:
            heapq.heappush(heap, (-fresh, index))
            continue
        chosen.append(index)
        amounts += p[index]
        left -= durations[index]
    return np.array(chosen, dtype=np.int64)
