"""Tests of decoders."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sedembed.audio import reader as audio
from sedembed.audio.reader import AudioReader, as_waveform, load_audio, resample
from tests.audio.reader_helpers import RATE, sound

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the program ffmpeg is not installed")


def ffmpeg(*arguments: object) -> None:
    subprocess.run(["ffmpeg", "-nostdin", "-y", "-v", "error", *map(str, arguments)], check=True)


def mp3_frames(path: Path) -> tuple[bytearray, int]:
    """The bytes of an MP3 file and where its tag keeps the frame count."""
    data = bytearray(path.read_bytes())
    return data, re.search(rb"Xing|Info", data).end() + 4


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
