"""3x3 convolutions by Winograd's F(4x4, 3x3), with gradients: a quarter of the multiplications, for CPUs.

Lavin & Gray (2016), "Fast algorithms for convolutional neural networks". Differs from the direct sum by rounding only,
about 3e-6 relative in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from sedembed.models.layers.replace import replace_layers

__all__ = ["WinogradConv2d", "is_plain", "transform_filter_rows", "use_winograd"]

_B = torch.tensor(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    dtype=torch.float64,
    device="cpu",
)
_G = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    dtype=torch.float64,
    device="cpu",
)
_A = torch.tensor(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    dtype=torch.float64,
    device="cpu",
)
_INPUT = torch.kron(_B, _B).float()  # (36, 36)
_FILTER = torch.kron(_G, _G).float()  # (36, 9)
_OUTPUT = torch.kron(_A, _A).float()  # (16, 36)


def _transform_filters(weight: torch.Tensor) -> torch.Tensor:
    """(out, in, 3, 3) → (36, in, out)."""
    out_channels, channels = weight.shape[:2]
    return (_FILTER @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(36, channels, out_channels)


def transform_filter_rows(weight: torch.Tensor) -> Iterator[torch.Tensor]:
    """Give `_transform_filters` in six parts of shape (6, in, out), one after another: together they are large."""
    out_channels, channels = weight.shape[:2]
    flat = weight.permute(2, 3, 1, 0).reshape(9, -1)
    for rows in _FILTER.split(6):  # type: ignore[no-untyped-call]
        yield (rows @ flat).view(6, channels, out_channels)


def _transform_input(x: torch.Tensor) -> torch.Tensor:
    """(batch, time, bin, channel) → overlapping 6x6 tiles, (36, tiles, channels)."""
    batch, time, bins, channels = x.shape
    padded = x.new_zeros((batch, -(-time // 4) * 4 + 2, -(-bins // 4) * 4 + 2, channels))
    padded[:, 1 : time + 1, 1 : bins + 1] = x
    tiles = padded.unfold(1, 6, 4).unfold(2, 6, 4).permute(4, 5, 0, 1, 2, 3)
    return (_INPUT @ tiles.reshape(36, -1)).view(36, -1, channels)


def _combine(v: torch.Tensor, u: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Multiply transformed tiles and filters, and put the 4x4 results side by side: (batch, time, bin, out)."""
    batch, time, bins, _ = shape
    n_time, n_bins, out_channels = -(-time // 4), -(-bins // 4), u.shape[2]
    y = (_OUTPUT @ torch.bmm(v, u).view(36, -1)).view(4, 4, batch, n_time, n_bins, out_channels)
    y = y.permute(2, 3, 0, 4, 1, 5).reshape(batch, 4 * n_time, 4 * n_bins, out_channels)
    return y[:, :time, :bins]


class _Winograd(torch.autograd.Function):
    """Activations travel as (batch, time, bin, channel), the memory order of channels_last."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        batch, time, bins, channels = x.shape
        v, u = _transform_input(x), _transform_filters(weight)
        n_time, n_bins = -(-time // 4), -(-bins // 4)
        out_channels = weight.shape[0]
        ctx.save_for_backward(v, u)
        ctx.sizes = (batch, time, bins, channels, out_channels, n_time, n_bins)
        return _combine(v, u, x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        v, u = ctx.saved_tensors
        batch, time, bins, channels, out_channels, n_time, n_bins = ctx.sizes
        dy = gradients[0]
        if (time, bins) != (4 * n_time, 4 * n_bins):
            full = dy.new_zeros((batch, 4 * n_time, 4 * n_bins, out_channels))
            full[:, :time, :bins] = dy
            dy = full
        dy = dy.reshape(batch, n_time, 4, n_bins, 4, out_channels).permute(2, 4, 0, 1, 3, 5).reshape(16, -1)
        dm = (_OUTPUT.T @ dy).view(36, -1, out_channels)
        du = torch.bmm(v.transpose(1, 2), dm).view(36, -1)
        dw = (_FILTER.T @ du).view(3, 3, channels, out_channels).permute(3, 2, 0, 1).contiguous()
        if not ctx.needs_input_grad[0]:
            return None, dw
        dv = torch.bmm(dm, u.transpose(1, 2)).view(36, -1)
        tiles = (_INPUT.T @ dv).view(6, 6, batch, n_time, n_bins, channels).permute(2, 3, 0, 4, 1, 5)
        dx = tiles.new_zeros((batch, n_time + 1, 4, n_bins + 1, 4, channels))
        # Neighbouring 6x6 tiles overlap by two samples: the last two rows and columns belong to the next cell of 4.
        dx[:, :-1, :, :-1] = tiles[:, :, :4, :, :4]
        dx[:, 1:, :2, :-1] += tiles[:, :, 4:, :, :4]
        dx[:, :-1, :, 1:, :2] += tiles[:, :, :4, :, 4:]
        dx[:, 1:, :2, 1:, :2] += tiles[:, :, 4:, :, 4:]
        dx = dx.reshape(batch, 4 * n_time + 4, 4 * n_bins + 4, channels)
        return dx[:, 1 : time + 1, 1 : bins + 1], dw


class WinogradConv2d(nn.Conv2d):
    """A 3x3 convolution of stride 1 and padding 1, computed by Winograd's algorithm in both directions."""

    @classmethod
    def from_conv(cls, conv: nn.Conv2d) -> WinogradConv2d:
        """Convolution that shares the parameters of another one, 3x3 with stride 1 and padding 1."""
        with torch.device("meta"):
            made = cls(conv.in_channels, conv.out_channels, 3, padding=1, bias=conv.bias is not None)
        made.weight, made.bias = conv.weight, conv.bias
        return made.train(conv.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, time, bins) → (batch, out_channels, time, bins), in channels_last order."""
        x = x.permute(0, 2, 3, 1)
        y: torch.Tensor = _Winograd.apply(x, self.weight)  # type: ignore[no-untyped-call]
        if self.bias is not None:
            y = y + self.bias
        return y.permute(0, 3, 1, 2)


def use_winograd(network: nn.Module, min_channels: int = 128) -> None:
    """Replace every 3x3 convolution with at least `min_channels` output channels by a `WinogradConv2d`, in place.

    With fewer channels the transforms cost more than the multiplications they save (measured on two cores).
    """

    def make(layer: nn.Module) -> nn.Module | None:
        if type(layer) is not nn.Conv2d or layer.out_channels < min_channels or not is_plain(layer):
            return None
        return WinogradConv2d.from_conv(layer)

    replace_layers(network, make)


def is_plain(conv: nn.Conv2d) -> bool:
    """Whether this is the one kind of convolution that the algorithm computes."""
    geometry = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    return geometry == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")
