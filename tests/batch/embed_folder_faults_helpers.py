"""Fixtures and helpers that several test files share."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sedembed
from sedembed.audio.reader import AudioReader
from sedembed.embedder import Embedder
from sedembed.store.store import EmbeddingStore

Write = Callable[..., Path]


Start = Callable[..., BaseProcess]


needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="no such signals there")


def failures(store: EmbeddingStore) -> dict[str, tuple[str, str]]:
    return {row["path"]: (row["error"], row["message"]) for row in store.failures.to_pylist()}


def check(store: EmbeddingStore, root: Path, model: Embedder) -> None:
    """Every vector is that of its file; nothing is listed twice."""
    assert not {*store.paths} & {*failures(store)}
    for path, vector in zip(store.paths, store.vectors, strict=True):
        expected = model.embed(root / path)
        assert np.linalg.norm(vector - expected) <= 1e-5 * np.linalg.norm(expected)


def break_reading(monkeypatch: pytest.MonkeyPatch, faults: dict[str, Callable[[], object]]) -> None:
    """Let the blocks of the named files be what a function does."""
    init, blocks = AudioReader.__init__, AudioReader.blocks

    def remember(self: Any, path: Path, **options: Any) -> None:
        self.test_name = path.name
        init(self, path, **options)

    def broken(self: Any) -> Iterator[np.ndarray]:
        if self.test_name in faults:
            yield np.zeros(20_000, np.float32)
            faults[self.test_name]()
        yield from blocks(self)

    monkeypatch.setattr(AudioReader, "__init__", remember)
    monkeypatch.setattr(AudioReader, "blocks", broken)


@contextlib.contextmanager
def run_python(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    # Where the tests run in the background, a shell may have told all below it to ignore Ctrl-C.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", heeding + program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(sedembed.__file__).parents[1])},
    )
    guard = threading.Timer(300, process.kill)
    guard.start()
    try:
        with process:
            yield process
    finally:
        guard.cancel()


PROGRAM = """
import time
from sedembed.store import writer as shards
from sedembed import embed_folder
from sedembed.audio.reader import AudioReader

shards.SHARD_ROWS = 3
blocks = AudioReader.blocks
AudioReader.blocks = lambda self: time.sleep(0.02) or blocks(self)
embed_folder(root, out, model, frames=True, progress=False, workers=2, batch_size=2)
"""
