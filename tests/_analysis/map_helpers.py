"""Fixtures and helpers that several test files share."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sedembed._analysis.map_points import Grouping, MapPoints
from sedembed._analysis.projection import Projection
from sedembed.store.layout import FORMAT_VERSION
from sedembed.store.store import EmbeddingStore, open_store
from sedembed.store.writer import StoreWriter

# Names that break pages which take them for markup, and pictures which take them for formulas.
HOSTILE = [
    "</script><script>document.title='broken'</script>.wav",
    "<img src=x onerror=alert(1)>.wav",
    "\"quotes\" & 'more' &amp;.wav",
    "@DATA@ @TITLE@ ${x}.wav",
    "line\nbreak\u2028\ttab.wav",
    "𝄞 日本語 ö.wav",
    "$5 $bill$ \\frac.wav",
    "_hidden.wav",
]


def make_store(out: Path, names: list[str], vectors: np.ndarray, per_shard: int = 32, **run: Any) -> EmbeddingStore:
    settings = {"embedding_size": vectors.shape[1], "frames": False, "precision": "float32", **run.pop("settings", {})}
    described = {"format_version": FORMAT_VERSION, "fingerprint": "x", "settings": settings, "folder": "/sounds", **run}
    with StoreWriter(out, described) as writer:
        for number, (name, vector) in enumerate(zip(names, vectors, strict=True)):
            writer.add(name, 0.5 + number, 16_000, 1, vector.astype(np.float32))
            if number % per_shard == per_shard - 1:
                writer.commit()
        writer.commit()
    return open_store(out)


def clusters(count: int = 90, size: int = 16, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Three clouds, named so that sorted names do not follow them."""
    rng = np.random.default_rng(seed)
    centres = 3 * rng.standard_normal((3, size))
    names = [f"{['cat', 'dog', 'rain'][i % 3]}/{i * 37 % 1009:04d}.wav" for i in range(count)]
    scale = rng.uniform(0.1, 10, size)
    return names, (centres[np.arange(count) % 3] + 0.5 * rng.standard_normal((count, size))) * scale + 5


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    return make_store(tmp_path / "out", *clusters())


def map_of(points: np.ndarray, groups: list[str | None], paths: list[str] | None = None, title: str = "t") -> MapPoints:
    paths = paths or [f"{number}.wav" for number in range(len(points))]
    names = sorted({name for name in groups if name is not None}, key=lambda name: (-groups.count(name), name))
    codes = np.array([-1 if name is None else names.index(name) for name in groups])
    grouping = Grouping("label", names, codes, [name or "" for name in groups])
    found = Projection(np.arange(len(points)), np.asarray(points, float), "by hand")
    return MapPoints(title, "subtitle", found, paths, np.arange(len(points)) + 0.25, grouping)


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.tags[-1] if self.tags else ("", {})
        key = attributes.get("id") or tag
        self.text[key] = self.text.get(key, "") + data


def parse(page: str) -> _Tags:
    parser = _Tags()
    parser.feed(page)
    return parser


def hostile_map() -> MapPoints:
    rng = np.random.default_rng(2)
    count = 3 * len(HOSTILE)
    groups: list[str | None] = [HOSTILE[i % len(HOSTILE)] for i in range(count - 2)]
    # Apart from each other: what a pointer is nearest to is then beyond doubt.
    points = np.stack([np.arange(count) % 6 * 3.0, np.arange(count) // 6 * 2.0], 1) + rng.uniform(0, 0.3, (count, 2))
    return map_of(
        points, [*groups, None, None], [f"{i:02d} {HOSTILE[i % len(HOSTILE)]}" for i in range(count)], HOSTILE[0]
    )


@pytest.fixture(scope="module")
def shown() -> MapPoints:
    return hostile_map()
