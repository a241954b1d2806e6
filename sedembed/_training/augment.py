"""Variation of the features of a batch: gain, shift and mixup, each a function of a seed and a step."""

from __future__ import annotations

import numpy as np
import torch

from sedembed._training.batches import Batch
from sedembed.models.base import Backbone

__all__ = ["change_gain", "mix", "shift"]

# First number after the seed of each random stream.
_MIXUP, _GAIN, _SHIFT = 17, 18, 19


def change_gain(batch: Batch, network: Backbone, gain: float, seed: int, step: int) -> Batch:
    """Make recordings louder or softer.

    Parameters
    ----------
    batch : Batch
        Not changed.
    network : Backbone
        Whose deviations normalised the features.
    gain : float
        Most decibels up or down, uniform; an offset of the features, which are ten logarithms of magnitude or of power.
    seed, step : int
        Of the random numbers.
    """
    rng = np.random.default_rng((seed, _GAIN, step))
    decibels = torch.from_numpy(rng.uniform(-gain, gain, len(batch.features)).astype(np.float32))
    offsets = decibels * (network.spectrogram.power / 2.0)
    features = batch.features + offsets[:, None, None] / network.std.detach().cpu().float()
    return Batch(features, batch.targets, batch.seconds, batch.lengths)


def shift(batch: Batch, seed: int, step: int) -> Batch:
    """Begin each recording at a random moment; what was before that follows the end.

    Parameters
    ----------
    batch : Batch
        Not changed.
    seed, step : int
        Of the random numbers.
    """
    rng = np.random.default_rng((seed, _SHIFT, step))
    features = batch.features.clone()
    for row, length in zip(features, batch.lengths.tolist(), strict=True):
        row[:length] = row[:length].roll(int(rng.integers(length)), 0)
    return Batch(features, batch.targets, batch.seconds, batch.lengths)


def mix(batch: Batch, strength: float, seed: int, step: int) -> Batch:
    """Mix pairs of recordings of a batch, features and targets alike.

    Parameters
    ----------
    batch : Batch
        Not changed.
    strength : float
        Both parameters of the beta distribution of the weights; 0: nothing is mixed.
    seed, step : int
        Of the random numbers.
    """
    if not strength:
        return batch
    rng = np.random.default_rng((seed, _MIXUP, step))
    other = torch.from_numpy(rng.permutation(len(batch.lengths)))
    share = rng.beta(strength, strength, len(other)).astype(np.float32)
    weight = torch.from_numpy(share)[:, None]
    return Batch(
        torch.lerp(batch.features[other], batch.features, weight[..., None]),
        torch.lerp(batch.targets[other], batch.targets, weight),
        batch.seconds,
        torch.maximum(batch.lengths, batch.lengths[other]),
    )
