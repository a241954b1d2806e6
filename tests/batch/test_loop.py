"""Tests of loop."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from sedembed.batch.embed_folder import embed_folder
from sedembed.embedder import Embedder
from sedembed.store.store import open_store
from tests.batch.embed_folder_faults_helpers import PROGRAM, Start, Write, check, needs_signals, run_python


def wait_for(condition: Callable[[], object], process: Any, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        alive = process.is_alive() if isinstance(process, BaseProcess) else process.poll() is None
        assert alive, "the process ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.005)


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
            "Runner.submit = stuck\n"
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
