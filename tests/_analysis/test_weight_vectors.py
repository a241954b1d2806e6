"""Row spaces, trees and planes of an analysis, against plain references and known answers."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sedembed import load_model, open_store
from sedembed._analysis.weight_vectors import (
    LARGE,
    ClassRows,
    EventRows,
    class_rows,
    correlate,
    estimate_event_rows,
    event_rows,
    project_2d,
    standardise_rows,
)
from sedembed.batch.embed_folder import embed_folder
from sedembed.errors import ProbeError, StoreError
from sedembed.probe.probe import LinearProbe
from tests._analysis.weight_vectors_helpers import grouped_rows


class TestRows:
    def test_standardised_rows_against_a_plain_loop(self):
        rows = np.random.default_rng(0).normal(3, 2, (5, 30))
        for got, row in zip(standardise_rows(rows), rows, strict=True):
            mean = sum(row) / 30
            deviation = (sum((value - mean) ** 2 for value in row) / 30) ** 0.5
            np.testing.assert_allclose(got, [(value - mean) / deviation / 30**0.5 for value in row], atol=1e-12)

    def test_a_row_of_equal_numbers_becomes_zero(self):
        assert not standardise_rows(np.full((1, 7), 0.1)).any()

    def test_correlation_against_a_plain_loop(self):
        rng = np.random.default_rng(0)
        classes = ClassRows(("a", "b"), rng.standard_normal((2, 20)), rng.uniform(0.1, 3, 20))
        events = EventRows(("x", "y", "z"), rng.standard_normal((3, 20)))
        got = correlate(classes, events)
        for i, j in itertools.product(range(2), range(3)):
            folded = [events.rows[j, d] * classes.scale[d] for d in range(20)]
            assert got[i, j] == pytest.approx(np.corrcoef(classes.rows[i], folded)[0, 1], abs=1e-12)

    def test_the_literal_form_is_the_correlation_of_the_rows_as_they_are(self):
        rng = np.random.default_rng(0)
        classes = ClassRows(("a", "b"), rng.standard_normal((2, 20)), rng.uniform(0.1, 3, 20))
        events = EventRows(("x", "y", "z"), rng.standard_normal((3, 20)))
        expected = np.corrcoef(classes.rows, events.rows)[:2, 2:]
        np.testing.assert_allclose(correlate(classes, events, "literal"), expected, atol=1e-12)
        unscaled = ClassRows(classes.names, classes.rows, np.ones(20))
        np.testing.assert_array_equal(correlate(unscaled, events), correlate(unscaled, events, "literal"))
        with pytest.raises(ValueError, match="correlation must be one of scaled, literal, got 'cosine'"):
            correlate(classes, events, "cosine")

    def test_other_length_is_refused(self):
        with pytest.raises(ProbeError, match=r"vectors of 4 numbers.*embeddings of this model have 5; give the model"):
            correlate(ClassRows(("a", "b"), np.eye(2, 4), np.ones(4)), EventRows(("x",), np.ones((1, 5))))

    def test_rows_of_a_probe(self):
        rng = np.random.default_rng(0)
        X, y = rng.normal(5, [0.1, 1, 10], (90, 3)), np.repeat(["low", "mid", "top"], 30)
        probe = LinearProbe(1.0, progress=False).fit(X, y)
        found = class_rows(probe)
        assert found.names == ("low", "mid", "top")
        np.testing.assert_array_equal(found.rows, probe.coef_)
        np.testing.assert_allclose(found.scale, X.std(0), rtol=1e-6)
        assert np.all(class_rows(LinearProbe(1.0, normalize="l2", progress=False).fit(X, y)).scale == 1)

    def test_class_without_examples_is_left_out(self):
        rng = np.random.default_rng(0)
        X, Y = rng.standard_normal((60, 6)), np.zeros((60, 4), int)
        Y[:, [0, 1, 3]] = X[:, :3] > 0
        found = class_rows(LinearProbe(1.0, progress=False).fit(X, Y))
        assert found.names == ("0", "1", "3")
        assert found.left_out == ("2",)

    def test_too_few_classes_are_refused(self):
        probe = SimpleNamespace(coef_=np.eye(2, 5) * [[1], [0]], classes_=["a", "b"], scale_=np.ones(5))
        with pytest.raises(ProbeError, match="1 of 2 whose weights are not all equal"):
            class_rows(probe)

    def test_event_rows_are_the_last_layer(self, untrained_embedder):
        found = event_rows(untrained_embedder)
        np.testing.assert_array_equal(found.rows, untrained_embedder.runner.network.fc_prob.weight.numpy())
        assert found.names == untrained_embedder.labels

    def test_a_network_whose_embedding_feeds_no_event_layer(self):
        network = SimpleNamespace(embedding_feeds_events=False)
        with pytest.raises(ProbeError, match=r"embedding of a SimpleNamespace does not feed its event layer.*--store"):
            event_rows(SimpleNamespace(runner=SimpleNamespace(network=network), labels=()))


@pytest.fixture(scope="module")
def taught():
    rng = np.random.default_rng(0)
    embedder = load_model("talnet", device="cpu")
    layer = embedder.runner.network.fc_prob
    # Deviations as those of the shipped network's embeddings: most 0.3, some a hundred times smaller.
    scale = np.clip(rng.lognormal(np.log(0.27), 0.8, 1024), 0.002, 0.8)
    vectors = rng.normal(rng.normal(0, 0.3, 1024), scale, (1200, 1024)).astype(np.float32)
    logits = vectors @ layer.weight.numpy().T + layer.bias.numpy()
    chosen = np.sort(rng.choice(527, 25, replace=False))
    probabilities = 1 / (1 + np.exp(-logits[:, chosen].astype(np.float64)))
    labels = probabilities > np.quantile(probabilities, 0.85, axis=0)
    probe = LinearProbe(30.0, progress=False).fit(vectors, labels.astype(int))
    return probe, event_rows(embedder), chosen


class TestCorrespondence:
    """A probe that was taught the network's own event probabilities must find its own events."""

    def test_each_class_finds_its_own_event_among_all(self, taught):
        probe, events, chosen = taught
        cosines = correlate(class_rows(probe), events)
        assert cosines.shape == (25, 527)
        np.testing.assert_array_equal(cosines.argmax(1), chosen)
        assert cosines[np.arange(25), chosen].min() >= 2 * LARGE

    def test_without_folding_in_the_scale_the_match_is_worse(self, taught):
        probe, events, chosen = taught
        classes = class_rows(probe)
        own = np.arange(25), chosen
        folded = correlate(classes, events)[own]
        plain = correlate(classes, events, "literal")[own]
        assert (plain < folded).all()
        assert plain.mean() < 0.85 * folded.mean()

    def test_dividing_the_classes_instead_only_enlarges_noise(self, taught):
        probe, events, chosen = taught
        classes = class_rows(probe)
        divided = standardise_rows(classes.rows / classes.scale) @ standardise_rows(events.rows).T
        assert divided[np.arange(25), chosen].mean() < 0.5 * correlate(classes, events)[np.arange(25), chosen].mean()


