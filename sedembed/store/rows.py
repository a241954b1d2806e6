"""What the rows of a store are given back as."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Hit", "Recording"]


class Hit(NamedTuple):
    """A recording, or a window of one, that a search found.

    Attributes
    ----------
    path : str
        Relative to the embedded folder.
    score : float
        Cosine of the angle to the query, from -1 to 1.
    start, end : float or None
        Where the window begins and ends, in seconds; None in a store without windows.
    """

    path: str
    score: float
    start: float | None = None
    end: float | None = None


class Recording(NamedTuple):
    """One row of a store.

    Attributes
    ----------
    path : str
        Relative to the embedded folder.
    vector : ndarray of float32, shape (D,)
        Its vector.
    duration : float
        Seconds.
    sample_rate : int
        Hz, of the file.
    channels : int
        Of the file.
    start, end : float or None
        Where the window begins and ends, in seconds; None in a store without windows.
    """

    path: str
    vector: NDArray[np.float32]
    duration: float
    sample_rate: int
    channels: int
    start: float | None = None
    end: float | None = None
