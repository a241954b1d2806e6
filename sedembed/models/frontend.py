"""The log-mel front ends, the same functions as the authors' librosa code without librosa on the path."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

__all__ = [
    "FRAME_RATE",
    "HOP_LENGTH",
    "N_MELS",
    "SAMPLE_RATE",
    "TALNET",
    "Spectrogram",
    "frame_count",
    "hz_to_mel",
    "log_mel",
    "mel_filterbank",
]

SAMPLE_RATE = 16_000
HOP_LENGTH = 400
N_MELS = 64
FRAME_RATE = SAMPLE_RATE / HOP_LENGTH
FLOOR = 1e-10
TEN_SECONDS = 10 * SAMPLE_RATE

# One block of frames and its spectrum stay in the CPU's cache; larger and smaller blocks measured slower.
_BLOCK_SAMPLES = 2**17
# So many blocks are filtered at once, as threads wait for each other between operations.
_BLOCKS = 4


def hz_to_mel(frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    """Place of frequencies (Hz) on the Slaney mel scale: linear below 1 kHz, logarithmic above."""
    linear = frequency * 3.0 / 200.0
    logarithmic = 15.0 + 27.0 * np.log(np.maximum(frequency, 1000.0) / 1000.0) / np.log(6.4)
    return np.where(frequency < 1000.0, linear, logarithmic)


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    linear = mel * 200.0 / 3.0
    logarithmic = 1000.0 * np.exp(np.log(6.4) * (mel - 15.0) / 27.0)
    return np.where(mel < 15.0, linear, logarithmic)


def mel_filterbank(
    sample_rate: int, n_fft: int, n_mels: int, f_min: float = 0.0, f_max: float | None = None
) -> NDArray[np.float64]:
    """Area-normalised triangles on the Slaney mel scale (linear below 1 kHz, logarithmic above).

    Parameters
    ----------
    sample_rate : int
        Sampling rate in Hz.
    n_fft : int
        Length of the Fourier transform in samples.
    n_mels : int
        Number of filters.
    f_min, f_max : float
        Lower edge of the first and upper edge of the last filter in Hz; `f_max` defaults to half the sampling rate.

    Returns
    -------
    ndarray of float64, shape (n_mels, n_fft // 2 + 1)
        The filters; each triangle is scaled by 2 / (upper edge - lower edge).
    """
    top = sample_rate / 2.0 if f_max is None else f_max
    low, high = hz_to_mel(np.array([f_min, top]))
    edges = _mel_to_hz(np.linspace(low, high, n_mels + 2))[:, None]
    bins = np.linspace(0.0, sample_rate / 2.0, n_fft // 2 + 1)[None, :]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return np.asarray(triangles * 2.0 / (edges[2:] - edges[:-2]), dtype=np.float64)


@dataclass(frozen=True)
class Spectrogram:
    """A log-mel spectrogram of mono sound at 16 kHz.

    Parameters
    ----------
    n_fft, win_length, hop_length : int
        Fourier transform, periodic Hann window and distance of frames, in samples.
    n_mels : int
        Slaney triangles, area-normalised, from 0 Hz to half the sampling rate.
    power : float
        Exponent of the magnitude under the triangles: 1 or 2.
    top_db : float
        Values lie at most so many dB under the maximum of the window.
    """

    sample_rate: ClassVar[int] = SAMPLE_RATE

    n_fft: int = 4096
    win_length: int = 1024
    hop_length: int = HOP_LENGTH
    n_mels: int = N_MELS
    power: float = 1.0
    top_db: float = 80.0

    def __call__(self, waveform: torch.Tensor, frames: int | None = None) -> torch.Tensor:
        """Decibels of a waveform, (samples,) or (batch, samples) → (frames, n_mels) or (batch, frames, n_mels).

        Frame i is centred on sample i·hop_length. Without `frames` there are 1 + samples // hop_length of them, as
        `librosa.stft(center=True, pad_mode="constant")` has; further frames are of zeros.
        """
        window, bands = _constants(self, waveform.device)
        single = waveform.ndim == 1
        batch = waveform.reshape(-1, waveform.shape[-1])
        samples = batch.shape[-1]
        frames = 1 + samples // self.hop_length if frames is None else frames
        # The window covers the middle of the n_fft samples, and a magnitude feels no shift: only those are framed.
        half = self.win_length // 2
        padded = functional.pad(batch, (half, max(half, (frames - 1) * self.hop_length + half - samples)))
        framed = padded.unfold(-1, self.win_length, self.hop_length)[:, :frames]
        mel = batch.new_empty((batch.shape[0], frames, self.n_mels))
        # Made once: memory that is given back and asked for again costs as much as the transform.
        length = max(1, _BLOCK_SAMPLES // self.n_fft)
        size = (batch.shape[0], min(frames, length))
        block = window.new_zeros((*size, self.n_fft))
        pairs = batch.new_empty((*size, self.n_fft // 2 + 1, 2))
        several = _BLOCKS * length
        spectrum = batch.new_empty((batch.shape[0], min(frames, several), self.n_fft // 2 + 1))
        for first in range(0, frames, several):
            spectrum = spectrum[:, : frames - first]
            for start in range(first, min(frames, first + several), length):
                part = framed[:, start : start + length]
                block, pairs = (buffer[:, : part.shape[1]] for buffer in (block, pairs))
                torch.mul(part, window, out=block[..., : self.win_length])
                # float64: quiet bins lie 75 dB (3e-8 in magnitude) under a tone, too little for a float32 transform.
                pairs.copy_(torch.view_as_real(torch.fft.rfft(block))).square_()
                torch.add(pairs[..., 0], pairs[..., 1], out=spectrum[:, start - first : start - first + length])
            if self.power == 1.0:
                spectrum.sqrt_()
            for band in bands:
                mel[:, first : first + several, band.mels] = spectrum[..., band.bins] @ band.filters
        decibels = mel.clamp_min_(FLOOR).log10_().mul_(10.0)
        decibels = torch.maximum(decibels, decibels.amax(dim=(-2, -1), keepdim=True) - self.top_db)
        return decibels[0] if single else decibels


TALNET = Spectrogram()


class _Band(NamedTuple):
    """Neighbouring filters, and the bins that any of them reaches."""

    bins: slice
    mels: slice
    filters: torch.Tensor


@lru_cache(maxsize=8)
def _constants(spectrogram: Spectrogram, device: torch.device) -> tuple[torch.Tensor, list[_Band]]:
    length, mels = spectrogram.win_length, spectrogram.n_mels
    steps = torch.arange(length, dtype=torch.float64, device="cpu")
    window = 0.5 - 0.5 * torch.cos(2.0 * math.pi * steps / length)
    filters = mel_filterbank(SAMPLE_RATE, spectrogram.n_fft, mels).T
    # Most of the matrix is zero. Low filters are narrow, so the first band has half of them.
    bands = []
    for first, last in itertools.pairwise((0, mels // 2, 3 * mels // 4, mels)):
        reached = np.flatnonzero(filters[:, first:last].any(1))
        bins = slice(int(reached.min(initial=len(filters))), int(reached.max(initial=-1)) + 1)
        block = torch.from_numpy(filters[bins, first:last].copy()).to(device=device, dtype=torch.float32)
        bands.append(_Band(bins, slice(first, last), block))
    return window.to(device), bands


def frame_count(samples: int) -> int:
    """Count TALNet's frames of a window of `samples` samples: one per 25 ms; the authors keep 400 of 10 s."""
    return 400 if samples == TEN_SECONDS else 1 + samples // HOP_LENGTH


def log_mel(waveform: torch.Tensor) -> torch.Tensor:
    """TALNet's log-mel spectrogram of one window, before the per-bin normalisation.

    Parameters
    ----------
    waveform : torch.Tensor, float32, shape (samples,) or (batch, samples)
        Mono samples at 16 kHz, nominally in [-1, 1].

    Returns
    -------
    torch.Tensor, float32, shape (frames, 64) or (batch, frames, 64)
        10·log10 of the mel-weighted *magnitude* in dB, at least -100 and at least (maximum of the window) - 80.
        Frame i is centred on sample 400·i.

    Notes
    -----
    `librosa.stft(n_fft=4096, hop_length=400, win_length=1024, center=True, pad_mode="constant")`, `abs`, 64 Slaney
    filters, `librosa.power_to_db`, as in the authors' feature extraction (cmu-thesis).
    """
    return TALNET(waveform, frame_count(waveform.shape[-1]))
