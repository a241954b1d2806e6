"""Damaged stores: each is refused by a sentence or gives what the whole one gave; never other vectors or neighbours.

``pytest -n0 -m slow tests/store/test_damage_fuzz.py`` tries thousands.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sedembed.errors import StoreError
from sedembed.store.store import EmbeddingStore, open_store
from sedembed.store.writer import StoreWriter
from tests.damage_helpers import DAMAGES

SIZE = 6
SETTINGS = {"embedding_size": SIZE, "frames": True}
RUN = {
    "format_version": 1,
    "fingerprint": hashlib.sha256(json.dumps(SETTINGS, sort_keys=True).encode()).hexdigest(),
    "settings": SETTINGS,
    "folder": "/sounds",
}
QUERIES = np.random.default_rng(1).standard_normal((3, SIZE))


@pytest.fixture(autouse=True)
def _large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sedembed.store.reader.IN_MEMORY", 0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three shards with frames, failures and a search copy."""
    out = tmp_path_factory.mktemp("stores") / "whole"
    rng = np.random.default_rng(0)
    with StoreWriter(out, RUN) as writer:
        for number in range(30):
            frames = writer.open_frames()
            frames.add(f"{number:02d}.wav", np.arange(3) / 2, rng.standard_normal((3, SIZE)).astype(np.float32))
            vector = rng.standard_normal(SIZE).astype(np.float32)
            writer.add(f"{number:02d}.wav", 1.5, 16_000, 1, vector, frames, (number, number))
            if number % 12 == 11:
                writer.commit()
        writer.fail("bad.mp3", "AudioDecodeError", "holds no sound")
        writer.commit()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sedembed.store.reader.IN_MEMORY", 0)
        open_store(out).search(QUERIES, 4)
    assert (out / "search" / "state.json").exists()
    return out


def read_all(out: Path) -> tuple[Any, ...]:
    store: EmbeddingStore = open_store(out)
    searched = store.search(QUERIES, 4), store.search("05.wav", 4), store[7].vector.tolist()
    frames = [(found.times.tolist(), found.embeddings.tolist()) for found in map(store.frames, store.paths)]
    return searched, store.index.to_pylist(), store.vectors.tolist(), frames, store.failures.to_pylist()


def read_or_refuse(out: Path) -> tuple[Any, ...] | StoreError:
    try:
        return read_all(out)
    except StoreError as error:
        return error


def try_damages(whole: Path, directory: Path, seeds: range) -> Counter[str]:
    expected, counts = read_all(whole), Counter[str]()
    names = sorted(
        file.relative_to(whole).as_posix() for file in whole.rglob("*") if file.is_file() and file.name != ".lock"
    )
    for seed in seeds:
        rng = np.random.default_rng(seed)
        out = directory / "store"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(whole, out)
        name = names[rng.integers(len(names))]
        damage = DAMAGES[rng.integers(len(DAMAGES))]
        before = (out / name).read_bytes()
        after = damage(bytearray(before), rng)
        if after is None:
            (out / name).unlink()
        elif bytes(after) == before:
            continue
        else:
            (out / name).write_bytes(after)
        what = f"seed {seed}: {damage.__name__} {name}"
        found = read_or_refuse(out)
        if isinstance(found, StoreError):
            assert not name.startswith("search/"), f"{what}: the search copy is not needed: {found}"
            assert len(str(found)) < 1000, what
            counts["refused"] += 1
        else:
            assert found == expected, f"{what}: other results"
            assert name == "run.json" or name.startswith("search/"), f"{what}: in silence"
            counts["mended" if name.startswith("search/") else "harmless"] += 1
        with contextlib.suppress(StoreError), StoreWriter(out, RUN):  # no error of another kind
            counts["continued"] += 1
    return counts


@pytest.mark.filterwarnings("error")
def test_some_hundred_damages(whole: Path, tmp_path: Path):
    counts = try_damages(whole, tmp_path, range(300))
    assert counts["refused"] > 100
    assert counts["mended"] > 50


@pytest.mark.slow
@pytest.mark.parametrize("block", range(4))
def test_thousands_of_damages(whole: Path, tmp_path: Path, block: int):
    counts = try_damages(whole, tmp_path, range(1000 + 1000 * block, 2000 + 1000 * block))
    assert counts["refused"] > 300
    assert counts["mended"] > 200
