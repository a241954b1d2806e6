"""Checkpoints of a training: whole or not at all, and read without running code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from sedembed._utils.files import atomic_file
from sedembed.errors import DatasetError

__all__ = ["find_nonfinite", "load_checkpoint", "save_checkpoint"]


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values; a killed process leaves the file before."""
    with atomic_file(path) as opened:
        torch.save(state, opened)


def load_checkpoint(path: Path, restore: Callable[[dict[str, Any]], None], device: str | torch.device = "cpu") -> None:
    """Read a checkpoint and hand it to `restore`.

    Raises
    ------
    DatasetError
        If the file cannot be read, or does not fit what it is restored into.
    """
    try:
        restore(torch.load(path, map_location=device, weights_only=True))
    except Exception as error:  # a damaged file can raise anything
        raise DatasetError(
            f"Expected a checkpoint of this training in {path}, which cannot be read ({type(error).__name__}: "
            f"{str(error)[:200]}). Choose another folder, or delete the file to begin again."
        ) from error


def find_nonfinite(state: Mapping[str, torch.Tensor]) -> str | None:
    """Name the first weight or running statistic with NaN or infinity, for `RunFolder.diverged`; None without one."""
    for key, value in state.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            return f"{key}, a weight or running statistic,"
    return None
