"""Fixtures and helpers that several test files share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import sedembed

SOUNDS = Path(__file__).parents[2] / "examples" / "sounds"


RATE = 16_000


@pytest.fixture(scope="module")
def talnet():
    return sedembed.load_model("talnet", device="cpu")


@pytest.fixture
def loudness(untrained_embedder, monkeypatch):
    """A model for which every frame that is loud is all sounds at once, so that onsets are known to the frame."""

    def probabilities(features):
        frames = features[: len(features) // 4 * 4].reshape(-1, 4, 64)
        loud = (frames[:, 2].amax(1) > -20).float()  # centred in the frame, its 64 ms reach into no other
        return loud[:, None].expand(-1, 527).numpy()

    monkeypatch.setitem(vars(untrained_embedder.runner), "frame_probabilities", probabilities)
    return untrained_embedder


def bursts(seconds: float, *spans: tuple[float, float]) -> np.ndarray:
    wave = np.zeros(round(seconds * RATE), np.float32)
    for onset, offset in spans:
        part = slice(round(onset * RATE), round(offset * RATE))
        wave[part] = np.random.default_rng(0).normal(0, 0.2, part.stop - part.start)
    return wave
