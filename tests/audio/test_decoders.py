"""Tests of decoders."""

from __future__ import annotations

import struct
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sedembed.audio import reader as audio
from sedembed.audio.headers import find_samples
from sedembed.audio.pyav import AvDecoder, find_av
from sedembed.audio.reader import AudioReader, as_waveform, load_audio, resample
from sedembed.errors import AudioDecodeError
from tests.audio.damaged import CASES, encode
from tests.audio.reader_helpers import (
    DECODERS,
    RATE,
    needs_av,
    needs_ffmpeg,
    sound,
    use_decoders,
    write_with_pyav,
)


def ffmpeg(*arguments: object) -> None:
    subprocess.run(["ffmpeg", "-nostdin", "-y", "-v", "error", *map(str, arguments)], check=True)


class TestDamaged:
    @pytest.mark.parametrize("installed", DECODERS)
    @pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
    def test_all_that_is_there_is_read_or_missed_aloud(self, tmp_path, monkeypatch, case, installed):
        use_decoders(monkeypatch, installed)
        seconds, says = case.seconds, case.says
        if installed == "plain" and case.plain_seconds is not None:
            seconds, says = case.plain_seconds, case.plain_says
        (tmp_path / "other.mp3").write_bytes(encode("MP3", 2.0, 44100))  # what playlists name
        (tmp_path / case.name).write_bytes(case.data())
        if seconds < 0:
            with pytest.raises(AudioDecodeError, match=says) as caught:
                load_audio(tmp_path / case.name, None)
            assert str(tmp_path / case.name) in str(caught.value)
            return
        with warnings.catch_warnings(record=True) as caught, AudioReader(tmp_path / case.name) as reader:
            warnings.simplefilter("always")
            got = np.concatenate(list(reader.blocks()))
            assert len(got) / reader.info.sample_rate == pytest.approx(
                seconds, abs=0.2 if says or "joined" in case.name else 0.07
            )
        assert [says in str(warning.message) for warning in caught] == ([True] if says else [])
        assert (
            case.name == "firmware.wav" or np.abs(got).max() < 0.8
        )  # neither text nor headers are heard: those are loud noise

    def test_unfinished_wav_equals_the_finished_one(self, tmp_path):
        for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"):
            data = encode("WAV", 2.0, RATE, 2, subtype)
            (tmp_path / "a.wav").write_bytes(data)
            at = data.index(b"data") + 4
            (tmp_path / "b.wav").write_bytes(data[:at] + bytes(4) + data[at + 4 :])
            whole, cut = load_audio(tmp_path / "a.wav", None)[0], load_audio(tmp_path / "b.wav", None)[0]
            np.testing.assert_array_equal(cut, whole)

    @needs_av
    @pytest.mark.parametrize("form", ["flac", "ogg", "mp3"])
    def test_pyav_gives_the_samples_of_libsndfile(self, tmp_path, form):
        wave = sound(5.0, 44100, 2)
        soundfile.write(tmp_path / f"a.{form}", wave, 44100)
        expected = soundfile.read(tmp_path / f"a.{form}", dtype="float32")[0]
        decoder = AvDecoder(tmp_path / f"a.{form}", find_av())
        got = np.concatenate(list(decoder.blocks()))
        decoder.close()
        assert decoder.problem is None
        np.testing.assert_allclose(got, expected, atol=1e-5)

    @needs_av
    def test_flac_with_a_hole_is_read_on_behind_it(self, tmp_path, monkeypatch):
        use_decoders(monkeypatch, "av")
        data = encode("FLAC", 8.0)
        (tmp_path / "a.flac").write_bytes(data)
        (tmp_path / "b.flac").write_bytes(data[: len(data) // 2] + bytes(500) + data[len(data) // 2 + 500 :])
        whole = load_audio(tmp_path / "a.flac", None)[0]
        with pytest.warns(UserWarning, match="damaged or missing"):
            got = load_audio(tmp_path / "b.flac", None)[0]
        assert len(whole) - 4 * 4096 <= len(got) < len(whole)  # one block; before PyAV 18, four
        np.testing.assert_array_equal(got[:RATE], whole[:RATE])
        np.testing.assert_array_equal(got[-RATE:], whole[-RATE:])

    def test_flac_with_a_hole_without_pyav_keeps_every_frame_before(self, tmp_path, monkeypatch):
        use_decoders(monkeypatch, "plain")
        data = encode("FLAC", 8.0)
        (tmp_path / "a.flac").write_bytes(data)
        (tmp_path / "b.flac").write_bytes(data[: len(data) // 2] + bytes(500) + data[len(data) // 2 + 500 :])
        whole = load_audio(tmp_path / "a.flac", None)[0]
        with pytest.warns(UserWarning, match="libsndfile"):
            got = load_audio(tmp_path / "b.flac", None)[0]
        assert len(got) % 4096 == 0
        assert 3.5 * RATE < len(got) < 4.5 * RATE
        np.testing.assert_array_equal(got, whole[: len(got)])

    @needs_av
    def test_joined_mp3_of_another_rate_keeps_its_pitch(self, tmp_path, monkeypatch):
        use_decoders(monkeypatch, "av")
        (tmp_path / "a.mp3").write_bytes(encode("MP3", 2.0, 44100) + encode("MP3", 2.0, 22050))
        got, info = load_audio(tmp_path / "a.mp3", None)
        assert info.sample_rate == 44100
        for part in (got[:44100], got[-66150:-22050]):
            assert np.abs(np.fft.rfft(part)).argmax() == pytest.approx(440, abs=1)

    def test_inverted_channel(self, tmp_path):
        wave = sound(1.0)
        soundfile.write(tmp_path / "a.wav", np.stack((wave, -0.99 * wave), 1), RATE)
        with pytest.warns(UserWarning, match=r"channels of .*a\.wav cancel each other"):
            load_audio(tmp_path / "a.wav", None)

    def test_file_over_four_gigabytes_is_read_beyond_its_count(self, tmp_path):
        data = encode("WAV")
        with (tmp_path / "a.wav").open("wb") as file:
            file.write(data[:40] + struct.pack("<I", 2**32 - 1))
            file.truncate(44 + 2**32 + 2 * RATE)  # sparse: takes no space
        samples = find_samples(tmp_path / "a.wav")
        assert samples.size == 2**32 + 2 * RATE
        assert samples.problem is None


@needs_av
class TestPyAV:
    @pytest.fixture(autouse=True)
    def _only_pyav(self, monkeypatch):
        use_decoders(monkeypatch, "av")

    @pytest.mark.parametrize("name", ["a.m4a", "a.aac", "a.wma", "a.mka", "a.webm", "-y http:%d'a.m4a"])
    def test_formats(self, tmp_path, name, monkeypatch):
        monkeypatch.chdir(tmp_path)
        write_with_pyav(Path(name), sound(3.0, 48000, 2), 48000)
        with AudioReader(name, sample_rate=RATE) as reader:
            got = np.concatenate(list(reader.blocks()))
            assert reader.info == audio.AudioInfo(48000, 2)
        assert len(got) == pytest.approx(3 * RATE, abs=1600)
        assert np.abs(got).max() == pytest.approx(0.4, abs=0.2)

    def test_lossless_equals_array(self, tmp_path):
        wave = (sound(3.0, 48000) * 32767).astype(np.int16)
        write_with_pyav(tmp_path / "a.mka", wave / np.float32(32768), 48000)
        got, info = load_audio(tmp_path / "a.mka", None)
        assert info == audio.AudioInfo(48000, 1)
        np.testing.assert_allclose(got, as_waveform(wave), atol=1e-4)

    def test_cut_short(self, tmp_path):
        write_with_pyav(tmp_path / "a.mka", sound(10.0, 48000), 48000)
        data = (tmp_path / "a.mka").read_bytes()
        (tmp_path / "a.mka").write_bytes(data[: len(data) // 2])
        with pytest.warns(UserWarning, match=r"a\.mka is damaged or cut short .*10\.00 s"):
            got, _ = load_audio(tmp_path / "a.mka", None)
        assert 3 * 48000 < len(got) < 7 * 48000

    @pytest.mark.parametrize("name", ["a.m4a", "a.wma"])
    def test_tags_that_are_no_utf_8(self, tmp_path, name):
        """PyAV before 19 must be told to let them be; from 19 on it takes no such argument."""
        file, title = tmp_path / name, "title of this sound"
        write_with_pyav(file, sound(1.0, 48000), 48000, title)
        before = load_audio(file, None)[0]
        for encoding in ("utf-8", "utf-16-le"):
            old = title.encode(encoding)
            file.write_bytes(file.read_bytes().replace(old, b"\xff\xdc\xc3(" * (len(old) // 4) + old[: len(old) % 4]))
        assert title.encode() not in file.read_bytes()
        np.testing.assert_array_equal(load_audio(file, None)[0], before)

    def test_no_audio_track(self, tmp_path):
        import av

        with av.open(str(tmp_path / "a.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=5)
            stream.width = stream.height = 64
            stream.pix_fmt = "yuv420p"
            container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
            container.mux(stream.encode(None))
        with pytest.raises(AudioDecodeError, match=r"a\.mp4, which has no audio track"):
            load_audio(tmp_path / "a.mp4", None)


@needs_ffmpeg
class TestFfmpeg:
    @pytest.fixture(autouse=True)
    def _only_ffmpeg(self, monkeypatch):
        use_decoders(monkeypatch, "ffmpeg")

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


@needs_av
class TestPyav:
    def test_a_quarter_of_a_second_that_is_cut_off_is_missed_aloud(self, tmp_path):
        write_with_pyav(tmp_path / "a.webm", sound(2.0, 48000), 48000)
        data = (tmp_path / "a.webm").read_bytes()
        (tmp_path / "a.webm").write_bytes(data[: len(data) * 7 // 8])
        with pytest.warns(UserWarning, match="its header promises"):
            got, info = load_audio(tmp_path / "a.webm", None)
        assert 1.6 < len(got) / info.sample_rate < 1.85

    def test_unknown_codec(self, tmp_path):
        write_with_pyav(tmp_path / "a.m4a", sound(2.0, 48000), 48000)
        data = (tmp_path / "a.m4a").read_bytes()
        (tmp_path / "a.m4a").write_bytes(data.replace(b"mp4a", b"xxxx").replace(b"esds", b"xxxx"))
        with pytest.raises(AudioDecodeError, match="check that it plays"):
            load_audio(tmp_path / "a.m4a", None)
