"""The X-ARES encoder, held against the rules of the benchmark's own checker, restated here, and itself where it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sedembed.benchmarks import xares
from sedembed.benchmarks.xares import SedembedEncoder


@pytest.fixture(params=["talnet", "weanet"])
def encoder(request: pytest.FixtureRequest, untrained_model_dir: Path, small_weanet_dir: Path) -> SedembedEncoder:
    return SedembedEncoder(untrained_model_dir if request.param == "talnet" else small_weanet_dir)


def test_the_benchmark_finds_the_class():
    assert [name for name in dir(xares) if name.endswith("Encoder")] == ["SedembedEncoder"]


def test_rules_of_the_checker(encoder: SedembedEncoder):
    assert isinstance(encoder, torch.nn.Module)
    sounds = 0.1 * torch.randn(2, 50_000, generator=torch.Generator().manual_seed(0))
    encoded = encoder(sounds)
    assert encoded.shape == (2, encoded.shape[1], encoder.output_dim)
    assert encoded.dtype == torch.float32
    assert encoder.sampling_rate == 16_000
    assert encoder.hop_size_in_ms == pytest.approx(1000 / encoder.embedder.frame_rate)
    # At least all hops that lie in the sound whole, but for the edge that a frame of WEANet needs.
    assert 0 <= 3125 / encoder.hop_size_in_ms - encoded.shape[1] < 3
    np.testing.assert_allclose(
        encoded[1], encoder.embedder.embed_frames(sounds[1].numpy()).embeddings, rtol=2e-5, atol=1e-5
    )
    np.testing.assert_array_equal(encoder(sounds[0]), encoder(sounds[:1]))


def test_ten_minutes(small_weanet_dir: Path):
    encoder = SedembedEncoder(small_weanet_dir)
    sound = 0.1 * torch.randn(1, 600 * 16_000, generator=torch.Generator().manual_seed(0))
    assert encoder(sound).shape == (1, 1874, encoder.output_dim)  # a frame every 0.32 s, its centre in the sound


def test_the_environment_names_the_model(small_weanet_dir: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SEDEMBED_MODEL", str(small_weanet_dir))
    assert SedembedEncoder(hop=160).hop_size_in_ms == 160
    assert SedembedEncoder().embedder.record.architecture == "weanet"


def test_the_checker_itself(encoder: SedembedEncoder):
    checker = pytest.importorskip("xares.audio_encoder_checker", reason="needs the benchmark: pip install xares")
    assert checker.check_audio_encoder(encoder)
