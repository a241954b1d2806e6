"""SpecAugment: one masked interval of time and one masked band of bins in the features of a clip."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["mask_features", "spec_augment_bounds"]


def spec_augment_bounds(
    frames: int, bins: int, max_frames: int, max_bins: int, rng: np.random.Generator
) -> tuple[slice, slice]:
    """Draw an interval and a band with uniform widths, from 0 to the given ones."""
    width, height = int(rng.integers(max_frames + 1)), int(rng.integers(max_bins + 1))
    start, low = int(rng.integers(frames - width + 1)), int(rng.integers(bins - height + 1))
    return slice(start, start + width), slice(low, low + height)


def mask_features(
    features: NDArray[np.float32] | torch.Tensor,
    max_frames: int,
    max_bins: int,
    fill: float | Literal["zero", "mean"],
    rng: np.random.Generator,
) -> None:
    """Mask normalised features (frames, bins) in place.

    Parameters
    ----------
    features : ndarray or tensor, shape (frames, bins)
        Changed.
    max_frames, max_bins : int
        Greatest length of the interval and height of the band; larger ones than there are count as all.
    fill : float, "zero" or "mean"
        What is put there; "mean" is the mean of the features before.
    rng : numpy.random.Generator
        Draws the places.
    """
    frames, bins = features.shape
    interval, band = spec_augment_bounds(frames, bins, min(max_frames, frames), min(max_bins, bins), rng)
    value = features.mean() if fill == "mean" else 0.0 if fill == "zero" else fill
    features[interval] = value
    features[:, band] = value
