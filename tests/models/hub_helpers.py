"""A stand-in of a hub's HTTP interface that takes uploads: repositories, LFS objects, commits, and files of commits."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from huggingface_hub import constants


class WritableHub:
    """What it holds: files of each commit, and how it can fail."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}  # repository to commit to files
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.refuse: int | None = None
        self.port = 0

    def files(self, repo: str) -> dict[str, bytes]:
        return list(self.repos[repo].values())[-1]

    def post(self, path: str, body: bytes) -> tuple[int, Any]:
        parts = path.split("?")[0].strip("/").split("/")
        if self.refuse is not None:
            return self.refuse, {"error": "no"}
        if parts == ["api", "repos", "create"]:
            wanted = json.loads(body)
            repo = f"{wanted.get('organization')}/{wanted['name']}"
            known, status = repo in self.repos, 409
            if not known:
                self.repos[repo], self.private[repo], status = {}, wanted.get("visibility") == "private", 200
            return status, {"url": f"http://127.0.0.1:{self.port}/{repo}"}
        if parts == ["api", "validate-yaml"]:
            assert json.loads(body)["content"].startswith("---\n")
            return 200, {"warnings": [], "errors": []}
        if parts[:2] == ["api", "models"] and parts[4] == "preupload":
            asked = json.loads(body)["files"]
            mode = {True: "lfs", False: "regular"}
            return 200, {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": mode[file["path"].endswith(".safetensors")],
                        "shouldIgnore": False,
                    }
                    for file in asked
                ]
            }
        if path.endswith("/info/lfs/objects/batch"):
            objects = []
            for item in json.loads(body)["objects"]:
                href = f"http://127.0.0.1:{self.port}/put/{item['oid']}"
                objects.append({**item, "actions": {"upload": {"href": href}}})
            return 200, {"objects": objects, "transfer": "basic"}
        if parts[:2] == ["api", "models"] and parts[4] == "commit":
            return 200, self.commit("/".join(parts[2:4]), [json.loads(line) for line in body.splitlines()])
        return 404, {}

    def commit(self, repo: str, operations: list[dict[str, Any]]) -> dict[str, Any]:
        files = dict(self.files(repo)) if self.repos[repo] else {}
        for operation in operations[1:]:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                assert operation["key"] == "lfsFile"
                files[value["path"]] = self.objects[value["oid"]]
        oid = hashlib.sha1(json.dumps(operations).encode(), usedforsecurity=False).hexdigest()
        self.repos[repo][oid] = files
        return {
            "commitUrl": f"http://127.0.0.1:{self.port}/{repo}/commit/{oid}",
            "commitOid": oid,
            "pullRequestUrl": None,
        }

    def get(self, path: str) -> tuple[int, dict[str, str], bytes]:
        parts = path.split("?")[0].strip("/").split("/")
        commits = self.repos.get("/".join(parts[:2]), {})
        if len(parts) < 5 or parts[2] != "resolve" or not commits:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        commit = list(commits)[-1] if parts[3] == "main" else parts[3]
        data = commits.get(commit, {}).get(parts[4])
        if data is None:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}, data


@contextmanager
def writable_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[WritableHub]:
    hub = WritableHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def do_POST(self) -> None:
            hub.tokens.add(self.headers.get("authorization"))
            status, answer = hub.post(self.path, self._body())
            self._answer(status, {"Content-Type": "application/json"}, json.dumps(answer).encode())

        def do_PUT(self) -> None:
            data = self._body()
            assert hashlib.sha256(data).hexdigest() == self.path.rpartition("/")[2]
            hub.objects[hashlib.sha256(data).hexdigest()] = data
            self._answer(200, {}, b"")

        def do_GET(self) -> None:
            self._answer(*hub.get(self.path))

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the stand-in speaks the older protocol
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits between its retries
    for variable in ("HF_HUB_OFFLINE", "SEDEMBED_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
