"""How a recording is cut, and how its windows become one again."""

from __future__ import annotations

import numpy as np
import pytest

from sedembed.engine.windows import ClipSum, WindowResult, iter_windows, plan_batches


def cut(samples: int, block: int, size: int = 100, minimum: int = 10) -> list[np.ndarray]:
    wave = np.arange(1, samples + 1, dtype=np.float32)
    return list(iter_windows((wave[i : i + block] for i in range(0, samples, block)), size, minimum))


class TestWindows:
    @pytest.mark.parametrize(
        ("samples", "expected"),
        [
            (1, [10]),  # padded
            (10, [10]),
            (99, [99]),
            (100, [100]),
            (109, [109]),  # a remainder of 9 joins
            (110, [100, 10]),
            (200, [100, 100]),
            (209, [100, 109]),
            (350, [100, 100, 100, 50]),
        ],
    )
    @pytest.mark.parametrize("block", [1, 7, 100, 1000])
    def test_lengths(self, samples, expected, block):
        windows = cut(samples, block)
        assert [len(window) for window in windows] == expected
        joined = np.concatenate(windows)
        np.testing.assert_array_equal(joined[:samples], np.arange(1, samples + 1))
        assert not joined[samples:].any()

    def test_nothing_gives_nothing(self):
        assert cut(0, 1) == []
        assert list(iter_windows([np.zeros(0, np.float32)], 100, 10)) == []

    def test_holds_no_more_than_a_window_and_a_block(self):
        read = 0

        def blocks():
            nonlocal read
            for _ in range(100):
                read += 30
                yield np.zeros(30, np.float32)

        for number, window in enumerate(iter_windows(blocks(), 100, 10)):
            assert read <= (number + 1) * 100 + 10 + 30
            assert len(window) == 100


class TestClipSum:
    def test_mean_is_weighted_by_frames(self):
        rng = np.random.default_rng(0)
        frames = rng.normal(size=(90, 8)).astype(np.float32)
        parts = np.split(frames, [60, 61])
        for order in ([0, 1, 2], [2, 0, 1]):
            clip = ClipSum()
            for i in order:
                clip.add(WindowResult(parts[i]))
            np.testing.assert_allclose(clip.embedding, frames.mean(0, dtype=np.float64), rtol=1e-6)
            assert clip.embedding.dtype == np.float32

    def test_probabilities_are_the_highest_of_all_windows(self):
        p = np.random.default_rng(0).uniform(size=(3, 5)).astype(np.float32)
        clip = ClipSum()
        for part in p:
            clip.add(WindowResult(np.zeros((7, 2), np.float32), part))
        np.testing.assert_array_equal(clip.probabilities, p.max(0))

    def test_empty(self):
        with pytest.raises(ValueError, match="without windows"):
            _ = ClipSum().embedding
        clip = ClipSum()
        clip.add(WindowResult(np.zeros((1, 2), np.float32)))
        with pytest.raises(ValueError, match="no probabilities"):
            _ = clip.probabilities


class TestBatches:
    def test_every_window_once_within_limits(self):
        lengths = np.random.default_rng(0).integers(4, 2401, 300).tolist()
        batches = plan_batches(lengths, 16, 6416)
        assert sorted(i for batch in batches for i in batch) == list(range(300))
        for batch in batches:
            longest = max(lengths[i] for i in batch)
            assert len(batch) <= 16
            assert len(batch) == 1 or len(batch) * longest <= 6416
            assert min(lengths[i] for i in batch) >= 0.8 * longest

    def test_equal_lengths_fill_batches(self):
        assert [len(batch) for batch in plan_batches([201] * 40, 16, 6416)] == [16, 16, 8]

    def test_a_window_longer_than_a_batch_runs_alone(self):
        assert plan_batches([9000, 9000], 16, 6416) == [[0], [1]]
