"""TALNet's front end against golden values, librosa, and an independent float64 implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sedembed.models.frontend import Spectrogram, frame_count, log_mel, mel_filterbank

RATE = 16_000
T = np.arange(160_000) / RATE
TONES = (0.5 * np.sin(2 * np.pi * 440 * T) + 0.1 * np.sin(2 * np.pi * 3000 * T)).astype(np.float32)
CHIRP = (0.3 * np.sin(2 * np.pi * (50 * T + 387.5 * T**2))).astype(np.float32)


def slaney_edges() -> np.ndarray:
    """66 edges in Hz, equally spaced on Slaney's scale, walked mel by mel instead of by a formula for arrays."""

    def to_hz(mel: float) -> float:
        return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    top = 15 + 27 * np.log(8) / np.log(6.4)
    return np.array([to_hz(top * i / 65) for i in range(66)])


def reference_log_mel(waveform: np.ndarray) -> np.ndarray:
    """The specification read literally: 4096 samples a frame, float64 throughout."""
    padded = np.concatenate((np.zeros(2048), waveform.astype(np.float64), np.zeros(2048)))
    window = np.zeros(4096)
    window[1536:2560] = np.sin(np.pi * np.arange(1024) / 1024) ** 2
    edges, hz = slaney_edges(), np.arange(2049) * RATE / 4096
    filters = np.zeros((64, 2049))
    for m in range(64):
        low, mid, high = edges[m : m + 3]
        up, down = (hz - low) / (mid - low), (high - hz) / (high - mid)
        filters[m] = np.clip(np.minimum(up, down), 0, None) * 2 / (high - low)
    count = 400 if len(waveform) == 160_000 else 1 + len(waveform) // 400
    magnitudes = [np.abs(np.fft.rfft(padded[400 * i : 400 * i + 4096] * window)) for i in range(count)]
    decibels = 10 * np.log10(np.maximum(1e-10, np.array(magnitudes) @ filters.T))
    return np.maximum(decibels, decibels.max() - 80)


class TestGolden:
    def test_tones(self):
        mel = log_mel(torch.from_numpy(TONES)).numpy()
        expected = [-32.415, 10.678, -32.138, -42.253, -50.577, -42.851, -48.527, -63.455]
        np.testing.assert_allclose(mel[200, 0::8], expected, atol=6e-4)  # the values are given to three digits
        np.testing.assert_allclose(mel[0, 0:4], [-1.145, -0.996, -0.738, -0.345], atol=6e-4)
        np.testing.assert_allclose([mel.max(), mel.min(), mel.mean()], [10.717789, -69.28221, -40.24145], atol=1e-4)

    def test_chirp(self):
        mel = log_mel(torch.from_numpy(CHIRP)).numpy()
        expected = [-64.111, -63.719, -62.729, -61.211, -58.392, -52.390, -15.139, -53.612]
        np.testing.assert_allclose(mel[200, 0::8], expected, atol=6e-4)
        assert mel.max() == pytest.approx(10.497914, abs=1e-4)

    def test_zeros_are_exactly_minus_100(self):
        assert (log_mel(torch.zeros(160_000)) == -100).all()


def sounds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    impulses = np.zeros(30_000, np.float32)
    impulses[[0, 777, 12_345, 29_999]] = 1, -1, 0.5, 1
    return {
        "noise": rng.normal(0, 0.1, 80_000).astype(np.float32),
        "faint noise": rng.normal(0, 1e-6, 20_000).astype(np.float32),
        "tones": TONES,
        "tones of 3 s": TONES[:48_000],
        "chirp": CHIRP,
        "silence": np.zeros(5_000, np.float32),
        "silence, then noise": np.concatenate((np.zeros(40_000), rng.normal(0, 0.1, 40_000))).astype(np.float32),
        "impulses": impulses,
        "full-scale clipping": np.clip(TONES * 50, -1, 1),
        "offset": np.full(9_000, 0.25, np.float32),
        "40 s": rng.uniform(-1, 1, 640_000).astype(np.float32),
    }


