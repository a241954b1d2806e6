"""Muon: momentum whose matrices are orthogonalised before each step (Jordan et al., 2024)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

__all__ = ["Muon", "orthogonalise"]

_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalise(matrix: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """Matrix of the same singular vectors with all singular values near 1, by a quintic Newton-Schulz iteration.

    Parameters
    ----------
    matrix : torch.Tensor, shape (rows, columns)
        Any matrix but zero.
    iterations : int
        Five bring singular values above a 250th of the norm to between 0.6 and 1.3.

    Returns
    -------
    torch.Tensor, shape (rows, columns)
        The polynomials are multiplied up on the small Gram side, so the large side is touched twice only.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalise(matrix.T, iterations).T
    x = matrix / (matrix.norm() + 1e-7)
    gram = x @ x.T
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    product = eye
    for last in range(iterations - 1, -1, -1):
        polynomial = torch.addmm(gram, gram, gram, beta=_B, alpha=_C).add_(eye, alpha=_A)
        product = polynomial @ product
        if last:
            gram = polynomial @ gram @ polynomial
    result: torch.Tensor = product @ x
    return result


class Muon(torch.optim.Optimizer):
    """Nesterov momentum with orthogonalised updates, for convolution kernels; decoupled weight decay.

    Parameters
    ----------
    parameters : iterable of torch.Tensor, each of shape (out, in, ...)
        Kernels, orthogonalised as matrices (out, in·...).
    lr : float
        Step length; the root mean square of an update is 0.2·lr whatever the shape, about that of Adam.
    momentum, weight_decay : float
        As in SGD and AdamW.
    """

    def __init__(
        self, parameters: Iterable[torch.Tensor], lr: float = 3e-3, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take one step; closures are not supported."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                buffer = state["momentum"]
                buffer.lerp_(parameter.grad, 1.0 - group["momentum"])
                update = parameter.grad.lerp(buffer, group["momentum"]).flatten(1)
                direction = orthogonalise(update)
                # The root mean square of an orthogonal (r, c) matrix is 1/√max(r, c): make it the same for all shapes.
                length = 0.2 * max(update.shape) ** 0.5
                parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                parameter.add_(direction.reshape(parameter.shape), alpha=-group["lr"] * length)
