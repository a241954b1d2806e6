"""Weights from a hub: a stand-in of its HTTP interface on this machine, so that no test needs a network."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from sedembed.errors import DownloadError, OfflineError, WeightsError
from sedembed.models import registry
from sedembed.models.talnet import TALNet, TALNetConfig
from sedembed.models.weights import load_network, resolve, save_pretrained

CONFIG = TALNetConfig(mean=(-9.0,) * 64, std=(5.0,) * 64)
COMMIT = "0123456789" * 4
URI = f"hf://org/tiny@{COMMIT}"


class Hub:
    """What a hub answers for one repository `org/tiny`, and the ways in which it can fail."""

    def __init__(self) -> None:
        config = json.dumps(dataclasses.asdict(CONFIG)).encode()
        tensors = {"fc_prob.bias": torch.arange(100_000, dtype=torch.float32)}
        self.files = {"config.json": config, "model.safetensors": save(tensors)}
        self.requests: list[str] = []
        self.user_agents: set[str] = set()
        self.send_only: int | None = None
        self.then_fail = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.files["model.safetensors"]).hexdigest()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append(f"{handler.command} {handler.path}")
        self.user_agents.add(handler.headers["user-agent"])
        parts = handler.path.strip("/").split("/")
        if parts[0] == "cdn":
            return self.send(handler, self.files["model.safetensors"])
        headers, status, data = {"X-Repo-Commit": COMMIT}, 404, b""
        if parts[:3] != ["org", "tiny", "resolve"]:
            headers["X-Error-Code"] = "RepoNotFound"
        elif parts[3] not in ("main", "v1", COMMIT):
            headers["X-Error-Code"] = "RevisionNotFound"
        elif parts[4] not in self.files:
            headers["X-Error-Code"] = "EntryNotFound"
        else:
            status, data = 200, self.files[parts[4]]
            headers["ETag"] = f'"{hashlib.sha1(data, usedforsecurity=False).hexdigest()}"'
            if parts[4].endswith(".safetensors"):
                status = 302
                headers["X-Linked-Etag"] = f'"{self.sha256}"'
                headers["X-Linked-Size"] = str(len(data))
                headers["Location"] = f"http://localhost:{handler.server.server_address[1]}/cdn/model.safetensors"
                data = b""
        return self.send(handler, data, status, headers)

    def send(
        self, handler: BaseHTTPRequestHandler, data: bytes, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        if self.then_fail and self.send_only is None:
            status, data = 500, b""
        handler.send_response(status)
        for key, value in (headers or {}).items():
            handler.send_header(key, value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if handler.command == "GET":
            if self.send_only is not None and len(data) > self.send_only:
                data, self.send_only = data[: self.send_only], None
                handler.close_connection = True
            handler.wfile.write(data)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.answer(self)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    for variable in ("HF_HUB_OFFLINE", "SEDEMBED_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    # The client waits between its retries.
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    yield hub
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def leftovers(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if "incomplete" in path.name or path.suffix == ".safetensors"]


def test_a_saved_network_comes_back_and_is_fetched_once(
    hub: Hub, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with torch.random.fork_rng():
        network = TALNet(CONFIG)
    directory = save_pretrained(network, tmp_path / "saved", dtype=torch.float16)
    hub.files = {path.name: path.read_bytes() for path in directory.iterdir()}

    resolved = resolve(URI, cache_dir=tmp_path / "cache")
    assert resolved.weights.read_bytes() == hub.files["model.safetensors"]
    assert sorted(path.name for path in resolved.directory.iterdir()) == ["config.json", "model.safetensors"]
    record = resolved.record
    assert (record.name, record.source, record.revision) == ("org/tiny", "hf://org/tiny", COMMIT)
    assert (record.version, record.sha256) == (f"hub-{hub.sha256[:12]}", hub.sha256)
    first = load_network(resolved).state_dict()
    for key, tensor in load_network(resolve(directory)).state_dict().items():
        assert torch.equal(first[key], tensor)
    assert all(" /org/tiny/resolve/" in line or " /cdn/" in line for line in hub.requests)

    hub.requests.clear()
    request.getfixturevalue("no_network")
    assert resolve(URI, cache_dir=str(tmp_path / "cache")) == resolved
    assert resolve(URI, cache_dir=tmp_path / "cache", local_files_only=True) == resolved
    assert hub.requests == []


@pytest.mark.parametrize("uri", ["hf://org/tiny", "hf://org/tiny@v1"])
def test_a_name_of_a_revision_is_looked_up_once(hub: Hub, uri: str, tmp_path: Path) -> None:
    assert resolve(uri, cache_dir=tmp_path).record.revision == COMMIT
    assert any(f"/resolve/{COMMIT}/model.safetensors" in line for line in hub.requests)
    hub.requests.clear()
    resolve(uri, cache_dir=tmp_path)
    resolve(URI, cache_dir=tmp_path)
    assert hub.requests == []


def test_the_hub_is_told_nothing_about_this_machine(hub: Hub, tmp_path: Path) -> None:
    from huggingface_hub import constants

    before = constants.HF_HUB_DISABLE_TELEMETRY
    resolve(URI, cache_dir=tmp_path)
    assert before == constants.HF_HUB_DISABLE_TELEMETRY
    for text in hub.user_agents:
        assert text.startswith("sedembed")
        assert "torch" not in text
        assert "agent/" not in text


@pytest.mark.parametrize("how", ["local_files_only", "SEDEMBED_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline(
    how: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    resolve(URI, cache_dir=tmp_path / "full")
    hub.requests.clear()
    request.getfixturevalue("no_network")
    if how != "local_files_only":
        monkeypatch.setenv(how, "1")
    with pytest.raises(OfflineError, match=rf"not in the cache .*\({how}.*Load it once with connections allowed"):
        resolve(URI, cache_dir=tmp_path / "empty", local_files_only=how == "local_files_only")
    resolve(URI, cache_dir=tmp_path / "full", local_files_only=how == "local_files_only")
    assert hub.requests == []


class TestRegisteredRecord:
    @pytest.fixture
    def record(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> registry.ModelRecord:
        record = dataclasses.replace(
            registry.describe_model("talnet"), name="tiny", source="hf://org/tiny", revision=COMMIT, sha256=hub.sha256
        )
        records = {"talnet": registry.describe_model("talnet"), "tiny": record}
        monkeypatch.setattr(registry, "_RECORDS", records)
        return record

    def test_fetched_at_its_commit(self, hub: Hub, record: registry.ModelRecord, tmp_path: Path) -> None:
        assert resolve("tiny", cache_dir=tmp_path).record is record

    def test_another_file_than_pinned_is_refused(self, hub: Hub, record: registry.ModelRecord, tmp_path: Path) -> None:
        data = hub.files["model.safetensors"]
        hub.files["model.safetensors"] = data[:-1] + bytes([data[-1] ^ 1])
        for _ in range(2):  # also when it is in the cache
            with pytest.raises(WeightsError) as caught:
                resolve("tiny", cache_dir=tmp_path)
            for text in (f"should be {record.sha256}", f"got {hub.sha256}", "Delete ", "load again"):
                assert text in str(caught.value)


class TestFailures:
    @pytest.mark.parametrize(
        ("uri", "says"),
        [
            ("hf://org/nothing", "RepositoryNotFoundError.*404"),
            ("hf://org/tiny@v2", "RevisionNotFoundError.*404|404.*RevisionNotFound"),
        ],
    )
    def test_not_there(self, uri: str, says: str, hub: Hub, tmp_path: Path) -> None:
        with pytest.raises(DownloadError, match=rf"(?s)Could not fetch config\.json of {uri}: .*({says})"):
            resolve(uri, cache_dir=tmp_path)

    def test_repository_of_something_else(self, hub: Hub, tmp_path: Path) -> None:
        del hub.files["model.safetensors"]
        with pytest.raises(DownloadError, match=r"(?s)Could not fetch model\.safetensors of .*404"):
            resolve(URI, cache_dir=tmp_path)

    def test_no_connection(self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
            with pytest.raises(OSError, match=r"(?s)Could not fetch config\.json .*refused.*load again") as caught:
                resolve(URI, cache_dir=tmp_path)
        assert isinstance(caught.value, DownloadError)
        assert not isinstance(caught.value, OfflineError)

    def test_connection_lost_in_the_middle(self, hub: Hub, tmp_path: Path) -> None:
        hub.send_only, hub.then_fail = 250_000, True
        with pytest.raises(DownloadError, match=r"(?s)Could not fetch model\.safetensors .*500"):
            resolve(URI, cache_dir=tmp_path)
        assert leftovers(tmp_path) == []
        with pytest.raises(OfflineError):
            resolve(URI, cache_dir=tmp_path, local_files_only=True)
        hub.then_fail = False
        assert resolve(URI, cache_dir=tmp_path).record.sha256 == hub.sha256

    def test_a_shorter_file_than_announced(self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole, send = hub.files["model.safetensors"], hub.send
        monkeypatch.setattr(hub, "send", lambda handler, data, *rest: send(handler, data[:250_000], *rest))
        with pytest.raises(DownloadError, match=r"(?s)Could not fetch model\.safetensors .*size"):
            resolve(URI, cache_dir=tmp_path)
        assert leftovers(tmp_path) == []
        monkeypatch.setattr(hub, "send", send)
        assert resolve(URI, cache_dir=tmp_path).weights.read_bytes() == whole

    def test_damaged_in_the_cache(self, hub: Hub, tmp_path: Path) -> None:
        file = resolve(URI, cache_dir=tmp_path).weights.resolve()
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        with pytest.raises(WeightsError, match=f"sha256 should be {hub.sha256}.* Delete {file} and load again"):
            resolve(URI, cache_dir=tmp_path)
        file.unlink()
        assert resolve(URI, cache_dir=tmp_path).record.sha256 == hub.sha256


def test_importing_connects_to_nothing_and_leaves_the_client_alone() -> None:
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('a connection was tried')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "import sedembed.models.convert, sedembed.models.weights\n"
        "assert 'huggingface_hub' not in sys.modules\n"
        "import huggingface_hub.file_download\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
