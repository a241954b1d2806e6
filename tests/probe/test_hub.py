"""Probes go to a hub and come back the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from sedembed.errors import OfflineError, ProbeError, WeightsError
from sedembed.models.weights import resolve
from sedembed.probe.probe import LinearProbe
from tests.models.hub_helpers import WritableHub, writable_hub

# Of huggingface_hub's own call of its HTTP library.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[WritableHub]:
    with writable_hub(monkeypatch) as hub:
        yield hub


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((40, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def probe(vectors: np.ndarray) -> LinearProbe:
    labels = np.where(vectors[:, 0] > 0, "dog", "cat")
    return LinearProbe(C=10.0).fit(vectors, labels)


def test_round_trip(hub: WritableHub, probe: LinearProbe, vectors: np.ndarray, tmp_path: Path):
    uri = probe.push_to_hub("org/pets", figures={"My pets": {"accuracy": 0.9}})
    assert hub.files("org/pets").keys() == {"config.json", "model.safetensors", "README.md"}
    for name in (uri, "hf://org/pets"):
        loaded = LinearProbe.from_pretrained(name, cache_dir=tmp_path)
        np.testing.assert_array_equal(loaded.predict_proba(vectors), probe.predict_proba(vectors))
        assert loaded.get_params() == probe.get_params()
        assert loaded.classes_.tolist() == ["cat", "dog"]
    card = ModelCard(hub.files("org/pets")["README.md"].decode())
    assert (card.data.library_name, card.data.model_name) == ("sedembed", "pets")
    assert [(r.dataset_name, r.metric_value) for r in card.data.eval_results] == [("My pets", 0.9)]
    assert "Classes: cat, dog" in card.text


def test_a_directory(probe: LinearProbe, vectors: np.ndarray, tmp_path: Path):
    directory = probe.save_pretrained(tmp_path / "pets", card="Mine.")
    assert sorted(path.name for path in directory.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert (directory / "README.md").read_text() == "Mine."
    loaded = LinearProbe.from_pretrained(directory)
    np.testing.assert_array_equal(loaded.predict_proba(vectors), probe.predict_proba(vectors))
    probe.save_pretrained(directory)  # replaced
    assert "cat, dog" in (directory / "README.md").read_text()


class TestRefused:
    def test_none_there(self, tmp_path: Path):
        with pytest.raises(ProbeError, match=r"no config\.json"):
            LinearProbe.from_pretrained(tmp_path)

    def test_damaged(self, probe: LinearProbe, tmp_path: Path):
        directory = probe.save_pretrained(tmp_path / "pets")
        description = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps({**description, "tensors_sha256": "0" * 64}))
        with pytest.raises(ProbeError, match="is damaged"):
            LinearProbe.from_pretrained(directory)

    def test_a_probe_is_no_network(self, probe: LinearProbe, tmp_path: Path):
        with pytest.raises(WeightsError, match="architecture"):
            resolve(probe.save_pretrained(tmp_path / "pets"))

    def test_offline(self, tmp_path: Path, hub: WritableHub):
        with pytest.raises(OfflineError, match="local_files_only"):
            LinearProbe.from_pretrained("hf://org/pets", cache_dir=tmp_path, local_files_only=True)
