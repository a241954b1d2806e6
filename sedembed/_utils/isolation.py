"""What a caller has set for PyTorch as a whole stays away from the networks; forked processes do not hang."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

__all__ = ["isolated", "one_thread_after_fork"]

_CPU = torch.device("cpu")
_lock = threading.Lock()
_users = 0
_precision_before = "highest"
_guarded = False


@contextmanager
def isolated(device: torch.device = _CPU) -> Iterator[None]:
    """Run networks as if the caller had set nothing: no autocast, no default device, no reduced precision.

    Default dtype, deterministic algorithms, inference mode and `no_grad` have no effect on the networks: every tensor
    that they make states its type.

    Parameters
    ----------
    device : torch.device
        Where the network runs.
    """
    with ExitStack() as stack:
        for kind in ("cpu", "cuda") if device.type == "cuda" else ("cpu",):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.empty(0).device != _CPU:
            stack.enter_context(_CPU)
        if device.type == "cuda":
            # TF32 would make CUDA differ from the CPU in the third digit.
            stack.enter_context(torch.backends.cudnn.flags(allow_tf32=False))
        stack.enter_context(_exact_products())
        yield


@contextmanager
def _exact_products() -> Iterator[None]:
    """Multiply float32 matrices in float32, whatever `torch.set_float32_matmul_precision` was given."""
    global _users, _precision_before
    try:
        reduced = _users > 0 or torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # set by PyTorch's newer interface, which this one cannot read
        reduced = False
    if not reduced:
        yield
        return
    # The setting is one for all threads: the first to come changes it, the last to go puts it back.
    with _lock:
        if _users == 0:
            _precision_before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                torch.set_float32_matmul_precision(_precision_before)


def one_thread_after_fork() -> None:
    """Let processes that are forked from now on compute with one thread.

    A forked process has none of the threads of its parent, and PyTorch would wait for them forever.
    """
    global _guarded
    if not _guarded and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_use_one_thread)
        _guarded = True


def _use_one_thread() -> None:
    torch.set_num_threads(1)
