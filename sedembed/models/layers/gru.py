"""Forward passes of a bidirectional GRU: one that is fast on CPUs, and one that other engines can convert."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["TwoWayGRU", "bidirectional_gru"]

_NAMES = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


def bidirectional_gru(gru: nn.GRU, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
    """Compute what a one-layer, bidirectional, batch-first `nn.GRU` computes, without gradients.

    Parameters
    ----------
    gru : nn.GRU
        Holds the weights.
    x : torch.Tensor, shape (batch, steps, features)
        Input.
    lengths : torch.Tensor, int64, shape (batch,), optional
        Valid steps of each item. The backward direction starts at the last valid one.

    Returns
    -------
    torch.Tensor, shape (batch, steps, 2 x hidden)
        Meaningless beyond `lengths`.
    """
    batch, steps, _ = x.shape
    size = gru.hidden_size
    order = torch.arange(steps - 1, -1, -1, device=x.device).expand(batch, steps)
    if lengths is not None:
        order = _reversal(batch, steps, lengths)
    rows = torch.arange(batch, device=x.device)[:, None]
    weights = dict(gru.named_parameters())
    forward, backward = ([weights[name + end] for name in _NAMES] for end in ("", "_reverse"))
    first = nn.functional.linear(x, forward[0], forward[2])
    second = nn.functional.linear(x, backward[0], backward[2])[rows, order]
    gi = torch.stack((first.transpose(0, 1), second.transpose(0, 1)), 1)  # (steps, 2, batch, 3 x hidden)
    w_hh = torch.stack((forward[1], backward[1])).transpose(1, 2).contiguous()
    b_hh = torch.stack((forward[3], backward[3]))[:, None]
    h = x.new_zeros((2, batch, size))
    states = x.new_empty((steps, 2, batch, size))
    for t in range(steps):
        gh = torch.baddbmm(b_hh, h, w_hh)
        rz = (gi[t, :, :, : 2 * size] + gh[:, :, : 2 * size]).sigmoid_()
        n = torch.addcmul(gi[t, :, :, 2 * size :], rz[..., :size], gh[:, :, 2 * size :]).tanh_()
        h = torch.lerp(n, h, rz[..., size:], out=states[t])
    return torch.cat((states[:, 0].transpose(0, 1), states[:, 1].transpose(0, 1)[rows, order]), -1)


class TwoWayGRU(nn.Module):
    """A one-layer, bidirectional, batch-first `nn.GRU` as two one-way ones, which other engines can convert.

    Parameters
    ----------
    gru : nn.GRU
        Gives the weights, which are shared.
    """

    def __init__(self, gru: nn.GRU) -> None:
        super().__init__()
        self.ahead, self.back = (nn.GRU(gru.input_size, gru.hidden_size, batch_first=True) for _ in range(2))
        weights = dict(gru.named_parameters())
        for name in _NAMES:
            setattr(self.ahead, name, weights[name])
            setattr(self.back, name, weights[f"{name}_reverse"])

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Compute what `bidirectional_gru` computes."""
        if lengths is None:
            return torch.cat((self.ahead(x)[0], self.back(x.flip(1))[0].flip(1)), -1)
        order = _reversal(x.shape[0], x.shape[1], lengths)[..., None]
        reversed_ = self.back(x.gather(1, order.expand(-1, -1, x.shape[2])))[0]
        return torch.cat((self.ahead(x)[0], reversed_.gather(1, order.expand(-1, -1, reversed_.shape[2]))), -1)


def _reversal(batch: int, steps: int, lengths: torch.Tensor) -> torch.Tensor:
    """Order that reverses each item's valid steps and leaves padding where it is, shape (batch, steps)."""
    order = torch.arange(steps, device=lengths.device).expand(batch, steps)
    return torch.where(order < lengths[:, None], lengths[:, None] - 1 - order, order)
