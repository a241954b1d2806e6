"""Ill-formed sound: each kind is refused with its own sentence, or warned about once."""

from __future__ import annotations

import os
import struct
import subprocess
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sedembed.audio import reader as audio
from sedembed.audio.reader import AudioReader, as_clips, as_waveform, check_sample_rate, load_audio
from sedembed.errors import (
    AudioDecodeError,
    AudioError,
    AudioTimeoutError,
    InvalidWaveformError,
    UnsupportedFormatError,
)
from tests.audio.reader_helpers import DECODERS, needs_ffmpeg, use_decoders

needs_posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX system")
ones = np.ones(100, np.float32)


def with_value(value: float) -> np.ndarray:
    wave = np.zeros(100)
    wave[[7, 40]] = value
    return wave


ARRAYS = [
    (with_value(np.nan), "2 NaN or Inf among 100, the first at index 7"),
    (with_value(np.inf).astype(np.float16), "2 NaN or Inf"),
    (with_value(1e300), "2 NaN or Inf"),
    (np.zeros(0), "empty"),
    (ones.astype(complex), "complex128.*x.real"),
    (np.float32(1.0), "single number"),
    (np.zeros((16000, 2)), r"looks like \(samples, channels\).*x\.mean\(axis=1\)"),
    (np.zeros((2, 16000)), r"x\.mean\(axis=0\)"),
    (np.zeros((3, 2, 100)), r"\(3, 2, 100\).*list of 1-D"),
    (ones > 0, "bool; that is a mask"),
    (np.array([ones, ones[:5]], dtype=object), "list of arrays"),
    (np.array(["a", "b"]), "<U1"),
    (np.zeros(5, "M8[s]"), "datetime64"),
    (np.zeros(5, np.uint16), "uint16.*full scale"),
    (np.zeros(5, np.uint32), "uint32.*full scale"),
    (np.zeros(5, np.int64), "int64.*full scale"),
    (np.ma.masked_greater(np.arange(5.0), 3), r"masked.*x\.filled"),
    ([0.1, 0.2], r"a list; .*np\.asarray"),
    ("a.wav", "that is a path.*load_audio"),
    (Path("a.wav"), "load_audio"),
    (None, "NoneType"),
    (0.5, "float"),
    ({"a": 1}, "dict"),
    (iter([ones]), "iterator"),
]


class TestArrays:
    @pytest.mark.parametrize(("x", "sentence"), ARRAYS, ids=[sentence for _, sentence in ARRAYS])
    def test_refused(self, x, sentence):
        with pytest.raises(InvalidWaveformError, match=sentence) as caught:
            as_waveform(x)
        assert str(caught.value).startswith("Expected")
        assert isinstance(caught.value, ValueError)

    def test_tensors(self):
        torch = pytest.importorskip("torch")
        for tensor, sentence in [
            (torch.zeros(5, dtype=torch.complex64), "complex64"),
            (torch.zeros(5, dtype=torch.bool), "mask"),
            (torch.zeros(16000, 2), r"x\.mean\(axis=1\)"),
            (torch.full((5,), torch.nan), "5 NaN"),
            (torch.zeros(5, dtype=torch.int64), "int64"),
            (torch.zeros(5).to_sparse(), "does not convert"),
        ]:
            with pytest.raises(InvalidWaveformError, match=sentence):
                as_waveform(tensor)

    @pytest.mark.parametrize(
        ("x", "sentence"),
        [
            (np.zeros((16000, 2)), r"\(16000, 2\), which looks like \(samples, channels\)"),
            (np.zeros((33, 32)), "looks like"),
            (np.zeros((4, 2, 16000)), r"\(4, 2, 16000\)"),
            (ones, r"\(100,\)"),
        ],
    )
    def test_several_refused(self, x, sentence):
        with pytest.raises(InvalidWaveformError, match=sentence):
            as_clips(x)

    def test_integer_scale_left_in_floats_warns(self):
        with pytest.warns(UserWarning, match="peaks at 20000.*32768") as caught:
            as_waveform(ones * 20000)
        assert len(caught) == 1


