"""Sound in: the only module through which audio is opened, downmixed, resampled or validated.

Files are read forward, in blocks. libsndfile (through ``soundfile``) reads what it can; what it does not know, and what
follows where it stops early, is read by PyAV (the extra ``av``) or else by the ``ffmpeg`` program, if installed.
"""

from __future__ import annotations

import numbers
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import soxr
from numpy.typing import ArrayLike, NDArray

from sedembed.audio.decoders import FFMPEG_EXTENSIONS, SNDFILE_EXTENSIONS, check_file, open_decoder
from sedembed.errors import AudioDecodeError, InvalidArgumentError, InvalidWaveformError

if TYPE_CHECKING:
    from types import TracebackType

    import torch

__all__ = [
    "AUDIO_EXTENSIONS",
    "AudioInfo",
    "AudioReader",
    "as_clips",
    "as_waveform",
    "check_sample_rate",
    "is_several",
    "load_audio",
    "resample",
    "resample_blocks",
]

#: Lower-case suffixes of the files taken for sound: those of libsndfile, and those that need ffmpeg.
AUDIO_EXTENSIONS: frozenset[str] = SNDFILE_EXTENSIONS | FFMPEG_EXTENSIONS

_LOUDEST = 8.0  # 18 dB over full scale: no float recording gets there, nearly any unscaled integer does
_CANCELLED = 0.01  # -20 dB: the least that averaging channels may leave of their power without a warning
_SHORT_SECONDS, _SHORT_BYTES = 0.05, 8192  # less sound from a larger file deserves a warning
_MOST_CHANNELS = 32  # an array of fewer columns than this has channels, for no clip is so short
_LOWEST_RATE, _HIGHEST_RATE = 100, 1_000_000
_RESAMPLE_BLOCK = 2**18


@dataclass(frozen=True)
class AudioInfo:
    """Rate (Hz) and channels of a file as decoded, before downmix and resampling."""

    sample_rate: int
    channels: int


# ---------------------------------------------------------------------------------------------------- arrays


def _as_array(x: Any) -> NDArray[Any]:
    """Return an array or tensor as a NumPy array; refuse everything else."""
    torch = sys.modules.get("torch")  # whoever holds a tensor has imported torch
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise InvalidWaveformError("Expected samples, got a masked array; fill its gaps first: x.filled(0).")
    try:
        if torch is not None and isinstance(x, torch.Tensor):
            x = x.detach().cpu()
            return np.asarray((x.float() if x.dtype is torch.bfloat16 else x.resolve_conj().resolve_neg()).numpy())
        if hasattr(x, "__array__"):
            return np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidWaveformError(
            f"Expected samples, got a {type(x).__name__} that does not convert to a NumPy array ({error}); convert it."
        ) from error
    cure = "pass a NumPy array, a tensor, or a list of clips"
    if isinstance(x, str | bytes | os.PathLike):
        cure = "that is a path: read it with load_audio first"
    elif isinstance(x, list | tuple):
        cure = "if it holds the samples of one clip, pass np.asarray(x, dtype=np.float32)"
    raise InvalidWaveformError(f"Expected a 1-D array or tensor of samples, got a {type(x).__name__}; {cure}.")


