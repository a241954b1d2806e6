"""Other programs read the rows of a store in the order of its vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import sedembed
from sedembed.store.store import EmbeddingStore
from sedembed.store.writer import StoreWriter


def by_pyarrow(folder: Path) -> tuple[list[str], Any]:
    table = pq.read_table(folder)
    return table["path"].to_pylist(), table["embedding"].to_pylist()


def by_pandas(folder: Path) -> tuple[list[str], Any]:
    frame = pytest.importorskip("pandas", reason="pandas is not installed").read_parquet(folder)
    return frame["path"].tolist(), frame["embedding"].tolist()


def by_polars(folder: Path) -> tuple[list[str], Any]:
    frame = pytest.importorskip("polars", reason="Polars is not installed").read_parquet(folder / "*.parquet")
    return frame["path"].to_list(), frame["embedding"].to_numpy()


def by_duckdb(folder: Path) -> tuple[list[str], Any]:
    duckdb = pytest.importorskip("duckdb", reason="DuckDB is not installed")
    rows = duckdb.sql(f"select path, embedding from '{folder / '*.parquet'}'").fetchall()
    return [path for path, _ in rows], [vector for _, vector in rows]


@pytest.fixture(scope="module")
def store(small_weanet_dir: Path, write_sounds: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory):
    """Thirty recordings in a dozen files of rows, by a run of three workers that was interrupted and continued."""
    root = tmp_path_factory.mktemp("ordered")
    folder = write_sounds(root / "in", {f"{'ba'[n % 2]}/{n}.wav": 0.3 + 0.7 * (n % 3) for n in range(30)})
    commit, commits = StoreWriter.commit, 0

    def interrupted(self: StoreWriter) -> None:
        nonlocal commits
        commit(self)
        commits += 1
        if commits == 4:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StoreWriter, "due", property(lambda self: len(self._rows) >= 2))
        with patch.context() as broken:
            broken.setattr(StoreWriter, "commit", interrupted)
            with pytest.raises(KeyboardInterrupt):
                sedembed.embed_folder(folder, root / "out", small_weanet_dir, workers=3, progress=False)
        part = len(sedembed.open_store(root / "out"))
        store = sedembed.embed_folder(folder, root / "out", small_weanet_dir, workers=3, progress=False)
    assert 0 < part < len(store) == 30
    assert len(list((root / "out" / "embeddings").iterdir())) > 10  # so that names are sorted as numbers are
    return store


@pytest.mark.parametrize("read", [by_pyarrow, by_pandas, by_polars, by_duckdb])
def test_rows_are_in_the_order_of_the_vectors(store: EmbeddingStore, read: Callable[[Path], tuple[list[str], Any]]):
    paths, vectors = read(store.directory / "embeddings")
    assert paths == store.paths == sorted(store.paths)
    np.testing.assert_array_equal(np.array(list(vectors), np.float32), store.vectors)
    np.testing.assert_array_equal(np.asarray(store), store.vectors)
