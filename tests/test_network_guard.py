"""The guard of the test suite refuses other machines, in this process and in those that tests start."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.network_guard.sitecustomize import LOG, is_here

ELSEWHERE = ("192.0.2.1", 80)  # an address that documentation may use and nobody has


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """File of what is refused; that of the suite stays empty."""
    monkeypatch.setenv(LOG, str(tmp_path / "refused"))
    return tmp_path / "refused"


def test_connections(refused: Path):
    with pytest.raises(ConnectionRefusedError, match="may not use the network"):
        socket.create_connection(ELSEWHERE, timeout=1)
    with socket.socket() as sock, pytest.raises(ConnectionRefusedError):
        sock.connect_ex(ELSEWHERE)
    assert refused.read_text() == f"a connection to {ELSEWHERE}\n" * 2


def test_look_ups(refused: Path):
    with pytest.raises(ConnectionRefusedError):
        socket.getaddrinfo("huggingface.co", 443)
    assert refused.read_text() == "a look-up of 'huggingface.co'\n"


def test_other_processes(refused: Path):
    code = f"import socket\ntry: socket.create_connection({ELSEWHERE})\nexcept OSError as error: print(error)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Tests may not use the network" in run.stdout
    assert refused.exists()


def test_this_machine_is_allowed(refused: Path):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass
    assert socket.getaddrinfo("localhost", 80)
    assert all(map(is_here, ("127.0.0.1", "::1", "localhost", "", None, b"127.0.0.1", socket.gethostname())))
    assert not any(map(is_here, ("10.0.0.1", "example.org", "2001:db8::1")))
    assert not refused.exists()


def test_the_suite_is_guarded():
    assert Path(os.environ[LOG]).parent.is_dir()
    assert os.environ["PYTHONPATH"].split(os.pathsep)[0].endswith("network_guard")
