"""Matrix products whose weights are laid out once in the order that the processor's kernel reads."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.nn import functional

__all__ = ["PackedLinear"]


class PackedLinear:
    """A linear map of float32 rows on a CPU, without gradients.

    PyTorch's own product lays the weights out anew in every call, which takes longer than the multiplications when the
    rows are few. oneDNN's operators, where PyTorch has them, keep the layout. For many rows MKL's product was 8 to 20 %
    faster than oneDNN's on a processor without AVX-512 (Zen 3), so there it is taken.

    Parameters
    ----------
    weight : torch.Tensor, shape (out, in)
        Must not change afterwards.
    bias : torch.Tensor, shape (out,), optional
        Added to each row.
    many_rows : bool
        Whether there will be a hundred rows or more.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None, *, many_rows: bool = False) -> None:
        self._weight = weight.detach()
        self._bias = None if bias is None else bias.detach()
        self._plain: torch.Tensor | None = None  # shape (in, out)
        self._packed: torch.Tensor | None = None
        if many_rows and _prefers_mkl(self._weight):
            self._plain = self._weight.T.contiguous()
            if self._bias is not None and not self._bias.any():
                self._bias = None
        else:
            self._packed = _pack(self._weight)
        if self._plain is not None or self._packed is not None:
            self._weight = torch.empty(0)  # a second copy is not needed

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, in) → (rows, out)."""
        if self._plain is not None:
            return x @ self._plain if self._bias is None else torch.addmm(self._bias, x, self._plain)
        if self._packed is None:
            return functional.linear(x, self._weight, self._bias)
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")
        return product

    def __reduce__(self) -> tuple[Any, ...]:
        if self._plain is not None:
            return partial(PackedLinear, many_rows=True), (self._plain.T, self._bias)
        weight = self._weight if self._packed is None else self._packed.to_dense()
        return PackedLinear, (weight, self._bias)

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedLinear:
        return self  # it never changes


def _prefers_mkl(weight: torch.Tensor) -> bool:
    capability = torch.backends.cpu.get_cpu_capability()
    has_mkl: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    return weight.device.type == "cpu" and has_mkl and capability == "AVX2"


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
