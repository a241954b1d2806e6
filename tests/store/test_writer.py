"""Writing a store: what is refused, and every point at which writing can be cut off."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest

from sedembed.errors import StoreError
from sedembed.store import writer as shards
from sedembed.store.store import EmbeddingStore, open_store
from sedembed.store.writer import StoreWriter
from tests.store.store_helpers import SIZE, describe, fill, vector


class TestRefused:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"precision": "bfloat16"}, r"precision is 'float32' there and 'bfloat16' now.*output directory"),
            ({"model_version": "2", "model_sha256": "0f"}, r"model_sha256 is None there and '0f' now; model_version"),
            ({"frames": True}, "frames is False there and True now"),
            ({"folder": "/music"}, r"'/sounds', this run is about '/music'.*correct \"folder\""),
        ],
    )
    def test_other_settings(self, store: EmbeddingStore, settings: dict[str, Any], message: str):
        with pytest.raises(StoreError, match=message):
            fill(store.directory, range(9), **settings)
        assert len(open_store(store.directory)) == 6
        fill(store.directory, range(9))  # the lock was given back

    def test_a_directory_of_something_else(self, tmp_path: Path):
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(StoreError, match=r"'thesis\.tex' and no run\.json"):
            fill(tmp_path, range(1))
        with pytest.raises(StoreError, match=r"Expected a folder at .*thesis\.tex, got a file"):
            fill(tmp_path / "thesis.tex", range(1))
        assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]

    @pytest.mark.parametrize("place", ["", "embeddings"])
    def test_read_only(self, store: EmbeddingStore, place: str, monkeypatch: pytest.MonkeyPatch):
        # As the system says it: root, who may run this, is above permissions.
        access = os.access
        closed = store.directory / place
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed and access(path, mode))
        with pytest.raises(StoreError, match="change its permissions"):
            fill(store.directory, range(9))

    @pytest.mark.skipif(sys.platform == "win32", reason="no lock there")
    def test_two_writers(self, tmp_path: Path, start_process: Callable[..., BaseProcess]):
        program = (
            "import time; from pathlib import Path; from sedembed.store.writer import StoreWriter\n"
            "with StoreWriter(Path(out), run): (Path(out) / '.ready.partial').touch(); time.sleep(60)"
        )
        process = start_process(program, out=str(tmp_path), run=describe())
        while not (tmp_path / ".ready.partial").exists():
            assert process.is_alive()
        with pytest.raises(StoreError, match="Another run is writing"):
            fill(tmp_path, range(1))
        process.kill()
        process.join()
        fill(tmp_path, range(1))
        with StoreWriter(tmp_path, describe()), pytest.raises(StoreError, match="Another run is writing"):
            fill(tmp_path, range(1))


class TestFailures:
    def test_never_listed_beside_a_vector(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        with StoreWriter(tmp_path, describe()) as writer:
            for path in ("a.wav", "b.wav", "gone.wav"):
                writer.fail(path, "OSError", "away")
            writer.commit()

        def check(file: Path, target: Path) -> Path:
            moved = Path.rename(file, target)
            store = open_store(tmp_path)
            assert not {*store.paths} & {*store.failures["path"].to_pylist()}
            return moved

        with StoreWriter(tmp_path, describe()) as writer:
            monkeypatch.setattr(Path, "replace", check)
            writer.keep_failures({"a.wav", "b.wav"})
            writer.add("a.wav", 1.0, 16_000, 1, vector(0))
            writer.commit()
        store = open_store(tmp_path)
        assert (store.paths, store.failures["path"].to_pylist()) == (["a.wav"], ["b.wav"])

    def test_messages_that_are_no_text(self, tmp_path: Path):
        with StoreWriter(tmp_path, describe()) as writer:
            writer.fail("\udcff.wav", "OSError", "cannot open \udcff.wav")
            writer.commit()
        assert open_store(tmp_path).failures.to_pylist() == [
            {"path": "\\udcff.wav", "error": "OSError", "message": "cannot open \\udcff.wav"}
        ]


FRAMES_PROGRAM = """
import os, signal
import numpy as np
from pathlib import Path
from sedembed.store import frame_rows
from sedembed.store.writer import StoreWriter

frame_rows._FRAME_ROWS = 6  # four windows of two frames are too many to hold
calls = 0
replace = Path.replace
def counted(file, target):
    global calls
    calls += 1
    if calls == stop and not after:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(file, target)
    if calls == stop:
        os.kill(os.getpid(), signal.SIGKILL)
Path.replace = counted
with StoreWriter(Path(out), run) as writer:
    for number in range(5):
        if (path := f"{number}.wav") in writer.done:
            continue
        if number == 3 and path not in writer.failures:
            writer.fail(path, "OSError", "once")
            continue
        frames = writer.open_frames()
        for window in range(1 + number):
            rows = np.arange(8, dtype=np.float32).reshape(2, 4) + 10 * number + window
            frames.add(path, 2.0 * window + np.arange(2), rows)
        writer.add(path, 1.0, 16000, 1, np.full(4, number, np.float32), frames)
        if number in (1, 4):
            writer.commit()
    writer.commit()
"""


class TestCutOff:
    """A run killed before or after each of its renames leaves a store that the next run completes."""

    @pytest.mark.parametrize("after", [False, True])
    @pytest.mark.parametrize("stop", range(1, 11))
    def test_every_rename(self, tmp_path: Path, stop: int, after: bool, start_process: Callable[..., BaseProcess]):
        variables = {"out": str(tmp_path), "run": describe(frames=True)}
        process = start_process(FRAMES_PROGRAM, stop=stop, after=after, **variables)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        if (tmp_path / "run.json").exists():
            store = open_store(tmp_path)
            assert not {*store.paths} & {*store.failures["path"].to_pylist()}
            for path in store.paths:
                self.check(store, path)
        for _ in range(2):  # the second one for the file that fails once
            process = start_process(FRAMES_PROGRAM, stop=0, after=False, **variables)
            process.join(60)
            assert process.exitcode == 0
        store = open_store(tmp_path)
        assert store.paths == [f"{n}.wav" for n in range(5)]
        assert len(store.failures) == 0
        for path in store.paths:
            self.check(store, path)
        table = ds.dataset(tmp_path / "frames").to_table()
        assert len(table) == sum(2 * (1 + n) for n in range(5))  # nothing twice for those who read it directly
        assert not list(tmp_path.rglob("*.partial"))

    @staticmethod
    def check(store: EmbeddingStore, path: str) -> None:
        number = int(path[0])
        np.testing.assert_array_equal(store.vectors[store.paths.index(path)], np.full(SIZE, number))
        frames = store.frames(path)
        np.testing.assert_array_equal(frames.times, np.arange(2 * (1 + number)))
        windows = np.arange(1 + number)[:, None, None]
        expected = np.arange(8).reshape(1, 2, 4) + 10 * number + windows
        np.testing.assert_array_equal(frames.embeddings, expected.reshape(-1, SIZE))


def test_shards_are_due_by_number_and_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr(shards.time, "monotonic", lambda: now)
    monkeypatch.setattr(shards, "SHARD_ROWS", 2)
    with StoreWriter(tmp_path, describe()) as writer:
        writer.add("a.wav", 1.0, 16_000, 1, vector(0))
        assert not writer.due
        now += 10
        assert writer.due
        writer.commit()
        assert not writer.due
        now += 3000
        writer.commit()
        now += 20  # a hundredth of 3000 s is more
        assert not writer.due
        for path in ("b.wav", "c.wav"):
            writer.add(path, 1.0, 16_000, 1, vector(0))
        assert writer.due
