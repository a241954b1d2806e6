"""Search gives what float64 gives, from memory, from the search copy and from the shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sedembed.store.store import open_store
from tests.store.store_helpers import assert_same, fill_rows, reference

WAYS = ["memory", "file", "shards"]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where vectors are searched: in memory, in the plain file, or in the shards because that cannot be written."""
    if request.param != "memory":
        monkeypatch.setattr("sedembed.store.reader.IN_MEMORY", 0)
        monkeypatch.setattr("sedembed.store.search_cache._BLOCK_BYTES", 2**14)
    monkeypatch.setattr("sedembed.store.reader._SEARCH_ROWS", 30)
    return str(request.param)


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
        assert [hit.path for hit in store.search(queries[0], 1000)] == [
            path for path, _ in reference(expected, queries[0], 1000)
        ]
        assert "search" in {entry.name for entry in store.directory.iterdir()} or way == "memory"
        assert ("vectors" in store._reader.__dict__) == (way == "memory")

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
        assert [hit.path for hit in found] == paths[:25]
        assert len({hit.score for hit in found}) == 1
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
            assert [hit.path for hit in found] == [path for path, _ in expected]
            np.testing.assert_allclose([hit.score for hit in found], [c for _, c in expected], atol=1e-12)
        assert f"{5 * 7919 % 10007:05d}.wav" in {hit.path for hit in found[:3]}
        for count in (1, 2, 3):
            assert store.search(query, count) == found[:count]