class TestRates:
    @pytest.mark.parametrize(
        "rate",
        [0, -16000, True, np.True_, None, "16000", float("nan"), float("inf"), 16, 44.1, 22050.5, 2_000_000, 16000j],
    )
    def test_refused(self, rate):
        with pytest.raises(InvalidWaveformError, match="Expected a sample rate in Hz"):
            check_sample_rate(rate)

    @pytest.mark.parametrize(
        "rate", [16000, 16000.0, np.int64(16000), np.float32(16000), np.array(16000), Fraction(16000)]
    )
    def test_accepted(self, rate):
        assert check_sample_rate(rate) == 16000
        assert type(check_sample_rate(rate)) is int

    def test_refused_by_the_reader_and_the_resampler(self, tmp_path):
        soundfile.write(tmp_path / "a.wav", ones, 16000)
        with pytest.raises(InvalidWaveformError, match="sample rate"):
            AudioReader(tmp_path / "a.wav", sample_rate=0)
        with pytest.raises(InvalidWaveformError, match="sample rate"):
            audio.resample(ones, 0, 16000)
        with pytest.raises(InvalidWaveformError, match="sample rate"):
            list(audio.resample_blocks([ones], 16000, -1))


class TestPaths:
    def test_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"nowhere\.wav, found none; check the spelling"):
            load_audio(tmp_path / "nowhere.wav", 16000)
        with pytest.raises(FileNotFoundError, match="Expected a sound file"):
            load_audio("a\0b.wav", 16000)

    def test_dangling_link(self, tmp_path):
        (tmp_path / "a.wav").symlink_to("nowhere.wav")
        with pytest.raises(FileNotFoundError, match="the link leads nowhere"):
            load_audio(tmp_path / "a.wav", 16000)

    def test_directory(self, tmp_path):
        with pytest.raises(IsADirectoryError, match="embed_folder"):
            load_audio(tmp_path, 16000)

    def test_not_permitted(self, tmp_path, monkeypatch):
        def refuse(*_: object) -> object:
            raise PermissionError

        soundfile.write(tmp_path / "a.wav", ones, 16000)
        monkeypatch.setattr(Path, "open", refuse)  # the tests may run as root, to whom all is permitted
        with pytest.raises(PermissionError, match="change its permissions"):
            load_audio(tmp_path / "a.wav", 16000)

    def test_closed(self, tmp_path):
        soundfile.write(tmp_path / "a.wav", np.zeros(99_999, np.float32), 16000)
        with AudioReader(tmp_path / "a.wav") as reader:
            blocks = reader.blocks()
            next(blocks)
        with pytest.raises(ValueError, match="was closed"):
            next(blocks)
        with pytest.raises(ValueError, match="was closed"):
            reader.blocks()

    @needs_posix
    def test_pipes_and_devices_are_refused_at_once(self, tmp_path):
        os.mkfifo(tmp_path / "a.wav")
        (tmp_path / "b.wav").symlink_to("/dev/zero")
        for name in ("a.wav", "b.wav"):
            with pytest.raises(UnsupportedFormatError, match="regular file"):
                load_audio(tmp_path / name, 16000)


@pytest.mark.parametrize("installed", DECODERS)
class TestContents:
    @pytest.fixture(autouse=True)
    def _installed(self, installed, monkeypatch):
        use_decoders(monkeypatch, installed)

    @pytest.mark.parametrize("name", ["a.wav", "a"])
    @pytest.mark.parametrize(
        "content",
        [b"This is a letter, not a sound.\n" * 99, bytes(9999), np.random.default_rng(5).bytes(99)],
        ids=["letter", "zeros", "noise"],
    )
    def test_not_sound(self, tmp_path, name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AudioDecodeError, match="check that it plays"):
            load_audio(tmp_path / name, 16000)

    def test_zero_bytes(self, tmp_path):
        (tmp_path / "a.wav").touch()
        with pytest.raises(AudioDecodeError, match="0 bytes"):
            load_audio(tmp_path / "a.wav", 16000)

    @pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.aiff"])
    def test_zero_samples(self, tmp_path, name):
        soundfile.write(tmp_path / name, ones[:0], 16000)
        with pytest.raises(AudioDecodeError):
            load_audio(tmp_path / name, 16000)

    @pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.aiff"])
    @pytest.mark.parametrize("size", [3, 44, 100])
    def test_nothing_but_a_header(self, tmp_path, name, size):
        soundfile.write(tmp_path / name, np.random.default_rng(0).uniform(-0.5, 0.5, 99_999), 16000)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:size])
        if name in ("a.wav", "a.aiff") and size == 100:  # some samples are there
            with pytest.warns(UserWarning, match="cut short"):
                load_audio(tmp_path / name, 16000)
        else:
            with pytest.raises(AudioDecodeError):
                load_audio(tmp_path / name, 16000)

    def test_zero_samples_before_another_chunk(self, tmp_path):
        soundfile.write(tmp_path / "a.wav", ones[:0], 16000)
        data = (tmp_path / "a.wav").read_bytes()
        (tmp_path / "a.wav").write_bytes(data + b"LIST\x04\0\0\0INFO")
        with pytest.raises(AudioDecodeError, match="holds no samples"):
            load_audio(tmp_path / "a.wav", 16000)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite(self, tmp_path, value):
        wave = np.zeros((80_000, 2), np.float32)
        wave[72_000, 1] = value
        soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
        with pytest.raises(InvalidWaveformError, match=r"NaN or Inf at 4\.5 s of .*a\.wav"):
            load_audio(tmp_path / "a.wav", 8000)

    def test_integer_scale_left_in_floats_warns(self, tmp_path):
        soundfile.write(tmp_path / "a.wav", ones * 20000, 16000, subtype="FLOAT")
        with pytest.warns(UserWarning, match=r"a\.wav peaks at 20000") as caught:
            load_audio(tmp_path / "a.wav", 16000)
        assert len(caught) == 1

    def test_impossible_rate(self, tmp_path):
        soundfile.write(tmp_path / "a.wav", ones, 16000)
        data = bytearray((tmp_path / "a.wav").read_bytes())
        data[24:32] = struct.pack("<2I", 7, 14)
        (tmp_path / "a.wav").write_bytes(data)
        with pytest.raises(AudioDecodeError, match=r"a\.wav cannot be used.*got 7"):
            load_audio(tmp_path / "a.wav", 16000)


