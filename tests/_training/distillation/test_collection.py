"""Tests of collection."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from sedembed._training.distillation.batches import sampling_weights
from sedembed._training.distillation.collection import (
    Collection,
    CropSettings,
    draw_crop,
    draw_mixture,
    open_collection,
)
from tests._training.distillation.distill_helpers import data, write_folder  # noqa: F401


class TestCollection:
    def test_recordings_and_held_out_part(self, data):
        collection = open_collection(data, data / "cache", 0.2)
        assert len(collection.waveform(4)) == 48_000
        kept = {name.split("/")[0] for name, out in zip(collection.files, collection.held_out, strict=True) if not out}
        gone = {name.split("/")[0] for name, out in zip(collection.files, collection.held_out, strict=True) if out}
        assert not kept & gone

    def test_further_folders_are_trained_on_and_leave_the_held_out_part_alone(self, data, tmp_path):
        more = write_folder(tmp_path / "more", ["d/0", "d/1"])
        one, two = (open_collection(folders, tmp_path / "cache", 0.4) for folders in (data, [data, more]))
        assert two.added == 2
        np.testing.assert_array_equal(two.held_out, [*one.held_out, False, False])
        np.testing.assert_array_equal(two.waveform(0), one.waveform(0))
        expected = soundfile.read(more / "audio" / "d" / "1.ogg", dtype="int16")[0]
        np.testing.assert_array_equal(two.waveform(7), expected / np.float32(32768))

    def test_further_folders_may_be_given_relative_to_where_one_is(self, data, tmp_path, monkeypatch):
        write_folder(tmp_path / "more", ["d/0"])
        monkeypatch.chdir(tmp_path)
        collection = open_collection([data, Path("more")], tmp_path / "cache", 0.4)
        assert len(collection.waveform(len(collection.files) - 1)) > 0

    def test_further_folders_must_not_hold_what_is_held_out(self, data, tmp_path):
        gone = open_collection(data, data / "cache", 0.4)
        name = next(file for file, out in zip(gone.files, gone.held_out, strict=True) if out)[0]
        more = write_folder(tmp_path / "more", [f"{name}/9"])
        with pytest.raises(ValueError, match=f"collection {name}"):
            open_collection([data, more], tmp_path / "cache", 0.4)

    def test_crops(self, data):
        collection = open_collection(data, data / "cache", 0.0)
        rng = np.random.default_rng(0)
        short = draw_crop(collection, 0, 16_000, rng)  # half a second, repeated and rolled
        np.testing.assert_array_equal(np.sort(short), np.sort(np.tile(collection.waveform(0), 2)))
        long = draw_crop(collection, 4, 16_000, rng)
        whole = collection.waveform(4)
        assert any(np.array_equal(long, whole[i : i + 16_000]) for i in range(32_001))

    def test_mixtures(self, data):
        collection = open_collection(data, data / "cache", 0.0)
        weights = np.cumsum([0, 0, 0, 0, 1.0, 0])  # one recording only
        rng = np.random.default_rng(0)
        plain = draw_mixture(collection, weights, CropSettings(1.0, 0.0, 10.0, (0.0, 0.0)), rng)
        assert plain.shape == (16_000,)
        assert plain.dtype == np.float32
        quiet = draw_mixture(collection, weights, CropSettings(1.0, 0.0, 10.0, (-20.0, -20.0)), rng)
        assert np.std(quiet) == pytest.approx(np.std(plain) / 10, rel=0.05)
        mixed = draw_mixture(collection, weights, CropSettings(1.0, 1.0, 0.0, (0.0, 0.0)), rng)
        # Two parts of equal level at half the power each: the level of one, but for what they have in common.
        assert np.std(mixed) == pytest.approx(np.std(plain), rel=0.5)

    def test_a_faster_sound_is_higher(self):
        tone = np.sin(2 * np.pi * 1000 * np.arange(64_000) / 16_000)
        collection = Collection(
            (20_000 * tone).astype(np.int16), np.array([0, 64_000]), ["tone.ogg"], np.zeros(1, bool)
        )
        rng = np.random.default_rng(0)
        settings = CropSettings(2.0, 0.0, 10.0, (0.0, 0.0), speed_probability=1.0, speed_semitones=12.0)
        peaks = []
        for _ in range(20):
            sound = draw_mixture(collection, np.ones(1), settings, rng)
            assert sound.shape == (32_000,)
            peaks.append(np.abs(np.fft.rfft(sound * np.hanning(32_000))).argmax() / 2.0)
        assert 500 <= min(peaks) < 750
        assert 1400 < max(peaks) <= 2000

    def test_without_other_speeds_the_crops_are_those_of_before(self, data):
        collection = open_collection(data, data / "cache", 0.0)
        weights, settings = np.cumsum(np.ones(6)), CropSettings(1.0, 0.0, 10.0, (0.0, 0.0))
        mixture = draw_mixture(collection, weights, settings, np.random.default_rng(3))
        rng = np.random.default_rng(3)
        first = int(np.searchsorted(weights, rng.random(2) * 6)[0])
        np.testing.assert_array_equal(mixture, draw_crop(collection, first, 16_000, rng))

    def test_a_third_sound_joins_at_a_level_of_its_own(self):
        tones = [np.sin(2 * np.pi * hz * np.arange(16_000) / 16_000) for hz in (500, 1500, 3000)]
        samples = (8_000 * np.concatenate(tones)).astype(np.int16)
        collection = Collection(samples, np.arange(0, 64_000, 16_000), list("abc"), np.zeros(3, bool))
        settings = CropSettings(1.0, 1.0, 6.0, (0.0, 0.0), third_probability=1.0)
        rng = np.random.default_rng(1)
        heard = []
        for _ in range(60):
            mixture = draw_mixture(collection, np.cumsum(np.ones(3)), settings, rng)
            power = np.abs(np.fft.rfft(mixture))[[500, 1500, 3000]] ** 2
            heard.append(int((power > 1e-3 * power.max()).sum()))
            if heard[-1] == 3:
                assert np.std(mixture) == pytest.approx(np.std(samples / 32768), rel=0.01)
        assert set(heard) == {1, 2, 3}  # the same recording may come twice or three times

    def test_filters_apply_where_asked(self, data):
        collection = open_collection(data, data / "cache", 0.0)
        weights, plain = np.cumsum(np.ones(6)), CropSettings(1.0, 0.0, 10.0, (0.0, 0.0))
        without = draw_mixture(collection, weights, plain, np.random.default_rng(5))
        for name in ("equaliser_probability", "room_probability"):
            settings = CropSettings(1.0, 0.0, 10.0, (0.0, 0.0), **{name: 1.0})
            changed = draw_mixture(collection, weights, settings, np.random.default_rng(5))
            assert changed.dtype == np.float32
            assert not np.allclose(changed, without, atol=1e-3)
            assert np.linalg.norm(changed) == pytest.approx(np.linalg.norm(without), rel=1e-4)

    def test_silence_surrounds_a_part(self):
        noise = np.random.default_rng(2).integers(-8000, 8000, 64_000, dtype=np.int16)
        collection = Collection(noise, np.array([0, 64_000]), ["noise.ogg"], np.zeros(1, bool))
        settings = CropSettings(2.0, 0.0, 10.0, (0.0, 0.0), silence_probability=1.0)
        rng, shares, floors = np.random.default_rng(4), [], []
        for _ in range(60):
            sound = draw_mixture(collection, np.ones(1), settings, rng)
            assert sound.shape == (32_000,)
            assert sound.dtype == np.float32
            loud = np.flatnonzero(np.abs(sound) > 0.05)
            shares.append((loud[-1] - loud[0]) / 32_000)
            rest = np.concatenate([sound[: max(0, loud[0] - 200)], sound[loud[-1] + 200 :]])
            floors.append(np.sqrt(np.mean(np.square(rest, dtype=np.float64))))
            middle = sound[loud[0] + 400 : loud[-1] - 400]
            assert np.std(middle) == pytest.approx(np.std(noise / 32768), rel=0.1)
        assert 0.09 < min(shares) < 0.2
        assert 0.8 < max(shares) < 0.91
        assert 15 < np.count_nonzero(np.array(floors) == 0.0) < 45
        noisy = 20 * np.log10([floor for floor in floors if floor > 0.0])
        assert -96.5 < noisy.min() < -90
        assert -72 < noisy.max() < -65.5

    def test_rare_events_are_drawn_more_often(self):
        collection = Collection(
            np.zeros(4000, np.int16), np.arange(0, 5000, 1000), list("abcd"), np.array([False, False, False, True])
        )
        probabilities = np.array([[0.9, 0.01, 0.05], [0.9, 0.01, 0.05], [0.1, 0.8, 0.05], [0.1, 0.01, 0.9]])
        logits = np.log(probabilities / (1 - probabilities))
        drawn = np.diff(sampling_weights(logits, collection, "strongest"), prepend=0.0) / np.sqrt(1000)
        # Each recording's strongest event over all there is of it and two: 0.9 / 4.0, 0.8 / 2.83.
        np.testing.assert_allclose(drawn, [0.225, 0.225, 0.8 / 2.83, 0.0], rtol=1e-6, atol=1e-12)
        spread = np.diff(sampling_weights(logits, collection, "spread"), prepend=0.0) / np.sqrt(1000)
        expected = [0.45 + 0.01 / 0.83 + 0.05 / 1.05, 0.05 + 0.8 / 0.83 + 0.05 / 1.05]
        np.testing.assert_allclose(spread[1:3], np.sqrt(expected), rtol=1e-6)
