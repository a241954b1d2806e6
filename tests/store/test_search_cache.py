"""The search copy of a large store: made, continued, mended."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest

from sedembed.errors import StoreError
from sedembed.store.reader import StoreReader
from sedembed.store.store import EmbeddingStore, open_store
from sedembed.store.writer import StoreWriter
from tests.store.store_helpers import assert_same, describe, fill_rows, reference


class TestVectorFile:
    @pytest.fixture(autouse=True)
    def _large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sedembed.store.reader.IN_MEMORY", 0)

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
            patch.setattr("sedembed.store.reader.read_shard", lambda *_: pytest.fail("a shard was read"))
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
            read, calls = StoreReader._read_vectors, []

            def stop(store: EmbeddingStore, file: Path) -> np.ndarray:
                calls.append(file)
                if len(calls) == 2:
                    raise KeyboardInterrupt
                return read(store, file)

            patch.setattr(StoreReader, "_read_vectors", stop)
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

    @pytest.mark.parametrize("name", ["state.json", "vectors.f32", "norms.f64", "sums.u64", "index-160.arrow"])
    def test_a_flipped_bit_is_mended(self, tmp_path: Path, rows: np.ndarray, name: str):
        fill_rows(tmp_path, rows).search(rows[0])
        file = tmp_path / "search" / name
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 64
        file.write_bytes(data)
        self.check(tmp_path, rows)
        self.check(tmp_path, rows)