class TestEstimate:
    class Model:
        """Embeds and tags by a known linear map; the file names are row numbers."""

        def __init__(self, vectors, rows, offset):
            self.vectors, self.rows, self.offset = vectors, rows, offset
            self.labels = tuple(f"event {i}" for i in range(len(rows)))
            self.record = SimpleNamespace(sha256="a" * 64, name="known")
            self.runner = SimpleNamespace(record=self.record)

        def tag(self, path):
            if path.name == "7":
                raise FileNotFoundError("gone")
            logits = self.vectors[int(path.name)] @ self.rows.T + self.offset
            return (1 / (1 + np.exp(-logits))).astype(np.float32)

    class Store:
        directory = Path("store")

        def __init__(self, vectors, sha256="a" * 64):
            self.vectors, self.paths = vectors.astype(np.float32), [str(i) for i in range(len(vectors))]
            self.run = {"folder": "sounds", "settings": {"model_sha256": sha256}}

        def __len__(self):
            return len(self.paths)

    def test_known_rows_are_found(self, caplog):
        rng = np.random.default_rng(0)
        vectors = rng.normal(0, np.geomspace(0.01, 2, 12), (200, 12))
        rows = rng.standard_normal((4, 12)) / vectors.std(0) / 4
        model = self.Model(vectors, rows, rng.standard_normal(4))
        found = estimate_event_rows(model, self.Store(vectors))
        np.testing.assert_allclose(found.rows, rows, rtol=0.02, atol=0.01 * np.abs(rows).max())
        assert found.names == model.labels
        assert found.recordings == 199
        assert found.explained > 0.999
        assert "left out: 7: gone" in caplog.text

    def test_more_recordings_than_wanted_are_drawn_by_the_seed(self):
        vectors = np.random.default_rng(0).standard_normal((200, 3))
        model, store = self.Model(vectors, np.eye(3), 0.0), self.Store(vectors)
        first, again, other = (estimate_event_rows(model, store, most=50, seed=seed).rows for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_store_of_other_weights_is_refused(self):
        vectors = np.zeros((30, 3))
        with pytest.raises(StoreError, match=r"other weights \(sha256 bbbbbbbbbbbb\) than those of 'known'"):
            estimate_event_rows(self.Model(vectors, np.eye(3), 0.0), self.Store(vectors, "b" * 64))

    def test_real_store_whose_recordings_are_gone(self, untrained_embedder, write_sounds, tmp_path):
        folder = write_sounds(tmp_path / "in", {f"{i}.wav": 0.3 for i in range(22)})
        store = embed_folder(folder, tmp_path / "store", untrained_embedder, progress=False)
        found = estimate_event_rows(untrained_embedder, store)
        logits = np.array([untrained_embedder.tag(folder / path) for path in store.paths], np.float64)
        logits = np.log(logits / (1 - logits))
        predicted = (store.vectors - store.vectors.mean(0)) @ found.rows.T
        match = [np.corrcoef(predicted[:, i], logits[:, i])[0, 1] for i in range(527)]
        assert np.median(match) > 0.95
        for path in store.paths[:3]:
            (folder / path).unlink()
        with pytest.raises(StoreError, match=r"at least 20 readable recordings.*got 19 \(.*wav: "):
            estimate_event_rows(untrained_embedder, open_store(tmp_path / "store"))


class TestPlane:
    def test_same_seed_same_points(self):
        rows = grouped_rows(4, 5)
        first, again = (project_2d(rows, "cosine", seed=3).points for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert first.shape == (20, 2)
        assert np.isfinite(first).all()

    def test_members_of_a_group_are_neighbours(self):
        plane = project_2d(grouped_rows(4, 10, noise=0.2), "correlation")
        distance = np.linalg.norm(plane.points[:, None] - plane.points[None], axis=2)
        np.fill_diagonal(distance, np.inf)
        assert (distance.argmin(1) % 4 == np.arange(40) % 4).all()
        assert (plane.method, plane.perplexity) == ("t-SNE", 13.0)

    @pytest.mark.parametrize("count", [2, 3, 4])
    def test_few_rows_by_principal_components(self, count):
        rows = np.random.default_rng(0).standard_normal((count, 6))
        plane = project_2d(rows, "euclidean")
        assert (plane.method, plane.perplexity) == ("PCA", None)
        centred = rows - rows.mean(0)
        left, values, _ = np.linalg.svd(centred, full_matrices=False)
        expected = np.abs(left * values)[:, :2]
        if count == 2:
            expected[:, 1] = 0
        np.testing.assert_allclose(np.abs(plane.points), expected, atol=1e-9)

    @pytest.mark.parametrize("perplexity", [0.5, 20, 30, float("nan")])
    def test_perplexity_out_of_range(self, perplexity):
        with pytest.raises(ValueError, match="at least 1 and below the number of classes, 20, got"):
            project_2d(grouped_rows(4, 5), "cosine", perplexity=perplexity)

    @pytest.mark.parametrize("seed", [-1, 2**32])
    def test_seed_out_of_range(self, seed):
        with pytest.raises(ValueError, match="seed must be from 0 to 4294967295"):
            project_2d(grouped_rows(4, 5), "cosine", seed=seed)
