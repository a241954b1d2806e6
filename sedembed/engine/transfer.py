"""Tensors to a device and back while it computes: pinned memory, copies on a CUDA stream of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch

__all__ = ["to_device", "to_host"]


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor from the CPU; on CUDA the caller does not wait, and what is being computed goes on meanwhile."""
    if device.type != "cuda":
        return tensor.to(device)
    stream, computing = _stream(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(stream):
        copy = tensor.pin_memory().to(device, non_blocking=True)
    computing.wait_stream(stream)
    copy.record_stream(computing)  # its memory is not used again before the network has read it
    return copy


def to_host(tensors: Sequence[torch.Tensor]) -> Callable[[], list[torch.Tensor]]:
    """Start to copy results to the CPU; the function that is returned waits until they are there."""
    if not tensors or tensors[0].device.type != "cuda":
        copies = [tensor.cpu() for tensor in tensors]
        return lambda: copies
    pinned = [torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True) for tensor in tensors]
    for copy, tensor in zip(pinned, tensors, strict=True):
        copy.copy_(tensor, non_blocking=True)
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
    done.record(torch.cuda.current_stream(tensors[0].device))

    def wait() -> list[torch.Tensor]:
        done.synchronize()
        return pinned

    return wait


@lru_cache(maxsize=16)
def _stream(device: torch.device) -> Any:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
