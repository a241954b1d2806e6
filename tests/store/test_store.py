"""A store read back: rows, search, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from sedembed.errors import StoreError
from sedembed.store.rows import Hit
from sedembed.store.store import EmbeddingStore, open_store
from sedembed.store.writer import StoreWriter
from tests.store.store_helpers import SIZE, describe, fill, vector


class TestReading:
    def test_rows_are_sorted_by_path_and_belong_together(self, store: EmbeddingStore):
        assert store.paths == ["000.wav", "001.wav", "002.wav", "004.wav", "005.wav", "ä ö/𝄞.wav"]
        assert len(store) == 6
        assert store.vectors.shape == (6, SIZE)
        assert store.vectors.dtype == np.float32
        np.testing.assert_array_equal(store.vectors, np.stack([vector(n) for n in (0, 1, 2, 4, 5, 9)]))
        assert store.index.column_names == ["path", "duration", "sample_rate", "channels"]
        assert store.index["duration"].to_pylist() == [0.0, 0.1, 0.2, 0.4, 0.5, 0.5]
        assert store.index["channels"].to_pylist() == [2, 1, 2, 2, 2, 1]
        assert store.failures.to_pylist() == [{"path": "bad.mp3", "error": "AudioDecodeError", "message": "no sound"}]
        assert "6 vectors, 1 failures" in repr(store)

    def test_vectors_cannot_be_overwritten_by_mistake(self, store: EmbeddingStore):
        with pytest.raises(ValueError, match="read-only"):
            store.vectors[0] = 0

    def test_blocks_cover_every_row_once(self, store: EmbeddingStore):
        blocks = list(store.blocks())
        assert [len(block) for _, block in blocks] == [4, 2]
        assert sorted(np.concatenate([rows for rows, _ in blocks])) == list(range(6))

    def test_other_programs_read_the_shards(self, store: EmbeddingStore):
        table = ds.dataset(store.directory / "embeddings").to_table()
        assert table.schema.names == ["path", "duration", "sample_rate", "channels", "embedding"]
        assert table.schema.field("embedding").type == pa.list_(pa.float32(), SIZE)
        assert sorted(table["path"].to_pylist()) == store.paths
        assert json.loads((store.directory / "run.json").read_text()) == store.run

    def test_empty_store(self, tmp_path: Path):
        fill(tmp_path / "out", range(0))
        store = open_store(str(tmp_path / "out"))
        assert (len(store), store.vectors.shape, store.paths) == (0, (0, SIZE), [])
        assert len(store.failures) == 0
        assert store.search(vector(0)) == []

    def test_export_needs_no_pickle(self, store: EmbeddingStore, tmp_path: Path):
        file = store.export(tmp_path / "all.npz")
        with np.load(file, allow_pickle=False) as loaded:
            assert loaded["paths"].tolist() == store.paths
            np.testing.assert_array_equal(loaded["vectors"], store.vectors)
        with pytest.raises(ValueError, match=r"ends in \.npz"):
            store.export(tmp_path / "all.npy")
        with pytest.raises(StoreError, match="Could not write") as caught:
            store.export(tmp_path / "missing" / "all.npz")
        assert isinstance(caught.value.__cause__, OSError)


class TestSearch:
    def test_is_the_cosine(self, store: EmbeddingStore):
        query = np.random.default_rng(7).standard_normal(SIZE)
        unit = store.vectors / np.linalg.norm(store.vectors, axis=1, keepdims=True)
        scores = unit @ (query / np.linalg.norm(query))
        found = store.search(query * 1000, k=4)
        assert [hit.path for hit in found] == [store.paths[i] for i in np.argsort(-scores)[:4]]
        np.testing.assert_allclose([hit.score for hit in found], np.sort(scores)[::-1][:4], atol=1e-6)
        assert len(store.search(query, k=100)) == 6

    @pytest.mark.parametrize("query", ["004.wav", 3, np.int64(3), -3])
    def test_a_stored_recording_is_left_out_of_its_own_hits(self, store: EmbeddingStore, query: Any):
        by_vector = store.search(store.vectors[3], k=6)
        assert by_vector[0].path == "004.wav"
        assert by_vector[0].score == pytest.approx(1.0)
        assert store.search(query, k=5) == store.search(query, k=100) == by_vector[1:]
        assert store.search(query, k=2) == by_vector[1:3]
        assert store.search(["004.wav", "000.wav"], k=2)[0] == by_vector[1:3]

    def test_zero_vectors_score_zero_and_ties_go_by_path(self, tmp_path: Path):
        with StoreWriter(tmp_path, describe()) as writer:
            for path in ("c.wav", "a.wav", "b.wav"):
                writer.add(path, 1.0, 16_000, 1, np.float32([1, 0, 0, 0]) * (path != "b.wav"))
            writer.commit()
        assert open_store(tmp_path).search([2, 0, 0, 0]) == [Hit("a.wav", 1.0), Hit("c.wav", 1.0), Hit("b.wav", 0.0)]

    @pytest.mark.parametrize(
        ("query", "k", "error", "message"),
        [
            (np.ones(3), 1, ValueError, r"shape \(4,\) or several of shape \(queries, 4\), got shape \(3,\)"),
            (np.ones((4, 1)), 1, ValueError, r"got shape \(4, 1\)"),
            (np.ones((1, 1, 4)), 1, ValueError, r"got shape \(1, 1, 4\)"),
            (np.ones((0, 4)), 1, ValueError, r"got shape \(0, 4\)"),
            ([[1, 1, 1, 1], [0, 0, 0, 0]], 1, ValueError, "not all zero"),
            (["000.wav", "nowhere.wav"], 1, KeyError, "'nowhere.wav' has no vector"),
            (np.zeros(4), 1, ValueError, "not all zero"),
            (np.full(4, np.nan), 1, ValueError, "finite"),
            (np.ones(4), 0, ValueError, "k must be a whole number of at least 1, got 0"),
            (np.ones(4), "3", ValueError, "k must be a whole number of at least 1, got '3'"),
            (np.ones(4), True, ValueError, "got True"),
            (np.ones(4), 2.0, ValueError, r"got 2\.0"),
            (True, 1, ValueError, "number of a row, got True"),
            (None, 1, ValueError, "number of a row, got None"),
            (object(), 1, ValueError, "real numbers.*got object"),
            (["000.wav", 1], 1, ValueError, "real numbers.*got list"),
            ("nowhere.wav", 1, KeyError, "relative to the embedded folder"),
            (6, 1, IndexError, "6 rows"),
        ],
    )
    def test_refused(self, store: EmbeddingStore, query: Any, k: int, error: type[Exception], message: str):
        with pytest.raises(error, match=message):
            store.search(query, k)


def test_frames_that_are_not_there(store: EmbeddingStore, tmp_path: Path):
    with pytest.raises(StoreError, match="frames=True"):
        store.frames("000.wav")
    fill(tmp_path / "other", range(1), frames=True)
    with pytest.raises(KeyError, match="no vector"):
        open_store(tmp_path / "other").frames("nowhere.wav")


class TestAtHomeInPython:
    def test_iteration_and_indexing_follow_vectors(self, store: EmbeddingStore):
        assert [recording.path for recording in store] == store.paths
        for number, recording in enumerate(store):
            np.testing.assert_array_equal(recording.vector, store.vectors[number])
        assert (store[1].path, store[1].duration, store[1].sample_rate, store[1].channels) == (
            "001.wav",
            0.1,
            16_000,
            1,
        )
        assert store[-1].path == store[np.int64(5)].path == store["ä ö/𝄞.wav"].path == "ä ö/𝄞.wav"
        assert [recording.path for recording in store[4:]] == store.paths[4:]
        assert store[6:] == []

    @pytest.mark.parametrize(("row", "error"), [(6, IndexError), (-7, IndexError), ("no.wav", KeyError)])
    def test_what_is_not_there(self, store: EmbeddingStore, row: Any, error: type[Exception]):
        with pytest.raises(error):
            _ = store[row]

    @pytest.mark.parametrize("row", [True, None, 1.0, (1, 2)])
    def test_what_is_no_row(self, store: EmbeddingStore, row: Any):
        with pytest.raises(ValueError, match="Expected the number or path of a row"):
            _ = store[row]

    def test_numpy(self, store: EmbeddingStore):
        np.testing.assert_array_equal(np.asarray(store), store.vectors)
        assert np.asarray(store, np.float64).dtype == np.float64
        changed = np.array(store)
        changed[0] = 0
        assert np.any(store.vectors[0] != 0)

    def test_pandas(self, store: EmbeddingStore):
        pytest.importorskip("pandas")
        frame = store.to_pandas()
        assert list(frame) == ["path", "duration", "sample_rate", "channels"]
        assert frame["path"].tolist() == store.paths
        np.testing.assert_array_equal(np.stack(store.to_pandas(vectors=True)["embedding"]), store.vectors)

    def test_notebooks(self, tmp_path: Path):
        with StoreWriter(tmp_path / "out", describe()) as writer:
            writer.add("<b>.wav", 1.0, 16_000, 1, vector(0))
            writer.commit()
        shown = open_store(tmp_path / "out")._repr_html_()
        assert "1 vectors of 4 numbers, 0 failures" in shown
        assert "<td>&lt;b&gt;.wav</td><td>1.00</td><td>16000</td><td>1</td>" in shown
