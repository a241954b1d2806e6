"""The optimisers of a distillation, and how their learning rates change over the steps."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from sedembed._training.distillation.config import DistillConfig
from sedembed._training.distillation.muon import Muon

__all__ = ["Schedule", "make_optimizers", "restore_optimizer"]

_LEAST_GAIN = 1e-4  # of the held-out loss, that counts as better


def make_optimizers(student: nn.Module, config: DistillConfig) -> list[torch.optim.Optimizer]:
    """AdamW for all parameters, or Muon for the inner 3×3 convolutions and AdamW for the rest.

    Each group of parameters keeps the learning rate of the settings as `base_lr`.
    """
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for parameter in student.parameters():
        # Orthogonalising WEANet's B5 to B7 would take longer than the rest of a step.
        inner = parameter.ndim == 4 and parameter.shape[1] > 1 and parameter.shape[2:] == (3, 3)
        (matrices if inner and config.optimizer == "muon" else rest).append(parameter)
    decayed = [p for p in rest if p.ndim >= 2]
    plain = [p for p in rest if p.ndim < 2]
    adamw = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=config.learning_rate,
    )
    optimizers: list[torch.optim.Optimizer] = [adamw]
    if matrices:
        optimizers.append(Muon(matrices, lr=config.muon_learning_rate, weight_decay=config.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load a saved state; learning rate and weight decay stay those of this run's settings."""
    settings = [(group["base_lr"], group["weight_decay"]) for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for group, (rate, decay) in zip(optimizer.param_groups, settings, strict=True):
        group["base_lr"], group["weight_decay"] = rate, decay


class Schedule:
    """Factor of the learning rates: a linear warm-up, then what the settings name.

    Parameters
    ----------
    config : DistillConfig
        Steps, warm-up, name of the schedule.

    Attributes
    ----------
    state : tuple of (float, float, int)
        Factor, best loss and validations without a better one, by the schedule "plateau".
    """

    def __init__(self, config: DistillConfig) -> None:
        self._config = config
        self.state: tuple[float, float, int] = (1.0, math.inf, 0)

    def factor(self, step: int) -> float:
        """Return the factor at a step, counted from 0."""
        config = self._config
        warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
        if config.schedule in ("plateau", "constant"):
            return warm * self.state[0]
        progress = min(1.0, step / config.steps)
        if config.schedule == "linear":
            return warm * (1.0 - progress)
        return warm * 0.5 * (1.0 + math.cos(math.pi * progress))

    def observe(self, loss: float) -> None:
        """Take note of a held-out loss; only the schedule "plateau" depends on it."""
        config = self._config
        if config.schedule != "plateau":
            return
        factor, best, bad = self.state
        best, bad = (loss, 0) if loss < best - _LEAST_GAIN else (best, bad + 1)
        if bad > config.plateau_patience:
            factor, bad = factor * config.plateau_factor, 0
        self.state = factor, best, bad
