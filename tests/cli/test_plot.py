"""Tests of plot."""

from __future__ import annotations

import sys

import pytest

from sedembed.cli.main import main
from tests._analysis.timeline_helpers import SOUNDS, talnet  # noqa: F401


class TestCommand:
    def test_a_picture(self, talnet, monkeypatch, tmp_path):
        pytest.importorskip("matplotlib")
        monkeypatch.setattr("sedembed.cli.events.load", lambda options: talnet)
        out = tmp_path / "rain.png"
        assert main(["plot", str(SOUNDS / "rain.ogg"), "-o", str(out), "-k", "4", "--labels", "Rain;Speech"]) == 0
        assert out.read_bytes().startswith(b"\x89PNG")

    @pytest.mark.parametrize(
        ("arguments", "cure"),
        [
            (["rain.ogg", "-o", "a.jpeg"], ".png, .svg, .pdf"),
            (["rain.ogg", "-o", "a.png", "-k", "0"], "at least 1"),
            (["none.ogg", "-o", "a.png"], "none.ogg"),
            (["rain.ogg", "-o", "a.png", "--labels", "Rian"], "did you mean 'Rain'"),
        ],
    )
    def test_refusals(self, arguments, cure, talnet, monkeypatch, tmp_path, capsys):
        pytest.importorskip("matplotlib")
        monkeypatch.setattr("sedembed.cli.events.load", lambda options: talnet)
        monkeypatch.chdir(tmp_path)
        assert main(["plot", str(SOUNDS / arguments[0]), *arguments[1:]]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert cure in error
        assert list(tmp_path.iterdir()) == []

    def test_a_file_that_is_no_sound(self, talnet, monkeypatch, tmp_path, capsys):
        pytest.importorskip("matplotlib")
        monkeypatch.setattr("sedembed.cli.events.load", lambda options: talnet)
        monkeypatch.chdir(tmp_path)
        assert main(["plot", str(SOUNDS / "README.md"), "-o", "a.png"]) == 1
        assert "README.md" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    def test_without_matplotlib(self, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        assert main(["plot", str(SOUNDS / "rain.ogg"), "-o", "a.png"]) == 2
        assert 'pip install "sedembed[plots]"' in capsys.readouterr().err
