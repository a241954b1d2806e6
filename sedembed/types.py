"""Types that several packages share."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["AudioInput", "Engine", "Frames", "Normalize", "Precision", "Tag", "Windows"]

Precision = Literal["float32", "bfloat16"]
# What runs the network.
Engine = Literal["torch", "openvino", "auto"]
# What a linear probe does to embeddings before its classifier.
Normalize = Literal["standardize+l2", "l2", "none"]
# A path, bytes, a file object, an array, a tensor, a mapping, or several: `sedembed.engine.inputs` tells them apart.
AudioInput: TypeAlias = Any


class Frames(NamedTuple):
    """Frame embeddings of a clip, or of one window of a stream.

    Attributes
    ----------
    embeddings : ndarray of float32, shape (frames, embedding size)
        One vector for each frame, as the network gives it. Frame vectors are never scaled to unit length. A frame of
        TALNet stands for 0.1 s. A frame of WEANet spans 0.96 s and starts 0.32 s after the frame before it.
    times : ndarray of float64, shape (frames,)
        Centre of each frame in seconds from the start of the clip.
    """

    embeddings: NDArray[np.float32]
    times: NDArray[np.float64]


class Windows(NamedTuple):
    """Embeddings of the windows of a clip.

    Attributes
    ----------
    embeddings : ndarray of float32, shape (n, embedding size)
        One vector for each window.
    start, end : ndarray of float64, shape (n,)
        Where each window begins and ends, in seconds from the start of the clip.
    """

    embeddings: NDArray[np.float32]
    start: NDArray[np.float64]
    end: NDArray[np.float64]


class Tag(NamedTuple):
    """A sound event and how likely it is in a clip.

    Attributes
    ----------
    label : str
        Name of the event.
    probability : float
        From 0 to 1.
    """

    label: str
    probability: float