def as_waveform(x: ArrayLike | torch.Tensor) -> NDArray[np.float32]:
    """Validate one mono clip and return it as float32.

    Integers are divided by the full scale of their type (int8 128, int16 32 768, int32 2**31; uint8 is centred on 128
    first, as in WAV). Floats are taken as they are, with a UserWarning if they peak above 8, 18 dB over full scale.

    Parameters
    ----------
    x : array or tensor, shape (samples,)
        int8, uint8, int16, int32 or any float type. Tensors may be on any device.

    Returns
    -------
    ndarray of float32, shape (samples,)
        C-contiguous and writeable; shares memory with `x` where nothing had to be converted.

    Raises
    ------
    InvalidWaveformError
        If `x` is no array, not 1-D, empty, of another type, or holds NaN or Inf.
    """
    array = _as_array(x)
    if array.ndim != 1:
        raise InvalidWaveformError(_explain_shape(array.shape))
    dtype, kind, bits = array.dtype, array.dtype.kind, 8 * array.dtype.itemsize
    if kind not in "iuf" or (kind == "i" and bits > 32) or (kind == "u" and bits > 8):
        cure = {
            "c": "take x.real or np.abs(x)",
            "b": "that is a mask: pass the sound itself",
            "O": "pass clips of different lengths as a list of arrays",
            "i": "its full scale is unknown: divide by it, for example x.astype(np.float32) / 32768",
            "u": "its full scale is unknown: centre it and divide by that, (x.astype(np.float32) - 32768) / 32768",
        }.get(kind, "pass float32 samples")
        raise InvalidWaveformError(f"Expected samples in float, int8, uint8, int16 or int32, got {dtype}; {cure}.")
    if array.size == 0:
        raise InvalidWaveformError("Expected at least one sample, got an empty array; leave empty clips out.")
    with np.errstate(over="ignore"):  # what overflows becomes Inf and is refused below
        wave = np.require(array, dtype=np.float32, requirements=["C", "W"])
    if kind == "u":
        return (wave - np.float32(128)) / np.float32(128)
    if kind == "i":
        return np.asarray(wave / np.float32(2.0 ** (bits - 1)), dtype=np.float32)
    bad = ~np.isfinite(wave)
    if bad.any():
        raise InvalidWaveformError(
            f"Expected finite samples, got {int(bad.sum())} NaN or Inf among {wave.size}, the first at index "
            f"{int(bad.argmax())}; cut them out or replace them: np.nan_to_num(x)."
        )
    _warn_if_loud(float(np.abs(wave).max()), "The waveform")
    return wave


def _explain_shape(shape: tuple[int, ...]) -> str:
    """Say what is wrong with an array of samples that is not 1-D, and what to do."""
    cure = "average the channels and pass a list of 1-D arrays"
    if len(shape) == 0:
        cure = "that is a single number: pass an array"
    elif len(shape) == 2 and shape[0] > shape[1]:
        cure = "that looks like (samples, channels): average the channels, x.mean(axis=1)"
    elif len(shape) == 2:
        cure = "average the channels, x.mean(axis=0), or take one row, x[0]"
    return f"Expected one clip as a 1-D array of samples, got shape {shape}; {cure}."


def _warn_if_loud(peak: float, what: str) -> None:
    if peak > _LOUDEST:
        cure = "if these are unscaled integers, divide by their full scale (32768 for 16 bits)"
        warnings.warn(f"{what} peaks at {peak:g}, where full scale is 1; {cure}.", UserWarning, stacklevel=3)


def is_several(x: object) -> bool:
    """Say whether `x` stands for several clips: a list, a tuple, or an array or tensor of two or more dimensions."""
    ndim = getattr(x, "ndim", 0)
    return isinstance(x, list | tuple) or (isinstance(ndim, int) and ndim >= 2)


def as_clips(x: Any) -> list[Any]:
    """Return the members of a list or tuple, unseen, or the rows of an array or tensor of shape (clips, samples).

    Raises
    ------
    InvalidWaveformError
        If `x` is an array that is not 2-D or looks like (samples, channels): at most 32 columns and yet more rows.
    """
    if isinstance(x, list | tuple):
        return list(x)
    array = _as_array(x)
    if array.ndim != 2:
        raise InvalidWaveformError(
            f"Expected several clips as a list or a 2-D array (clips, samples), got shape {array.shape}; "
            "average channels first, for example x.mean(axis=1) for (clips, channels, samples)."
        )
    rows, columns = array.shape
    if 0 < columns <= _MOST_CHANNELS and columns < rows:
        raise InvalidWaveformError(
            f"Expected clips as rows (clips, samples), got shape {array.shape}, which looks like (samples, channels); "
            "for one clip average the channels: x.mean(axis=1)."
        )
    return list(array)


# ---------------------------------------------------------------------------------------------------- rates


