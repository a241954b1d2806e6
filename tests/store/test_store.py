"""The store by itself: what is on disk, what is refused, and every point at which writing can be cut off."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from sedembed.errors import StoreError
from sedembed.store import writer as shards
from sedembed.store.layout import FORMAT_VERSION
from sedembed.store.store import EmbeddingStore, open_store
from sedembed.store.writer import StoreWriter

SIZE = 4


def describe(folder: str = "/sounds", **settings: object) -> dict[str, Any]:
    settings = {"embedding_size": SIZE, "frames": False, "precision": "float32", "model_version": "1", **settings}
    return {
        "format_version": FORMAT_VERSION,
        "fingerprint": json.dumps(settings, sort_keys=True),
        "settings": settings,
        "folder": folder,
    }


def vector(number: int) -> np.ndarray:
    return np.random.default_rng(number).standard_normal(SIZE).astype(np.float32)


def fill(out: Path, numbers: range, per_shard: int = 3, **settings: object) -> None:
    with StoreWriter(out, describe(**settings)) as writer:
        for number in numbers:
            if f"{number:03d}.wav" not in writer.done:
                writer.add(f"{number:03d}.wav", number / 10, 16_000, 1, vector(number))
                if (number + 1) % per_shard == 0:
                    writer.commit()
        writer.commit()


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    with StoreWriter(tmp_path / "out", describe()) as writer:
        for number in (4, 2, 5, 0):
            writer.add(f"{number:03d}.wav", number / 10, 44_100, 2, vector(number))
        writer.commit()
        writer.add("ä ö/𝄞.wav", 0.5, 16_000, 1, vector(9))
        writer.fail("bad.mp3", "AudioDecodeError", "no sound")
        writer.add("001.wav", 0.1, 16_000, 1, vector(1))
        writer.commit()
    return open_store(tmp_path / "out")


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
        assert [path for path, _ in found] == [store.paths[i] for i in np.argsort(-scores)[:4]]
        np.testing.assert_allclose([score for _, score in found], np.sort(scores)[::-1][:4], atol=1e-6)
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
        assert open_store(tmp_path).search([2, 0, 0, 0]) == [("a.wav", 1.0), ("c.wav", 1.0), ("b.wav", 0.0)]

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


WAYS = ["memory", "file", "shards"]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where vectors are searched: in memory, in the plain file, or in the shards because that cannot be written."""
    if request.param != "memory":
        monkeypatch.setattr("sedembed.store.store.IN_MEMORY", 0)
        monkeypatch.setattr("sedembed.store.search_cache._BLOCK_BYTES", 2**14)
    monkeypatch.setattr("sedembed.store.store._SEARCH_ROWS", 30)
    return str(request.param)


def fill_rows(
    out: Path, vectors: np.ndarray, way: str = "memory", per_shard: int = 50, start: int = 0
) -> EmbeddingStore:
    with StoreWriter(out, describe(embedding_size=vectors.shape[1])) as writer:
        for number, row in enumerate(vectors, start):
            writer.add(f"{number * 7919 % 10007:05d}.wav", 1.0, 16_000, 1, row)
            if number % per_shard == per_shard - 1:
                writer.commit()
        writer.commit()
    if way == "shards":
        (out / "search").touch()
    return open_store(out)


def reference(store: EmbeddingStore, query: np.ndarray, k: int) -> list[tuple[str, float]]:
    """The definition, one row at a time."""
    scored = []
    for path, row in zip(store.paths, store.vectors.astype(np.float64), strict=True):
        length = float(np.sqrt((row * row).sum()))
        scored.append((path, float((row * query).sum() / np.sqrt((query * query).sum()) / (length or 1.0))))
    return sorted(scored, key=lambda item: (-item[1], item[0]))[:k]


def assert_same(found: list[tuple[str, float]], expected: list[tuple[str, float]]) -> None:
    assert [path for path, _ in found] == [path for path, _ in expected]
    np.testing.assert_allclose([c for _, c in found], [c for _, c in expected], rtol=1e-12, atol=1e-14)


