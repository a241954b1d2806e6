"""What the two networks share: their block of convolution, and how a trained one is made ready to run."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional

from sedembed.errors import InvalidArgumentError
from sedembed.models.layers.frozen_winograd import FrozenWinograd, freeze_winograd

__all__ = [
    "PROBABILITY_FLOOR",
    "ConvBlock",
    "blank_beyond",
    "fold_batchnorm",
    "prepare_convolutions",
    "run_blocks",
    "run_in_pieces",
]

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
        self.conv: nn.Module = nn.Conv2d(in_channels, out_channels, kernel, padding=padding)
        self.bn: nn.Module = nn.BatchNorm2d(out_channels)
        self.pool = pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, time, bins) → (batch, out_channels, time, bins), both shorter where it pools."""
        if isinstance(self.conv, FrozenWinograd):
            frozen: torch.Tensor = self.conv(x)
            return frozen
        x = self.bn(self.conv(x))
        if isinstance(self.bn, nn.Identity) and self.pool is not None:
            # The same numbers in any order; with the pool first ReLU has less to do.
            return functional.relu_(_max_pool(x, self.pool))
        x = functional.relu_(x)
        return x if self.pool is None else functional.max_pool2d(x, self.pool)


def _max_pool(x: torch.Tensor, pool: tuple[int, int]) -> torch.Tensor:
    """`max_pool2d` without the places of the maxima, which take as long as the rest."""
    if not set(pool) <= {1, 2}:
        return functional.max_pool2d(x, pool)
    time, bins = x.shape[2] // pool[0] * pool[0], x.shape[3] // pool[1] * pool[1]
    x = x[:, :, :time, :bins]
    if pool[1] == 2:
        x = torch.maximum(x[..., ::2], x[..., 1::2])
    return torch.maximum(x[:, :, ::2], x[:, :, 1::2]) if pool[0] == 2 else x


def blank_beyond(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Set frames from `lengths` on to zero, as the border of a convolution is; x is (batch, channel, time, bin)."""
    beyond = torch.arange(x.shape[2], device=x.device) >= lengths[:, None]
    return x.masked_fill(beyond[:, None, :, None], 0.0)


def _blank_own(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """`blank_beyond` of a tensor that the caller owns: changed in place in inference mode on a CPU, else copied."""
    if not x.is_inference() or x.device.type != "cpu":
        return blank_beyond(x, lengths)
    for item, length in zip(x, lengths.tolist(), strict=True):
        item[:, max(0, length) :] = 0.0
    return x


def run_blocks(
    blocks: Iterable[nn.Module], x: torch.Tensor, lengths: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Run blocks one after another, and set padding to zero after each, as the border of a convolution is.

    Parameters
    ----------
    blocks : iterable of nn.Module
        Those of them that pool are `ConvBlock`.
    x : torch.Tensor, shape (batch, channels, time, bins)
        Input, with zeros beyond `lengths`.
    lengths : torch.Tensor, int64, shape (batch,), optional
        Valid rows of each item.

    Returns
    -------
    (torch.Tensor, torch.Tensor or None)
        Output, and its lengths.
    """
    for block in blocks:
        x = block(x)
        if lengths is not None and isinstance(block, ConvBlock):
            lengths = lengths if block.pool is None else lengths // block.pool[0]
            x = _blank_own(x, lengths)
    return x, lengths


def run_in_pieces(
    blocks: Sequence[nn.Module], x: torch.Tensor, lengths: torch.Tensor | None, rows: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`run_blocks` on so many rows at a time, of several items or of a part of one: the first maps are the largest.

    They are of 3x3 convolutions, and only the last of them may pool.
    """
    last = blocks[-1]
    pool = last.pool[0] if isinstance(last, ConvBlock) and last.pool else 1
    border = -(-len(blocks) // pool) * pool  # rows that feel where a piece was cut
    batch, _, time, _ = x.shape
    total, step, items = time // pool, max(1, rows // pool), max(1, rows // time)
    if not total:
        raise InvalidArgumentError(f"Expected at least {pool} rows, got {time}.")
    if items >= batch and step >= total:
        return run_blocks(blocks, x, lengths)
    out: torch.Tensor | None = None
    for item in range(0, batch, items):
        for row in range(0, total, step):
            begin = max(0, row * pool - border)
            end = (row + step) * pool + border if row + step < total else time
            some = None if lengths is None else lengths[item : item + items] - begin
            y, _ = run_blocks(blocks, x[item : item + items, :, begin:end], some)
            if out is None:
                size, layout = (batch, y.shape[1], total, y.shape[3]), torch.channels_last
                out = torch.empty(size, dtype=y.dtype, device=y.device, memory_format=layout)
            skip = row - begin // pool
            out[item : item + items, :, row : row + step] = y[:, :, skip : skip + min(step, total - row)]
    return x if out is None else out, None if lengths is None else lengths // pool


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
        if isinstance(block, ConvBlock) and isinstance(block.bn, nn.BatchNorm2d) and isinstance(block.conv, nn.Conv2d):
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
        for block in prepared.modules():
            if isinstance(block, ConvBlock) and isinstance(block.conv, nn.Conv2d):
                block.conv = freeze_winograd(block.conv, block.pool) or block.conv
    return prepared
