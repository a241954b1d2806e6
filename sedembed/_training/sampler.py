"""The order in which clips are trained on: a function of the seed and the position, so nothing needs to be replayed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sedembed.errors import DatasetError

__all__ = ["BalancedOrder", "Order", "ShuffledOrder", "positions_of"]

# First number after the seed of each random stream, so that no two are alike.
_CLASSES, _QUEUES, _EPOCHS, _SUBSTITUTES = range(4)


class Order(Protocol):
    """An endless sequence of clips with random access."""

    def clip(self, position: int, attempt: int = 0) -> int:
        """Index of the clip at a position; with `attempt` from 1, of one that stands in for it if it is unreadable."""


class BalancedOrder:
    """Class-balanced order: in each round every class gives the next clip of its own shuffled queue.

    The order of the classes is drawn anew for each round, that of a queue each time it was gone through. Classes
    without clips are left out, so a round is as long as the number of classes with clips.

    Parameters
    ----------
    members : sequence of ndarray of int64
        Clips of each class. A clip with several labels is in several queues.
    count : int
        Number of all clips.
    seed : int
        Of the order.

    Raises
    ------
    DatasetError
        If no class has a clip.
    """

    def __init__(self, members: Sequence[NDArray[np.int64]], count: int, seed: int) -> None:
        self._members = [own for own in members if len(own)]
        if not self._members:
            raise DatasetError(
                "No clip carries any class, so there is nothing to draw. Check the labels, or set balanced to false."
            )
        self._count, self._seed = count, seed
        self._queues: list[tuple[int, NDArray[np.int64]] | None] = [None] * len(self._members)
        self._round: tuple[int, NDArray[np.int64]] | None = None
        self._lock = threading.Lock()

    def clip(self, position: int, attempt: int = 0) -> int:
        """See `Order.clip`; a clip of the same class stands in, until all of its clips were tried."""
        turn, slot = divmod(position, len(self._members))
        with self._lock:
            if self._round is None or self._round[0] != turn:
                self._round = turn, _permutation(len(self._members), self._seed, _CLASSES, turn)
            column = int(self._round[1][slot])
            own = self._members[column]
            if attempt >= len(own):
                return _substitute(self._count, self._seed, position, attempt)
            epoch, place = divmod(turn, len(own))
            queue = self._queues[column]
            if queue is None or queue[0] != epoch:
                queue = self._queues[column] = epoch, own[_permutation(len(own), self._seed, _QUEUES, column, epoch)]
        return int(queue[1][(place + attempt) % len(own)])


class ShuffledOrder:
    """All clips once in each epoch, in an order drawn anew for each.

    Parameters
    ----------
    count : int
        Number of clips.
    seed : int
        Of the order.
    """

    def __init__(self, count: int, seed: int) -> None:
        if count < 1:
            raise DatasetError("There is no clip to draw.")
        self._count, self._seed = count, seed
        self._epoch: tuple[int, NDArray[np.int64]] | None = None
        self._lock = threading.Lock()

    def clip(self, position: int, attempt: int = 0) -> int:
        """See `Order.clip`; any other clip stands in."""
        if attempt:
            return _substitute(self._count, self._seed, position, attempt)
        epoch, place = divmod(position, self._count)
        with self._lock:
            if self._epoch is None or self._epoch[0] != epoch:
                self._epoch = epoch, _permutation(self._count, self._seed, _EPOCHS, epoch)
            return int(self._epoch[1][place])


def positions_of(step: int, batch_size: int, process: int = 0, processes: int = 1) -> NDArray[np.int64]:
    """Positions in the order that one of several processes takes in a step; together they take `batch_size`."""
    whole = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
    return np.array_split(whole, processes)[process]


def _permutation(count: int, *key: int) -> NDArray[np.int64]:
    return np.random.default_rng(key).permutation(count)


def _substitute(count: int, seed: int, position: int, attempt: int) -> int:
    return int(np.random.default_rng((seed, _SUBSTITUTES, position, attempt)).integers(count))
