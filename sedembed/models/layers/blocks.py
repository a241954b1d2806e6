"""What the two networks share: their block of convolution, and how a trained one is made ready to run."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional

from sedembed.models.layers.winograd import use_winograd

__all__ = ["PROBABILITY_FLOOR", "ConvBlock", "blank_beyond", "fold_batchnorm", "prepare_convolutions"]

PROBABILITY_FLOOR = 1e-7

_Module = TypeVar("_Module", bound=nn.Module)


class ConvBlock(nn.Module):
    """Convolution, batch normalisation, ReLU and, where a pool is given, max-pooling."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        pool: tuple[int, int] | None = None,
        *,
        kernel: tuple[int, int] = (3, 3),
        padding: int = 1,
    ) -> None:
        super().__init__()
        # The bias is redundant before a batch normalisation, but the authors' checkpoints hold it.
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=padding)
        self.bn: nn.Module = nn.BatchNorm2d(out_channels)
        self.pool = pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, time, bins) → (batch, out_channels, time, bins), both shorter where it pools."""
        x = functional.relu_(self.bn(self.conv(x)))
        return x if self.pool is None else functional.max_pool2d(x, self.pool)


def blank_beyond(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Set frames from `lengths` on to zero, as the border of a convolution is; x is (batch, channel, time, bin)."""
    beyond = torch.arange(x.shape[2], device=x.device) >= lengths[:, None]
    return x.masked_fill(beyond[:, None, :, None], 0.0)


def fold_batchnorm(network: _Module) -> _Module:
    """Copy of a network in evaluation mode with every batch normalisation folded into its convolution.

    Parameters
    ----------
    network : nn.Module
        Left unchanged.

    Returns
    -------
    nn.Module
        The same function to rounding (measured 3e-7), faster, and not trainable as before.
    """
    folded = copy.deepcopy(network).eval()
    for block in folded.modules():
        if isinstance(block, ConvBlock) and isinstance(block.bn, nn.BatchNorm2d):
            block.conv = nn.utils.fusion.fuse_conv_bn_eval(block.conv, block.bn)
            block.bn = nn.Identity()
    return folded.requires_grad_(False)


def prepare_convolutions(network: _Module, device: torch.device, convolutions: torch.dtype = torch.float32) -> _Module:
    """Copy of a network made ready to embed on a device: the same function, to rounding, and faster.

    Parameters
    ----------
    network : nn.Module
        Left unchanged.
    device : torch.device
        Where it will run.
    convolutions : torch.dtype
        Arithmetic of the blocks; other layers stay in float32.

    Returns
    -------
    nn.Module
        Batch normalisations folded; on a CPU in float32, wide convolutions by Winograd's algorithm.
    """
    prepared = fold_batchnorm(network)
    for block in prepared.modules():
        if isinstance(block, ConvBlock):
            block.to(convolutions)
    prepared.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device.type == "cpu" and convolutions == torch.float32:
        use_winograd(prepared, freeze=True)
    return prepared
