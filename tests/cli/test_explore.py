"""`sedembed search`: what is printed, and that no vectors of another model are ever compared."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sedembed
from sedembed.cli.main import main
from tests.cli.explore_helpers import SOUNDS, folder, made, out  # noqa: F401


def lines(printed: str) -> list[list[str]]:
    return [line.split("\t") for line in printed.splitlines()]


class TestSearch:
    def test_a_file(self, made: Path, folder: Path, untrained_model_dir: Path, capsys: pytest.CaptureFixture[str]):
        arguments = ["search", str(made), str(folder / "sub" / "c.wav"), "--model", str(untrained_model_dir)]
        assert main([*arguments, "--device", "cpu"]) == 0
        rows = lines(capsys.readouterr().out)
        assert sorted(path for _, _, path in rows) == ["a.wav", "d.wav", "sub/b ö.flac"]  # not itself
        assert [float(row[0]) for row in rows] == sorted((float(row[0]) for row in rows), reverse=True)
        vectors = {path: v.astype(float) for path, v in zip(*_contents(made), strict=True)}
        query = vectors["sub/c.wav"]
        for cosine, _, path in rows:
            expected = query @ vectors[path] / np.linalg.norm(query) / np.linalg.norm(vectors[path])
            assert float(cosine) == pytest.approx(expected, abs=1e-4)

    def test_a_copy_of_a_recording_finds_it(
        self, made: Path, folder: Path, untrained_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        copy = shutil.copy(folder / "sub" / "c.wav", tmp_path / "c.wav")
        assert main(["search", str(made), str(copy), "--model", str(untrained_model_dir), "-k", "2"]) == 0
        first, _ = lines(capsys.readouterr().out)
        assert first == ["1.0000", "1.25 s", "sub/c.wav"]

    def test_a_path_of_the_store_needs_no_model(self, made: Path, capsys: pytest.CaptureFixture[str]):
        assert main(["search", str(made), "sub/b ö.flac", "-k", "2", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["query"] == "sub/b ö.flac"
        expected = sedembed.open_store(made).search("sub/b ö.flac", 2)
        assert [(row["path"], row["cosine"]) for row in found["results"]] == [hit[:2] for hit in expected]
        assert [row["duration"] for row in found["results"]] == [SOUNDS[hit.path] for hit in expected]

    def test_a_file_comes_before_a_path(
        self,
        made: Path,
        folder: Path,
        untrained_model_dir: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ):
        shutil.copy(folder / "d.wav", tmp_path / "a.wav")
        monkeypatch.chdir(tmp_path)
        assert main(["search", str(made), "a.wav", "-k", "1", "--model", str(untrained_model_dir)]) == 0
        assert lines(capsys.readouterr().out)[0][2] == "d.wav"

    @pytest.mark.parametrize(
        ("query", "options", "message"),
        [
            ("none.wav", [], "neither a sound file nor the path of a recording"),
            ("a.wav", ["-k", "0"], "at least 1, got 0"),
            ("{broken}", [], "broken.wav"),
            ("{folder}", [], "sub"),
        ],
    )
    def test_bad_queries(
        self,
        made: Path,
        untrained_model_dir: Path,
        tmp_path: Path,
        query: str,
        options: list[str],
        message: str,
        capsys: pytest.CaptureFixture[str],
    ):
        (tmp_path / "broken.wav").write_text("no sound")
        (tmp_path / "sub").mkdir()
        query = query.format(broken=tmp_path / "broken.wav", folder=tmp_path / "sub")
        code = 1 if "broken" in query else 2  # as for every recording that cannot be read
        assert main(["search", str(made), query, *options, "--model", str(untrained_model_dir)]) == code
        printed = capsys.readouterr()
        assert message in printed.err
        assert printed.err.count("\n") == 1
        assert not printed.out

    def test_no_store(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        assert main(["search", str(tmp_path), "a.wav"]) == 2
        assert "found no run.json" in capsys.readouterr().err


def _contents(out: Path) -> tuple[list[str], np.ndarray]:
    store = sedembed.open_store(out)
    return store.paths, store.vectors


def test_measure_search(tmp_path: Path):
    script = Path(__file__).parents[2] / "examples" / "measure_search.py"
    command = [sys.executable, str(script), "--rows", "600", "--size", "8", "--scratch", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "the same rows and cosines as float64 throughout" in done.stdout
    assert not list(tmp_path.iterdir())
