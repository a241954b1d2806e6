"""PyAV, FFmpeg's libraries in this process, as a decoder; it comes with the extra ``av``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from sedembed.audio.ffmpeg import DEMUXERS
from sedembed.errors import AudioDecodeError

__all__ = ["AvDecoder", "find_av"]

_STRAY = 3  # frames; so few of another rate are noise behind a hole and not a change of rate
_EXACT = frozenset(("mov", "matroska", "asf", "avi", "tta", "wv", "ape", "caf", "w64", "wav", "aiff"))
_LEAST_MISSING = 0.15  # seconds by which a sound is shorter than its container says before it counts as cut short


def find_av() -> Any:
    """Return the module, or None where it is not installed."""
    try:
        import av
    except ImportError:
        return None
    av.logging.set_level(av.logging.PANIC)  # what is wrong with a file is said once, by the reader
    return av


class AvDecoder:
    """The first audio track of a file, in blocks of about two seconds.

    Parameters
    ----------
    path : Path
        A checked file.
    av : module
        From `find_av`.

    Raises
    ------
    AudioDecodeError
        If it does not decode.
    """

    def __init__(self, path: Path, av: Any) -> None:
        self.problem: str | None = None
        self._path, self._av = path, av
        self._good = self._bad = self._bad_between = self._gaps = 0
        try:
            self._container = _open(av, path)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise _refuse(path, getattr(error, "strerror", None) or str(error)) from error
        if not self._container.streams.audio:
            self.close()
            raise AudioDecodeError(f"Expected a file with sound, got {path}, which has no audio track.")
        self._stream = self._container.streams.audio[0]
        if self._stream.codec_context is None:  # a codec that FFmpeg does not know
            self.close()
            raise _refuse(path, "its codec is unknown")
        self._stream.thread_type = "NONE"
        self._stream.codec_context.thread_count = 1
        self._frames = self._decode()
        self._first = next(self._frames, None)
        if self._first is None:
            self.close()
            raise _refuse(path, "none of it decodes")
        self.rate, self.channels = int(self._first.sample_rate), int(self._first.layout.nb_channels)

    def _decode(self) -> Iterator[Any]:
        """Yield frames; damaged packets are left out and counted, those behind the last frame are no sound at all."""
        pending, expected = 0, None
        is_flac = self._stream.codec_context.name == "flac"
        try:
            for packet in self._container.demux(self._stream):
                try:
                    frames = packet.decode()
                except self._av.FFmpegError:
                    pending += 1
                    self._bad += 1
                    continue
                for frame in frames:
                    self._bad_between, pending = self._bad_between + pending, 0
                    self._good += 1
                    if is_flac and frame.pts is not None and frame.sample_rate == self._stream.rate:
                        at = float(frame.pts * frame.time_base)
                        self._gaps += expected is not None and at - expected > 2e-3  # a joined file begins at 0 again
                        expected = at + frame.samples / frame.sample_rate
                    yield frame
        except (self._av.FFmpegError, OSError) as error:
            self.problem = f"FFmpeg: {error.strerror or type(error).__name__}"

    def _runs(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the rate and the samples (frames, channels) of each frame, without strays of another rate."""
        held: list[Any] = []
        rate = self.rate
        for frame in self._all_frames():
            if frame.sample_rate == rate:
                self._gaps += bool(held)
                held = []
                yield rate, _to_float(frame)
                continue
            held.append(frame)
            if len(held) >= _STRAY and len({each.sample_rate for each in held[-_STRAY:]}) == 1:
                rate = frame.sample_rate
                yield from ((rate, _to_float(each)) for each in held[-_STRAY:])
                held = []

    def _all_frames(self) -> Iterator[Any]:
        if self._first is not None:
            first, self._first = self._first, None
            yield first
        yield from self._frames

    def _at_one_rate(self) -> Iterator[NDArray[np.float32]]:
        stream: soxr.ResampleStream | None = None
        before, channels = self.rate, self.channels
        for rate, samples in self._runs():
            if (rate, samples.shape[1]) != (before, channels) and stream is not None:
                yield stream.resample_chunk(np.zeros((0, channels), np.float32), last=True)
                stream = None
            if rate != self.rate and stream is None:
                stream = soxr.ResampleStream(rate, self.rate, samples.shape[1], dtype="float32", quality="HQ")
            before, channels = rate, samples.shape[1]
            yield samples if stream is None else stream.resample_chunk(samples)
        if stream is not None:
            yield stream.resample_chunk(np.zeros((0, channels), np.float32), last=True)

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield float32 arrays (frames, channels); `problem` is known at the end."""
        total, waiting = 0, list[NDArray[np.float32]]()
        for samples in self._at_one_rate():
            if waiting and (
                samples.shape[1] != waiting[0].shape[1]
                or sum(map(len, waiting)) * samples.shape[1] >= min(2 * self.rate * self.channels, 2**20)
            ):
                yield np.concatenate(waiting)
                waiting = []
            if len(samples):
                waiting.append(samples)
                total += len(samples)
        if waiting:
            yield np.concatenate(waiting)
        if self._bad > self._good:
            raise _refuse(self._path, f"{self._bad} of {self._bad + self._good} packets are not sound")
        self.problem = self.problem or self._find_problem(total / self.rate)

    def _find_problem(self, seconds: float) -> str | None:
        if self._bad_between or self._gaps:
            return f"{max(self._bad_between, self._gaps)} of its packets are damaged or missing"
        if _EXACT.isdisjoint(self._container.format.name.split(",")):
            return None
        stream = self._stream
        expected = (
            float(stream.duration * stream.time_base) if stream.duration else (self._container.duration or 0) / 1e6
        )
        # A longer picture than sound is no damage: only the duration of the track itself counts in a video.
        if expected - seconds > max(_LEAST_MISSING, 0.01 * expected) and (stream.duration or not self._has_video()):
            return f"its header promises {expected:.2f} s"
        return None

    def _has_video(self) -> bool:
        return len(self._container.streams.video) > 0

    def close(self) -> None:
        """Close the file."""
        self._container.close()


def _open(av: Any, path: Path) -> Any:
    # The "file:" prefix keeps names such as "http:x" from being more than names.
    url, options = f"file:{path.absolute()}", {"protocol_whitelist": "file", "format_whitelist": DEMUXERS}
    try:
        return av.open(url, options=options, metadata_errors="ignore")
    except TypeError:  # PyAV 19 has no such argument: it reads tags of any encoding
        return av.open(url, options=options)


def _refuse(path: Path, reason: str) -> AudioDecodeError:
    return AudioDecodeError(
        f"Expected a sound file, got {path}, which neither libsndfile nor FFmpeg decodes ({reason}); check that it "
        "plays."
    )


def _to_float(frame: Any) -> NDArray[np.float32]:
    """Return the samples of a frame as float32, shape (frames, channels); integers are divided by their full scale."""
    samples: NDArray[Any] = frame.to_ndarray()
    samples = samples.T if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels)
    if samples.dtype.kind == "u":
        return (samples.astype(np.float32) - 128.0) / np.float32(128.0)
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / np.float32(2.0 ** (8 * samples.dtype.itemsize - 1))
    return np.ascontiguousarray(samples, np.float32)
