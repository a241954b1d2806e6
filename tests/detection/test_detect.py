"""Tests of detect."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from sedembed.audio.reader import load_audio
from sedembed.detection.detect import run_windows
from sedembed.embedder import Embedder
from sedembed.errors import AudioDecodeError, InvalidWaveformError
from tests.detection.events_helpers import RATE, SOUNDS, bursts, loudness, talnet  # noqa: F401


class TestDetect:
    """Onsets through the windows of the model; the network is replaced, all else is real."""

    SPANS = ((0.5, 2.0), (7.7, 9.3), (12.3, 31.7), (32.2, 32.7), (33.5, 34.4), (36.0, 37.13))

    def test_events_run_on_across_windows(self, loudness):
        events = loudness.detect(bursts(37.13, *self.SPANS), labels="Speech", max_gap=0.0)
        assert [event.label for event in events] == ["Speech"] * len(self.SPANS)
        np.testing.assert_allclose([event[1:3] for event in events], self.SPANS, atol=0.1)
        assert events[-1].offset <= 37.13

    def test_stretches_follow_each_other(self, loudness):
        wave = bursts(37.13, *self.SPANS)
        stretches = list(run_windows(loudness.runner, np.split(wave, [5, 200_000])))
        frames = np.concatenate([stretch.probabilities for stretch in stretches])
        starts = [s.start + i / 10 for s in stretches for i in range(len(s.probabilities))]
        np.testing.assert_allclose(starts, np.arange(371) / 10)
        assert [round(s.end, 6) for s in stretches] == [9, 17, 25, 33, 37.13]
        assert frames.shape == (371, 527)
        assert [len(s.features) for s in stretches[:-1]] == [4 * len(s.probabilities) for s in stretches[:-1]]
        assert sum(len(s.features) for s in stretches) == 1 + len(wave) // 400

    @pytest.mark.parametrize("seconds", [0.06, 0.3, 9.99, 10.0, 10.05, 18.0, 18.02, 26.0])
    def test_a_sound_throughout(self, loudness, seconds):
        (event,) = loudness.detect(bursts(seconds, (0, seconds)), labels=["Speech"])
        assert event.onset == 0.0
        assert seconds - 0.1 <= event.offset <= seconds

    def test_however_the_sound_arrives(self, loudness, tmp_path):
        wave = bursts(37.13, *self.SPANS)
        expected = loudness.detect(wave, labels=["Speech", "Dog"])
        soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
        assert loudness.detect(tmp_path / "a.wav", labels=["Speech", "Dog"]) == expected
        for block in (997, 64_000, 10_000_000):
            blocks = (wave[i : i + block] for i in range(0, len(wave), block))
            streamed = loudness.detect_stream(blocks, RATE, labels=["Speech", "Dog"])
            assert sorted(streamed, key=lambda e: (e.onset, e.offset, e.label)) == expected

    def test_stream_gives_events_before_the_end(self, loudness):
        def endless():
            while True:
                yield bursts(1.0, (0.2, 0.6))

        events = loudness.detect_stream(endless(), RATE, labels="Dog")
        np.testing.assert_allclose(next(events)[1:3], (0.2, 0.6), atol=0.1)
        with pytest.raises(InvalidWaveformError, match="at least one sample"):
            list(loudness.detect_stream([], RATE))
        with pytest.raises(ValueError, match="threshold"):
            loudness.detect_stream([], RATE, 7)

    @pytest.mark.parametrize("hop", [0.2, 1.0, 10.0])
    def test_a_hop_gives_each_event_once_and_soon(self, loudness, hop):
        sound = bursts(30.05, (1.0, 2.0), (2.9, 3.1), (8.0, 19.5), (29.5, 30.05))
        heard = 0.0

        def blocks():
            nonlocal heard
            for block in np.split(sound, range(800, len(sound), 800)):
                heard += len(block) / RATE
                yield block

        found = []
        for event in loudness.detect_stream(blocks(), RATE, labels="Speech", hop=hop):
            found.append(event)
            # Decided half a median and the longest gap after its end.
            assert heard <= min(event.offset + 0.35 + hop + 1e-6, 30.05 + 1e-6)
        assert found == loudness.detect(sound, labels="Speech")

    def test_several_clips(self, loudness):
        clips = [bursts(2, (0.5, 1.0)), bursts(11, (10.0, 10.6)), bursts(1)]
        together = loudness.detect(clips, labels="Dog")
        assert together == [loudness.detect(clip, labels="Dog") for clip in clips]
        assert [len(events) for events in together] == [1, 1, 0]
        assert loudness.detect(np.stack([clips[0], clips[0]]), labels="Dog") == [together[0], together[0]]
        with pytest.raises(InvalidWaveformError, match="clip 1 of 2"):
            loudness.detect([clips[0], np.full(10, np.nan)])
        with pytest.raises(InvalidWaveformError, match="at least one clip"):
            loudness.detect([])

    def test_refusals(self, loudness, tmp_path):
        with pytest.raises(InvalidWaveformError, match="leave sample_rate out"):
            loudness.detect(tmp_path / "a.wav", RATE)
        with pytest.raises(FileNotFoundError):
            loudness.detect(tmp_path / "none.wav")
        (tmp_path / "a.wav").write_text("no sound")
        with pytest.raises(AudioDecodeError):
            loudness.detect(tmp_path / "a.wav")
        with pytest.raises(ValueError, match="did you mean 'Siren'"):
            loudness.detect(np.zeros(100), labels=["sirene"])

    def test_nan_is_not_silence(self, untrained_embedder, monkeypatch):
        monkeypatch.setitem(
            vars(untrained_embedder.runner), "frame_probabilities", lambda _: np.full((10, 527), np.nan)
        )
        with pytest.raises(InvalidWaveformError, match="NaN"):
            untrained_embedder.detect(bursts(1, (0, 1)))


class TestShippedModel:
    @pytest.mark.parametrize(
        ("file", "label"),
        [
            ("speech_german.flac", "Speech"),
            ("birdsong.ogg", "Bird"),
            ("rain.ogg", "Rain"),
            ("police_siren.ogg", "Siren"),
        ],
    )
    def test_a_sound_between_silences(self, talnet, file, label):
        sound = load_audio(SOUNDS / file, RATE)[0]
        scene = np.concatenate([np.zeros(4 * RATE, np.float32), sound, np.zeros(12 * RATE, np.float32)])
        alone, events = (talnet.detect(x, labels=label) for x in (sound, scene))
        assert alone
        assert abs(events[0].onset - (4 + alone[0].onset)) <= 1.0
        assert abs(events[-1].offset - (4 + alone[-1].offset)) <= 1.0
        assert all(event.probability >= 0.3 for event in events)

    def test_a_long_sound_is_one_event(self, talnet):
        rain = np.tile(load_audio(SOUNDS / "rain.ogg", RATE)[0], 5)
        (event,) = talnet.detect(rain, labels="Rain")
        assert event.onset <= 0.3
        assert event.offset >= 24.5

    def test_strongest_event_is_that_of_tag(self, talnet):
        for file in ("ocean_waves.mp3", "speech_english.wav", "police_siren.ogg"):
            events = talnet.detect(SOUNDS / file)
            best = max(events, key=lambda event: event.probability)
            assert best.label in [talnet.labels[i] for i in talnet.tag(SOUNDS / file).argsort()[-2:]]
            assert events == sorted(events, key=lambda event: event.onset)

    def test_thresholds(self, talnet):
        sound = SOUNDS / "police_siren.ogg"
        assert {event.label for event in talnet.detect(sound)} >= {"Siren", "Emergency vehicle"}
        assert "Siren" not in {event.label for event in talnet.detect(sound, threshold={"Siren": 0.99})}
        everything = np.full(527, 0.99)
        everything[talnet.labels.index("Siren")] = 0.5
        assert {event.label for event in talnet.detect(sound, threshold=everything)} == {"Siren"}


class TestSeveralClips:
    def test_events_are_those_of_each_clip_to_the_bit(self, untrained_embedder: Embedder):
        rng = np.random.default_rng(0)
        clips = [rng.normal(0, 0.1, n).astype(np.float32) for n in (30_000, 200_000, 16_000, 350_001, 8_000)]
        threads = torch.get_num_threads()
        torch.set_num_threads(2)  # two workers
        try:
            found = untrained_embedder.detect(clips, threshold=0.4)
        finally:
            torch.set_num_threads(threads)
        assert found == [untrained_embedder.detect(clip, threshold=0.4) for clip in clips]
        assert any(found)

    def test_errors_name_the_clip(self, untrained_embedder: Embedder):
        good = np.zeros(16_000, np.float32)
        with pytest.raises(InvalidWaveformError, match="clip 1 of 3"):
            untrained_embedder.detect([good, np.full(16_000, np.nan, np.float32), good])
