"""What is on disk: stores of earlier versions, missing and damaged files, and a run.json that is no run.json."""

from __future__ import annotations

import copy
import json
import multiprocessing
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sedembed.errors import StoreError
from sedembed.store.store import EmbeddingStore, open_store
from sedembed.store.writer import StoreWriter

FORMAT_1 = Path(__file__).parents[1] / "fixtures" / "format-1"
FINGERPRINT = json.loads((FORMAT_1 / "run.json").read_text())["fingerprint"]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A store that was written before stores had a manifest."""
    return Path(shutil.copytree(FORMAT_1, tmp_path / "store"))


def add(out: Path, number: int) -> None:
    run = json.loads((out / "run.json").read_text())
    with StoreWriter(out, run) as writer:
        if f"{number}.wav" in writer.done:
            return
        frames = writer.open_frames()
        rows = np.full((2, 4), number, np.float32) + np.arange(2, dtype=np.float32)[:, None]
        frames.add(f"{number}.wav", np.arange(2) + 0.5, rows)
        vector = np.eye(99, 4, dtype=np.float32)[number] + number
        writer.add(f"{number}.wav", number + 1.0, 16_000, 1, vector, frames, (100 + number, 7))
        writer.commit()


def check(out: Path, count: int = 5) -> EmbeddingStore:
    store = open_store(out)
    assert store.paths == [f"{number}.wav" for number in range(count)]
    np.testing.assert_array_equal(store.vectors, np.eye(count, 4) + np.arange(count)[:, None])
    for number, path in enumerate(store.paths):
        np.testing.assert_array_equal(store.frames(path).embeddings, np.full((2, 4), number) + np.arange(2)[:, None])
    return store


@pytest.fixture
def new(old: Path) -> Path:
    """The same store with a manifest and a shard more."""
    add(old, 5)
    return old


class TestFormat1:
    def test_opens(self, old: Path):
        store = check(old)
        assert store.run["fingerprint"] == FINGERPRINT
        assert store.failures.to_pylist() == [
            {"path": "bad.mp3", "error": "AudioDecodeError", "message": "holds no sound"}
        ]
        assert not (old / "manifest.json").exists()

    def test_a_run_continues_it(self, old: Path):
        before = (old / "run.json").read_bytes()
        add(old, 5)
        assert check(old, 6).run["fingerprint"] == FINGERPRINT
        assert (old / "run.json").read_bytes() == before
        named = json.loads((old / "manifest.json").read_text())["files"]
        assert len(named) == 7  # three shards, three files of frames, failures

    def test_changes_of_its_recordings_are_not_known(self, old: Path):
        with StoreWriter(old, json.loads((old / "run.json").read_text())) as writer:
            assert writer.unchanged("1.wav", 1, 2)


FILES = ["embeddings/vectors-00001.parquet", "frames/frames-00001-00000.parquet", "failures.parquet"]


class TestMissingFiles:
    @pytest.mark.parametrize("name", FILES)
    def test_noticed_when_opened(self, new: Path, name: str):
        (new / name).unlink()
        with pytest.raises(StoreError, match=rf"Expected the file .*{Path(name).name}.*restore it from a copy"):
            open_store(new)

    def test_a_shard_is_embedded_again(self, new: Path, caplog: pytest.LogCaptureFixture):
        (new / FILES[0]).unlink()
        for number in range(6):
            add(new, number)
        assert "vectors-00001.parquet is missing; what was in it is embedded again" in caplog.text
        check(new, 6)

    def test_failures_are_written_again(self, new: Path):
        (new / FILES[2]).unlink()
        add(new, 6)
        assert len(open_store(new).failures) == 0

    def test_frames_are_not_made_up(self, new: Path):
        (new / FILES[1]).unlink()
        with pytest.raises(StoreError, match="delete the shard embeddings/vectors-00001"):
            add(new, 6)
        (new / FILES[0]).unlink()
        for number in range(6):
            add(new, number)
        check(new, 6)

    def test_the_manifest(self, tmp_path: Path):
        run = json.loads((FORMAT_1 / "run.json").read_text())
        with StoreWriter(tmp_path, run):
            pass
        (tmp_path / "manifest.json").unlink()
        with pytest.raises(StoreError, match=r"Expected the file .*manifest\.json"):
            open_store(tmp_path)
        add(tmp_path, 0)
        check(tmp_path, 1)


class TestDamagedFiles:
    @pytest.mark.parametrize("name", [*FILES, "manifest.json"])
    def test_size_is_looked_at_when_opened(self, new: Path, name: str):
        with (new / name).open("ab") as opened:
            opened.write(b"12")
        with pytest.raises(StoreError, match=rf"{Path(name).name} is damaged"):
            open_store(new)

    def test_frames(self, new: Path):
        file = new / FILES[1]
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        store = open_store(new)
        with pytest.raises(StoreError, match=r"frames-00001-00000\.parquet is damaged"):
            store.frames("4.wav")
        assert len(store.frames("0.wav").times) == 2


class TestChangedRecordings:
    def test_forget_and_add(self, new: Path):
        run = json.loads((new / "run.json").read_text())
        with StoreWriter(new, run) as writer:
            assert writer.unchanged("5.wav", 105, 7)
            assert not writer.unchanged("5.wav", 105, 8)
            assert not writer.unchanged("5.wav", 106, 7)
            writer.forget(["1.wav", "5.wav", "nowhere.wav"])
            assert writer.done == {"0.wav", "2.wav", "3.wav", "4.wav"}
        assert open_store(new).paths == ["0.wav", "2.wav", "3.wav", "4.wav"]
        for number in (1, 5):
            add(new, number)
        check(new, 6)

    def test_killed_after_the_manifest_names_both(self, new: Path, monkeypatch: pytest.MonkeyPatch):
        run, calls = json.loads((new / "run.json").read_text()), []
        for stop in (1, 2, 3):
            calls.clear()
            with monkeypatch.context() as patch, StoreWriter(new, run) as writer:
                replace = Path.replace

                def stopped(file: Path, target: Path) -> Path:
                    calls.append(target)
                    if len(calls) >= stop:  # noqa: B023
                        raise KeyboardInterrupt
                    return replace(file, target)  # noqa: B023

                patch.setattr(Path, "replace", stopped)
                with pytest.raises(KeyboardInterrupt):
                    writer.forget(["1.wav"])
            assert set(open_store(new).paths) >= {"0.wav", "2.wav", "5.wav"}
            add(new, 1)
            check(new, 6)


class TestCopies:
    def test_pickle_and_deepcopy(self, new: Path):
        store = open_store(new)
        assert len(pickle.dumps(store)) < 10_000
        for other in (pickle.loads(pickle.dumps(store)), copy.deepcopy(store), copy.copy(store)):
            np.testing.assert_array_equal(other.vectors, store.vectors)
            assert other.search("1.wav", 2) == store.search("1.wav", 2)
        _ = store.vectors, store.index
        assert len(pickle.dumps(store)) < 10_000

    def test_spawn(self, new: Path):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(EmbeddingStore.__len__, (open_store(new),)) == 6


class TestRun:
    @pytest.mark.parametrize(
        "change",
        [
            {"format_version": None},
            {"format_version": True},
            {"fingerprint": 3},
            {"fingerprint": "0" * 64},
            {"folder": None},
            {"settings": []},
            {"settings": {"embedding_size": 4}},
            {"settings": {"embedding_size": "4", "frames": False}},
            {"settings": {"embedding_size": 0, "frames": False}},
            {"settings": {"embedding_size": 10**30, "frames": False}},
            {"settings": {"embedding_size": 4.0, "frames": False}},
            {"settings": {"embedding_size": 4, "frames": 1}},
            {"model": "talnet"},
            {"model": {"name": 3}},
            {"versions": [1]},
            {"device": float("nan")},
            {"device": [float("inf")]},
        ],
    )
    def test_wrong_values(self, old: Path, change: dict[str, Any]):
        run = json.loads((old / "run.json").read_text())
        (old / "run.json").write_text(json.dumps({**run, **change}))
        with pytest.raises(StoreError, match=r"run\.json is damaged"):
            open_store(old)

    @pytest.mark.parametrize("key", ["format_version", "fingerprint", "settings", "folder"])
    def test_missing_keys(self, old: Path, key: str):
        run = json.loads((old / "run.json").read_text())
        del run[key]
        (old / "run.json").write_text(json.dumps(run))
        with pytest.raises(StoreError, match=rf"run\.json is damaged.*{key}"):
            open_store(old)

    @pytest.mark.parametrize(
        "text", ["[" * 100_000, '{"a":' * 100_000, b"\xff\xfe", '{"format_version": 1e999}', "null", "9" * 10_000]
    )
    def test_texts(self, old: Path, text: str | bytes):
        (old / "run.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(StoreError, match=r"run\.json is damaged") as caught:
            open_store(old)
        assert len(str(caught.value)) < 500
