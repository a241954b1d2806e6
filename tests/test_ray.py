"""Embedding on a Ray cluster of this machine: the store of embed_folder, whatever dies on the way."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pytest

import sedembed.ray
from sedembed.audio.remote import locate
from sedembed.batch.embed_folder import embed_folder
from sedembed.cli.main import main
from sedembed.embedder import Embedder
from sedembed.errors import InvalidArgumentError, MissingPackageError, StoreError
from sedembed.store.store import EmbeddingStore, open_store
from tests.network_guard.sitecustomize import LOG

# Ray's own, about its settings and sockets.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

Write = Callable[..., Path]
SOUNDS = {"a.wav": 0.3, "b/c.flac": 1.0, "b/d.wav": 0.1, "e.ogg": 2.0, "f.wav": 0.5}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory, write_sounds: Write) -> Path:
    root = write_sounds(tmp_path_factory.mktemp("sounds"), SOUNDS)
    (root / "broken.wav").write_text("no sound")
    return root


@pytest.fixture(scope="module")
def embedder(small_weanet) -> Embedder:
    return Embedder(small_weanet, device="cpu")


@pytest.fixture(scope="module")
def single(sounds: Path, tmp_path_factory: pytest.TempPathFactory, embedder: Embedder) -> EmbeddingStore:
    return embed_folder(sounds, tmp_path_factory.mktemp("single") / "out", embedder)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Ray's own processes ask whether this is a machine of a cloud: refused, and no failure of these tests.
        patch.setenv(LOG, str(tmp_path_factory.mktemp("ray") / "refused"))
        ray.init(num_cpus=2, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    yield ray
    ray.shutdown()


def assert_same(got: EmbeddingStore, expected: EmbeddingStore) -> None:
    assert got.index.equals(expected.index)
    np.testing.assert_allclose(got.vectors, expected.vectors, rtol=0, atol=1e-5)
    assert got.failures.select(["path", "error"]).equals(expected.failures.select(["path", "error"]))
    assert got.run["settings"] == expected.run["settings"]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Run the tasks in this process, two files each, without a cluster; the list that is given notes them."""
    pytest.importorskip("ray", reason="needs the extra ray")
    ran: list[list[str]] = []

    def run(
        _: Any, model: Embedder, location: Any, paths: list[str], workers: int, size: int, options: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        worker = sedembed.ray._Worker(model, {"url": location.url, "options": location.options}, options)
        for start in range(0, len(paths), 2):
            ran.append(paths[start : start + 2])
            yield {key: value[0] for key, value in worker({"path": ran[-1]}).items()}

    class Cluster:
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(sedembed.ray, "_run", run)
    monkeypatch.setattr(sedembed.ray, "_cluster", lambda ray: Cluster())
    monkeypatch.setattr(sedembed.ray, "_count_workers", lambda *_: 1)
    return ran


class TestCluster:
    def test_the_store_is_that_of_embed_folder(self, cluster, sounds, single, embedder, tmp_path: Path):
        store = sedembed.ray.embed_dataset(sounds, tmp_path / "out", embedder, 2, files_per_task=2)
        assert_same(store, single)
        assert store.run["folder"] == single.run["folder"]
        again = embed_folder(sounds, tmp_path / "out", embedder)  # either may continue the other's store
        assert_same(again, single)

    def test_a_killed_worker_loses_nothing(self, cluster, sounds, single, embedder, tmp_path: Path, monkeypatch):
        marker = str(tmp_path / "killed")

        class Killed(sedembed.ray._Worker):
            def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
                found = super().__call__(batch)  # the work is done, and lost
                if not Path(marker).exists():
                    Path(marker).touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                return found

        monkeypatch.setattr(sedembed.ray, "_Worker", Killed)
        store = sedembed.ray.embed_dataset(sounds, tmp_path / "out", embedder, 1, files_per_task=2)
        assert Path(marker).exists()
        assert_same(store, single)

    def test_what_kills_every_worker_ends_the_run(self, cluster, sounds, embedder, tmp_path: Path, monkeypatch):
        class Dying(sedembed.ray._Worker):
            def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
                os.kill(os.getpid(), signal.SIGKILL)
                raise AssertionError

        monkeypatch.setattr(sedembed.ray, "_Worker", Dying)
        monkeypatch.setattr(sedembed.ray, "_RETRIES", 1)
        with pytest.raises(StoreError, match=r"Ray gave up .*; 6 recordings are left"):
            sedembed.ray.embed_dataset(sounds, tmp_path / "out", embedder, 1)

    def test_more_workers_than_cpus_are_refused(self, cluster, sounds, embedder, tmp_path: Path):
        with pytest.raises(InvalidArgumentError, match="3 workers were asked for, and the cluster has 2 CPUs"):
            sedembed.ray.embed_dataset(sounds, tmp_path / "out", embedder, 3)

    def test_s3(self, cluster, sounds, single, embedder, tmp_path: Path):
        pytest.importorskip("s3fs", reason="s3:// needs s3fs")
        server = pytest.importorskip("moto.server", reason="a stand-in for S3 needs moto[server]")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        running = server.ThreadedMotoServer("127.0.0.1", port, verbose=False)
        running.start()
        try:
            options = {
                "key": "test",
                "secret": "test",
                "client_kwargs": {"endpoint_url": f"http://127.0.0.1:{port}", "region_name": "us-west-2"},
            }
            system = fsspec.filesystem("s3", **options)
            system.mkdir("bucket")
            system.put(str(sounds), "bucket/sounds", recursive=True)
            store = sedembed.ray.embed_dataset(
                "s3://bucket/sounds/**", tmp_path / "out", embedder, 1, storage_options=options
            )
        finally:
            running.stop()
        assert_same(store, single)
        assert store.run["folder"] == "s3://bucket/sounds"
        assert "s3://bucket/sounds/broken.wav" in store.failures["message"][0].as_py()


class TestTasks:
    @pytest.fixture
    def memory(self, sounds: Path) -> Iterator[str]:
        system = fsspec.filesystem("memory")
        for file in sounds.rglob("*.*"):
            system.pipe(f"/sounds/{file.relative_to(sounds).as_posix()}", file.read_bytes())
        yield "memory://sounds"
        system.rm("/sounds", recursive=True)

    def test_memory(self, in_process, memory: str, single, embedder, tmp_path: Path):
        store = sedembed.ray.embed_dataset(memory, tmp_path / "out", embedder)
        assert_same(store, single)
        (message,) = store.failures["message"].to_pylist()
        assert "memory://" in message
        assert "broken.wav" in message
        assert "sedembed-" not in message  # the folder of the worker

    def test_windows_and_tags(self, in_process, memory: str, sounds, embedder, tmp_path: Path):
        options = {"window": 1.0, "hop": 0.5, "tags": True}
        store = sedembed.ray.embed_dataset(memory, tmp_path / "out", embedder, **options)
        expected = embed_folder(sounds, tmp_path / "expected", embedder, **options)
        assert_same(store, expected)
        assert len(store) > len(SOUNDS)
        np.testing.assert_allclose(store.tags, expected.tags, atol=1e-3)

    def test_what_cannot_be_fetched_is_a_failure(self, in_process, memory: str, embedder, tmp_path: Path):
        store = sedembed.ray.embed_dataset([f"{memory}/a.wav", f"{memory}/none.wav"], tmp_path / "out", embedder)
        assert store.paths == ["a.wav"]
        assert store.failures.select(["path", "error"]).to_pylist() == [
            {"path": "none.wav", "error": "FileNotFoundError"}
        ]

    def test_an_interrupted_run_continues(self, in_process, sounds, single, embedder, tmp_path: Path, monkeypatch):
        run = sedembed.ray._run

        def interrupted(*arguments: Any) -> Iterator[dict[str, Any]]:
            yield next(iter(run(*arguments)))
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(sedembed.ray, "_run", interrupted)
            with pytest.raises(KeyboardInterrupt, match="4 recordings are left; run the same command again"):
                sedembed.ray.embed_dataset(sounds, tmp_path / "out", embedder)
        assert open_store(tmp_path / "out").paths == ["a.wav", "b/c.flac"]
        in_process.clear()
        assert_same(sedembed.ray.embed_dataset(sounds, tmp_path / "out", embedder), single)
        assert in_process == [["b/d.wav", "broken.wav"], ["e.ogg", "f.wav"]]
        in_process.clear()
        sedembed.ray.embed_dataset(sounds, tmp_path / "out", embedder)
        assert in_process == [["broken.wav"]]  # failures are tried again

    def test_a_task_that_runs_twice_counts_once(self, in_process, sounds, single, embedder, tmp_path, monkeypatch):
        run = sedembed.ray._run
        monkeypatch.setattr(sedembed.ray, "_run", lambda *a: (task for one in run(*a) for task in (one, one)))
        assert_same(sedembed.ray.embed_dataset(sounds, tmp_path / "out", embedder), single)

    def test_a_recording_that_comes_back_from_no_worker_is_said(
        self, in_process, sounds, embedder, tmp_path, monkeypatch
    ):
        run = sedembed.ray._run
        monkeypatch.setattr(sedembed.ray, "_run", lambda *a: list(run(*a))[1:])
        with pytest.raises(StoreError, match="2 recordings came back from no worker"):
            sedembed.ray.embed_dataset(sounds, tmp_path / "out", embedder)

    def test_a_changed_recording_is_embedded_again(self, in_process, embedder, tmp_path: Path, write_sounds: Write):
        root = write_sounds(tmp_path / "in", {"a.wav": 0.3, "b.wav": 0.3})
        sedembed.ray.embed_dataset(root, tmp_path / "out", embedder)
        write_sounds(root, {"b.wav": 1.2})
        store = sedembed.ray.embed_dataset(root, tmp_path / "out", embedder)
        assert in_process == [["a.wav", "b.wav"], ["b.wav"]]
        assert store["b.wav"].duration == pytest.approx(1.2)

    def test_a_pattern_keeps_the_paths_below_its_folder(self, in_process, sounds, embedder, tmp_path: Path):
        store = sedembed.ray.embed_dataset(f"{sounds}/*/*.wav", tmp_path / "out", embedder)
        assert store.paths == ["b/d.wav"]
        assert store.run["folder"] == str(locate(sounds).folder)

    def test_on_the_command_line(self, in_process, sounds, small_weanet_dir, tmp_path: Path, capsys):
        arguments = ["embed", str(sounds), "-o", str(tmp_path / "out"), "--model", str(small_weanet_dir), "--ray"]
        assert main([*arguments, "--device", "cpu"]) == 1
        assert "5 embedded, 1 failed" in capsys.readouterr().out
        assert main([*arguments, "--frames"]) == 2
        assert "--frames does not go with --ray" in capsys.readouterr().err


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r'pip install "sedembed\[ray\]"'):
        sedembed.ray.embed_dataset(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("address", [None, "ray://nowhere:1"])
def test_a_cluster_that_does_not_start_is_one_sentence(address: str | None, monkeypatch: pytest.MonkeyPatch):
    def refuse(**_: Any) -> None:
        raise ConnectionError("could not connect")

    if address is None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    else:
        monkeypatch.setenv("RAY_ADDRESS", address)
    stand_in = SimpleNamespace(
        is_initialized=lambda: False, init=refuse, exceptions=SimpleNamespace(RayError=KeyboardInterrupt)
    )
    cure = "the folder that `ray` names" if address is None else f"RAY_ADDRESS={address}"
    with (
        pytest.raises(StoreError, match=rf"did not start \(ConnectionError: could not connect\)\. .*{re.escape(cure)}"),
        sedembed.ray._cluster(stand_in),
    ):
        pass
