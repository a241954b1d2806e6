"""Masks of SpecAugment."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sedembed._training.spec_augment import mask_features, spec_augment_bounds


def test_spec_augment_widths():
    rng = np.random.default_rng(0)
    bounds = [spec_augment_bounds(400, 64, 80, 16, rng) for _ in range(4000)]
    times = np.array([part.stop - part.start for part, _ in bounds])
    bands = np.array([band.stop - band.start for _, band in bounds])
    assert (times.min(), times.max(), bands.min(), bands.max()) == (0, 80, 0, 16)
    assert times.mean() == pytest.approx(40, abs=2)
    assert bands.mean() == pytest.approx(8, abs=0.5)
    assert max(part.stop for part, _ in bounds) <= 400
    assert max(band.stop for _, band in bounds) <= 64


@pytest.mark.parametrize(("fill", "expected"), [("zero", 0.0), ("mean", 3.0), (7.0, 7.0)])
@pytest.mark.parametrize("kind", [np.ndarray, torch.Tensor])
def test_a_band_and_an_interval_are_filled(fill, expected, kind):
    plain = np.full((50, 16), 3.0, np.float32)
    for seed in range(20):
        features = plain.copy() if kind is np.ndarray else torch.from_numpy(plain.copy())
        mask_features(features, 1000, 1000, fill, np.random.default_rng(seed))
        interval, band = spec_augment_bounds(50, 16, 50, 16, np.random.default_rng(seed))
        wanted = plain.copy()
        wanted[interval] = wanted[:, band] = expected
        np.testing.assert_array_equal(np.asarray(features), wanted)
