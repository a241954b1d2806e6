"""Several processes that train one network together: their ranks, and batch statistics over all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed, nn

from sedembed.errors import InvalidArgumentError
from sedembed.models.layers.replace import replace_layers

__all__ = ["Processes", "current_processes", "join_processes", "share_batch_statistics"]

_Value = TypeVar("_Value")

# While one process reads lists or fills a cache the others wait, for hours if need be.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Processes:
    """One process among those that train together.

    Attributes
    ----------
    rank : int
        Number of this process, from 0.
    count : int
        Number of all.
    group : process group or None
        For values on the CPU; the default group exchanges gradients.
    """

    rank: int = 0
    count: int = 1
    group: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and logs."""
        return self.rank == 0

    def share(self, items: Sequence[_Value]) -> Sequence[_Value]:
        """Give the part of a list that this process is to do."""
        return items[self.rank :: self.count]

    def wait(self) -> None:
        """Return when all processes are here."""
        if self.count > 1:
            distributed.barrier(self.group)

    def gather(self, value: _Value) -> list[_Value]:
        """Collect the values of all processes, in their order."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value, group=self.group)
        return values

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all processes, without gradients."""
        if self.count > 1:
            tensor = tensor.clone()
            distributed.all_reduce(tensor)
        return tensor


_processes = Processes()


def current_processes() -> Processes:
    """Return this process among those of `join_processes`; outside of it a single one."""
    return _processes


@contextmanager
def join_processes(device: str | torch.device | None = None) -> Iterator[torch.device]:
    """Join the processes that `torchrun` started, or be a single one.

    Parameters
    ----------
    device : str or torch.device, optional
        By default the CUDA device of this process's number if there are such devices, else the CPU.

    Yields
    ------
    torch.device
        Where this process computes.

    Raises
    ------
    ValueError
        If the device is not there, or torchrun started more processes than there are CUDA devices.
    """
    global _processes
    count, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    chosen = _choose_device(device, local if count > 1 else 0, count)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if count == 1 or _processes.count > 1:
        yield chosen
        return
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        group = distributed.new_group(backend="gloo", timeout=_PATIENCE)
        _processes = Processes(distributed.get_rank(), count, group)
        yield chosen
    finally:
        _processes = Processes()
        distributed.destroy_process_group()


def _choose_device(device: str | torch.device | None, local: int, count: int) -> torch.device:
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    try:
        chosen = torch.device(("cuda" if there else "cpu") if device is None else device)
    except RuntimeError as error:
        raise InvalidArgumentError(f"Expected a device such as cpu or cuda:0, got {device!r}.") from error
    if chosen.type == "cuda":
        chosen = torch.device("cuda", local if chosen.index is None or count > 1 else chosen.index)
        if (chosen.index or 0) >= there:
            raise InvalidArgumentError(
                f"Expected a CUDA device {chosen}, found {there} devices. Start fewer processes, or use --device cpu."
            )
    elif chosen.type != "cpu":
        raise InvalidArgumentError(f"Training runs on cpu or cuda, got {chosen}. Use --device cpu.")
    return chosen


# --- batch normalisation over the batch of all processes ------------------------------------------------------------


class _Sum(torch.autograd.Function):
    """Sum over the processes; each one's loss depends on every summand, so gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by the mean and variance of all processes' items, on any device.

    PyTorch's own `SyncBatchNorm` computes on CUDA only. Processes may hold unequal numbers of items.
    """

    @classmethod
    def like(cls, layer: nn.Module) -> SharedBatchNorm2d:
        """Layer that shares the parameters and statistics of another one."""
        assert isinstance(layer, nn.BatchNorm2d)
        with torch.device("meta"):
            made = cls(layer.num_features, layer.eps, layer.momentum)
        made.weight, made.bias = layer.weight, layer.bias
        made.running_mean, made.running_var = layer.running_mean, layer.running_var
        made.num_batches_tracked = layer.num_batches_tracked
        return made.train(layer.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channel, time, bin) → the same shape; in evaluation mode exactly `nn.BatchNorm2d`."""
        if not self.training:
            return super().forward(x)
        wide = x if x.dtype == torch.float64 else x.float()
        count = wide.new_full((1,), x.numel() / x.shape[1])
        total = _Sum.apply(torch.cat((wide.sum((0, 2, 3)), count)))  # type: ignore[no-untyped-call]
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = wide - mean[:, None, None]
        # Second, so that nothing cancels: the squares are those of the distance to the common mean.
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / count  # type: ignore[no-untyped-call]
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None  # noqa: PT018
            self.running_mean.lerp_(mean, self.momentum or 0.0)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum or 0.0)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        normalised: torch.Tensor = centred * scale[:, None, None] + self.bias[:, None, None]
        return normalised.to(x.dtype)


def share_batch_statistics(network: nn.Module, device: torch.device) -> nn.Module:
    """Let every batch normalisation use the batch of all processes; the names of the weights stay."""
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return converted
    replace_layers(network, lambda layer: SharedBatchNorm2d.like(layer) if type(layer) is nn.BatchNorm2d else None)
    return network
