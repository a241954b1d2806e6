"""TALNet's log-mel front end, the same function as the authors' librosa code without librosa on the path."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["FRAME_RATE", "HOP_LENGTH", "N_MELS", "SAMPLE_RATE", "frame_count", "log_mel", "mel_filterbank"]

SAMPLE_RATE = 16_000
N_FFT = 4096
WIN_LENGTH = 1024
HOP_LENGTH = 400
N_MELS = 64
FRAME_RATE = SAMPLE_RATE / HOP_LENGTH
TOP_DB = 80.0
FLOOR = 1e-10
TEN_SECONDS = 10 * SAMPLE_RATE

# One block of frames and its spectrum stay in the CPU's cache; larger blocks measured slower.
_BLOCK_FRAMES = 64


def _hz_to_mel(frequency: NDArray[np.float64]) -> NDArray[np.float64]:
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
    low, high = _hz_to_mel(np.array([f_min, top]))
    edges = _mel_to_hz(np.linspace(low, high, n_mels + 2))[:, None]
    bins = np.linspace(0.0, sample_rate / 2.0, n_fft // 2 + 1)[None, :]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return np.asarray(triangles * 2.0 / (edges[2:] - edges[:-2]), dtype=np.float64)


@lru_cache(maxsize=4)
def _constants(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    window = 0.5 - 0.5 * torch.cos(2.0 * math.pi * torch.arange(WIN_LENGTH, dtype=torch.float64) / WIN_LENGTH)
    filters = torch.from_numpy(mel_filterbank(SAMPLE_RATE, N_FFT, N_MELS)).T.contiguous()
    return window.to(device), filters.to(device=device, dtype=torch.float32)


def frame_count(samples: int) -> int:
    """Count the feature frames of a window of `samples` samples: one per 25 ms; the authors keep 400 of 10 s."""
    return 400 if samples == TEN_SECONDS else 1 + samples // HOP_LENGTH


def log_mel(waveform: torch.Tensor) -> torch.Tensor:
    """Log-mel spectrogram of one window, before the per-bin normalisation.

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
    filters, `librosa.power_to_db`, as in the authors' feature extraction (cmu-thesis). The Hann window covers 1024 of
    the 4096 samples, and a magnitude does not feel a shift in time, so only those 1024 are framed.
    """
    window, filters = _constants(waveform.device)
    single = waveform.ndim == 1
    batch = waveform.reshape(-1, waveform.shape[-1])
    samples = batch.shape[-1]
    frames = frame_count(samples)
    half = WIN_LENGTH // 2
    padded = torch.nn.functional.pad(batch, (half, max(half, (frames - 1) * HOP_LENGTH + half - samples)))
    framed = padded.unfold(-1, WIN_LENGTH, HOP_LENGTH)[:, :frames]
    mel = batch.new_empty((batch.shape[0], frames, N_MELS))
    for start in range(0, frames, _BLOCK_FRAMES):
        block = framed[:, start : start + _BLOCK_FRAMES] * window
        # float64: quiet bins lie 75 dB (3e-8 in magnitude) under a tone, below what a float32 transform resolves.
        spectrum = torch.fft.rfft(block, n=N_FFT)
        real, imaginary = spectrum.real.float(), spectrum.imag.float()
        magnitude = real.mul_(real).addcmul_(imaginary, imaginary).sqrt_()
        mel[:, start : start + _BLOCK_FRAMES] = magnitude @ filters
    decibels = mel.clamp_min_(FLOOR).log10_().mul_(10.0)
    decibels = torch.maximum(decibels, decibels.amax(dim=(-2, -1), keepdim=True) - TOP_DB)
    return decibels[0] if single else decibels
