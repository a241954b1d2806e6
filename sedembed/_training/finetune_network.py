"""What a fine-tuning asks of a network: the blocks that it trains, and clip embeddings with gradients."""

from __future__ import annotations

import torch
from torch import nn

from sedembed.models.base import Backbone

__all__ = ["pool_embedding", "trained_blocks"]


def trained_blocks(network: Backbone) -> list[nn.Module]:
    """Blocks that the embedding depends on, in the network's order; layers that serve events alone are left out."""
    network.requires_grad_(True)
    samples = torch.zeros(network.min_samples, device=network.mean.device)
    frames = network(network.features(samples)[None]).frames.sum()
    named = list(network.named_children())
    parameters = [p for _, block in named for p in block.parameters()]
    gradients = dict(zip(parameters, torch.autograd.grad(frames, parameters, allow_unused=True), strict=True))
    return [block for _, block in named if any(gradients[p] is not None for p in block.parameters())]


def pool_embedding(network: Backbone, frames: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """Clip embeddings (batch, size) of frame embeddings (batch, frames, size), as `ClipSum` pools them."""
    count = frames.shape[1]
    lengths = torch.full((len(frames),), count, device=frames.device) if lengths is None else lengths
    valid = (torch.arange(count, device=frames.device) < lengths[:, None])[..., None]
    if network.embedding_maximum:
        pooled = frames.masked_fill(~valid, -torch.inf).amax(1)
    else:
        pooled = (frames * valid).sum(1) / lengths[:, None]
    return nn.functional.normalize(pooled, dim=1) if network.unit_length else pooled
