"""Tests of the variation of batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sedembed
from sedembed._training.augment import change_gain, mix, shift
from sedembed._training.batches import Batch
from sedembed.models.base import Backbone


@pytest.fixture(scope="module")
def network(small_weanet_dir) -> Backbone:
    return sedembed.load_network(small_weanet_dir)


@pytest.fixture
def batch() -> Batch:
    features = torch.arange(3 * 10 * 4, dtype=torch.float32).reshape(3, 10, 4)
    return Batch(features, torch.eye(3), 1.0, torch.tensor([10, 10, 6]))


@pytest.mark.parametrize("model", ["small_weanet_dir", "untrained_model_dir"])
def test_gain_is_what_a_louder_sound_gives(model: str, request: pytest.FixtureRequest) -> None:
    # Features are logarithms of power with a WEANet, of magnitude with a TALNet.
    network = sedembed.load_network(request.getfixturevalue(model))
    sound = torch.from_numpy(np.random.default_rng(0).normal(0, 0.05, 20_000).astype(np.float32))
    normalised = ((network.features(sound) - network.mean) / network.std)[None]
    batch = Batch(normalised, torch.ones(1, 1), 1.0, torch.tensor([normalised.shape[1]]))
    done = change_gain(batch, network, 6.0, 0, 3).features[0]
    decibels = float(((done - normalised[0]) * network.std).mean()) * 2 / network.spectrogram.power
    assert 0.1 < abs(decibels) <= 6.0
    louder = (network.features(sound * 10 ** (decibels / 20)) - network.mean) / network.std
    torch.testing.assert_close(done, louder, atol=1e-3, rtol=0)


def test_gains_fill_their_range(batch: Batch, network: Backbone) -> None:
    gains = [change_gain(batch, network, 6.0, 0, step).features - batch.features for step in range(60)]
    decibels = (torch.stack(gains)[:, :, 0, 0] * network.std).flatten()
    assert -6.0 <= decibels.min() < -5.0
    assert 5.0 < decibels.max() <= 6.0


def test_a_shift_is_circular_within_each_recording(batch: Batch) -> None:
    starts: list[set[int]] = [set() for _ in batch.features]
    for step in range(60):
        done = shift(batch, 0, step)
        assert done.targets is batch.targets
        for row, old, length, seen in zip(done.features, batch.features, batch.lengths.tolist(), starts, strict=True):
            start = int((old[:length] == row[0]).all(1).nonzero()[0])
            seen.add(start)
            torch.testing.assert_close(row[:length], torch.cat((old[start:length], old[:start])))
            assert torch.equal(row[length:], old[length:])
    assert starts == [set(range(length)) for length in batch.lengths.tolist()]


def test_mixing_mixes_features_and_targets_alike(batch: Batch) -> None:
    done = mix(batch, 0.5, 0, 1)
    for row, target in zip(done.features, done.targets, strict=True):
        expected = torch.einsum("i,itf->tf", target, batch.features)
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-4)
    assert (done.targets.max(1).values < 1).any()
    assert done.lengths.tolist() >= batch.lengths.tolist()
    assert mix(batch, 0.0, 0, 1) is batch


def test_a_function_of_seed_and_step(batch: Batch, network: Backbone) -> None:
    def vary(seed: int, step: int) -> torch.Tensor:
        return mix(change_gain(shift(batch, seed, step), network, 6.0, seed, step), 0.5, seed, step).features

    assert torch.equal(vary(1, 2), vary(1, 2))
    assert not torch.equal(vary(1, 2), vary(1, 3))
    assert not torch.equal(vary(1, 2), vary(2, 2))
