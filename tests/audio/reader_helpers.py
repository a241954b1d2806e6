"""Fixtures and helpers that several test files share."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest

from sedembed.audio import decoders

RATE = 16000

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the program ffmpeg is not installed")
needs_av = pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="PyAV is not installed")

#: What is installed beside libsndfile.
DECODERS = ["plain", pytest.param("av", marks=needs_av), pytest.param("ffmpeg", marks=needs_ffmpeg)]


def use_decoders(monkeypatch: pytest.MonkeyPatch, installed: str) -> None:
    """Hide PyAV, the ffmpeg program, or both."""
    if installed != "av":
        monkeypatch.setattr(decoders, "find_av", lambda: None)
    if installed != "ffmpeg":
        monkeypatch.setattr(decoders, "find_ffmpeg", lambda: None)


def sound(seconds: float = 3.0, rate: int = RATE, channels: int = 1) -> np.ndarray:
    rng = np.random.default_rng(0)
    t = np.arange(round(seconds * rate))[:, None] / rate
    wave = 0.4 * np.sin(2 * np.pi * 440 * (1 + np.arange(channels)) * t) + 0.05 * rng.standard_normal(
        (len(t), channels)
    )
    return np.squeeze(wave.astype(np.float32), axis=1) if channels == 1 else wave.astype(np.float32)


def write_with_pyav(path: Path, wave: np.ndarray, rate: int, title: str = "") -> None:
    """Write a sound of float32, (samples,) or (samples, channels), in the usual codec of a suffix."""
    import av

    codec, form = {
        ".m4a": ("aac", "ipod"),
        ".aac": ("aac", "adts"),
        ".wma": ("wmav2", "asf"),
        ".mka": ("flac", "matroska"),
        ".webm": ("libopus", "webm"),
    }[path.suffix]
    layout = "mono" if wave.ndim == 1 else "stereo"
    with av.open(f"file:{path.absolute()}", "w", format=form) as container:
        container.metadata.update({"title": title} if title else {})
        stream = container.add_stream(codec, rate=rate, layout=layout, bit_rate=128_000)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave.reshape(1, -1)), format="flt", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        fit = av.AudioResampler(stream.format, layout, rate, frame_size=stream.codec_context.frame_size or 1024)
        for piece in (*fit.resample(frame), *fit.resample(None)):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
