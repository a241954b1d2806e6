"""Reading, downmixing and resampling of well-formed sound, and of files whose headers or ends are wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from sedembed.audio import decoders as _decoders
from sedembed.audio import reader as audio
from sedembed.audio.reader import AudioReader, as_clips, as_waveform, is_several, load_audio, resample, resample_blocks
from tests.audio.reader_helpers import RATE, sound


class TestArrays:
    @pytest.mark.parametrize(
        ("dtype", "scale", "shift"),
        [("int8", 128, 0), ("uint8", 128, 128), ("int16", 32768, 0), ("int32", 2**31, 0), (">i2", 32768, 0)],
    )
    def test_integers_are_scaled_by_the_range_of_their_type(self, dtype, scale, shift):
        limits = np.iinfo(dtype)
        wave = as_waveform(np.array([limits.min, shift, limits.max], dtype=dtype))
        assert wave.dtype == np.float32
        np.testing.assert_allclose(wave, [-1, 0, (limits.max - shift) / scale], atol=1e-7)

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "longdouble"])
    def test_floats_are_converted(self, dtype):
        wave = as_waveform(np.array([0.5, -0.25, 1.5], dtype=dtype))
        assert wave.dtype == np.dtype(np.float32)
        np.testing.assert_array_equal(wave, np.float32([0.5, -0.25, 1.5]))

    def test_result_is_contiguous_and_writeable(self):
        strided = np.ones((10, 2), np.float32)[:, 0]
        strided.flags.writeable = False
        wave = as_waveform(strided)
        assert wave.flags.c_contiguous
        assert wave.flags.writeable

    def test_tensors(self):
        torch = pytest.importorskip("torch")
        plain = torch.tensor([0.5, -0.5], requires_grad=True)
        for tensor in (plain, plain.double(), plain.half(), plain.bfloat16(), torch.tensor([16384, -16384]).short()):
            np.testing.assert_array_equal(as_waveform(tensor), np.float32([0.5, -0.5]))
        assert len(as_clips(torch.zeros(3, 1000))) == 3
        assert is_several(torch.zeros(3, 1000))
        assert not is_several(torch.zeros(1000))

    def test_importing_does_not_import_torch(self):
        code = "import sys, sedembed.audio.reader; sys.exit('torch' in sys.modules or 'librosa' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], cwd=Path(audio.__file__).parents[2]).returncode == 0

    def test_several(self):
        assert all(map(is_several, ([], ("a.wav",), np.zeros((2, 100)), np.zeros((2, 2, 2)))))
        assert not any(map(is_several, ("a.wav", Path("a.wav"), np.zeros(100), None, 1.0)))
        rows = as_clips(np.arange(2000, dtype=np.int16).reshape(2, 1000))
        assert [len(as_waveform(row)) for row in rows] == [1000, 1000]
        assert as_clips(["a.wav", np.zeros(3)])[0] == "a.wav"
        assert as_clips(np.zeros((0, 100))) == []

    def test_normal_noise_is_no_reason_to_warn(self):
        as_waveform(np.random.default_rng(0).standard_normal(100_000))


class TestResampling:
    @pytest.mark.parametrize("rate", [8000, 11025, 22254, 44100, 48000, 96000, 999_983])
    def test_equals_soxr_in_one_call_whatever_the_blocks(self, rate):
        wave = sound(min(3.0, 300_000 / rate), rate)
        whole = resample(wave, rate, RATE)
        np.testing.assert_allclose(whole, soxr.resample(wave, rate, RATE, quality="HQ"), atol=1e-6)
        for size in (97, 1000, 65_536):
            pieces = [wave[i : i + size] for i in range(0, len(wave), size)]
            np.testing.assert_array_equal(np.concatenate(list(resample_blocks(pieces, rate, RATE))), whole)

    def test_equals_librosa(self):
        librosa = pytest.importorskip("librosa")
        wave = sound(1.0, 44100)
        golden = librosa.resample(wave, orig_sr=44100, target_sr=RATE, res_type="soxr_hq")
        ours = resample(wave, 44100, RATE)
        np.testing.assert_allclose(ours, golden[: len(ours)], atol=1e-5)
        assert abs(len(golden) - len(ours)) <= 1

    def test_keeps_pitch_and_level(self):
        t = np.arange(44100) / 44100
        wave = resample(np.sin(2 * np.pi * 1000 * t).astype(np.float32), 44100, RATE)
        expected = np.sin(2 * np.pi * 1000 * np.arange(len(wave)) / RATE)
        np.testing.assert_allclose(wave[500:-500], expected[500:-500], atol=1e-3)

    def test_equal_rates_pass_through(self):
        wave = sound(0.1)
        assert resample(wave, RATE, RATE) is wave
        np.testing.assert_array_equal(np.concatenate(list(resample_blocks([wave, wave[:0]], RATE, RATE))), wave)

    @pytest.mark.parametrize("rate", [8000, 44100, 1_000_000])
    def test_one_sample_stays_at_least_one(self, rate):
        wave = resample(np.float32([0.5]), rate, RATE)
        assert len(wave) >= 1
        assert np.isfinite(wave).all()

    def test_nothing_stays_nothing(self):
        assert resample(np.zeros(0, np.float32), 8000, RATE).shape == (0,)


FORMATS = [
    ("a.wav", {"subtype": "PCM_U8"}, 0.01),
    ("a.wav", {"subtype": "PCM_16"}, 1e-4),
    ("a.wav", {"subtype": "PCM_24"}, 1e-6),
    ("a.wav", {"subtype": "PCM_32"}, 1e-6),
    ("a.wav", {"subtype": "FLOAT"}, 1e-6),
    ("a.wav", {"subtype": "DOUBLE"}, 1e-6),
    ("a.wav", {"subtype": "ULAW"}, 0.03),
    ("a.wav", {"subtype": "PCM_16", "format": "WAVEX"}, 1e-4),
    ("a.w64", {"subtype": "PCM_16"}, 1e-4),
    ("a.flac", {}, 1e-4),
    ("a.aiff", {}, 1e-4),
    ("a.au", {}, 1e-4),
    ("a.ogg", {"subtype": "VORBIS"}, 0.2),
    ("a.opus", {"format": "OGG", "subtype": "OPUS"}, 0.2),
    ("a.mp3", {}, 0.2),
    ("a.raw", {"format": "WAV"}, 1e-4),  # the name says nothing
]


class TestFiles:
    @pytest.mark.parametrize(("name", "how", "tolerance"), FORMATS)
    @pytest.mark.parametrize("channels", [1, 2])
    def test_formats(self, tmp_path, name, how, tolerance, channels):
        wave = sound(channels=channels)
        soundfile.write(tmp_path / name, wave, RATE, **how)
        with AudioReader(tmp_path / name, sample_rate=RATE) as reader:
            blocks = list(reader.blocks())
            assert reader.seconds == pytest.approx(3.0, abs=1e-3)
            assert reader.info.channels == channels
            assert reader.info.sample_rate in (RATE, 48000)  # Opus decodes at 48 kHz whatever went in
        got = np.concatenate(blocks)
        assert got.dtype == np.float32
        assert all(len(block) for block in blocks)
        mono = wave if channels == 1 else wave.mean(axis=1)
        assert len(got) == len(mono)
        np.testing.assert_allclose(got, mono, atol=tolerance)

    @pytest.mark.parametrize("rate", [8000, 11025, 22254, 44100, 96000])
    def test_file_equals_array(self, tmp_path, rate):
        wave = (sound(2.5, rate) * 32767).astype(np.int16)
        soundfile.write(tmp_path / "a.flac", wave, rate)
        got, info = load_audio(tmp_path / "a.flac", RATE)
        assert info == audio.AudioInfo(rate, 1)
        np.testing.assert_array_equal(got, resample(as_waveform(wave), rate, RATE))

    def test_many_channels_at_a_high_rate(self, tmp_path):
        wave = sound(2.5, 96000, channels=8)
        soundfile.write(tmp_path / "a.wav", wave, 96000, subtype="FLOAT")
        got, info = load_audio(str(tmp_path / "a.wav"), RATE)
        assert info == audio.AudioInfo(96000, 8)
        mono = wave.mean(axis=1, dtype=np.float64).astype(np.float32)
        np.testing.assert_array_equal(got, resample(mono, 96000, RATE))

    def test_telephone(self, tmp_path):
        soundfile.write(tmp_path / "a.wav", sound(1.0, 8000), 8000, subtype="ULAW")
        got, info = load_audio(tmp_path / "a.wav", RATE)
        assert info.sample_rate == 8000
        assert len(got) == RATE

    @pytest.mark.parametrize("rate", [8000, RATE, 96000])
    def test_one_sample(self, tmp_path, rate):
        soundfile.write(tmp_path / "a.wav", np.float32([0.5]), rate)
        got, _ = load_audio(tmp_path / "a.wav", RATE)
        assert len(got) >= 1

    def test_native_rate_on_request(self, tmp_path):
        soundfile.write(tmp_path / "a.flac", sound(1.0, 22254), 22254)
        assert len(load_audio(tmp_path / "a.flac", None)[0]) == 22254

    @pytest.mark.parametrize("name", ["a.mp3", "a.ogg", "a.flac"])
    def test_blocks_equal_one_read(self, tmp_path, name):
        soundfile.write(tmp_path / name, sound(20.0, 22050), 22050)
        with AudioReader(tmp_path / name) as reader:
            blocks = list(reader.blocks())
            assert list(reader.blocks()) == []
        assert len(blocks) > 5
        assert max(map(len, blocks)) <= 5 * 22050
        with _decoders._ForwardFile(tmp_path / name) as file:
            np.testing.assert_array_equal(np.concatenate(blocks), file.read(10**6, dtype="float32"))
        expected = soundfile.read(tmp_path / name, dtype="float32")[0]
        np.testing.assert_allclose(np.concatenate(blocks), expected, atol=1e-6)

    def test_file_left_early_is_closed(self, tmp_path):
        soundfile.write(tmp_path / "a.wav", sound(10.0), RATE)
        with AudioReader(tmp_path / "a.wav") as reader:
            next(reader.blocks())
            assert 0 < reader.seconds < 10
        assert reader._decoder._sound.closed

    def test_channels_at_the_float_limit_do_not_overflow(self, tmp_path):
        soundfile.write(tmp_path / "a.wav", np.full((10, 2), 3e38, np.float32), RATE, subtype="FLOAT")
        with pytest.warns(UserWarning, match=r"peaks at 3e\+38"):
            got, _ = load_audio(tmp_path / "a.wav", RATE)
        np.testing.assert_array_equal(got, np.full(10, 3e38, np.float32))

    def test_links_are_followed(self, tmp_path):
        soundfile.write(tmp_path / "a.wav", sound(0.1), RATE)
        (tmp_path / "b.wav").symlink_to("a.wav")
        assert len(load_audio(tmp_path / "b.wav", RATE)[0]) == RATE // 10

    def test_suffixes_are_lower_case(self):
        assert {".wav", ".flac", ".mp3", ".m4a", ".webm", ".opus"} <= audio.AUDIO_EXTENSIONS
        assert all(re.fullmatch(r"\.[a-z0-9]+", suffix) for suffix in audio.AUDIO_EXTENSIONS)
