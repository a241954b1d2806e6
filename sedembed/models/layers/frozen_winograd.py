"""Winograd's F(4x4, 3x3) for embedding on a CPU: convolution with frozen weights, bias, max-pooling and ReLU in one.

Sums along bins, then along time, in buffers that each thread makes once: memory that is given back and asked for again
costs as much as the arithmetic. Neighbours in memory are bins and channels together, as short runs are slow.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import torch
from torch import nn

from sedembed.models.layers.packed import PackedLinear
from sedembed.models.layers.winograd import is_plain, transform_filter_rows

__all__ = ["FrozenWinograd", "freeze_winograd"]

# Tiles times channels that go through at once: their transforms, about 20 MB, stay in the cache that cores share.
_BLOCK = 2**16
# Products are padded to a multiple of so many rows, because oneDNN keeps a kernel for each number that it met.
_ROWS = 16
# Columns of transforms, of six, that are made at once. Between operations threads wait for each other, so few are
# better; all six would leave the cache.
_AT_ONCE = 3


class _Buffers(threading.local):
    """Memory of one thread, named by its first use; what follows may take it over. Results never lie in it."""

    def __init__(self) -> None:
        self._flat: dict[str, torch.Tensor] = {}

    def get(self, name: str, *shape: int) -> torch.Tensor:
        size = math.prod(shape)
        flat = self._flat.get(name)
        if flat is None or len(flat) < size:
            self._flat.pop(name, None)
            # Zeros, since rows of no use are multiplied too; one of inference mode could not be used outside.
            with torch.inference_mode(False):
                flat = self._flat[name] = torch.zeros(size, dtype=torch.float32, device="cpu")
        return flat[:size].view(shape)


_buffers = _Buffers()


class FrozenWinograd(nn.Module):
    """Convolution of stride 1 and padding 1, then max-pooling where there is a pool, then ReLU; without gradients.

    Parameters
    ----------
    conv : nn.Conv2d
        3x3, float32, on a CPU; its weights must not change afterwards.
    pool : (int, int), optional
        1, 2 or 4 in time and in bins.
    """

    def __init__(self, conv: nn.Conv2d, pool: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.out_channels, self.pool = conv.out_channels, pool or (1, 1)
        # The results of a tile at places (0, 0) to (3, 3) all hold the product (1, 1) once: there the bias joins. The
        # others get zeros, because oneDNN would keep a second kernel for products without a bias.
        zeros = None if conv.bias is None else torch.zeros_like(conv.bias.detach())
        rows = [
            [PackedLinear(part.T, conv.bias if i == j == 1 else zeros, many_rows=True) for j, part in enumerate(row)]
            for i, row in enumerate(transform_filter_rows(conv.weight.detach()))
        ]
        self._products = [list(column) for column in zip(*rows, strict=True)]

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, time, bins) → (batch, out_channels, time, bins), both shorter where it pools."""
        x = x.permute(0, 2, 3, 1)
        batch, time, bins, channels = x.shape
        n_time, n_bins = -(-time // 4), -(-bins // 4)
        out = x.new_empty((batch, 4 * n_time // self.pool[0], 4 * n_bins // self.pool[1], self.out_channels))
        rows = max(1, _BLOCK // (n_bins * max(channels, self.out_channels)))  # of tiles
        if rows >= n_time:
            items = rows // n_time
            for part, result in zip(torch.split(x, items), torch.split(out, items), strict=True):
                self._run(part, result, 0, n_time)
        else:
            step = 4 * rows // self.pool[0]
            for item, result in zip(torch.split(x, 1), torch.split(out, 1), strict=True):
                for number, part in enumerate(torch.split(result, step, 1)):
                    first = number * rows
                    self._run(item, part, first, min(rows, n_time - first))
        return out[:, : time // self.pool[0], : bins // self.pool[1]].permute(0, 3, 1, 2)

    def _run(self, x: torch.Tensor, out: torch.Tensor, first: int, n_time: int) -> None:
        """Compute `n_time` rows of tiles, from row `first` on, into `out`."""
        n_bins = -(-x.shape[2] // 4)
        batch, channels = len(x), x.shape[3]
        tiles = batch * n_time * n_bins
        rows = -(-tiles // _ROWS) * _ROWS
        padded = _spread(x, 4 * first, 4 * n_time + 2)
        size = (batch, 4 * n_time + 2, n_bins, channels)
        along_bins = _buffers.get("along bins", 6, *size)
        _sums_in([padded[j % 4, :, :, j // 4 : j // 4 + n_bins] for j in range(6)], list(along_bins), size)
        results = _buffers.get("padded", 6, 4, tiles, self.out_channels)
        shape_of_tiles = (_AT_ONCE, batch, n_time, n_bins, channels)
        both = _buffers.get("both", 6, _AT_ONCE, rows, channels)
        inner = [part[:, :tiles].view(shape_of_tiles) for part in both]
        for column in range(0, 6, _AT_ONCE):
            some = along_bins[column : column + _AT_ONCE].unfold(2, 6, 4)
            _sums_in(torch.unbind(some, -1), inner, shape_of_tiles)
            for j, parts in enumerate(torch.unbind(both, 1), column):
                products = [multiply(part)[:tiles] for multiply, part in zip(self._products[j], parts, strict=True)]
                _sums_out(products, results[j], (tiles, self.out_channels))
        y = _buffers.get("along bins", 4, 4, batch, n_time, n_bins, self.out_channels)
        _sums_out(list(results), y.view(4, 4, tiles, -1), (4, tiles, self.out_channels))
        while len(y) > 4 // self.pool[1]:
            y = torch.maximum(y[::2], y[1::2])
        while y.shape[1] > 4 // self.pool[0]:
            y = torch.maximum(y[:, ::2], y[:, 1::2])
        shape = (batch, n_time, y.shape[1], n_bins, y.shape[0], self.out_channels)
        torch.clamp_min(y, 0.0, out=out.view(shape).permute(4, 2, 0, 1, 3, 5))


def _spread(x: torch.Tensor, first: int, rows: int) -> torch.Tensor:
    """Rows from `first` - 1 on with a border of zeros; bin f lies at [(f + 1) % 4, ..., (f + 1) // 4, :]."""
    batch, time, bins, channels = x.shape
    padded = _buffers.get("padded", 4, batch, rows, -(-bins // 4) + 1, channels)
    above = 1 if first == 0 else 0
    taken = min(rows - above, time - (first - 1 + above))
    x = x[:, first - 1 + above :][:, :taken]
    padded[:, :, :above] = 0.0
    padded[:, :, above + taken :] = 0.0
    for place in range(4):
        start = (place - 1) % 4
        some = x[:, :, start::4]
        begin = (start + 1) // 4
        padded[place, :, :, :begin] = 0.0
        padded[place, :, above : above + taken, begin : begin + some.shape[2]] = some
        padded[place, :, :, begin + some.shape[2] :] = 0.0
    return padded


def _sums_in(d: Sequence[torch.Tensor], out: Sequence[torch.Tensor], shape: tuple[int, ...]) -> None:
    """Transform six inputs in a row, B^T d, with a buffer of `shape`."""
    a, b = _buffers.get("sums", 2, *shape)
    torch.sub(d[4], d[2], alpha=4, out=a)
    torch.sub(d[3], d[1], alpha=4, out=b)
    torch.add(a, b, out=out[1])
    torch.sub(a, b, out=out[2])
    torch.sub(d[4], d[2], out=a)
    torch.sub(d[3], d[1], out=b)
    torch.add(a, b, alpha=2, out=out[3])
    torch.sub(a, b, alpha=2, out=out[4])
    torch.sub(d[4], d[2], alpha=5, out=out[0]).add_(d[0], alpha=4)
    torch.sub(d[5], d[3], alpha=5, out=out[5]).add_(d[1], alpha=4)


def _sums_out(m: Sequence[torch.Tensor], out: torch.Tensor, shape: tuple[int, ...]) -> None:
    """Four results of six products in a row, A^T m, with a buffer of `shape`."""
    a, b = _buffers.get("sums", 2, *shape)
    torch.add(m[1], m[2], out=a)
    torch.add(m[3], m[4], out=b)
    torch.add(m[0], a, out=out[0]).add_(b)
    torch.add(a, b, alpha=4, out=out[2])
    torch.sub(m[1], m[2], out=a)
    torch.sub(m[3], m[4], out=b)
    torch.add(a, b, alpha=2, out=out[1])
    torch.add(m[5], a, out=out[3]).add_(b, alpha=8)


def freeze_winograd(conv: nn.Conv2d, pool: tuple[int, int] | None) -> FrozenWinograd | None:
    """Frozen convolution in the place of one, where it is the kind that the algorithm computes and gains from it.

    With 64 channels one worker was as fast either way, and two were slower with it (measured with a WEANet).
    """
    if type(conv) is not nn.Conv2d or not is_plain(conv) or min(conv.in_channels, conv.out_channels) < 128:
        return None
    if pool is not None and not set(pool) <= {1, 2, 4}:
        return None
    return FrozenWinograd(conv, pool)
