"""Damage to files on purpose, from seeds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["DAMAGES", "cut", "delete", "flip", "insert", "zero"]


def flip(data: bytearray, rng: np.random.Generator) -> bytearray:
    if data:
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    return data


def cut(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data[: rng.integers(len(data) + 1)]


def zero(data: bytearray, rng: np.random.Generator) -> bytearray:
    start = int(rng.integers(len(data) + 1))
    stop = min(len(data), start + int(rng.integers(1, 200)))
    data[start:stop] = bytes(stop - start)
    return data


def insert(data: bytearray, rng: np.random.Generator) -> bytearray:
    start = int(rng.integers(len(data) + 1))
    return data[:start] + rng.bytes(int(rng.integers(1, 40))) + data[start:]


def delete(data: bytearray, rng: np.random.Generator) -> None:
    return None


DAMAGES: list[Callable[[bytearray, np.random.Generator], bytearray | None]] = [flip, flip, cut, zero, insert, delete]
