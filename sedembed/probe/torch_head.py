"""A probe as a torch module."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sedembed.probe.features import Normalization

__all__ = ["ProbeHead"]


class ProbeHead(nn.Module):
    """A probe as a torch module: normalisation, then a linear layer.

    Parameters
    ----------
    coef, intercept : ndarray, shapes (C, D) and (C,)
        The linear layer.
    mean, scale : ndarray, shape (D,)
        Statistics of the standardisation.
    normalize : {"standardize+l2", "l2", "none"}
        What is done first.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self,
        coef: NDArray[np.floating],
        intercept: NDArray[np.floating],
        mean: NDArray[np.float64],
        scale: NDArray[np.float64],
        normalize: Normalization,
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.register_buffer("mean", torch.from_numpy(mean.astype(np.float32)))
        self.register_buffer("scale", torch.from_numpy(scale.astype(np.float32)))
        self.linear = nn.Linear(coef.shape[1], coef.shape[0])
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(coef))
            self.linear.bias.copy_(torch.from_numpy(intercept))

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Scores (B, C) of embeddings (B, D), before softmax or sigmoid."""
        if self.normalize == "standardize+l2":
            embeddings = (embeddings - self.mean) / self.scale
        if self.normalize != "none":
            embeddings = nn.functional.normalize(embeddings, dim=-1)
        scores: torch.Tensor = self.linear(embeddings)
        return scores
