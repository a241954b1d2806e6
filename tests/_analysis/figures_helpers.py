"""Fixtures and helpers that several test files share."""

from __future__ import annotations

import numpy as np


def overlapping_share(boxes: np.ndarray) -> float:
    """Share of boxes (n, 4) that overlap some other one."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    overlap = (high - low > 1e-6).all(2)
    np.fill_diagonal(overlap, False)
    return float(overlap.any(1).mean())
