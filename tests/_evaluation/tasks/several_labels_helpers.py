"""Fixtures and helpers that several test files share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from sedembed.errors import DatasetError

SHARED = Path(__file__).parents[4] / "shared" / "data" / "metadata"


def write_scene(file, labels, seed):
    """Write half a second of what is heard: a tone for Bark, noise for Hiss, both, or next to nothing."""
    rng = np.random.default_rng(seed)
    wave = 1e-3 * rng.standard_normal(8000)
    if "Bark" in labels:
        wave += 0.3 * np.sin(2 * np.pi * rng.uniform(300, 330) / 16000 * np.arange(8000))
    if "Hiss" in labels:
        wave += 0.1 * rng.standard_normal(8000)
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, wave.clip(-1, 1), 16000)


def refusal(task, data):
    with pytest.raises(DatasetError) as caught:
        task.read(data)
    message = str(caught.value)
    assert task.source in message
    assert task.layout in message
    return message