def check_sample_rate(sr: object) -> int:
    """Return a rate in Hz as an int; InvalidWaveformError unless it is a whole number from 100 to 1 000 000."""
    expected = f"Expected a sample rate in Hz, a whole number from {_LOWEST_RATE} to {_HIGHEST_RATE}, got"
    if isinstance(sr, np.ndarray) and sr.shape == ():
        sr = sr.item()  # what Hugging Face datasets give in the format "numpy"
    if isinstance(sr, bool | np.bool_) or not isinstance(sr, numbers.Real):
        raise InvalidWaveformError(f"{expected} {sr!r} ({type(sr).__name__}); pass an int such as 16000.")
    rate = float(sr)
    if not _LOWEST_RATE <= rate <= _HIGHEST_RATE:  # NaN fails too
        raise InvalidWaveformError(f"{expected} {sr}; give it in Hz, not kHz, as the recording's maker states it.")
    if rate != int(rate):
        raise InvalidWaveformError(f"{expected} {sr}; round it, or resample the sound to a whole rate first.")
    return int(rate)


def resample_blocks(
    blocks: Iterable[NDArray[np.float32]], source_rate: int, target_rate: int
) -> Iterator[NDArray[np.float32]]:
    """Resample a mono sound that comes in blocks (soxr, quality HQ).

    The samples do not depend on how the sound was cut: they equal those of one call over the whole.

    Parameters
    ----------
    blocks : iterable of float32 arrays, shape (samples,)
        Consecutive pieces of any lengths.
    source_rate, target_rate : int
        In Hz, as `check_sample_rate` allows. Equal rates pass the blocks through.

    Yields
    ------
    ndarray of float32, shape (samples,)
        Consecutive pieces, none empty. A sound too short to fill one output sample gives one, its mean.
    """
    source_rate, target_rate = check_sample_rate(source_rate), check_sample_rate(target_rate)
    if source_rate == target_rate:
        yield from (block for block in blocks if len(block))
        return
    stream = soxr.ResampleStream(source_rate, target_rate, 1, dtype="float32", quality="HQ")
    count, total, produced = 0, 0.0, False
    for block in blocks:
        count += len(block)
        if count <= _HIGHEST_RATE // _LOWEST_RATE:  # longer sounds fill a sample at any rate
            total += float(block.sum(dtype=np.float64))
        out = stream.resample_chunk(np.ascontiguousarray(block, dtype=np.float32))
        if out.size:
            produced = True
            yield out
    out = stream.resample_chunk(np.zeros(0, np.float32), last=True)
    if out.size:
        yield out
    elif count and not produced:
        yield np.array([total / count], np.float32)


def resample(waveform: NDArray[np.float32], source_rate: int, target_rate: int) -> NDArray[np.float32]:
    """Resample a mono sound, float32 (samples,), to exactly the samples that a file of it would give."""
    if check_sample_rate(source_rate) == check_sample_rate(target_rate):
        return waveform
    pieces = (waveform[i : i + _RESAMPLE_BLOCK] for i in range(0, len(waveform), _RESAMPLE_BLOCK))
    return np.concatenate([np.zeros(0, np.float32), *resample_blocks(pieces, source_rate, target_rate)])


# ---------------------------------------------------------------------------------------------------- files