@pytest.mark.parametrize("name", sounds())
def test_against_float64(name):
    waveform = sounds()[name]
    np.testing.assert_allclose(log_mel(torch.from_numpy(waveform)).numpy(), reference_log_mel(waveform), atol=1e-3)


@pytest.mark.parametrize("samples", [1, 2, 399, 400, 401, 511, 512, 513, 1023, 1200, 4095, 25_601, 159_999, 160_001])
def test_lengths(samples):
    waveform = np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32)
    mel = log_mel(torch.from_numpy(waveform)).numpy()
    assert mel.shape == (1 + samples // 400, 64)
    np.testing.assert_allclose(mel, reference_log_mel(waveform), atol=1e-3)


def test_ten_seconds_keep_400_frames_and_clamp_after_the_crop():
    waveform = np.random.default_rng(0).normal(0, 1e-3, 160_000).astype(np.float32)
    waveform[159_900:] = 1.0  # heard by frame 400 above all, which is cropped
    mel = log_mel(torch.from_numpy(waveform)).numpy()
    assert mel.shape == (400, 64)
    np.testing.assert_allclose(mel, reference_log_mel(waveform), atol=1e-3)


def test_batch_equals_single():
    waveforms = torch.randn(3, 20_000, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [[1.0], [0.1], [1e-3]]
    )
    batch = log_mel(waveforms)
    for waveform, mel in zip(waveforms, batch, strict=True):
        torch.testing.assert_close(log_mel(waveform), mel, atol=1e-5, rtol=0)


def test_filters_against_librosa():
    librosa = pytest.importorskip("librosa")
    theirs = librosa.filters.mel(sr=RATE, n_fft=4096, n_mels=64, htk=False, norm="slaney", dtype=np.float64)
    np.testing.assert_allclose(mel_filterbank(RATE, 4096, 64), theirs, atol=1e-15)


@pytest.mark.parametrize(("n_fft", "n_mels"), [(4096, 1), (4096, 3), (512, 16), (128, 64)])
def test_any_number_of_filters_even_empty_ones(n_fft: int, n_mels: int):
    waveform = np.random.default_rng(0).normal(0, 0.1, 3000).astype(np.float32)
    spectrogram = Spectrogram(n_fft=n_fft, win_length=n_fft, n_mels=n_mels)
    padded = np.pad(waveform.astype(np.float64), n_fft // 2)
    window = np.sin(np.pi * np.arange(n_fft) / n_fft) ** 2
    frames = np.stack([padded[400 * i : 400 * i + n_fft] for i in range(8)])
    mel = np.abs(np.fft.rfft(frames * window)) @ mel_filterbank(RATE, n_fft, n_mels).T
    decibels = 10 * np.log10(np.maximum(1e-10, mel))
    found = spectrogram(torch.from_numpy(waveform)).numpy()
    np.testing.assert_allclose(found, np.maximum(decibels, decibels.max() - 80), atol=1e-3)


def test_chain_against_librosa():
    librosa = pytest.importorskip("librosa")
    waveform = np.random.default_rng(0).normal(0, 0.1, 50_000)
    spectrum = librosa.stft(waveform, n_fft=4096, hop_length=400, win_length=1024, center=True, pad_mode="constant")
    mel = librosa.filters.mel(sr=RATE, n_fft=4096, n_mels=64, htk=False, dtype=np.float64) @ np.abs(spectrum)
    theirs = librosa.power_to_db(mel).T
    np.testing.assert_allclose(log_mel(torch.from_numpy(waveform).float()).numpy(), theirs, atol=1e-3)


def test_frame_count():
    assert [frame_count(n) for n in (1, 400, 159_999, 160_000, 160_001)] == [1, 2, 400, 400, 401]
