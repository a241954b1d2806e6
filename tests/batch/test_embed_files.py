"""Tests of embed files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sedembed._evaluation import evaluate as engine
from sedembed.batch.embed_folder import embed_files
from sedembed.embedder import Embedder
from tests._evaluation.evaluate_helpers import TASKS, opened, plain  # noqa: F401


@pytest.fixture(autouse=True)
def _tiny_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_TASKS", TASKS)


class TestEmbedFiles:
    def test_takes_what_is_named(self, plain: Path, tmp_path: Path, untrained_embedder: Embedder):
        paths = ["audio/b-06.wav", "audio/a-01.wav", "audio/b-06.wav", "audio/none.wav", "labels.csv"]
        store = embed_files(plain, paths, tmp_path / "out", untrained_embedder)
        assert store.paths == ["audio/a-01.wav", "audio/b-06.wav"]
        failures = {row["path"]: row["error"] for row in store.failures.to_pylist()}
        assert failures["audio/none.wav"] == "MissingFileError"
        assert set(failures) == {"audio/none.wav", "labels.csv"}
        expected = untrained_embedder.embed(plain / "audio/b-06.wav")
        np.testing.assert_allclose(store.vectors[1], expected, atol=1e-5 * np.linalg.norm(expected))

    def test_goes_on(self, plain: Path, tmp_path: Path, untrained_embedder: Embedder, opened: list[str]):
        embed_files(plain, ["audio/b-06.wav", "gone.wav"], tmp_path / "out", untrained_embedder)
        opened.clear()
        store = embed_files(plain, ["audio/b-06.wav", "audio/a-01.wav"], tmp_path / "out", untrained_embedder)
        assert opened == ["a-01.wav"]
        assert (len(store), len(store.failures)) == (2, 0)

    def test_names_no_store_can_hold(self, plain: Path, tmp_path: Path, untrained_embedder: Embedder):
        store = embed_files(plain, ["audio/caf\udce9.wav"], tmp_path / "out", untrained_embedder)
        assert "rename the file" in store.failures["message"][0].as_py()

    def test_no_folder(self, tmp_path: Path, untrained_embedder: Embedder):
        with pytest.raises(FileNotFoundError, match="found nothing"):
            embed_files(tmp_path / "none", ["a.wav"], tmp_path / "out", untrained_embedder)
        with pytest.raises(ValueError, match="workers must be"):
            embed_files(tmp_path, ["a.wav"], tmp_path / "out", untrained_embedder, workers=0)
        assert not (tmp_path / "out").exists()