def _downmix(block: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average the channels of (samples, channels), in float64, so that large ones do not overflow."""
    if block.shape[1] == 1:
        return block[:, 0]
    if block.shape[1] == 2:  # faster than the mean of many pairs, and the same
        return np.asarray(np.add(block[:, 0], block[:, 1], dtype=np.float64) / 2.0, dtype=np.float32)
    return np.asarray(block.mean(axis=1, dtype=np.float64), dtype=np.float32)


class AudioReader:
    """A sound file, read forward once, in blocks, as mono float32; channels are averaged.

    What libsndfile does not know, or leaves unread, is read by PyAV or the program ``ffmpeg``, if installed. A file
    that is damaged or cut short gives what decodes, with one UserWarning at the end.

    Parameters
    ----------
    path : str or path-like
        A regular file, or a link to one.
    sample_rate : int, optional
        Rate of the blocks, in Hz. None: the file's own.
    timeout : float
        Longest wait for ffmpeg, per block, in seconds. libsndfile and PyAV run in this process and are not timed.

    Attributes
    ----------
    info : AudioInfo
        Native rate and channels.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
        If there is no file to read.
    AudioDecodeError
        If the file holds no sound. UnsupportedFormatError if it is not a regular file, or needs a decoder that is not
        installed. AudioTimeoutError if ffmpeg gives nothing for `timeout` seconds.
    """

    def __init__(self, path: str | os.PathLike[str], *, sample_rate: int | None = None, timeout: float = 60.0) -> None:
        target = None if sample_rate is None else check_sample_rate(sample_rate)
        self._path = check_file(path)
        self._decoder = open_decoder(self._path, timeout)
        self._frames, self._closed = 0, False
        self.info = AudioInfo(self._decoder.rate, self._decoder.channels)
        try:
            check_sample_rate(self.info.sample_rate)
        except InvalidWaveformError as error:
            self.close()
            raise AudioDecodeError(f"{self._path} cannot be used: {error}") from error
        self._blocks = resample_blocks(self._native_blocks(), self.info.sample_rate, target or self.info.sample_rate)

    @property
    def seconds(self) -> float:
        """Duration decoded so far, in seconds; that of the file once its blocks are exhausted."""
        return self._frames / self.info.sample_rate

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Give the sound in blocks of a few seconds at most, float32 (samples,), none empty.

        The file is read once: a second call goes on where the first one stopped. Errors are those of the class, and
        InvalidWaveformError if a sample is NaN or Inf. A peak above 8 (18 dB over full scale) warns at the end.
        """
        if self._closed:
            raise InvalidArgumentError(
                f"Expected an open reader, but that of {self._path} was closed; read inside the with."
            )
        return self._blocks

    def _native_blocks(self) -> Iterator[NDArray[np.float32]]:
        peak, power, mono_power = 0.0, 0.0, 0.0
        for block in self._decoder.blocks():
            mono = _downmix(block)
            bad = ~np.isfinite(mono)
            if bad.any():
                where = (self._frames + int(bad.argmax())) / self.info.sample_rate
                raise InvalidWaveformError(
                    f"Expected finite samples, got NaN or Inf at {where:.6g} s of {self._path}; repair the file."
                )
            self._frames += len(mono)
            peak = max(peak, float(np.abs(mono).max()))
            if block.shape[1] > 1:
                power += float(np.vdot(block, block)) / block.shape[1]
                mono_power += float(np.vdot(mono, mono))
            yield mono
            if self._closed:
                raise InvalidArgumentError(
                    f"Expected an open reader, but that of {self._path} was closed; read inside the with."
                )
        problem = self._decoder.problem
        if self._frames == 0:
            raise AudioDecodeError(
                f"Expected a sound file, got {self._path}, which holds no samples{f' ({problem})' if problem else ''}; "
                "leave it out or fetch it again."
            )
        if problem:
            warnings.warn(
                f"{self._path} is damaged or cut short ({problem}); the {self.seconds:.2f} s that decode are used.",
                UserWarning,
                stacklevel=2,
            )
        _warn_if_loud(peak, str(self._path))
        if mono_power < _CANCELLED * power:
            warnings.warn(
                f"The channels of {self._path} cancel each other: their average is more than 20 dB below them. One of "
                "them may be inverted; read the file with soundfile and pass one channel.",
                UserWarning,
                stacklevel=2,
            )
        size = self._path.stat().st_size
        if self.seconds < _SHORT_SECONDS and size > _SHORT_BYTES and not problem:
            warnings.warn(
                f"{self._path} has {size} bytes, but only {1000 * self.seconds:.0f} ms of sound; check that it plays.",
                UserWarning,
                stacklevel=2,
            )

    def close(self) -> None:
        """Close the file; end ffmpeg."""
        self._closed = True
        self._decoder.close()

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load_audio(path: str | os.PathLike[str], sample_rate: int | None) -> tuple[NDArray[np.float32], AudioInfo]:
    """Read a whole file as mono float32; see `AudioReader` for bounded memory, and for what is raised.

    Parameters
    ----------
    path : str or path-like
        A sound file.
    sample_rate : int or None
        Rate of the result, in Hz. None: the file's own.

    Returns
    -------
    waveform : ndarray of float32, shape (samples,)
        Mono.
    info : AudioInfo
        Native rate and channels.
    """
    with AudioReader(path, sample_rate=sample_rate) as reader:
        return np.concatenate(list(reader.blocks())), reader.info
