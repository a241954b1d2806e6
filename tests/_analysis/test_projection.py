"""Tests of projection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sedembed._analysis import projection
from sedembed._analysis.map_points import MapPoints, by_folder
from sedembed._analysis.projection import choose_rows, project
from sedembed.errors import StoreError
from sedembed.store.store import EmbeddingStore
from tests._analysis.map_helpers import clusters, make_store, shown, store  # noqa: F401


class TestProjection:
    @pytest.mark.parametrize("kept", [2**28, 0])
    def test_components_are_those_of_scikit_learn(
        self, store: EmbeddingStore, kept: int, monkeypatch: pytest.MonkeyPatch
    ):
        from sklearn.decomposition import PCA

        monkeypatch.setattr(projection, "_KEPT", kept)
        vectors = store.vectors.astype(np.float64)
        unit = (vectors - vectors.mean(0)) / vectors.std(0)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        pca = PCA(2, svd_solver="full")
        expected = pca.fit_transform(unit)
        found = project(store, choose_rows(store, 1000), "pca")
        np.testing.assert_allclose(np.abs(found.points), np.abs(expected), atol=1e-10)
        first, second = pca.explained_variance_ratio_
        assert found.method == f"PCA, {first:.0%} and {second:.0%} of the variance"

    def test_tsne_keeps_neighbours_together(self, store: EmbeddingStore):
        rows = choose_rows(store, 1000)
        found = project(store, rows, "tsne", perplexity=10)
        assert found.method == "t-SNE, perplexity 10"
        assert found.points.shape == (90, 2)
        distances = np.linalg.norm(found.points[:, None] - found.points[None], axis=2)
        np.fill_diagonal(distances, np.inf)
        labels = np.array([path.split("/")[0] for path in store.paths])
        assert np.mean(labels[distances.argmin(1)] == labels) > 0.97
        np.testing.assert_array_equal(project(store, rows, "tsne", perplexity=10).points, found.points)

    def test_a_sample(self, store: EmbeddingStore):
        rows = choose_rows(store, 30, seed=3)
        assert len(set(rows.tolist())) == 30
        assert np.all(np.diff(rows) > 0)
        np.testing.assert_array_equal(rows, choose_rows(store, 30, seed=3))
        assert set(rows) != set(choose_rows(store, 30, seed=4))
        np.testing.assert_array_equal(choose_rows(store, 90), np.arange(90))
        whole = make_store(store.directory / "part", [store.paths[row] for row in rows], store.vectors[rows])
        expected = project(whole, choose_rows(whole, 30), "pca").points
        np.testing.assert_allclose(project(store, rows, "pca").points, expected, atol=1e-10)
        shown = MapPoints.of(store, project(store, rows, "pca"), by_folder([store.paths[row] for row in rows]))
        assert shown.title == "out: 30 recordings of 90, chosen at random"
        assert shown.durations.tolist() == [store.index["duration"][int(row)].as_py() for row in rows]

    @pytest.mark.parametrize("count", [1, 2, 4, 5, 12])
    @pytest.mark.parametrize("method", ["tsne", "pca"])
    def test_few_points(self, tmp_path: Path, count: int, method: Any):
        store = make_store(tmp_path / "out", *clusters(count))
        found = project(store, choose_rows(store, 100), method)
        assert found.points.shape == (count, 2)
        assert np.isfinite(found.points).all()
        assert found.method.startswith("t-SNE" if method == "tsne" and count >= 5 else "PCA")

    @pytest.mark.parametrize("method", ["tsne", "pca"])
    def test_all_the_same(self, tmp_path: Path, method: Any):
        vectors = np.tile(np.random.default_rng(0).standard_normal(16), (40, 1))
        store = make_store(tmp_path / "out", [f"{n}.wav" for n in range(40)], vectors)
        np.testing.assert_array_equal(project(store, choose_rows(store, 100), method).points, np.zeros((40, 2)))

    def test_two_kinds_and_constant_dimensions(self, tmp_path: Path):
        vectors = np.zeros((40, 16))
        vectors[::2, 3] = 1
        store = make_store(tmp_path / "out", [f"{n:02d}.wav" for n in range(40)], vectors)
        points = project(store, choose_rows(store, 100), "tsne").points
        assert np.isfinite(points).all()
        gap = np.linalg.norm(points[::2].mean(0) - points[1::2].mean(0))
        assert gap > 2 * np.linalg.norm(points[::2] - points[::2].mean(0), axis=1).mean()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"method": "umap"}, "one of tsne, pca, got 'umap'"),
            ({"perplexity": 90}, "below the number of points, which is 90, got 90"),
            ({"perplexity": 0.5}, "at least 1"),
            ({"perplexity": float("nan")}, "at least 1"),
            ({"seed": -1}, "seed must be from 0"),
        ],
    )
    def test_refused(self, store: EmbeddingStore, options: dict[str, Any], message: str):
        with pytest.raises(ValueError, match=message):
            project(store, np.arange(90), **options)

    def test_nothing_to_draw(self, store: EmbeddingStore, tmp_path: Path):
        with pytest.raises(ValueError, match="at least 1, got 0"):
            choose_rows(store, 0)
        with pytest.raises(StoreError, match="holds no vectors"):
            choose_rows(make_store(tmp_path / "empty", [], np.zeros((0, 4))), 10)
