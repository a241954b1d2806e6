"""embed_folder where things go wrong: files, decoders, disks, Ctrl-C, kill -9."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import sedembed
from sedembed.audio.reader import AudioReader
from sedembed.batch import readers
from sedembed.batch.embed_folder import embed_folder
from sedembed.batch.readers import Piece, ReaderPool
from sedembed.embedder import Embedder
from sedembed.engine.windows import iter_windows
from sedembed.errors import AudioTimeoutError, StoreError
from sedembed.store import writer as shards
from sedembed.store.store import EmbeddingStore, open_store

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
            "The network gives NaN or infinity for this sound; check its level.",
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

        monkeypatch.setattr(untrained_embedder.runner, "run", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            embed_folder(root, tmp_path / "out", untrained_embedder)
        monkeypatch.undo()
        assert len(embed_folder(root, tmp_path / "out", untrained_embedder)) == 1


class TestHangs:
    @pytest.fixture
    def hang(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], object]]:
        """Wait until the test is over, so that no thread outlives it for long."""
        # Many short looks, not seconds on the clock: a busy machine must not fail the good files.
        monkeypatch.setattr(readers, "_LONGEST_TICK", 0.15)
        over = threading.Event()
        yield over.wait
        over.set()

    @pytest.mark.parametrize("workers", [1, 3])
    def test_hanging_decoder_is_left_behind(
        self,
        tmp_path: Path,
        write_sounds: Write,
        untrained_embedder: Embedder,
        monkeypatch: pytest.MonkeyPatch,
        workers: int,
        hang: Callable[[], object],
    ):
        root = write_sounds(tmp_path / "in", {f"{name}.wav": 0.3 for name in "abcdef"})
        break_reading(monkeypatch, {"b.wav": hang, "d.wav": hang})
        store = embed_folder(root, tmp_path / "out", untrained_embedder, timeout=0.5, workers=workers)
        assert store.paths == ["a.wav", "c.wav", "e.wav", "f.wav"]
        assert {name: error for name, (error, _) in failures(store).items()} == {
            "b.wav": "AudioTimeoutError",
            "d.wav": "AudioTimeoutError",
        }
        assert "hangs on b.wav" in failures(store)["b.wav"][1]
        check(store, root, untrained_embedder)

    def test_a_dead_disk_ends_the_run(
        self,
        tmp_path: Path,
        write_sounds: Write,
        untrained_embedder: Embedder,
        monkeypatch: pytest.MonkeyPatch,
        hang: Callable[[], object],
    ):
        root = write_sounds(tmp_path / "in", {f"{name}.wav": 0.1 for name in "abcdef"})
        break_reading(monkeypatch, {f"{name}.wav": hang for name in "bcdef"})
        monkeypatch.setattr(readers, "MAX_HANGING", 2)
        with pytest.raises(AudioTimeoutError, match=r"3 decoders hang at once.*run the same command again"):
            embed_folder(root, tmp_path / "out", untrained_embedder, timeout=0.3, workers=1)

    def test_slow_is_not_silent(
        self, tmp_path: Path, write_sounds: Write, untrained_embedder: Embedder, monkeypatch: pytest.MonkeyPatch
    ):
        """Neither a network that keeps the decoders waiting nor a process that was stopped looks like a hang."""
        root = write_sounds(tmp_path / "in", {f"{name}.wav": 0.1 for name in "abcdefgh"})
        run = untrained_embedder.runner.run

        def slow(features: list[torch.Tensor], **options: Any) -> Any:
            time.sleep(0.4)
            return run(features, **options)

        monkeypatch.setattr(untrained_embedder.runner, "run", slow)
        monkeypatch.setattr(readers, "_LONGEST_TICK", 0.1)
        store = embed_folder(root, tmp_path / "out", untrained_embedder, timeout=0.3, workers=2, batch_size=1)
        assert len(store) == 8

    def test_exit_does_not_wait_for_it(self, tmp_path: Path, write_sounds: Write, untrained_model_dir: Path):
        root = write_sounds(tmp_path / "in", {"a.wav": 0.1, "b.wav": 0.1})
        program = (
            "import sys, time; from sedembed.audio.reader import AudioReader; from sedembed import embed_folder\n"
            "blocks = AudioReader.blocks\n"
            "AudioReader.blocks = lambda self: time.sleep(1000) if self._path.name == 'b.wav' else blocks(self)\n"
            "print(*embed_folder(*sys.argv[1:], timeout=1, progress=False).paths)\n"
        )
        with run_python(program, root, tmp_path / "out", untrained_model_dir) as process:
            output, said = process.communicate()
        assert (process.returncode, output) == (0, "a.wav\n")
        assert "b.wav: AudioTimeoutError" in said


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


def wait_for(condition: Callable[[], object], process: Any, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        alive = process.is_alive() if isinstance(process, BaseProcess) else process.poll() is None
        assert alive, "the process ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.005)


class TestReadAhead:
    """The threads alone, with a front end that counts."""

    def pool(self, root: Path, names: list[str], **options: Any) -> ReaderPool:
        settings = {"sample_rate": 16_000, "workers": 3, "ahead": 1, "timeout": 10.0}
        features = options.pop("features", lambda window: torch.from_numpy(window[::400].copy()))

        def pieces(blocks: Iterator[np.ndarray]) -> Iterator[Piece]:
            return (Piece(features(window)) for window in iter_windows(blocks, 1600, 1200))

        return ReaderPool(root, names, pieces, **{**settings, **options})

    def test_no_deadlock_in_the_narrowest_queue(self, tmp_path: Path, write_sounds: Write):
        names = [f"{i}.wav" for i in range(9)]
        root = write_sounds(tmp_path, {name: 0.05 + 0.2 * i for i, name in enumerate(names)})
        pool = self.pool(root, names)
        windows: dict[str, list[torch.Tensor]] = {name: [] for name in names}
        ended = []
        while pool.left:
            for step in pool.take(4, 1):
                assert step.error is None
                if step.piece is None:
                    ended.append(step.source.path)
                else:
                    assert step.source.path not in ended
                    windows[step.source.path].append(step.piece.features)
        pool.close()
        assert sorted(ended) == names
        for name in names:
            sound, _ = soundfile.read(root / name, dtype="float32")
            expected = [len(window[::400]) for window in iter_windows([sound], 1600, 1200)]
            assert [len(piece) for piece in windows[name]] == expected

    def test_memory_is_bounded_while_nobody_takes(self, tmp_path: Path, write_sounds: Write):
        names = [f"{i}.wav" for i in range(4)]
        root = write_sounds(tmp_path, dict.fromkeys(names, 20.0))
        made = []
        pool = self.pool(root, names, ahead=10, features=lambda w: made.append(1) or torch.zeros(4))
        time.sleep(0.5)
        # What fits, and one in the hands of each thread.
        assert len(made) <= 10 // 4 + 1 + 3
        while pool.left:
            pool.take(100, 100)
            assert pool.queue.qsize() < 10 + 4  # the last one in may go over by what it weighs
        pool.close()
        assert len(made) == 4 * 200

    def test_close_ends_the_threads(self, tmp_path: Path, write_sounds: Write):
        root = write_sounds(tmp_path, {"a.wav": 20.0, "b.wav": 20.0})
        pool = self.pool(root, ["a.wav", "b.wav"])
        pool.take(1, 1)
        pool.close()
        assert not any(worker.is_alive() for worker in pool._workers)

    def test_threads_of_others_are_left_alone(self, tmp_path: Path, write_sounds: Write):
        before = torch.get_num_threads()
        root = write_sounds(tmp_path, {"a.wav": 0.1})
        pool = self.pool(root, ["a.wav"])
        seen = []
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        pool.close()
        assert (torch.get_num_threads(), seen) == (before, [before])


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
        monkeypatch.setattr(shards, "_FRAME_ROWS", 5)  # frames meet the limit while they are written, not at the end
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


@needs_signals
class TestInterrupt:
    def test_keeps_what_is_done_and_says_how_to_go_on(
        self, tmp_path: Path, write_sounds: Write, untrained_model_dir: Path, untrained_embedder: Embedder
    ):
        names = {f"{i:02d}.wav": 0.1 for i in range(30)}
        root, out = write_sounds(tmp_path / "in", names), tmp_path / "out"
        program = f"import sys; root, out, model = sys.argv[1:]\n{PROGRAM.replace('0.02', '0.2')}"
        with run_python(program, root, out, untrained_model_dir) as process:
            wait_for(lambda: list(out.glob("embeddings/vectors-*")), process)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate()
        assert process.returncode == -signal.SIGINT  # how Python ends on an uncaught KeyboardInterrupt
        assert "of 30 files are done and kept in" in said
        assert "run the same command again to continue" in said
        assert not list(out.rglob("*.partial"))
        done = len(open_store(out))
        assert 0 < done < 30
        assert f"interrupted: {done} of 30 files" in said  # those of the last, smaller shard too
        store = embed_folder(root, out, untrained_embedder, frames=True)
        assert len(store) == 30
        check(store, root, untrained_embedder)

    def test_second_one_does_not_wait(
        self, tmp_path: Path, write_sounds: Write, start_process: Start, untrained_model_dir: Path
    ):
        root, ready, over = write_sounds(tmp_path / "in", {"a.wav": 0.1}), tmp_path / "ready", tmp_path / "over"
        program = (
            "import signal, time; from pathlib import Path; from sedembed import embed_folder\n"
            "from sedembed.engine.runner import Runner\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "def stuck(*args, **options):\n"
            "    Path(ready).touch()\n"
            "    time.sleep(60)\n"
            "Runner.run = stuck\n"
            "try:\n"
            "    embed_folder(root, out, model)\n"
            "except KeyboardInterrupt:\n"
            "    Path(over).touch()\n"
        )
        variables = {"out": str(tmp_path / "out"), "model": str(untrained_model_dir)}
        process = start_process(program, root=str(root), ready=str(ready), over=str(over), **variables)
        wait_for(ready.exists, process)
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.3)
        assert process.is_alive()  # busy: the first one asks
        os.kill(process.pid, signal.SIGINT)
        process.join(300)
        assert process.exitcode == 0
        assert over.exists()

    def test_handlers_of_others_stay(self, tmp_path: Path, write_sounds: Write, untrained_embedder: Embedder):
        root = write_sounds(tmp_path / "in", {"a.wav": 0.1})
        own = lambda number, frame: None  # noqa: E731
        for handler in (signal.default_int_handler, own):
            previous = signal.signal(signal.SIGINT, handler)
            try:
                embed_folder(root, tmp_path / "out", untrained_embedder)
                assert signal.getsignal(signal.SIGINT) is handler
            finally:
                signal.signal(signal.SIGINT, previous)

    def test_runs_outside_the_main_thread(self, tmp_path: Path, write_sounds: Write, untrained_embedder: Embedder):
        root = write_sounds(tmp_path / "in", {"a.wav": 0.1})
        stores = []
        thread = threading.Thread(
            target=lambda: stores.append(embed_folder(root, tmp_path / "out", untrained_embedder))
        )
        thread.start()
        thread.join(60)
        assert stores[0].paths == ["a.wav"]