class TestFfmpeg:
    @pytest.fixture(autouse=True)
    def _without_pyav(self, monkeypatch):
        use_decoders(monkeypatch, "ffmpeg")

    @pytest.mark.parametrize("name", ["a.m4a", "a.WMA", "a.mp4"])
    def test_not_installed(self, tmp_path, monkeypatch, name):
        use_decoders(monkeypatch, "plain")
        (tmp_path / name).write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
        with pytest.raises(UnsupportedFormatError, match="neither is installed; install one"):
            load_audio(tmp_path / name, 16000)

    @needs_ffmpeg
    def test_no_audio_track(self, tmp_path):
        command = "ffmpeg -nostdin -v error -f lavfi -i color=black:size=64x64:rate=5:duration=1 -c:v mpeg4"
        subprocess.run([*command.split(), str(tmp_path / "a.mp4")], check=True)
        with pytest.raises(AudioDecodeError, match=r"a\.mp4, which has no audio track"):
            load_audio(tmp_path / "a.mp4", 16000)

    def fake(self, folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
        """Put a shell script in the place of ffmpeg and return a file that needs it."""
        program, file = folder / "ffmpeg", folder / "a.m4a"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        file.write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
        return file

    HEADER = r"printf '.snd\0\0\0\030\377\377\377\377\0\0\0\006\0\0\076\200\0\0\0\001'"

    @needs_posix
    @pytest.mark.parametrize(
        "script", ["sleep 60", f"{HEADER}; sleep 60", f"{HEADER}; head -c 4000 /dev/zero; exec >&-; sleep 60"]
    )
    def test_hanging(self, tmp_path, monkeypatch, script):
        file = self.fake(tmp_path, monkeypatch, script)
        start = time.monotonic()
        with pytest.raises(AudioTimeoutError, match=r"a\.m4a") as caught, AudioReader(file, timeout=0.3) as reader:
            list(reader.blocks())
        assert isinstance(caught.value, TimeoutError)
        assert time.monotonic() - start < 10

    @needs_posix
    def test_failing_after_some_sound(self, tmp_path, monkeypatch):
        script = f"{self.HEADER}; head -c 4001 /dev/zero; echo 'broken thing' >&2; exit 1"
        file = self.fake(tmp_path, monkeypatch, script)
        with pytest.warns(UserWarning, match=r"a\.m4a is damaged.*broken thing") as caught:
            got, info = load_audio(file, 16000)
        assert len(caught) == 1
        assert len(got) == 1000
        assert info == audio.AudioInfo(16000, 1)

    @needs_posix
    @pytest.mark.parametrize("script", ["exit 3", f"{HEADER}; exit 3", "echo nonsense"])
    def test_giving_nothing(self, tmp_path, monkeypatch, script):
        with pytest.raises(AudioError, match=r"neither|holds no samples"):
            load_audio(self.fake(tmp_path, monkeypatch, script), 16000)
