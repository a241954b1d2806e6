"""embed_folder where things go wrong: files, decoders, disks, Ctrl-C, kill -9."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sedembed.batch.embed_folder import embed_folder
from sedembed.embedder import Embedder
from sedembed.errors import StoreError
from sedembed.store import frame_rows
from sedembed.store import writer as shards
from sedembed.store.store import open_store
from tests.batch.embed_folder_faults_helpers import PROGRAM, Start, Write, break_reading, check, failures, needs_signals


def throw(error: BaseException) -> Callable[[], None]:
    def fault() -> None:
        raise error

    return fault


class TestFiles:
    def test_bad_files_cost_no_good_ones(self, tmp_path: Path, write_sounds: Write, untrained_embedder: Embedder):
        root = write_sounds(tmp_path / "in", {f"good{i}.wav": 0.1 + 0.1 * i for i in range(4)})
        (root / "empty.wav").touch()
        (root / "text.mp3").write_text("not a sound " * 100)
        (root / "random.flac").write_bytes(random.Random(0).randbytes(5000))
        soundfile.write(root / "nan.wav", np.float32([0, np.nan, 1]), 16_000, subtype="FLOAT")
        soundfile.write(root / "none.wav", np.zeros(0), 16_000)
        soundfile.write(root / "huge.wav", np.full(8000, 3e38, np.float32), 16_000, subtype="FLOAT")
        bad = ["empty.wav", "huge.wav", "nan.wav", "none.wav", "random.flac", "text.mp3"]
        if hasattr(os, "mkfifo"):
            os.mkfifo(root / "pipe.wav")
            (root / "link.wav").symlink_to(root / "nowhere.wav")
            bad = sorted([*bad, "pipe.wav", "link.wav"])
        store = embed_folder(root, tmp_path / "out", untrained_embedder, timeout=20)
        assert store.paths == [f"good{i}.wav" for i in range(4)]
        check(store, root, untrained_embedder)
        listed = failures(store)
        assert sorted(listed) == bad
        assert listed["empty.wav"][0] == "AudioDecodeError"
        assert listed["nan.wav"][0] == "InvalidWaveformError"
        assert listed["huge.wav"] == (
            "InvalidWaveformError",
            "Expected finite numbers from the network, got NaN or infinity for this sound; check its level: full scale "
            "is 1.",
        )
        if "link.wav" in listed:
            assert listed["link.wav"][0] == "MissingFileError"
            assert listed["pipe.wav"][0] == "UnsupportedFormatError"

    def test_nothing_but_bad_files(self, tmp_path: Path, untrained_embedder: Embedder):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "a.wav").touch()
        store = embed_folder(tmp_path / "in", tmp_path / "out", untrained_embedder)
        assert (len(store), store.vectors.shape) == (0, (0, 1024))
        assert list(failures(store)) == ["a.wav"]

    def test_any_error_is_a_row(
        self, tmp_path: Path, write_sounds: Write, untrained_embedder: Embedder, monkeypatch: pytest.MonkeyPatch
    ):
        root = write_sounds(tmp_path / "in", {f"{name}.wav": 1.0 for name in "abcde"})
        errors = {"b.wav": MemoryError(), "c.wav": OSError(errno.EIO, "Input/output error"), "d.wav": RuntimeError("x")}
        break_reading(monkeypatch, {name: throw(error) for name, error in errors.items()})
        store = embed_folder(root, tmp_path / "out", untrained_embedder, frames=True)
        assert store.paths == ["a.wav", "e.wav"]
        assert failures(store) == {
            "b.wav": ("MemoryError", "MemoryError()"),
            "c.wav": ("OSError", "[Errno 5] Input/output error"),
            "d.wav": ("RuntimeError", "x"),
        }
        monkeypatch.undo()
        store = embed_folder(root, tmp_path / "out", untrained_embedder, frames=True)
        assert (len(store), len(store.failures)) == (5, 0)
        check(store, root, untrained_embedder)

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
    def test_what_is_no_error_of_a_file(
        self,
        tmp_path: Path,
        write_sounds: Write,
        untrained_embedder: Embedder,
        monkeypatch: pytest.MonkeyPatch,
        error: type[BaseException],
    ):
        root = write_sounds(tmp_path / "in", {f"{name}.wav": 0.1 for name in "abc"})
        break_reading(monkeypatch, {"b.wav": throw(error())})
        with pytest.raises(error):
            embed_folder(root, tmp_path / "out", untrained_embedder)
        monkeypatch.undo()
        assert embed_folder(root, tmp_path / "out", untrained_embedder).paths == ["a.wav", "b.wav", "c.wav"]

    def test_error_of_the_network_ends_the_run(
        self, tmp_path: Path, write_sounds: Write, untrained_embedder: Embedder, monkeypatch: pytest.MonkeyPatch
    ):
        root = write_sounds(tmp_path / "in", {"a.wav": 0.1})

        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("CUDA out of memory")

        monkeypatch.setitem(vars(untrained_embedder.runner), "submit", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            embed_folder(root, tmp_path / "out", untrained_embedder)
        monkeypatch.undo()
        assert len(embed_folder(root, tmp_path / "out", untrained_embedder)) == 1


class TestDisk:
    def test_full_disk(
        self, tmp_path: Path, write_sounds: Write, untrained_embedder: Embedder, monkeypatch: pytest.MonkeyPatch
    ):
        root = write_sounds(tmp_path / "in", {f"{name}.wav": 0.1 for name in "abcdef"})
        monkeypatch.setattr(shards, "SHARD_ROWS", 1)
        fsync, calls = os.fsync, []

        def full(descriptor: int) -> None:
            calls.append(descriptor)
            if len(calls) > 6:
                raise OSError(errno.ENOSPC, "No space left on device")
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(
            StoreError, match=r"No space left on device\. Make room.*run the same command again"
        ) as caught:
            embed_folder(root, tmp_path / "out", untrained_embedder, workers=1, batch_size=1)
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.__cause__.errno == errno.ENOSPC
        assert not list((tmp_path / "out").rglob("*.partial"))
        monkeypatch.setattr(os, "fsync", fsync)
        assert 0 < len(open_store(tmp_path / "out")) < 6
        store = embed_folder(root, tmp_path / "out", untrained_embedder)
        assert len(store) == 6
        check(store, root, untrained_embedder)

    @pytest.mark.parametrize("frames", [False, True])
    def test_file_too_large(
        self,
        tmp_path: Path,
        write_sounds: Write,
        untrained_embedder: Embedder,
        monkeypatch: pytest.MonkeyPatch,
        frames: bool,
    ):
        resource = pytest.importorskip("resource")
        monkeypatch.setattr(frame_rows, "_FRAME_ROWS", 5)  # met while frames are written, not at the end
        root = write_sounds(tmp_path / "in", {"a.wav": 0.1})
        embed_folder(root, tmp_path / "out", untrained_embedder, frames=frames)
        write_sounds(root, {f"{i}.wav": 1.0 for i in range(12)})
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        try:
            with pytest.raises(StoreError, match="File too large") as caught:
                embed_folder(root, tmp_path / "out", untrained_embedder, frames=frames)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert isinstance(caught.value.__cause__, OSError)
        assert not list((tmp_path / "out").rglob("*.partial"))
        assert open_store(tmp_path / "out").paths == ["a.wav"]
        store = embed_folder(root, tmp_path / "out", untrained_embedder, frames=frames)
        assert len(store) == 13
        check(store, root, untrained_embedder)

    @needs_signals
    def test_really_full_disk(self, tmp_path: Path, write_sounds: Write, untrained_embedder: Embedder):
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = shutil.which("mount")
        if (
            mount is None
            or subprocess.run(
                [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, check=False
            ).returncode
        ):
            pytest.skip("a small disk can be mounted by root only")
        try:
            root = write_sounds(tmp_path / "in", {"a.wav": 0.1})
            embed_folder(root, disk / "out", untrained_embedder)
            write_sounds(root, {f"{i}.wav": 0.1 for i in range(30)})
            with pytest.raises(StoreError, match="No space left on device"):
                embed_folder(root, disk / "out", untrained_embedder)
            assert open_store(disk / "out").paths == ["a.wav"]
            assert not list((disk / "out").rglob("*.partial"))
            subprocess.run([mount, "-o", "remount,size=1m", disk], check=True)
            store = embed_folder(root, disk / "out", untrained_embedder)
            assert len(store) == 31
            check(store, root, untrained_embedder)
        finally:
            subprocess.run(["umount", disk], check=True)

    def test_read_only_output(
        self, tmp_path: Path, write_sounds: Write, untrained_embedder: Embedder, monkeypatch: pytest.MonkeyPatch
    ):
        root = write_sounds(tmp_path / "in", {"a.wav": 0.1})
        out = tmp_path / "out"
        out.mkdir()
        if hasattr(os, "geteuid") and os.geteuid():
            out.chmod(0o500)
        else:  # root is above permissions
            monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != out)
        with pytest.raises(StoreError, match="change its permissions or choose another directory"):
            embed_folder(root, out, untrained_embedder)
        out.chmod(0o700)
        assert not list(out.iterdir())


@needs_signals
class TestKill:
    def kill_and_repeat(self, root: Path, out: Path, start: Start, model: Path, kills: int, seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(kills):
            before = len(list(out.glob("embeddings/vectors-*")))
            process = start(PROGRAM, root=str(root), out=str(out), model=str(model))
            more = rng.randint(0, 2)
            while process.is_alive() and len(list(out.glob("embeddings/vectors-*"))) < before + more:
                time.sleep(0.002)
            time.sleep(rng.random() * (0.5 if more == 0 else 0.1))
            process.kill()
            process.join()

    @pytest.mark.parametrize(
        ("kills", "seed"),
        [(5, 0), *(pytest.param(40, seed, marks=pytest.mark.slow) for seed in range(1, 6))],
    )
    def test_same_vectors_after_kills(
        self,
        tmp_path: Path,
        write_sounds: Write,
        start_process: Start,
        untrained_model_dir: Path,
        untrained_embedder: Embedder,
        kills: int,
        seed: int,
    ):
        names = {f"{i:03d}.wav": 0.1 + (i * 37 % 15) / 10 for i in range(30 if kills < 10 else 200)}
        root, out = write_sounds(tmp_path / "in", names), tmp_path / "out"
        (root / "bad.wav").write_bytes(b"not a sound")
        self.kill_and_repeat(root, out, start_process, untrained_model_dir, kills, seed)
        before = open_store(out)
        assert not {*before.paths} & {*failures(before)}
        store = embed_folder(root, out, untrained_embedder, frames=True)
        assert store.paths == sorted(names)
        assert list(failures(store)) == ["bad.wav"]
        check(store, root, untrained_embedder)
        kept = [store.paths.index(path) for path in before.paths]
        np.testing.assert_array_equal(store.vectors[kept], before.vectors)
        for path in store.paths[:: len(names) // 8]:
            expected = untrained_embedder.embed_frames(root / path)
            frames = store.frames(path)
            np.testing.assert_array_equal(frames.times, expected.times)
            error = np.linalg.norm(frames.embeddings - expected.embeddings)
            assert error < 1e-5 * np.linalg.norm(expected.embeddings)
        assert not list(out.rglob("*.partial"))