class TestSearchEverywhere:
    """The same answers from memory, from the plain file and from the shards."""

    @pytest.fixture(autouse=True)
    def _quiet(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("ERROR")

    @pytest.mark.parametrize("size", [3, 64, 1000])
    def test_is_float64(self, tmp_path: Path, way: str, size: int):
        rng = np.random.default_rng(size)
        store = fill_rows(tmp_path / "out", rng.standard_normal((130, size)).astype(np.float32), way)
        queries = rng.standard_normal((67, size))  # more than one pass takes
        several = store.search(queries, 9)
        assert len(several) == 67
        expected = open_store(tmp_path / "out")
        for number in (0, 5, 63, 64, 66):
            assert_same(several[number], reference(expected, queries[number], 9))
            assert several[number] == store.search(queries[number], 9)
        assert [path for path, _ in store.search(queries[0], 1000)] == [
            path for path, _ in reference(expected, queries[0], 1000)
        ]
        assert "search" in {entry.name for entry in store.directory.iterdir()} or way == "memory"
        assert ("vectors" in store.__dict__) == (way == "memory")

    def test_differences_that_float32_does_not_see(self, tmp_path: Path, way: str):
        rng = np.random.default_rng(0)
        query = rng.standard_normal(500)
        # A million times nearer to each other than single rounding errors; order is by number, shuffled by path.
        rows = (query + 1e-4 * rng.standard_normal((300, 500))).astype(np.float32)
        store = fill_rows(tmp_path / "out", rows, way)
        expected = reference(open_store(tmp_path / "out"), query, 40)
        single = rows @ query.astype(np.float32) / np.linalg.norm(rows, axis=1)
        assert len(np.unique(single)) < 290, "the case is too easy"
        assert_same(store.search(query, 40), expected)

    @pytest.mark.parametrize("size", [5, 777])
    def test_equal_vectors_score_the_same_wherever_they_are(self, tmp_path: Path, way: str, size: int):
        rng = np.random.default_rng(size)
        rows = rng.standard_normal((120, size)).astype(np.float32)
        same = rng.permutation(120)[:40]
        rows[same] = rows[same[0]]
        store = fill_rows(tmp_path / "out", rows, way, per_shard=17)
        query = rows[same[0]] + 0.1 * rng.standard_normal(size)
        found = store.search(query, 25)
        paths = sorted(f"{number * 7919 % 10007:05d}.wav" for number in same)
        assert [path for path, _ in found] == paths[:25]
        assert len({cosine for _, cosine in found}) == 1
        one, other = paths[30], paths[3]
        assert [hit.path for hit in store.search(one, 25)] == paths[:25]
        assert [hit.path for hit in store.search(other, 25)] == [path for path in paths if path != other][:25]
        assert store.search([one, other], 25) == [store.search(one, 25), store.search(other, 25)]

    def test_lengths_at_the_edge_of_float32(self, tmp_path: Path, way: str):
        rng = np.random.default_rng(1)
        rows = rng.standard_normal((60, 8))
        rows *= np.array([1e-38, 1e-30, 1e-19, 1.0, 1e19, 1e30, 3e37])[np.arange(60) % 7, None]
        rows[3] = 0
        query = rng.standard_normal(8)
        unit = query / np.linalg.norm(query)
        across = rows[0] / np.linalg.norm(rows[0])
        across = (across - across @ unit * unit) / np.linalg.norm(across - across @ unit * unit)
        # Longer than the largest number of float32, which its product with the query is not.
        rows[5] = 3.6e38 * (0.93 * unit + np.sqrt(1 - 0.93**2) * across)
        rows[6] = 1e-44 * unit  # a few times the smallest number of float32
        store = fill_rows(tmp_path / "out", rows.astype(np.float32), way)
        expected = reference(open_store(tmp_path / "out"), query, 60)
        for scale in (1.0, 1e-300, 1e300):
            found = store.search(query * scale, 60)
            assert [path for path, _ in found] == [path for path, _ in expected]
            np.testing.assert_allclose([c for _, c in found], [c for _, c in expected], atol=1e-12)
        assert f"{5 * 7919 % 10007:05d}.wav" in {path for path, _ in found[:3]}
        for count in (1, 2, 3):
            assert store.search(query, count) == found[:count]


class TestVectorFile:
    @pytest.fixture(autouse=True)
    def _large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sedembed.store.store.IN_MEMORY", 0)

    @pytest.fixture
    def rows(self) -> np.ndarray:
        return np.random.default_rng(5).standard_normal((160, 6)).astype(np.float32)

    def check(self, out: Path, rows: np.ndarray) -> EmbeddingStore:
        store = open_store(out)
        assert len(store) == len(rows)
        query = rows[-1] + 0.5
        assert_same(store.search(query, 12), reference(open_store(out), query.astype(np.float64), 12))
        np.testing.assert_array_equal(store[7].vector, open_store(out).vectors[7])
        assert store.search(store[7].vector, 1)[0].path == store[7].path
        return store

    def test_grows_with_the_store(self, tmp_path: Path, rows: np.ndarray, caplog: pytest.LogCaptureFixture):
        caplog.set_level("INFO")
        old = fill_rows(tmp_path, rows[:100])
        query = rows[0].astype(np.float64)
        before = old.search(query, 5)
        fill_rows(tmp_path, rows[100:], start=100)
        assert old.search(query, 5) == before  # what was committed when it was opened
        self.check(tmp_path, rows)
        assert [record.getMessage().split(": ")[1] for record in caplog.records] == [
            "copying 100 vectors for search",
            "copying 60 vectors for search",
        ]
        assert old.search(query, 5) == before
        assert (tmp_path / "search" / "vectors.f32").stat().st_size == rows.nbytes
        assert len(list((tmp_path / "search").glob("index-*.arrow"))) == 1

    def test_gives_the_index_back(self, tmp_path: Path, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch):
        first = fill_rows(tmp_path, rows)
        first.search(rows[0])
        with monkeypatch.context() as patch:
            patch.setattr("sedembed.store.store.read_shard", lambda *_: pytest.fail("a shard was read"))
            store = open_store(tmp_path)
            assert store.index.equals(first.index)
            assert store.search(rows[3], 4) == first.search(rows[3], 4)
        np.testing.assert_array_equal(store.vectors, first.vectors)

    def test_a_mended_store(self, tmp_path: Path, rows: np.ndarray):
        fill_rows(tmp_path, rows).search(rows[0])
        (tmp_path / "embeddings" / "vectors-00001.parquet").unlink()
        with StoreWriter(tmp_path, describe(embedding_size=6)) as writer:
            for number in range(50, 100):
                writer.add(f"{number * 7919 % 10007:05d}.wav", 1.0, 16_000, 1, rows[number])
            writer.commit()
        self.check(tmp_path, rows)

    @pytest.mark.parametrize("name", ["state.json", "vectors.f32", "norms.f64", "sums.u64", "index-160.arrow"])
    @pytest.mark.parametrize("keep", [None, 0, 11])
    def test_damage_is_mended(self, tmp_path: Path, rows: np.ndarray, name: str, keep: int | None):
        fill_rows(tmp_path, rows).search(rows[0])
        file = tmp_path / "search" / name
        if keep is None:
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[:keep])
        self.check(tmp_path, rows)
        self.check(tmp_path, rows)

    @pytest.mark.parametrize("known", [0, 100])
    def test_cut_off_while_copying(self, tmp_path: Path, rows: np.ndarray, known: int, monkeypatch: pytest.MonkeyPatch):
        if known:
            fill_rows(tmp_path, rows[:known]).search(rows[0])
        fill_rows(tmp_path, rows[known:], start=known, per_shard=20)
        with monkeypatch.context() as patch:
            read, calls = EmbeddingStore._read_vectors, []

            def stop(store: EmbeddingStore, file: Path) -> np.ndarray:
                calls.append(file)
                if len(calls) == 2:
                    raise KeyboardInterrupt
                return read(store, file)

            patch.setattr(EmbeddingStore, "_read_vectors", stop)
            with pytest.raises(KeyboardInterrupt):
                open_store(tmp_path).search(rows[0])
        self.check(tmp_path, rows)

    def test_where_it_cannot_be_written(self, tmp_path: Path, rows: np.ndarray, caplog: pytest.LogCaptureFixture):
        fill_rows(tmp_path, rows)
        (tmp_path / "search").touch()
        self.check(tmp_path, rows)
        assert "no search cache could be written" in caplog.text

    @pytest.mark.skipif(sys.platform == "win32", reason="no lock there")
    def test_while_another_search_makes_it(self, tmp_path: Path, rows: np.ndarray, caplog: pytest.LogCaptureFixture):
        import fcntl

        fill_rows(tmp_path, rows)
        (tmp_path / "search").mkdir()
        with (tmp_path / "search" / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.check(tmp_path, rows)
            assert not (tmp_path / "search" / "state.json").exists()
        assert not caplog.records
        self.check(tmp_path, rows)
        assert (tmp_path / "search" / "state.json").exists()

    def test_a_damaged_shard_is_named(self, tmp_path: Path, rows: np.ndarray):
        store = fill_rows(tmp_path, rows)
        assert len(store) == 160
        file = tmp_path / "embeddings" / "vectors-00002.parquet"
        file.write_bytes(file.read_bytes()[:-30])
        with pytest.raises(StoreError, match=r"vectors-00002\.parquet is damaged"):
            store.search(rows[0])

    def test_the_writer_goes_on_beside_it(self, tmp_path: Path, rows: np.ndarray):
        fill_rows(tmp_path, rows[:50]).search(rows[0])
        fill_rows(tmp_path, rows[50:], start=50)
        assert sorted(ds.dataset(tmp_path / "embeddings").to_table()["path"].to_pylist()) == open_store(tmp_path).paths


class TestDamage:
    def test_no_store(self, tmp_path: Path):
        with pytest.raises(StoreError, match=r"found no run\.json.*embed_folder"):
            open_store(tmp_path)
        with pytest.raises(StoreError, match=r"found no run\.json"):
            open_store(tmp_path / "nowhere")

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format_version": 1}'])
    def test_damaged_run(self, store: EmbeddingStore, text: str):
        (store.directory / "run.json").write_text(text)
        with pytest.raises(StoreError, match=r"run\.json is damaged"):
            open_store(store.directory)

    def test_newer_format(self, store: EmbeddingStore):
        (store.directory / "run.json").write_text(json.dumps({**store.run, "format_version": 99}))
        with pytest.raises(StoreError, match="format 99"):
            open_store(store.directory)

    @pytest.mark.parametrize("keep", [0, 100, -1])
    def test_truncated_shard_is_named(self, store: EmbeddingStore, keep: int):
        file = store.directory / "embeddings" / "vectors-00001.parquet"
        file.write_bytes(file.read_bytes()[:keep])
        with pytest.raises(StoreError, match=r"vectors-00001\.parquet is damaged"):
            _ = open_store(store.directory).paths
        with pytest.raises(StoreError, match=r"vectors-00001\.parquet is damaged"):
            fill(store.directory, range(3))

    def test_flipped_bits_are_noticed(self, store: EmbeddingStore):
        file = store.directory / "embeddings" / "vectors-00000.parquet"
        data = bytearray(file.read_bytes())
        start = data.index(vector(4).tobytes())
        data[start + 3] ^= 64
        file.write_bytes(data)
        with pytest.raises(StoreError, match=r"vectors-00000\.parquet is damaged"):
            _ = open_store(store.directory).vectors

    def test_foreign_shard(self, store: EmbeddingStore):
        pq.write_table(pa.table({"x": [1]}), store.directory / "embeddings" / "vectors-00001.parquet")
        with pytest.raises(StoreError, match=r"vectors-00001\.parquet .*columns"):
            _ = open_store(store.directory).paths

    def test_damaged_failures(self, store: EmbeddingStore):
        (store.directory / "failures.parquet").write_bytes(b"PAR1")
        with pytest.raises(StoreError, match=r"failures\.parquet is damaged"):
            _ = open_store(store.directory).failures

    def test_deleting_the_damaged_shard_is_a_cure(self, store: EmbeddingStore):
        (store.directory / "embeddings" / "vectors-00000.parquet").unlink()
        fill(store.directory, range(6))
        store = open_store(store.directory)
        assert store.paths[:6] == [f"{n:03d}.wav" for n in range(6)]
        np.testing.assert_array_equal(store.vectors[:6], [vector(n) for n in range(6)])

    def test_a_path_twice(self, store: EmbeddingStore):
        file = store.directory / "embeddings" / "vectors-00001.parquet"
        file.with_name("vectors-00002.parquet").write_bytes(file.read_bytes())
        with pytest.raises(StoreError, match="more than one vector"):
            _ = open_store(store.directory).paths


class TestRefused:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"precision": "bfloat16"}, r"precision is 'float32' there and 'bfloat16' now.*output directory"),
            ({"model_version": "2", "model_sha256": "0f"}, r"model_sha256 is None there and '0f' now; model_version"),
            ({"frames": True}, "frames is False there and True now"),
            ({"folder": "/music"}, r"'/sounds', this run is about '/music'.*correct \"folder\""),
        ],
    )
    def test_other_settings(self, store: EmbeddingStore, settings: dict[str, Any], message: str):
        with pytest.raises(StoreError, match=message):
            fill(store.directory, range(9), **settings)
        assert len(open_store(store.directory)) == 6
        fill(store.directory, range(9))  # the lock was given back

    def test_a_directory_of_something_else(self, tmp_path: Path):
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(StoreError, match=r"'thesis\.tex' and no run\.json"):
            fill(tmp_path, range(1))
        with pytest.raises(StoreError, match=r"Could not write .*thesis\.tex"):
            fill(tmp_path / "thesis.tex", range(1))
        assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]

    @pytest.mark.parametrize("place", ["", "embeddings"])
    def test_read_only(self, store: EmbeddingStore, place: str, monkeypatch: pytest.MonkeyPatch):
        # As the system says it: root, who may run this, is above permissions.
        access = os.access
        closed = store.directory / place
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed and access(path, mode))
        with pytest.raises(StoreError, match="change its permissions"):
            fill(store.directory, range(9))

    @pytest.mark.skipif(sys.platform == "win32", reason="no lock there")
    def test_two_writers(self, tmp_path: Path, start_process: Callable[..., BaseProcess]):
        program = (
            "import time; from pathlib import Path; from sedembed.store.writer import StoreWriter\n"
            "with StoreWriter(Path(out), run): (Path(out) / '.ready.partial').touch(); time.sleep(60)"
        )
        process = start_process(program, out=str(tmp_path), run=describe())
        while not (tmp_path / ".ready.partial").exists():
            assert process.is_alive()
        with pytest.raises(StoreError, match="another run is writing"):
            fill(tmp_path, range(1))
        process.kill()
        process.join()
        fill(tmp_path, range(1))
        with StoreWriter(tmp_path, describe()), pytest.raises(StoreError, match="another run is writing"):
            fill(tmp_path, range(1))


