"""Small stores, and the definition of a search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

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
    assert [hit.path for hit in found] == [path for path, _ in expected]
    np.testing.assert_allclose([hit.score for hit in found], [c for _, c in expected], rtol=1e-12, atol=1e-14)
