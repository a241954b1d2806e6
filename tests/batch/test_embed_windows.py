"""A row for each window: the same vectors as alone, through interruptions, failures, lost files and merging."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sedembed.batch.embed_folder import embed_folder
from sedembed.batch.vector_job import WindowJob
from sedembed.embedder import Embedder
from sedembed.errors import InvalidArgumentError, StoreError
from sedembed.loading import load_model
from sedembed.store import writer as shards
from sedembed.store.merge import merge_stores
from sedembed.store.rows import Hit
from sedembed.store.store import EmbeddingStore, open_store
from tests.batch.embed_folder_faults_helpers import break_reading, failures, needs_signals

Write = Callable[..., Path]
SOUNDS = {"a.wav": 10.3, "b/long.wav": 21.0, "c.wav": 0.7, "d.wav": 3.0}


@pytest.fixture(scope="module")
def model(small_weanet_dir: Path) -> Embedder:
    return load_model(small_weanet_dir, device="cpu")


@pytest.fixture
def sounds(tmp_path: Path, write_sounds: Write) -> Path:
    return write_sounds(tmp_path / "in", SOUNDS)


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 4)
    monkeypatch.setattr(shards, "SHARD_SECONDS", 1e9)


def starts(seconds: float, window: float, hop: float) -> list[float]:
    """The definition: multiples of the hop, then the window that ends with the sound."""
    if seconds <= window:
        return [0.0]
    inner = [start for k in range(1000) if (start := k * hop) + window < seconds - 1e-9]
    return [*inner, seconds - window]


def assert_same(one: EmbeddingStore, other: EmbeddingStore) -> None:
    assert one.index.equals(other.index)
    assert_close(one.vectors, other.vectors)


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert (np.linalg.norm(found - expected, axis=1) <= 1e-5 * np.linalg.norm(expected, axis=1)).all()


@pytest.mark.parametrize(("window", "hop"), [(3.0, 1.0), (2.0, None), (1.5, 0.7)])
def test_each_row_is_the_window_alone(sounds: Path, tmp_path: Path, model: Embedder, window: float, hop: float | None):
    store = embed_folder(sounds, tmp_path / "out", model, window=window, hop=hop, tags=True)
    expected = [(path, start) for path in SOUNDS for start in starts(SOUNDS[path], window, hop or window)]
    assert store.paths == [path for path, _ in expected]
    index = store.index.to_pydict()
    np.testing.assert_allclose(index["start"], [start for _, start in expected], atol=1e-9)
    assert store.tags is not None
    assert store.tags.dtype == np.float16
    for row, (path, start) in enumerate(expected):
        samples, rate = soundfile.read(sounds / path, dtype="float32")
        alone = samples[round(start * rate) : round((start + window) * rate)]
        assert index["end"][row] == pytest.approx(start + len(alone) / rate)
        assert index["duration"][row] == pytest.approx(SOUNDS[path])
        assert_close(store.vectors[row : row + 1], model.embed(alone)[None])
        np.testing.assert_allclose(store.tags[row], model.tag(alone), atol=1e-3)


@pytest.mark.parametrize("window", [None, 20.0])
def test_tags_of_long_sounds_are_those_of_tag(
    write_sounds: Write, tmp_path: Path, model: Embedder, window: float | None
):
    folder = write_sounds(tmp_path / "sounds", {"a.wav": 4.0, "b.wav": 33.0, "c.wav": 61.2})
    store = embed_folder(folder, tmp_path / "out", model, window=window, tags=True, workers=2)
    plain = embed_folder(folder, tmp_path / "plain", model, window=window)
    assert_same(store, plain)
    assert len(store) == (3 if window is None else 1 + 2 + 4)
    for row, recording in enumerate(store):
        samples, rate = soundfile.read(folder / recording.path, dtype="float32")
        start = recording.start or 0.0
        alone = samples[round(start * rate) : None if window is None else round((start + window) * rate)]
        np.testing.assert_allclose(store.tags[row], model.tag(alone), atol=1e-3)


def test_a_clip_gives_what_the_folder_gives(sounds: Path, tmp_path: Path, model: Embedder):
    store = embed_folder(sounds, tmp_path / "out", model, window=3, hop=1)
    found = model.embed_windows(sounds / "b/long.wav", window=3, hop=1)
    rows = store.rows_of("b/long.wav")
    assert_close(found.embeddings, store.vectors[rows])
    assert found.start.tolist() == store.index["start"].to_pylist()[rows]
    assert found.end.tolist() == store.index["end"].to_pylist()[rows]
    assert (found.embeddings.dtype, found.start.dtype) == (np.float32, np.float64)


def test_recordings_and_hits_have_a_place(sounds: Path, tmp_path: Path, model: Embedder):
    store = embed_folder(sounds, tmp_path / "out", model, window=3, hop=1)
    first = store[0]
    assert (first.path, first.start, first.end, first.duration) == ("a.wav", 0.0, 3.0, 10.3)
    hits = store.search(3, k=2)
    assert Hit(*hits[0]) == hits[0]
    assert all(hit.path in SOUNDS and hit.start is not None and hit.end == hit.start + 3 for hit in hits)
    assert (first.path, first.start) not in {(hit.path, hit.start) for hit in store.search(0, k=len(store))}
    with pytest.raises(InvalidArgumentError, match="has 9 windows"):
        store.search("a.wav")
    exported = np.load(store.export(tmp_path / "all.npz"))
    assert exported["start"].tolist() == store.index["start"].to_pylist()
    assert "start" in store._repr_html_()


def test_clip_stores_have_no_place(sounds: Path, tmp_path: Path, model: Embedder):
    store = embed_folder(sounds, tmp_path / "out", model)
    assert store[0].start is None
    assert store.search("a.wav", 1)[0].end is None
    assert store.tags is None
    with pytest.raises(StoreError, match="other settings"):
        embed_folder(sounds, tmp_path / "out", model, window=3)


@pytest.mark.parametrize(
    "options", [{"window": 0.01}, {"window": 61}, {"window": "3"}, {"window": 3, "hop": 4}, {"window": 3, "hop": 0}]
)
def test_lengths_out_of_range(sounds: Path, tmp_path: Path, model: Embedder, options: dict[str, Any]):
    with pytest.raises(InvalidArgumentError, match="Expected a"):
        embed_folder(sounds, tmp_path / "out", model, **options)
    with pytest.raises(InvalidArgumentError, match="Expected a"):
        model.embed_windows(np.zeros(16_000), **options)


def test_hop_or_frames_without_sense(sounds: Path, tmp_path: Path, model: Embedder):
    with pytest.raises(InvalidArgumentError, match="without a window"):
        embed_folder(sounds, tmp_path / "out", model, hop=1)
    with pytest.raises(InvalidArgumentError, match="frames=True"):
        embed_folder(sounds, tmp_path / "out", model, window=1, frames=True)


@pytest.mark.parametrize("windows", [1, 5, 17, 30])
def test_goes_on_within_a_recording(
    sounds: Path, tmp_path: Path, model: Embedder, few_rows: None, monkeypatch: pytest.MonkeyPatch, windows: int
):
    whole = embed_folder(sounds, tmp_path / "whole", model, window=2, hop=1)
    add, count = WindowJob.add, itertools.count(1)

    def die(self: WindowJob, *arguments: Any) -> None:
        if next(count) > windows:
            raise SystemExit
        add(self, *arguments)

    monkeypatch.setattr(WindowJob, "add", die)
    with pytest.raises(SystemExit):
        embed_folder(sounds, tmp_path / "out", model, window=2, hop=1, workers=1, batch_size=1)
    on_disk = len(open_store(tmp_path / "out"))
    assert on_disk == windows // 4 * 4
    seen = list[Any]()
    monkeypatch.setattr(WindowJob, "add", lambda self, *arguments: (seen.append(1), add(self, *arguments))[1])
    assert_same(embed_folder(sounds, tmp_path / "out", model, window=2, hop=1), whole)
    assert len(seen) == len(whole) - on_disk  # nothing was computed twice


PROGRAM = """
from sedembed.loading import load_model
from sedembed.batch.embed_folder import embed_folder
from sedembed.store import writer
writer.SHARD_ROWS = 4
embed_folder(sounds, out, load_model(model, device="cpu"), window=2, hop=0.05, workers=1)
"""


@needs_signals
def test_killed_within_a_recording(
    tmp_path: Path,
    write_sounds: Write,
    model: Embedder,
    small_weanet_dir: Path,
    start_process: Callable[..., BaseProcess],
):
    sounds = write_sounds(tmp_path / "in", {"long.wav": 12.0})
    process = start_process(PROGRAM, sounds=str(sounds), out=str(tmp_path / "out"), model=str(small_weanet_dir))
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "out" / "embeddings").glob("vectors-*"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    store = embed_folder(sounds, tmp_path / "out", model, window=2, hop=0.05)
    assert_same(store, embed_folder(sounds, tmp_path / "whole", model, window=2, hop=0.05))


def test_a_recording_that_fails_late_leaves_no_rows(
    sounds: Path, tmp_path: Path, model: Embedder, few_rows: None, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        break_reading(patch, {"long.wav": lambda: (_ for _ in ()).throw(OSError("broken"))})
        patch.setattr(shards, "SHARD_ROWS", 1)
        store = embed_folder(sounds, tmp_path / "out", model, window=1, hop=0.1, workers=1, batch_size=1)
    assert list(failures(store)) == ["b/long.wav"]
    assert "b/long.wav" not in store.paths
    again = embed_folder(sounds, tmp_path / "out", model, window=1, hop=0.1)
    assert not len(again.failures)
    assert_same(again, embed_folder(sounds, tmp_path / "whole", model, window=1, hop=0.1))


@pytest.mark.parametrize("number", [0, 1, -1])
def test_a_lost_shard_is_made_again(sounds: Path, tmp_path: Path, model: Embedder, few_rows: None, number: int):
    whole = embed_folder(sounds, tmp_path / "out", model, window=2, hop=1)
    index, vectors = whole.index, whole.vectors
    sorted((tmp_path / "out" / "embeddings").iterdir())[number].unlink()
    store = embed_folder(sounds, tmp_path / "out", model, window=2, hop=1)
    assert store.index.equals(index)
    assert_close(store.vectors, vectors)


def test_a_changed_recording_is_embedded_again(
    sounds: Path, tmp_path: Path, model: Embedder, few_rows: None, write_sounds: Write
):
    embed_folder(sounds, tmp_path / "out", model, window=2, hop=1)
    write_sounds(sounds, {"b/long.wav": 5.5})
    store = embed_folder(sounds, tmp_path / "out", model, window=2, hop=1)
    assert store.index.filter(np.array(store.paths) == "b/long.wav")["start"].to_pylist() == [0, 1, 2, 3, 3.5]
    assert_same(store, embed_folder(sounds, tmp_path / "new", model, window=2, hop=1))


def test_shards_of_a_job_merge(sounds: Path, tmp_path: Path, model: Embedder, few_rows: None):
    parts = [
        embed_folder(sounds, tmp_path / f"part{i}", model, window=2, hop=1, tags=True, shard=(i, 2)) for i in (0, 1)
    ]
    merged = merge_stores(tmp_path / "merged", parts)
    whole = embed_folder(sounds, tmp_path / "whole", model, window=2, hop=1, tags=True)
    assert_same(merged, whole)
    assert merged.tags is not None
    assert whole.tags is not None
    np.testing.assert_allclose(merged.tags, whole.tags, atol=1e-3)
    assert_same(merge_stores(tmp_path / "merged", parts), whole)


def test_a_planted_sound_is_found_at_its_place(tmp_path: Path):
    examples = Path(__file__).parents[2] / "examples" / "sounds"
    talnet = load_model("talnet", device="cpu")
    rain, rate = soundfile.read(examples / "rain.ogg", dtype="float32")
    phone, phone_rate = soundfile.read(examples / "telephone.ogg", dtype="float32")
    assert rain.ndim == phone.ndim == 1
    long = np.tile(rain, 1 + 60 * rate // len(rain))[: 60 * rate]
    import soxr

    planted = soxr.resample(phone, phone_rate, rate)[: 5 * rate]
    long[32 * rate : 32 * rate + len(planted)] += planted
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "field.flac", long.clip(-1, 1), rate)
    store = embed_folder(tmp_path / "in", tmp_path / "out", talnet, window=5, hop=2.5)
    best = store.search(talnet.embed(examples / "telephone.ogg"), k=1)[0]
    assert best.path == "field.flac"
    assert best.start is not None
    assert abs(best.start - 32) <= 2.5
