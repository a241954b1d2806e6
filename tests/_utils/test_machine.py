from __future__ import annotations

import os
import socket

import pytest
import torch

from sedembed import load_model
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


def test_bfloat16_where_there_are_instructions_for_it(monkeypatch: pytest.MonkeyPatch):
    for there in (True, False):
        monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda there=there: there, raising=False)
        assert machine.has_bfloat16(torch.device("cpu")) is there
    monkeypatch.delattr("torch.cpu._is_avx512_bf16_supported")
    assert not machine.has_bfloat16(torch.device("cpu"))
    assert not machine.has_bfloat16(torch.device("meta"))
    for there in (True, False):
        monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda there=there: there, raising=False)
        assert machine.has_bfloat16_tiles() is there
    monkeypatch.delattr("torch.cpu._is_amx_tile_supported")
    assert not machine.has_bfloat16_tiles()


@pytest.mark.parametrize(
    ("name", "there", "told"), [("x86_64", False, 1), ("AMD64", False, 1), ("x86_64", True, 0), ("arm64", False, 0)]
)
def test_slow_bfloat16_is_told(
    name: str, there: bool, told: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(machine.platform, "machine", lambda: name)
    monkeypatch.setattr(machine, "has_bfloat16", lambda device: there)
    machine.warn_of_slow_bfloat16(torch.device("cpu"))
    assert caplog.text.count("Choose precision float32") == told


def test_a_model_in_bfloat16_tells_it(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(machine, "has_bfloat16", lambda device: False)
    load_model("talnet", device="cpu")
    assert not caplog.text
    load_model("talnet", device="cpu", precision="bfloat16")
    assert "no instructions for bfloat16" in caplog.text
