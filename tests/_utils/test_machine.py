from __future__ import annotations

import os
import socket

import pytest
import torch

from sedembed._utils import machine


def test_what_is_known_of_every_machine():
    found = machine.describe_machine()
    assert list(found) == ["system", "machine", "processor", "instructions", "cores", "threads", "gpus"]
    assert found["threads"] == torch.get_num_threads()
    assert 1 <= found["cores"] <= (os.cpu_count() or 1)
    assert len(found["gpus"]) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
    assert socket.gethostname() not in str(found)


def test_where_the_system_has_no_file_of_processors(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "missing")
    monkeypatch.setattr(machine.platform, "processor", lambda: "Some64 Family 6")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    found = machine.describe_machine()
    assert (found["processor"], found["cores"]) == ("Some64 Family 6", os.cpu_count())
