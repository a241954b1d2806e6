"""Forward passes of a bidirectional GRU: one that is fast on CPUs, and one that other engines can convert."""

from __future__ import annotations

import torch
from torch import nn

from sedembed.models.layers.packed import PackedLinear

__all__ = ["FrozenGRU", "TwoWayGRU"]

# Rows of input products that are made at once.
_BLOCK = 800

_NAMES = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


class FrozenGRU(nn.Module):
    """A one-layer, bidirectional, batch-first `nn.GRU` for float32 on a CPU, without gradients.

    Both directions step together, and the input products of all steps are one matrix product.

    Parameters
    ----------
    gru : nn.GRU
        Gives the weights, which must not change afterwards.
    """

    def __init__(self, gru: nn.GRU) -> None:
        super().__init__()
        self.hidden_size = gru.hidden_size
        w = {name: parameter.detach() for name, parameter in gru.named_parameters()}
        self._input = [
            PackedLinear(w[f"weight_ih_l0{end}"], w[f"bias_ih_l0{end}"], many_rows=True) for end in ("", "_reverse")
        ]
        steps = [(w[f"weight_hh_l0{end}"], w[f"bias_hh_l0{end}"]) for end in ("", "_reverse")]
        self._steps = [PackedLinear(*step) for step in steps]
        # For one item at a time, PyTorch's product of a matrix and a vector was faster.
        self._alone = [(weight.T.contiguous(), bias[None]) for weight, bias in steps]

    def _input_products(self, way: int, x: torch.Tensor) -> torch.Tensor:
        return self._input[way](x.reshape(-1, x.shape[2])).view(len(x), x.shape[1], 3 * self.hidden_size)

    def _product(self, h: torch.Tensor, way: int) -> torch.Tensor:
        if len(h) > 1:
            return self._steps[way](h)
        weight, bias = self._alone[way]
        return torch.addmm(bias, h, weight)

    @torch.no_grad()
    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Compute what the `nn.GRU` computes.

        Parameters
        ----------
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
        size = self.hidden_size
        x = x.transpose(0, 1).contiguous()  # one step of all items lies together
        block = max(1, _BLOCK // batch)
        shortest = steps if lengths is None else int(lengths.min())
        states = x.new_empty((steps, 2, batch, size))
        h = x.new_zeros((2, batch, size))
        rz, n = x.new_empty((2, batch, 2 * size)), x.new_empty((2, batch, size))
        for step in range(steps):
            back = steps - 1 - step
            if step % block == 0:
                ahead = self._input_products(0, x[step : step + block])
                behind = self._input_products(1, x[max(0, back + 1 - block) : back + 1])
            for way, gi in enumerate((ahead[step % block], behind[-1 - step % block])):
                gh = self._product(h[way], way)
                torch.add(gi[:, : 2 * size], gh[:, : 2 * size], out=rz[way])
                rz[way].sigmoid_()
                torch.addcmul(gi[:, 2 * size :], rz[way, :, :size], gh[:, 2 * size :], out=n[way])
            h = torch.lerp(n.tanh_(), h, rz[..., size:], out=states[step])
            if back >= shortest and lengths is not None:
                h[1] *= (back < lengths)[:, None]  # backwards, an item starts from zeros at its last valid step
        return torch.cat((states[:, 0], states[:, 1].flip(0)), -1).transpose(0, 1)


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
        """Compute what `FrozenGRU` computes."""
        if lengths is None:
            return torch.cat((self.ahead(x)[0], self.back(x.flip(1))[0].flip(1)), -1)
        order = _reversal(x.shape[0], x.shape[1], lengths)[..., None]
        reversed_ = self.back(x.gather(1, order.expand(-1, -1, x.shape[2])))[0]
        return torch.cat((self.ahead(x)[0], reversed_.gather(1, order.expand(-1, -1, reversed_.shape[2]))), -1)


def _reversal(batch: int, steps: int, lengths: torch.Tensor) -> torch.Tensor:
    """Order that reverses each item's valid steps and leaves padding where it is, shape (batch, steps)."""
    order = torch.arange(steps, device=lengths.device).expand(batch, steps)
    return torch.where(order < lengths[:, None], lengths[:, None] - 1 - order, order)
