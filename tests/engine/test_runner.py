"""Tests of the runner: few shapes of batches, and padding that no vector feels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sedembed.embedder import Embedder
from sedembed.models.weanet import WEANet


@pytest.fixture(params=["talnet", "weanet"])
def embedder(request: pytest.FixtureRequest, untrained_embedder: Embedder, small_weanet: WEANet) -> Embedder:
    return untrained_embedder if request.param == "talnet" else Embedder(small_weanet, device="cpu")


def noise(samples: int) -> np.ndarray:
    return np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32)


class TestShapes:
    def test_few_lengths_for_all_lengths_of_sound(self, embedder: Embedder, monkeypatch: pytest.MonkeyPatch):
        runner = embedder.runner
        shapes = set()
        forward = runner._forward_frames

        def seen(padded: torch.Tensor, lengths: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
            shapes.add(padded.shape[1])
            return forward(padded, lengths)

        monkeypatch.setattr(runner, "_forward_frames", seen)
        samples = range(runner.network.min_samples, 8 * 16_000, 6311)
        runner.run([runner.features(noise(n)) for n in samples])
        assert len(samples) > 15
        assert len(shapes) <= 11  # one for each half second up to 3 s, then for each second

    @pytest.mark.parametrize("seconds", [1, 3, 10, 60])
    def test_usual_lengths_are_not_padded(self, embedder: Embedder, seconds: int):
        runner = embedder.runner
        frames = runner.network.frame_count(seconds * 16_000)
        assert runner._round(frames) == frames

    def test_the_longest_window(self, embedder: Embedder):
        runner = embedder.runner
        frames = runner.network.frame_count(runner.window_samples + runner.network.min_samples - 1)
        assert frames <= runner._round(frames) <= 1.02 * frames + 32

    @pytest.mark.parametrize("samples", [52_800, 85_000, 104_234])
    def test_padding_reaches_no_result(self, embedder: Embedder, samples: int):
        """Against the network itself, on the features as they are."""
        runner = embedder.runner
        features = runner.features(noise(samples))
        assert runner._round(len(features)) > len(features)
        with torch.inference_mode():
            output = runner.network(features[None])
            pooled = runner.network.pool(output)[0]
        (found,) = runner.run([features], probabilities=True)
        size = np.abs(output.frames[0].numpy()).max()
        np.testing.assert_allclose(found.frames, output.frames[0].numpy(), atol=1e-5 * size)
        assert found.probabilities is not None
        np.testing.assert_allclose(found.probabilities, pooled, atol=1e-5)
        np.testing.assert_allclose(runner.frame_probabilities(features), output.probabilities[0].numpy(), atol=1e-5)

    def test_few_sizes_of_batches(self, embedder: Embedder):
        for count in (1, 3, 7, 16, 29):
            plan = embedder.runner.plan([41] * count)
            assert sorted(index for batch in plan for index in batch) == list(range(count))
            assert {len(batch) for batch in plan} <= {1, 2, 4, 8, 16}
            assert len(plan) <= count // 16 + 4

    def test_counts_the_frames_of_the_front_end(self, embedder: Embedder):
        network = embedder.runner.network
        for samples in (network.min_samples, 16_000, 79_999, 80_000, 160_000):
            assert network.frame_count(samples) == len(network.features(torch.zeros(samples)))
