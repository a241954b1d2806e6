"""Spectral fingerprints: find recordings of an evaluation set among training audio, also after recompression.

A fingerprint is the sign of the second difference of the log-mel spectrogram, once over time and once over frequency.
Level and equaliser hardly change it. A copy at another speed or pitch is not found.
"""

from __future__ import annotations

from collections.abc import Sequence

import librosa
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from sedembed.errors import InvalidArgumentError

__all__ = ["SAME_RECORDING", "FingerprintIndex", "fingerprint"]

SAMPLE_RATE = 16_000
# Score from which two clips count as parts of the same recording. Of 2 876 segments without a known copy in ESC-50 six
# reach 0.15 and none 0.16 with any of its 2 000 clips; most copies score above 0.25, short ones in a mixture 0.16.
SAME_RECORDING = 0.15
_HOP, _WINDOW, _BANDS = 400, 1024, 32
_LOW_HZ, _HIGH_HZ = 100.0, 6000.0  # low bit rates cut the rest off
_FLOOR = 1e-6  # of the largest value: below it is silence or the noise of a codec
_MIN_CELLS = 40 * (_BANDS - 1)  # one second: very short sounds match anything


def fingerprint(waveform: NDArray[np.floating]) -> NDArray[np.int8]:
    """Compute the fingerprint of a waveform at 16 kHz.

    Parameters
    ----------
    waveform : ndarray, shape (samples,)

    Returns
    -------
    ndarray of int8, shape (frames, 31)
        -1 or 1, 40 frames a second; 0 where the sound is silent.
    """
    padded = np.pad(np.asarray(waveform, dtype=np.float32), (0, max(0, _WINDOW - len(waveform))))
    mel = librosa.feature.melspectrogram(
        y=padded,
        sr=SAMPLE_RATE,
        n_fft=_WINDOW,
        hop_length=_HOP,
        center=False,
        n_mels=_BANDS,
        fmin=_LOW_HZ,
        fmax=_HIGH_HZ,
    ).T
    if len(mel) < 2 or not mel.max() > 0.0:
        return np.zeros((max(len(mel) - 1, 0), _BANDS - 1), dtype=np.int8)
    floor = _FLOOR * mel.max()
    level = np.log(np.maximum(mel, floor))
    signs = np.sign(np.diff(np.diff(level, axis=0), axis=1)).astype(np.int8)
    audible = mel > floor
    audible = audible[1:] & audible[:-1]
    return np.asarray(signs * (audible[:, 1:] & audible[:, :-1]), dtype=np.int8)


class FingerprintIndex:
    """Fingerprints of many clips, to compare a recording with all of them at every shift.

    Parameters
    ----------
    fingerprints : sequence of ndarray
        From `fingerprint`.
    longest : float, default=10.0
        Longest recording in seconds that `scores` will be asked about.
    """

    def __init__(self, fingerprints: Sequence[NDArray[np.int8]], longest: float = 10.0) -> None:
        self._frames = round(longest * SAMPLE_RATE / _HOP)
        most = max((len(item) for item in fingerprints), default=0)
        self._size = int(scipy.fft.next_fast_len(self._frames + most, real=True))
        spectra = [self._transform(item) for item in fingerprints]
        # Frequency first: the sum over the bands is then one product of matrices for each frequency.
        self._spectra = np.stack(spectra, axis=1) if spectra else np.zeros((0, 0, 0), np.complex64)
        self._cells = np.array([np.count_nonzero(item) for item in fingerprints], dtype=np.float64)

    def __len__(self) -> int:
        return len(self._cells)

    def scores(self, other: NDArray[np.int8]) -> NDArray[np.float64]:
        """Best agreement over all shifts with each clip: 1 for a copy, near 0 for another sound.

        Parameters
        ----------
        other : ndarray of int8, shape (frames, 31)

        Returns
        -------
        ndarray of float64, shape (clips,)
            Sum of the products of the signs at the best shift, over the audible cells of the clip with fewer of them.
        """
        if not len(self):
            return np.zeros(0)
        if len(other) > self._frames:
            raise InvalidArgumentError(
                f"Expected a fingerprint of at most {self._frames} frames, got {len(other)}. Make the index with a "
                "larger `longest`."
            )
        products = np.matmul(self._spectra, self._transform(other).conj()[:, :, None])[:, :, 0]
        best = scipy.fft.irfft(products, self._size, axis=0).max(0)
        fewer = np.minimum(self._cells, np.count_nonzero(other))
        return np.asarray(best / np.maximum(fewer, _MIN_CELLS), dtype=np.float64)

    def _transform(self, item: NDArray[np.int8]) -> NDArray[np.complex64]:
        return np.asarray(scipy.fft.rfft(item.astype(np.float32), self._size, axis=0), dtype=np.complex64)
