"""Checkpoints of a training: whole or not at all, and read without running code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sedembed._utils.files import atomic_file
from sedembed.errors import DatasetError

__all__ = ["load_checkpoint", "save_checkpoint"]


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
            f"{path} cannot be read ({type(error).__name__}); choose another folder, or delete it to begin again"
        ) from error
