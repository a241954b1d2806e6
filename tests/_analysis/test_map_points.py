"""Tests of map points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sedembed._analysis.map_points import by_folder, by_label, by_stored_tag, by_tag
from sedembed.embedder import Embedder
from sedembed.errors import ProbeError
from sedembed.probe.label_table import read_labels
from sedembed.store.store import EmbeddingStore
from tests._analysis.map_helpers import make_store, map_of, shown, store  # noqa: F401


class TestGroups:
    def test_tags_are_the_highest_mean_logits(self, tmp_path: Path, untrained_embedder: Embedder):
        rng = np.random.default_rng(0)
        vectors = rng.uniform(-1, 1, (50, 1024)).astype(np.float32)
        store = make_store(tmp_path / "out", [f"{n:02d}.wav" for n in range(50)], vectors, per_shard=7)
        rows = np.arange(1, 50, 2)
        layer = untrained_embedder.runner.network.fc_prob
        weight, bias = layer.weight.detach().numpy().astype(float), layer.bias.detach().numpy().astype(float)
        expected = [untrained_embedder.labels[int(np.argmax(weight @ vectors[row] + bias))] for row in rows]
        found = by_tag(store, rows, untrained_embedder)
        assert found is not None
        assert found.texts == expected
        assert [found.names[code] for code in found.codes] == expected

    def test_tags_of_a_steady_sound_are_those_of_the_network(self, tmp_path: Path, untrained_embedder: Embedder):
        # Where all frames are alike, the mean of the logits is the logit of any frame.
        wave = np.zeros(16_000, np.float32)
        frames = untrained_embedder.embed_frames(wave).embeddings
        middle = np.repeat(frames[5:6], 3, axis=0)
        store = make_store(tmp_path / "out", ["a.wav", "b.wav", "c.wav"], middle)
        found = by_tag(store, np.arange(3), untrained_embedder)
        tagged = untrained_embedder.tag(wave)
        assert found is not None
        assert untrained_embedder.labels.index(found.names[0]) in np.argsort(-tagged)[:5]

    def test_no_tags_from_vectors_of_another_kind(self, store: EmbeddingStore, untrained_embedder: Embedder):
        assert by_tag(store, np.arange(3), untrained_embedder) is None

    def test_labels(self, tmp_path: Path, caplog: pytest.LogCaptureFixture):
        (tmp_path / "labels.csv").write_text(
            "path,label,fold\na.wav,Dog;Cat,1\nb.wav,Cat,2\nc.wav,Cat;Dog,1\nd.wav,;,1\nf.wav,Owl,1\n"
        )
        table = read_labels(tmp_path / "labels.csv")
        paths = ["a.wav", "b.wav", "c.wav", "d.wav", "e.wav", "f.wav"]
        found = by_label(paths, table)
        assert found.names == ["Cat", "Dog", "Owl"]
        assert found.counts == [2, 1, 1]
        assert found.codes.tolist() == [1, 0, 0, -1, -1, 2]
        assert sorted(found.texts[0].split("; ")) == ["Cat", "Dog"]
        assert found.texts[3:] == ["", "", "Owl"]
        assert "1 of 6 recordings have no label" in caplog.text
        folds = by_label(paths, table, "fold")
        assert (folds.by, folds.names, folds.codes.tolist()) == ("fold", ["1", "2"], [0, 1, 0, 0, -1, 0])
        with pytest.raises(ProbeError, match="no column 'take'"):
            by_label(paths, table, "take")

    def test_folders(self):
        found = by_folder(["b/x/1.wav", "a/2.wav", "b/3.wav", "4.wav"])
        assert (found.names, found.codes.tolist(), found.texts) == (["b", "a"], [0, 1, 0, -1], ["b", "a", "b", ""])

    def test_a_name_is_written_at_the_larger_part(self):
        rng = np.random.default_rng(0)
        points = np.concatenate([rng.normal(0, 0.3, (70, 2)), rng.normal(10, 0.3, (30, 2)), [[5.0, 5.0]]])
        shown = map_of(points, ["torn"] * 101)
        assert np.linalg.norm(points[shown.anchors[0]]) < 1


def test_stored_tags_colour_by_the_most_likely():
    tags = np.array([[0.1, 0.9], [0.5, 0.5], [0.2, 0.7]], np.float16)
    found = by_stored_tag(tags, ["dog", "cat"])
    assert found.texts == ["cat", "dog", "cat"]
    assert found.names == ["cat", "dog"]
