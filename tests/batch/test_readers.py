"""Tests of readers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from sedembed.batch import readers
from sedembed.batch.embed_folder import embed_folder
from sedembed.batch.readers import Piece, ReaderPool
from sedembed.embedder import Embedder
from sedembed.engine.windows import iter_windows
from sedembed.errors import AudioTimeoutError
from tests.batch.embed_folder_faults_helpers import Write, break_reading, check, failures, run_python


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
