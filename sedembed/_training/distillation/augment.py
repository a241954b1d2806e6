"""Synthetic equaliser and reverberation, as of another microphone in another room."""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray

__all__ = ["draw_equaliser", "draw_room", "filter_sound"]

_KNOTS_HZ = np.array([50.0, 100.0, 200.0, 400.0, 800.0, 1600.0, 3200.0, 6400.0])


def draw_equaliser(
    frequencies: NDArray[np.floating], largest_db: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw the gain at `frequencies` in Hz: up to `largest_db` up or down, interpolated between octaves."""
    gains = rng.uniform(-largest_db, largest_db, len(_KNOTS_HZ))
    octaves = np.log2(np.maximum(frequencies, 1.0))
    return np.asarray(10.0 ** (np.interp(octaves, np.log2(_KNOTS_HZ), gains) / 20.0), dtype=np.float32)


def draw_room(sample_rate: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw the impulse response of a room: the direct sound, then noise that falls by 60 dB in 0.1 to 1 s.

    The direct sound has between half and ten times the energy of the rest.
    """
    seconds = 10.0 ** rng.uniform(-1.0, 0.0)
    ratio_db = rng.uniform(-3.0, 10.0)
    times = np.arange(round(seconds * sample_rate)) / sample_rate
    response = rng.normal(size=len(times)) * 10.0 ** (-3.0 * times / seconds)
    response[0] = 0.0
    response *= 10.0 ** (-ratio_db / 20.0) / np.linalg.norm(response)
    response[0] = 1.0
    return np.asarray(response, dtype=np.float32)


def filter_sound(
    waveform: NDArray[np.float32],
    sample_rate: int,
    rng: np.random.Generator,
    *,
    equaliser_db: float | None,
    room: bool,
) -> NDArray[np.float32]:
    """Play a sound through a random equaliser, in a random room, or both; length and level stay as they were.

    Parameters
    ----------
    waveform : ndarray of float32, shape (samples,)
    sample_rate : int
        In Hz.
    rng : numpy.random.Generator
        Draws the room first, then the equaliser.
    equaliser_db : float or None
        Largest gain up or down in dB; None for no equaliser.
    room : bool
        Whether to reverberate.
    """
    response = draw_room(sample_rate, rng) if room else np.ones(1, np.float32)
    size = scipy.fft.next_fast_len(len(waveform) + len(response) - 1, real=True)
    spectrum = scipy.fft.rfft(waveform, size) * scipy.fft.rfft(response, size)
    if equaliser_db is not None:
        spectrum *= draw_equaliser(scipy.fft.rfftfreq(size, 1.0 / sample_rate), equaliser_db, rng)
    filtered = scipy.fft.irfft(spectrum, size)[: len(waveform)]
    before, after = (float(np.linalg.norm(values.astype(np.float64))) for values in (waveform, filtered))
    return np.asarray(filtered * np.float32(before / max(after, 1e-9)), dtype=np.float32)
