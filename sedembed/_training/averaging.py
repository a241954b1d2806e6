"""The running average of the weights that a training goes through."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["average_into"]

_WARM = 10  # steps: at first the average is of few weights, and soon forgets the first ones


@torch.no_grad()
def average_into(average: nn.Module, module: nn.Module, decay: float, step: int) -> None:
    """Update an exponential moving average of weights.

    Parameters
    ----------
    average : nn.Module
        Copy of the module; its parameters are changed.
    module : nn.Module
        After a step.
    decay : float
        Weight of the average, less in the first steps; 0: the average becomes the module.
    step : int
        Number of the step, from 1.
    """
    weight = 1.0 - min(decay, step / (step + _WARM))
    for mean, new in zip(average.parameters(), module.parameters(), strict=True):
        mean.lerp_(new, weight)
