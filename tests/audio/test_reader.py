"""Reading, downmixing and resampling of well-formed sound, and of files whose headers or ends are wrong."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from sedembed.audio import decoders as _decoders
from sedembed.audio import reader as audio
from sedembed.audio.reader import AudioReader, as_clips, as_waveform, is_several, load_audio, resample, resample_blocks

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the program ffmpeg is not installed")
RATE = 16000


def sound(seconds: float = 3.0, rate: int = RATE, channels: int = 1) -> np.ndarray:
    rng = np.random.default_rng(0)
    t = np.arange(round(seconds * rate))[:, None] / rate
    wave = 0.4 * np.sin(2 * np.pi * 440 * (1 + np.arange(channels)) * t) + 0.05 * rng.standard_normal(
        (len(t), channels)
    )
    return np.squeeze(wave.astype(np.float32), axis=1) if channels == 1 else wave.astype(np.float32)


def ffmpeg(*arguments: object) -> None:
    subprocess.run(["ffmpeg", "-nostdin", "-y", "-v", "error", *map(str, arguments)], check=True)


def mp3_frames(path: Path) -> tuple[bytearray, int]:
    """The bytes of an MP3 file and where its tag keeps the frame count."""
    data = bytearray(path.read_bytes())
    return data, re.search(rb"Xing|Info", data).end() + 4


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
        assert subprocess.run([sys.executable, "-c", code], cwd=Path(audio.__file__).parents[1]).returncode == 0

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
        assert reader._decoder._file._file.closed

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


class TestLyingHeaders:
    @pytest.mark.parametrize("riff", [None, 0, 0xFFFFFFFF])
    @pytest.mark.parametrize("claim", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
    def test_streamed_wav_is_read_to_its_end(self, tmp_path, claim, riff):
        soundfile.write(tmp_path / "a.wav", sound(), RATE)
        data = bytearray((tmp_path / "a.wav").read_bytes())
        data[40:44] = struct.pack("<I", claim)
        if riff is not None:
            data[4:8] = struct.pack("<I", riff)
        (tmp_path / "b.wav").write_bytes(data)
        np.testing.assert_array_equal(load_audio(tmp_path / "b.wav", RATE)[0], load_audio(tmp_path / "a.wav", RATE)[0])

    def test_wav_that_counts_too_little_is_read_to_its_end_with_a_warning(self, tmp_path):
        soundfile.write(tmp_path / "a.wav", sound(), RATE)
        data = bytearray((tmp_path / "a.wav").read_bytes())
        data[40:44] = struct.pack("<I", 1000)
        (tmp_path / "a.wav").write_bytes(data)
        with pytest.warns(UserWarning, match=r"a\.wav.*1000 bytes"):
            got, _ = load_audio(tmp_path / "a.wav", RATE)
        assert len(got) == 3 * RATE

    @pytest.mark.parametrize("tail", [b"LIST\x04\0\0\0INFO", bytes(5000), b"\0"])
    def test_what_follows_the_samples_of_a_wav_is_not_sound(self, tmp_path, tail):
        soundfile.write(tmp_path / "a.wav", sound(), RATE)
        (tmp_path / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes() + tail)
        assert len(load_audio(tmp_path / "a.wav", RATE)[0]) == 3 * RATE

    @needs_ffmpeg
    @pytest.mark.parametrize("form", ["wav", "flac", "ogg"])
    def test_written_to_a_pipe(self, tmp_path, form):
        soundfile.write(tmp_path / "a.wav", sound(), RATE)
        with (tmp_path / f"b.{form}").open("wb") as out:
            subprocess.run(
                ["ffmpeg", "-nostdin", "-v", "error", "-i", tmp_path / "a.wav", "-f", form, "-"], stdout=out, check=True
            )
        assert len(load_audio(tmp_path / f"b.{form}", RATE)[0]) == 3 * RATE

    @needs_ffmpeg
    def test_variable_mp3_without_a_tag_is_read_to_its_end(self, tmp_path):
        # libsndfile alone guesses the length from the loud start and stops after a quarter.
        soundfile.write(tmp_path / "a.wav", np.r_[0.2 * sound(5.0, 44100), np.zeros(44100 * 15, np.float32)], 44100)
        ffmpeg("-i", tmp_path / "a.wav", "-q:a", 4, "-write_xing", 0, tmp_path / "a.mp3")
        assert len(load_audio(tmp_path / "a.mp3", None)[0]) == pytest.approx(44100 * 20, abs=3000)

    @pytest.mark.parametrize("claim", [1, 20])
    def test_mp3_tag_that_counts_too_little(self, tmp_path, claim):
        soundfile.write(tmp_path / "a.mp3", sound(5.0, 44100), 44100)
        whole, _ = load_audio(tmp_path / "a.mp3", None)
        data, at = mp3_frames(tmp_path / "a.mp3")
        data[at : at + 4] = struct.pack(">I", claim)
        (tmp_path / "b.mp3").write_bytes(data)
        got, _ = load_audio(tmp_path / "b.mp3", None)
        assert len(whole) == 5 * 44100
        assert len(whole) <= len(got) <= len(whole) + 3000
        np.testing.assert_array_equal(got[: len(whole)], whole)

    def test_mp3_tag_that_counts_too_much(self, tmp_path):
        soundfile.write(tmp_path / "a.mp3", sound(5.0, 44100), 44100)
        data, at = mp3_frames(tmp_path / "a.mp3")
        data[at : at + 4] = struct.pack(">I", 100_000)
        (tmp_path / "a.mp3").write_bytes(data)
        with pytest.warns(UserWarning, match=r"a\.mp3 is damaged or cut short"):
            got, _ = load_audio(tmp_path / "a.mp3", None)
        assert 5 * 44100 <= len(got) <= 5 * 44100 + 3000

    def test_joined_mp3_files(self, tmp_path):
        soundfile.write(tmp_path / "a.mp3", sound(5.0, 44100), 44100)
        (tmp_path / "b.mp3").write_bytes((tmp_path / "a.mp3").read_bytes() * 3)
        assert load_audio(tmp_path / "b.mp3", None)[0].shape[0] == pytest.approx(15 * 44100, abs=6 * 1152 * 2)

    def test_mp3_with_large_id3_tag(self, tmp_path):
        soundfile.write(tmp_path / "a.mp3", sound(5.0, 44100), 44100)
        size = 100_000
        tag = b"ID3\x03\0\0" + bytes((size >> s) & 127 for s in (21, 14, 7, 0)) + bytes(size)
        (tmp_path / "b.mp3").write_bytes(tag + (tmp_path / "a.mp3").read_bytes() + b"TAG" + bytes(125))
        np.testing.assert_array_equal(load_audio(tmp_path / "b.mp3", None)[0], load_audio(tmp_path / "a.mp3", None)[0])


class TestCutShort:
    @pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.flac", "a.mp3", "a.ogg", "a.opus"])
    def test_gives_what_decodes_with_one_warning(self, tmp_path, name):
        rate = 48000
        how = {"format": "OGG", "subtype": "OPUS"} if name == "a.opus" else {}
        soundfile.write(tmp_path / name, sound(8.0, rate), rate, **how)
        whole, _ = load_audio(tmp_path / name, None)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2 + 1])
        with warnings.catch_warnings(record=True) as caught, AudioReader(tmp_path / name) as reader:
            warnings.simplefilter("always")
            got = np.concatenate(list(reader.blocks()))
            assert reader.seconds == pytest.approx(len(got) / rate)
        assert [str(tmp_path / name) in str(warning.message) for warning in caught] == [True]
        assert 2.5 * rate < len(got) < 5 * rate
        np.testing.assert_array_equal(got[:-2000], whole[: len(got) - 2000])

    def test_flac_damaged_in_the_middle_keeps_every_frame_before(self, tmp_path):
        soundfile.write(tmp_path / "a.flac", sound(8.0), RATE)
        whole, _ = load_audio(tmp_path / "a.flac", RATE)
        data = bytearray((tmp_path / "a.flac").read_bytes())
        data[len(data) // 2 : len(data) // 2 + 500] = bytes(500)
        (tmp_path / "a.flac").write_bytes(data)
        with pytest.warns(UserWarning, match="libsndfile"):
            got, _ = load_audio(tmp_path / "a.flac", RATE)
        assert len(got) % 4096 == 0
        assert 3.5 * RATE < len(got) < 4.5 * RATE
        np.testing.assert_array_equal(got, whole[: len(got)])


@needs_ffmpeg
class TestFfmpeg:
    @pytest.mark.parametrize("name", ["a.m4a", "a.aac", "a.wma", "a.mp2", "-y http:%d'a.m4a"])
    def test_formats(self, tmp_path, name, monkeypatch):
        monkeypatch.chdir(tmp_path)
        wave = sound(3.0, 44100, channels=2)
        soundfile.write("a.wav", wave, 44100)
        ffmpeg("-i", "a.wav", f"file:{name}")
        with AudioReader(name, sample_rate=RATE) as reader:
            got = np.concatenate(list(reader.blocks()))
            assert reader.info == audio.AudioInfo(44100, 2)
            assert reader.seconds == pytest.approx(3.0, abs=0.1)
        assert len(got) == pytest.approx(3 * RATE, abs=1600)
        assert np.abs(got).max() == pytest.approx(0.4, abs=0.2)

    def test_lossless_video_equals_array(self, tmp_path):
        wave = (sound(3.0, 44100) * 32767).astype(np.int16)
        soundfile.write(tmp_path / "a.wav", wave, 44100)
        ffmpeg(
            *("-f", "lavfi", "-i", "color=black:size=64x64:rate=5:duration=3", "-i", tmp_path / "a.wav"),
            *("-c:v", "mpeg4", "-c:a", "flac", tmp_path / "a.mkv"),
        )
        got, info = load_audio(tmp_path / "a.mkv", RATE)
        assert info == audio.AudioInfo(44100, 1)
        np.testing.assert_array_equal(got, resample(as_waveform(wave), 44100, RATE))

    def test_cut_short(self, tmp_path):
        soundfile.write(tmp_path / "a.wav", sound(10.0), RATE)
        ffmpeg(
            "-i",
            tmp_path / "a.wav",
            "-movflags",
            "frag_keyframe+empty_moov",
            "-frag_duration",
            10**6,
            tmp_path / "a.m4a",
        )
        data = (tmp_path / "a.m4a").read_bytes()
        (tmp_path / "a.m4a").write_bytes(data[: len(data) // 2])
        with pytest.warns(UserWarning, match=r"a\.m4a is damaged or cut short"):
            got, _ = load_audio(tmp_path / "a.m4a", RATE)
        assert 3 * RATE < len(got) < 7 * RATE

    def test_left_early_ends_ffmpeg(self, tmp_path):
        soundfile.write(tmp_path / "a.wav", sound(60.0), RATE)
        ffmpeg("-i", tmp_path / "a.wav", "-c:a", "flac", tmp_path / "a.mka")
        with AudioReader(tmp_path / "a.mka") as reader:
            next(reader.blocks())
            process = reader._decoder._process
        assert process.returncode is not None
        assert reader.seconds < 60
