"""Threads that prepare features while the network computes."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

__all__ = ["default_workers", "map_ahead", "open_threads"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def default_workers() -> int:
    """Threads that decode: one a core, eight at most."""
    return min(8, os.cpu_count() or 1)


@contextmanager
def open_threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Open threads that compute on one core each, without changing how many the caller's operations use."""
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, "sedembed-features", initializer=_use_one_core)
    try:
        # What a thread sets for itself is also the default of later ones: all must run before it is set back.
        gate = threading.Barrier(workers + 1)
        started = [pool.submit(gate.wait) for _ in range(workers)]
        gate.wait()
        for future in started:
            future.result()
        torch.set_num_threads(threads)
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _use_one_core() -> None:
    torch.set_num_threads(1)
    # A thread takes the process's number when it first looks at it: it must do so before that is set back.
    torch.get_num_threads()


def map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[_Item], _Result], items: Iterable[_Item], ahead: int
) -> Iterator[_Result]:
    """Results of a function in the order of the items, computed by threads at most `ahead` items in advance."""
    pending: deque[Future[_Result]] = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
