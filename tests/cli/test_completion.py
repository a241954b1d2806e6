"""The command completion: what bash completes with its script."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sedembed.cli.main import main


@pytest.fixture
def script(capsys: pytest.CaptureFixture[str]) -> str:
    pytest.importorskip("shtab", reason="shtab is not installed")
    assert main(["completion", "bash"]) == 0
    return capsys.readouterr().out


def complete(script: str, folder: Path, *words: str) -> list[str]:
    """What bash offers for the last of the words."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    line = " ".join(f"'{word}'" for word in ("sedembed", *words))
    program = (
        f"{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words)}; _shtab_sedembed; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run([bash, "-c", program], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_bash(script: str, tmp_path: Path):
    (tmp_path / "birds.wav").touch()
    assert complete(script, tmp_path, "det") == ["detect"]
    assert complete(script, tmp_path, "probe", "") == ["fit", "predict"]
    assert complete(script, tmp_path, "embed", "x", "--eng") == ["--engine"]
    assert complete(script, tmp_path, "embed", "x", "--engine", "op") == ["openvino"]
    for words in (["tag", "bi"], ["embed", "bi"], ["search", "s", "bi"], ["probe", "fit", "s", "--labels", "bi"]):
        assert complete(script, tmp_path, *words) == ["birds.wav"], words


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert 'pip install "sedembed[completion]"' in capsys.readouterr().err
