"""Fixtures and helpers that several test files share."""

from __future__ import annotations

import numpy as np

RATE = 16000


def sound(seconds: float = 3.0, rate: int = RATE, channels: int = 1) -> np.ndarray:
    rng = np.random.default_rng(0)
    t = np.arange(round(seconds * rate))[:, None] / rate
    wave = 0.4 * np.sin(2 * np.pi * 440 * (1 + np.arange(channels)) * t) + 0.05 * rng.standard_normal(
        (len(t), channels)
    )
    return np.squeeze(wave.astype(np.float32), axis=1) if channels == 1 else wave.astype(np.float32)
