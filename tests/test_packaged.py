"""The weights that come with the package: what they say about the sounds that come with the repository."""

from __future__ import annotations

import hashlib
import runpy
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

import sedembed

ROOT = Path(__file__).parents[1]
SOUNDS = ROOT / "examples" / "sounds"


@pytest.fixture(scope="module", params=["talnet", "weanet"])
def model(request: pytest.FixtureRequest) -> sedembed.Embedder:
    return sedembed.load_model(request.param, device="cpu")


@pytest.mark.parametrize(
    ("file", "events"),
    [
        ("speech_english.wav", {"Speech"}),
        ("speech_german.flac", {"Speech"}),
        ("rain.ogg", {"Rain", "Rain on surface", "Raindrop"}),
        ("birdsong.ogg", {"Bird", "Bird vocalization, bird call, bird song", "Chirp, tweet"}),
        ("ocean_waves.mp3", {"Ocean", "Waves, surf"}),
        ("church_bell.flac", {"Bell", "Church bell"}),
        ("police_siren.ogg", {"Siren", "Police car (siren)", "Emergency vehicle"}),
    ],
)
def test_the_obvious_is_right(model, file, events):
    probabilities = model.tag(SOUNDS / file)
    assert model.labels[probabilities.argmax()] in events


@pytest.mark.parametrize("name", ["talnet", "weanet"])
def test_record_and_card(name):
    record = sedembed.describe_model(name)
    folder = files("sedembed") / "weights" / name
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() == record.sha256
    card = (folder / "README.md").read_text(encoding="utf-8")
    for figure in record.metrics.values():
        assert f"{figure:g}" in card
    assert "not the published weights" in card


# fmt: off
GOLDEN = {
    "talnet": ("6", 64, [
        -0.96498, 0.29674, -0.15671, 0.96334, 0.00119, 0.00491, -0.00585, 0.23063,
        -0.02355, 0.11469, 0.06668, -0.00166, 0.05373, 0.25873, -0.05034, 0.14315,
    ]),
    "weanet": ("6", 128, [
        0.00113, 0.00000, 0.17710, 0.00000, 0.00296, 0.00115, 0.00000, 0.00497,
        0.02776, 0.00000, 0.00000, 0.00000, 0.04749, 0.00891, 0.01831, 0.00000,
    ]),
}
# fmt: on


def test_embeddings_are_those_of_this_version(model):
    """A frozen vector: whoever changes it changes everybody's stores, and has to raise the version."""
    version, step, golden = GOLDEN[model.record.name]
    assert model.record.version == version
    np.testing.assert_allclose(model.embed(SOUNDS / "speech_english.wav")[::step], golden, atol=5e-5)


def test_records_are_those_of_the_networks(model):
    record, network = model.record, model.runner.network
    assert (record.embedding_size, record.frame_rate) == (model.embedding_size, model.frame_rate)
    assert (record.sample_rate, record.min_samples) == (model.sample_rate, network.min_samples)
    assert len(model.labels) == record.classes == 527


def test_packaged_weights_stay_small():
    sizes = [record.bytes for record in map(sedembed.describe_model, sedembed.list_models())]
    assert sum(sizes) < 60_000_000


def test_quickstart(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["quickstart.py", str(tmp_path / "vectors")])
    runpy.run_path(str(ROOT / "examples" / "quickstart.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "13 vectors of 1024 numbers" in printed
    for path in SOUNDS.iterdir():
        assert path.suffix == ".md" or path.name in printed
