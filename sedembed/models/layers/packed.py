"""Matrix products whose weights are laid out once in the order that the processor's kernel reads."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

__all__ = ["PackedLinear"]


class PackedLinear:
    """A linear map of float32 rows on a CPU, without gradients.

    PyTorch's own product lays the weights out anew in every call, which takes longer than the multiplications when the
    rows are few. oneDNN's operators, where PyTorch has them, keep the layout.

    Parameters
    ----------
    weight : torch.Tensor, shape (out, in)
        Must not change afterwards.
    bias : torch.Tensor, shape (out,), optional
        Added to each row.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._weight = weight.detach()
        self._bias = None if bias is None else bias.detach()
        self._packed = _pack(self._weight)
        if self._packed is not None:
            self._weight = torch.empty(0)  # a second copy is not needed

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, in) → (rows, out)."""
        if self._packed is None:
            return functional.linear(x, self._weight, self._bias)
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")
        return product

    def __reduce__(self) -> tuple[Any, ...]:
        weight = self._weight if self._packed is None else self._packed.to_dense()
        return PackedLinear, (weight, self._bias)

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedLinear:
        return self  # it never changes


def _pack(weight: torch.Tensor) -> torch.Tensor | None:
    """Weights in oneDNN's own layout; None where this PyTorch cannot."""
    if weight.dtype != torch.float32 or weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    try:
        packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
        torch.ops.mkldnn._linear_pointwise(weight.new_zeros((1, weight.shape[1])), packed, None, "none", [], "")
    except (AttributeError, RuntimeError):  # they are not part of PyTorch's public interface
        return None
    return packed
