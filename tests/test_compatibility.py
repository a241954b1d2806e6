"""What every released format version wrote can still be opened: stores, probes and model directories.

A release that changes a format adds a fixture of the format before, named after its number, and a number to VERSIONS.
No fixture is ever changed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sedembed

FIXTURES = Path(__file__).parent / "fixtures"
VERSIONS = [1]


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def expected(version: int) -> dict[str, Any]:
    return json.loads((FIXTURES / f"expected-{version}.json").read_text())


def test_model_directory(version: int, expected: dict[str, Any]):
    model = sedembed.load_model(FIXTURES / f"model-{version}", device="cpu")
    time = np.arange(16_000)
    sound = (0.1 * np.sin(time * 0.1 * (1 + time / 16_000))).astype(np.float32)
    np.testing.assert_allclose(model.embed(sound), expected["embedding"], atol=1e-5)
    np.testing.assert_allclose(model.tag(sound), expected["probabilities"], atol=1e-5)


def test_store(version: int, expected: dict[str, Any]):
    store = sedembed.open_store(FIXTURES / f"store-{version}")
    assert list(store.paths) == ["a.wav", "birds/b.wav"]
    np.testing.assert_array_equal(np.asarray(store.vectors), np.float32(expected["vectors"]))
    (failure,) = store.failures.to_pylist()
    assert (failure["path"], failure["error"]) == ("broken.wav", "AudioDecodeError")
    assert store.index.column("sample_rate").to_pylist() == [16_000, 16_000]
    (hit,) = store.search("a.wav", k=1)
    assert hit.path == "birds/b.wav"


def test_store_is_continued(version: int, tmp_path: Path, write_sounds: Any):
    copy = shutil.copytree(FIXTURES / f"store-{version}", tmp_path / "store")
    sounds = write_sounds(tmp_path / "sounds", {"new.wav": 1.0})
    run = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**run, "folder": str(sounds.resolve())}))  # as for a folder that moved
    model = sedembed.load_model(FIXTURES / f"model-{version}", device="cpu")
    store = sedembed.embed_folder(sounds, copy, model, frames=True, progress=False)
    assert "new.wav" in store.paths


@pytest.mark.parametrize("form", ["probe", "hub"])
def test_probe(version: int, form: str, expected: dict[str, Any]):
    if form == "probe":
        probe = sedembed.LinearProbe.load(FIXTURES / f"probe-{version}")
    else:
        probe = sedembed.LinearProbe.from_pretrained(FIXTURES / f"probe-{version}-hub")
    assert probe.classes_.tolist() == ["cat", "dog", "owl"]
    np.testing.assert_allclose(probe.predict_proba(np.eye(4)), expected["probe"], atol=1e-9)


def test_the_newest_formats_are_kept():
    """Today's format versions have a fixture each: raising one without adding it fails here."""
    from sedembed.probe import serialization
    from sedembed.store import layout

    stores = {json.loads(file.read_bytes())["format_version"] for file in FIXTURES.glob("store-*/run.json")}
    probes = {json.loads(file.read_bytes())["format_version"] for file in FIXTURES.glob("probe-*/probe.json")}
    assert layout.FORMAT_VERSION in stores
    assert serialization.FORMAT_VERSION in probes