class TestFailures:
    def test_never_listed_beside_a_vector(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        with StoreWriter(tmp_path, describe()) as writer:
            for path in ("a.wav", "b.wav", "gone.wav"):
                writer.fail(path, "OSError", "away")
            writer.commit()

        def check(file: Path, target: Path) -> Path:
            moved = Path.rename(file, target)
            store = open_store(tmp_path)
            assert not {*store.paths} & {*store.failures["path"].to_pylist()}
            return moved

        with StoreWriter(tmp_path, describe()) as writer:
            monkeypatch.setattr(Path, "replace", check)
            writer.keep_failures({"a.wav", "b.wav"})
            writer.add("a.wav", 1.0, 16_000, 1, vector(0))
            writer.commit()
        store = open_store(tmp_path)
        assert (store.paths, store.failures["path"].to_pylist()) == (["a.wav"], ["b.wav"])

    def test_messages_that_are_no_text(self, tmp_path: Path):
        with StoreWriter(tmp_path, describe()) as writer:
            writer.fail("\udcff.wav", "OSError", "cannot open \udcff.wav")
            writer.commit()
        assert open_store(tmp_path).failures.to_pylist() == [
            {"path": "\\udcff.wav", "error": "OSError", "message": "cannot open \\udcff.wav"}
        ]


FRAMES_PROGRAM = """
import os, signal
import numpy as np
from pathlib import Path
from sedembed.store import writer as shards
from sedembed.store.writer import StoreWriter

shards._FRAME_ROWS = 6  # four windows of two frames are too many to hold
calls = 0
replace = Path.replace
def counted(file, target):
    global calls
    calls += 1
    if calls == stop and not after:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(file, target)
    if calls == stop:
        os.kill(os.getpid(), signal.SIGKILL)
Path.replace = counted
with StoreWriter(Path(out), run) as writer:
    for number in range(5):
        if (path := f"{number}.wav") in writer.done:
            continue
        if number == 3 and path not in writer.failures:
            writer.fail(path, "OSError", "once")
            continue
        frames = writer.open_frames()
        for window in range(1 + number):
            rows = np.arange(8, dtype=np.float32).reshape(2, 4) + 10 * number + window
            frames.add(path, 2.0 * window + np.arange(2), rows)
        writer.add(path, 1.0, 16000, 1, np.full(4, number, np.float32), frames)
        if number in (1, 4):
            writer.commit()
    writer.commit()
"""


class TestCutOff:
    """A run killed before or after each of its renames leaves a store that the next run completes."""

    @pytest.mark.parametrize("after", [False, True])
    @pytest.mark.parametrize("stop", range(1, 11))
    def test_every_rename(self, tmp_path: Path, stop: int, after: bool, start_process: Callable[..., BaseProcess]):
        variables = {"out": str(tmp_path), "run": describe(frames=True)}
        process = start_process(FRAMES_PROGRAM, stop=stop, after=after, **variables)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        if (tmp_path / "run.json").exists():
            store = open_store(tmp_path)
            assert not {*store.paths} & {*store.failures["path"].to_pylist()}
            for path in store.paths:
                self.check(store, path)
        for _ in range(2):  # the second one for the file that fails once
            process = start_process(FRAMES_PROGRAM, stop=0, after=False, **variables)
            process.join(60)
            assert process.exitcode == 0
        store = open_store(tmp_path)
        assert store.paths == [f"{n}.wav" for n in range(5)]
        assert len(store.failures) == 0
        for path in store.paths:
            self.check(store, path)
        table = ds.dataset(tmp_path / "frames").to_table()
        assert len(table) == sum(2 * (1 + n) for n in range(5))  # nothing twice for those who read it directly
        assert not list(tmp_path.rglob("*.partial"))

    @staticmethod
    def check(store: EmbeddingStore, path: str) -> None:
        number = int(path[0])
        np.testing.assert_array_equal(store.vectors[store.paths.index(path)], np.full(SIZE, number))
        frames = store.frames(path)
        np.testing.assert_array_equal(frames.times, np.arange(2 * (1 + number)))
        windows = np.arange(1 + number)[:, None, None]
        expected = np.arange(8).reshape(1, 2, 4) + 10 * number + windows
        np.testing.assert_array_equal(frames.embeddings, expected.reshape(-1, SIZE))


def test_frames_that_are_not_there(store: EmbeddingStore, tmp_path: Path):
    with pytest.raises(StoreError, match="frames=True"):
        store.frames("000.wav")
    fill(tmp_path / "other", range(1), frames=True)
    with pytest.raises(KeyError, match="no vector"):
        open_store(tmp_path / "other").frames("nowhere.wav")


def test_shards_are_due_by_number_and_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr(shards.time, "monotonic", lambda: now)
    monkeypatch.setattr(shards, "SHARD_ROWS", 2)
    with StoreWriter(tmp_path, describe()) as writer:
        writer.add("a.wav", 1.0, 16_000, 1, vector(0))
        assert not writer.due
        now += 10
        assert writer.due
        writer.commit()
        assert not writer.due
        now += 3000
        writer.commit()
        now += 20  # a hundredth of 3000 s is more
        assert not writer.due
        for path in ("b.wav", "c.wav"):
            writer.add(path, 1.0, 16_000, 1, vector(0))
        assert writer.due
