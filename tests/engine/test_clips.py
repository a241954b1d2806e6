"""Tests of clips."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

from sedembed.embedder import Embedder
from sedembed.engine.clips import run_clips
from sedembed.engine.windows import WindowResult


class TestRunClips:
    @pytest.mark.parametrize("model", ["untrained_embedder", "small_weanet"])
    def test_the_same_bits_whatever_the_workers(self, model: str, request: pytest.FixtureRequest):
        fixture = request.getfixturevalue(model)
        runner = fixture.runner if isinstance(fixture, Embedder) else Embedder(fixture, device="cpu").runner
        rng = np.random.default_rng(0)
        clips = [rng.normal(0, 0.1, 16_000 * length // 2).astype(np.float32) for length in (3, 2, 5, 3, 2, 9, 4, 3, 2)]
        found = []
        for workers in (1, 2, 5):
            results: dict[int, WindowResult] = dict(
                run_clips(runner, len(clips), lambda i: iter([clips[i]]), probabilities=True, workers=workers)
            )
            assert sorted(results) == list(range(len(clips)))
            found.append([results[i] for i in range(len(clips))])
        for others in found[1:]:
            for one, other in zip(found[0], others, strict=True):
                np.testing.assert_array_equal(one.frames, other.frames)
                np.testing.assert_array_equal(one.probabilities, other.probabilities)

    def test_the_first_error_counts(self, untrained_embedder: Embedder):
        def windows(index: int) -> Iterator[np.ndarray]:
            if index in (5, 9):
                time.sleep(0.1 if index == 5 else 0)
                raise ValueError(f"clip {index}")
            yield np.zeros(1600, np.float32)

        with pytest.raises(ValueError, match="clip 5"):
            list(run_clips(untrained_embedder.runner, 12, windows, workers=4))
