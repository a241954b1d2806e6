"""A small store."""

from __future__ import annotations

from pathlib import Path

import pytest

from sedembed.store.store import EmbeddingStore, open_store
from sedembed.store.writer import StoreWriter
from tests.store.store_helpers import describe, vector


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
