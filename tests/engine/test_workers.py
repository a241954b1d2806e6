"""Tests of workers."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from sedembed.batch.embed_folder import embed_folder
from sedembed.embedder import Embedder
from sedembed.engine import workers as module
from sedembed.engine.runner import Runner
from sedembed.engine.workers import Piece, Source, WorkerPool, alive, chunk_sizes
from sedembed.errors import AudioTimeoutError
from tests.batch.embed_folder_faults_helpers import Write, break_reading, check, failures, run_python


class TestHangs:
    @pytest.fixture
    def hang(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], object]]:
        """Wait until the test is over, so that no thread outlives it for long."""
        # Many short looks, not seconds on the clock: a busy machine must not fail the good files.
        monkeypatch.setattr(module, "_LONGEST_TICK", 0.15)
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
        monkeypatch.setattr(module, "MAX_HANGING", 2)
        with pytest.raises(AudioTimeoutError, match=r"3 decoders hang at once.*run the same command again"):
            embed_folder(root, tmp_path / "out", untrained_embedder, timeout=0.3, workers=1)

    def test_slow_is_not_silent(
        self, tmp_path: Path, write_sounds: Write, untrained_embedder: Embedder, monkeypatch: pytest.MonkeyPatch
    ):
        """Neither a network that keeps the decoders waiting nor a process that was stopped looks like a hang."""
        root = write_sounds(tmp_path / "in", {f"{name}.wav": 0.1 for name in "abcdefgh"})
        submit = untrained_embedder.runner.submit

        def slow(features: list[torch.Tensor], **options: Any) -> Any:
            time.sleep(0.4)
            return submit(features, **options)

        monkeypatch.setitem(vars(untrained_embedder.runner), "submit", slow)
        monkeypatch.setattr(module, "_LONGEST_TICK", 0.1)
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


class TestChunks:
    @pytest.mark.parametrize("recordings", [0, 1, 2, 3, 9, 47, 48, 49, 100, 240, 384, 400, 2000, 12_345])
    def test_they_hold_every_recording_and_the_last_ones_are_small(self, recordings: int):
        sizes = chunk_sizes(recordings)
        assert sum(sizes) == recordings
        assert all(0 < size <= 32 for size in sizes)
        if recordings > 48:
            small = [size for size in sizes if size <= 4]
            assert sizes == [sizes[0]] * (len(sizes) - len(small)) + small
            assert sizes[0] / 2 <= sum(small) < 1.5 * sizes[0]


class FakeRunner:
    """Batches of a few windows, planned in the order given."""

    device = torch.device("cpu")
    max_batch_frames = 12

    def plan(self, lengths: list[int], max_items: int) -> list[list[int]]:
        return [list(range(len(lengths)))[i : i + max_items] for i in range(0, len(lengths), max_items)]


class TestWorkerPool:
    """The threads alone: windows are numbers, and the network doubles them."""

    def pool(self, counts: list[int], workers: int = 3, **options: Any) -> WorkerPool:
        def read(source: Source) -> Iterator[Piece]:
            for number in range(counts[source.index]):
                (block,) = alive([np.zeros(0, np.float32)])
                assert not len(block)
                yield Piece(torch.full((4,), 100 * source.index + number))

        def submit(pieces: list[Piece]) -> Callable[[], list[int]]:
            self.threads.append(torch.get_num_threads())
            self.batches.append([int(piece.features[0]) for piece in pieces])
            found = [2 * int(piece.features[0]) for piece in pieces]
            return lambda: found

        self.batches: list[list[int]] = []
        self.threads: list[int] = []
        settings = {"source": Source, "read": read, "submit": submit, "max_items": 2, **options}
        return WorkerPool(cast(Runner, FakeRunner()), len(counts), workers=workers, **settings)

    def drain(self, pool: WorkerPool) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        ended = []
        while pool.left:
            for step in pool.take():
                assert step.error is None
                assert step.source.index not in ended
                if step.piece is None:
                    ended.append(step.source.index)
                else:
                    found.setdefault(step.source.index, []).append(step.result)
        pool.close()
        assert sorted(ended) == sorted(found)
        return found

    @pytest.mark.parametrize("workers", [1, 2, 5])
    @pytest.mark.parametrize("counts", [[1], [40], [1, 2, 3, 4, 5, 6, 7, 8, 9], [30, 1, 1, 1], [3] * 100])
    def test_every_window_once_and_in_its_order(self, workers: int, counts: list[int]):
        found = self.drain(self.pool(counts, workers))
        assert found == {i: [200 * i + 2 * n for n in range(count)] for i, count in enumerate(counts)}

    def test_batches_do_not_depend_on_the_number_of_workers(self):
        made = []
        for workers in (1, 2, 7):
            self.drain(self.pool([1, 5, 2, 40, 1, 3] * 6, workers))
            made.append(sorted(self.batches))
        assert made[0] == made[1] == made[2]
        assert max(map(len, made[0])) == 2

    @pytest.mark.parametrize(("kept", "times"), [(-1.0, 20), (3600.0, 0)])
    def test_freed_memory_goes_back_now_and_then(self, monkeypatch: pytest.MonkeyPatch, kept: float, times: int):
        given = []
        monkeypatch.setattr(module, "_KEPT", kept)
        monkeypatch.setattr(module, "give_back_memory", lambda: given.append(time.monotonic()))
        self.drain(self.pool([40], workers=1))
        assert len(given) == times  # of 20 batches

    def test_a_recording_takes_memory_only_from_its_reading_to_its_end(self):
        made: list[weakref.ref[Source]] = []

        def source(index: int) -> Source:
            made.append(weakref.ref(item := Source(index)))
            assert sum(ref() is not None for ref in made) < 30
            return item

        pool = self.pool([1] * 400, workers=2, source=source, ahead=8)
        ended = 0
        while pool.left:
            ended += sum(step.piece is None for step in pool.take())
            pool.release(ended)
        pool.close()
        assert len(made) == 400

    def test_memory_is_bounded_while_nobody_takes(self):
        pool = self.pool([200] * 4, workers=2)
        time.sleep(0.3)
        # What waits to be taken, and what each worker holds.
        assert sum(map(len, self.batches)) <= 8 * 12 // 4 + 2 * (2 + 1) + 2
        assert len(self.drain(pool)) == 4

    def test_reads_only_so_far_ahead(self):
        pool = self.pool([1] * 64, workers=2, ahead=8)
        for _ in range(20):
            pool.take()
        assert 64 - pool.left == 8  # two chunks of four
        pool.release(4)
        while pool.left > 64 - 12:
            pool.take()
        pool.close()

    def test_an_error_of_the_network_reaches_the_caller(self):
        def fail(pieces: list[Piece]) -> Any:
            raise RuntimeError("no memory on the device")

        pool = self.pool([1] * 9, submit=fail)
        with pytest.raises(RuntimeError, match="no memory"):
            self.drain(pool)
        pool.close()

    def test_close_ends_the_threads(self):
        pool = self.pool([200, 200])
        pool.take()
        pool.close()
        assert not any(worker.is_alive() for worker in pool._workers)

    def test_each_computes_with_one_thread_and_leaves_those_of_others_alone(self):
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            pool = self.pool([1] * 9)
            seen = []
            thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
            thread.start()
            thread.join()
            self.drain(pool)
            assert (torch.get_num_threads(), seen, set(self.threads)) == (2, [2], {1})
        finally:
            torch.set_num_threads(before)

    def test_another_device_has_a_thread_that_feeds_it(self, monkeypatch: pytest.MonkeyPatch):
        """Batches are started before the results of the one before them are asked for."""
        monkeypatch.setattr(FakeRunner, "device", torch.device("meta"))
        log: list[str] = []

        def submit(pieces: list[Piece]) -> Callable[[], list[int]]:
            values = [2 * int(piece.features[0]) for piece in pieces]
            threads.add(threading.current_thread().name)
            log.append("start")

            def finish() -> list[int]:
                log.append("finish")
                return values

            return finish

        threads: set[str] = set()
        found = self.drain(self.pool([6], submit=submit))
        assert found == {0: [0, 2, 4, 6, 8, 10]}
        assert log == ["start", "start", "finish", "start", "finish", "finish"]
        assert len(threads) == 1
