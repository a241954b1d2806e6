"""Frames at even distances: the frames of `embed_frames` in one window, and no jump at a cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sedembed.embedder import Embedder
from sedembed.engine.even_frames import even_frames
from sedembed.errors import InvalidArgumentError
from sedembed.loading import load_model


@pytest.fixture(params=["talnet", "weanet"])
def model(request: pytest.FixtureRequest, untrained_embedder: Embedder, small_weanet_dir: Path) -> Embedder:
    return untrained_embedder if request.param == "talnet" else load_model(small_weanet_dir, device="cpu")


def noise(seconds: float, sounds: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return list(0.1 * rng.standard_normal((sounds, round(16_000 * seconds)), np.float32))


@pytest.mark.parametrize("seconds", [0.01, 1.0, 3.21])
def test_one_window_is_that_of_embed_frames(model: Embedder, seconds: float):
    waves = noise(seconds, 2)
    embeddings, times = even_frames(model.runner, waves)
    for wave, found in zip(waves, embeddings, strict=True):
        frames = model.embed_frames(wave)
        np.testing.assert_allclose(found, frames.embeddings, rtol=0, atol=5e-5)
        np.testing.assert_allclose(times, frames.times, atol=1e-9)


@pytest.mark.parametrize("seconds", [60.05, 61.3])
def test_distances_are_even_beyond_a_window(model: Embedder, seconds: float):
    (wave,) = noise(seconds)
    (embeddings,), times = even_frames(model.runner, [wave])
    period = 1 / model.frame_rate
    np.testing.assert_allclose(np.diff(times), period, atol=1e-9)
    assert len(embeddings) == len(times)
    last = model.runner.network.min_samples / 16_000 + period
    assert seconds - last <= times[-1] <= seconds


def test_a_window_begins_where_the_frames_of_the_one_before_end(model: Embedder):
    (wave,) = noise(64)
    (embeddings,), _ = even_frames(model.runner, [wave])
    step, minimum, frames = {10.0: (1600, 1200, 600), 3.125: (5120, 15_200, 185)}[model.frame_rate]
    first = model.embed_frames(
        wave[: minimum + (frames - 1) * step]
    ).embeddings  # the most up to 60 s, none of them cut
    assert len(first) == frames
    second = model.embed_frames(wave[frames * step :]).embeddings
    np.testing.assert_allclose(embeddings, np.concatenate([first, second]), atol=5e-5)


@pytest.mark.parametrize("passes", [2, 4])
def test_a_finer_hop_interleaves_shifted_runs(model: Embedder, passes: int):
    (wave,) = noise(2.5)
    hop = 1 / model.frame_rate / passes
    (embeddings,), times = even_frames(model.runner, [wave], hop)
    np.testing.assert_allclose(np.diff(times), hop, atol=1e-9)
    for number in range(passes):
        frames = model.embed_frames(wave[round(number * hop * 16_000) :])
        np.testing.assert_allclose(embeddings[number::passes], frames.embeddings, rtol=0, atol=5e-5)
        np.testing.assert_allclose(times[number::passes], frames.times + number * hop, atol=1e-9)


def test_a_sound_shorter_than_a_shift(untrained_embedder: Embedder):
    embeddings, times = even_frames(untrained_embedder.runner, noise(0.03), 0.05)
    assert embeddings.shape == (1, 1, 1024)
    assert times == pytest.approx([0.0375])


@pytest.mark.parametrize("hop", [0.03, 0.2, 0.0, -0.1])
def test_hops_that_do_not_divide_are_refused(untrained_embedder: Embedder, hop: float):
    with pytest.raises(InvalidArgumentError, match=r"hop that divides the network's own 0\.1 s, such as 0\.05"):
        even_frames(untrained_embedder.runner, noise(1), hop)


def test_several_lengths_are_refused(untrained_embedder: Embedder):
    with pytest.raises(InvalidArgumentError, match=r"one length, got \[16000, 32000\] samples"):
        even_frames(untrained_embedder.runner, [*noise(1), *noise(2)])
