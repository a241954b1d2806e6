"""Fixtures and helpers that several test files share."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import sedembed
from sedembed.embedder import Embedder

SOUNDS = {"a.wav": 0.4, "sub/b ö.flac": 0.5, "sub/c.wav": 1.25, "d.wav": 0.3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_sounds: Callable[..., Path]) -> Path:
    return write_sounds(tmp_path_factory.mktemp("sounds"), SOUNDS)


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory, untrained_embedder: Embedder) -> Path:
    out = tmp_path_factory.mktemp("stores") / "out"
    sedembed.embed_folder(folder, out, untrained_embedder, progress=False)
    return out


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A store of four recordings; to be changed."""
    return Path(shutil.copytree(made, tmp_path / "out"))
