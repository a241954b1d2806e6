"""examples/hugging_face.py gives what `Embedder` gives."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

from sedembed.loading import load_model

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_feature_extraction(small_weanet_dir: Path):
    extract = runpy.run_path(str(EXAMPLES / "hugging_face.py"))["FeatureExtraction"](str(small_weanet_dir), "cpu")
    rain, bell = str(EXAMPLES / "sounds" / "rain.ogg"), str(EXAMPLES / "sounds" / "church_bell.flac")
    expected = extract.model.embed_frames(rain).embeddings
    np.testing.assert_array_equal(extract(rain, return_tensors=True)[0], expected)
    several = extract([rain, bell])
    assert isinstance(several[1], list)
    np.testing.assert_allclose(several[0][0], expected, rtol=1e-6)


def test_map_of_datasets(small_weanet_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    pytest.importorskip("datasets", reason="needs the package datasets")
    paths = [str(EXAMPLES / "sounds" / name) for name in ("rain.ogg", "church_bell.flac")]
    model = load_model(small_weanet_dir, device="cpu")
    embedded = runpy.run_path(str(EXAMPLES / "hugging_face.py"))["map_dataset"](paths, model)
    np.testing.assert_allclose(np.array(embedded["embedding"][:]), model.embed(paths), atol=1e-6)
