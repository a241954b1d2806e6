"""Tests of augment."""

from __future__ import annotations

import numpy as np
import pytest

from sedembed._training.distillation.augment import draw_equaliser, draw_room, filter_sound


class TestFilters:
    def test_equaliser_is_drawn_at_octaves_and_interpolated_between(self):
        knots = np.array([50.0, 100, 200, 400, 800, 1600, 3200, 6400])
        between = np.sqrt(knots[:-1] * knots[1:])
        at = 20 * np.log10(draw_equaliser(knots, 9.0, np.random.default_rng(0)))
        np.testing.assert_allclose(at, np.random.default_rng(0).uniform(-9, 9, 8), atol=1e-5)
        middle = 20 * np.log10(draw_equaliser(between, 9.0, np.random.default_rng(0)))
        np.testing.assert_allclose(middle, (at[:-1] + at[1:]) / 2, atol=1e-5)
        edges = 20 * np.log10(draw_equaliser(np.array([0.0, 8000.0]), 9.0, np.random.default_rng(0)))
        np.testing.assert_allclose(edges, at[[0, -1]], atol=1e-5)

    def test_rooms_decay_by_60_db(self):
        rng = np.random.default_rng(0)
        lengths, ratios = [], []
        for _ in range(200):
            response = draw_room(16_000, rng).astype(np.float64)
            assert response[0] == 1.0
            tail = response[1:]
            lengths.append(len(response) / 16_000)
            ratios.append(-10 * np.log10(np.square(tail).sum()))
            tenth = len(tail) // 10
            fall = 10 * np.log10(np.square(tail[:tenth]).mean() / np.square(tail[-tenth:]).mean())
            assert fall == pytest.approx(54.0, abs=5.0)  # from the middle of the first to that of the last tenth
        assert 0.1 <= min(lengths) < 0.15
        assert 0.8 < max(lengths) <= 1.0
        assert -3.0 <= min(ratios) < -2.0
        assert 9.0 < max(ratios) <= 10.0

    def test_a_room_is_a_convolution_at_the_same_level(self):
        waveform = np.random.default_rng(1).normal(0, 0.1, 8_000).astype(np.float32)
        result = filter_sound(waveform, 16_000, np.random.default_rng(2), equaliser_db=None, room=True)
        reference = np.convolve(waveform.astype(np.float64), draw_room(16_000, np.random.default_rng(2)))[:8_000]
        reference *= np.linalg.norm(waveform) / np.linalg.norm(reference)
        np.testing.assert_allclose(result, reference, atol=1e-6)

    def test_an_equaliser_scales_each_frequency(self):
        waveform = np.random.default_rng(1).normal(0, 0.1, 8_000).astype(np.float32)
        result = filter_sound(waveform, 16_000, np.random.default_rng(2), equaliser_db=6.0, room=False)
        gains = draw_equaliser(np.fft.rfftfreq(8_000, 1 / 16_000), 6.0, np.random.default_rng(2))
        ratio = np.abs(np.fft.rfft(result)) / np.abs(np.fft.rfft(waveform)) / gains
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)
        assert np.linalg.norm(result) == pytest.approx(np.linalg.norm(waveform), rel=1e-5)

    def test_silence_stays_silence(self):
        silence = np.zeros(1000, np.float32)
        np.testing.assert_array_equal(
            filter_sound(silence, 16_000, np.random.default_rng(0), equaliser_db=6.0, room=True), silence
        )
