"""Tests of overlapping."""

from __future__ import annotations

import numpy as np
import pytest

from sedembed.engine.windows import iter_overlapping


class TestWindows:
    @pytest.mark.parametrize("samples", [1, 99, 100, 101, 180, 181, 260, 1000])
    @pytest.mark.parametrize("block", [1, 7, 100, 5000])
    def test_overlapping(self, samples, block):
        wave = np.arange(samples, dtype=np.float32)
        windows = list(iter_overlapping((wave[i : i + block] for i in range(0, samples, block)), 100, 80))
        assert [last for _, last in windows] == [False] * (len(windows) - 1) + [True]
        for number, (window, last) in enumerate(windows):
            np.testing.assert_array_equal(window, wave[number * 80 : number * 80 + 100])
            assert len(window) == 100 or last
        assert windows[-1][0][-1] == samples - 1
        assert len(windows) == 1 or len(windows[-1][0]) > 20

    def test_nothing(self):
        assert list(iter_overlapping([], 100, 80)) == []
