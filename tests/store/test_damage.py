"""Damaged files of a store are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sedembed.errors import StoreError
from sedembed.store.store import EmbeddingStore, open_store
from tests.store.store_helpers import fill, vector


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
