"""Variation of the features of a batch: gain and mixup, each a function of a seed and a step."""

from __future__ import annotations

import numpy as np
import torch

from sedembed._training.batches import Batch
from sedembed.models.base import Backbone

__all__ = ["change_gain", "mix"]

# First number after the seed of each random stream.
_MIXUP, _GAIN = 17, 18


def change_gain(batch: Batch, network: Backbone, gain: float, seed: int, step: int) -> Batch:
    """Make recordings louder or softer.

    Parameters
    ----------
    batch : Batch
        Not changed.
    network : Backbone
        Whose deviations normalised the features.
    gain : float
        Most decibels up or down, uniform; features are decibels, so this is an offset.
    seed, step : int
        Of the random numbers.
    """
    rng = np.random.default_rng((seed, _GAIN, step))
    decibels = torch.from_numpy(rng.uniform(-gain, gain, len(batch.features)).astype(np.float32))
    features = batch.features + decibels[:, None, None] / network.std.detach().cpu().float()
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
