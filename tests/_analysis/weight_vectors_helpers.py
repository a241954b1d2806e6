"""Fixtures and helpers that several test files share."""

from __future__ import annotations

import numpy as np


def grouped_rows(groups: int, each: int, size: int = 40, noise: float = 0.5, seed: int = 0) -> np.ndarray:
    """Rows in groups of known members, in shuffled order: row i belongs to group i % groups."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((groups, size))
    return np.tile(centres, (each, 1)) + noise * rng.standard_normal((groups * each, size))
