"""Tests of train."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sedembed
from sedembed.cli.main import main
from tests._training.train_helpers import audioset, clips, mids, run, tiny, training, whole  # noqa: F401


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Settings of a small and short training."""
    file = tmp_path / "small.json"
    settings = {k: v for k, v in tiny(steps=3).as_table().items() if k not in ("model", "validation", "sustain")}
    file.write_text(json.dumps(settings))
    return file


class TestCommand:
    def test_from_lists_to_model(
        self, audioset: Path, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out, cache = tmp_path / "run", tmp_path / "cache"
        command = ["train", "weanet", "--data", str(audioset), "--out", str(out), "--config", str(small)]
        command += ["--cache", str(cache), "--validation", "eval", "--workers", "1", "--device", "cpu"]
        assert main(command) == 1  # a clip cannot be decoded
        told = capsys.readouterr()
        best = json.loads((out / "result.json").read_text())["best"]
        assert told.out.startswith(f"MAP {best['map']:.4f}, MAUC {best['mauc']:.4f}, d' ")
        assert told.out.endswith(f"on 3 clips; the model is in {out / 'model'}\n")
        assert "2 clips are missing; they are listed in" in told.err
        assert "1 clips cannot be decoded and were left out; they are listed in" in told.err
        assert (out / "missing.txt").read_text().split() == [
            "balanced_train_segments/Y-missing_01.wav",
            "eval_segments/Y-missing_02.wav",
        ]
        assert str(audioset / "Y-bcdefgh_99.wav") in (out / "unreadable.csv").read_text()
        assert sorted(folder.name for folder in cache.iterdir()) == ["eval", "train"]
        model = sedembed.load_model(out / "model", device="cpu")
        assert model.tag(np.zeros(16_000, np.float32)).shape == (527,)
        # Once more: nothing left to do.
        assert main([*command, "--json"]) == 1
        again = json.loads(capsys.readouterr().out)
        assert again["best"] == best
        assert (again["training_clips"], again["missing_clips"], again["unreadable_clips"]) == (10, 2, 1)

    @pytest.mark.parametrize(
        ("settings", "options", "said"),
        [
            ({"min_share": 0.99}, [], "Only 10 of the 11 clips of the part train are there"),
            ({"stepz": 3}, [], "unknown key 'stepz'"),
            ({"model": "talnet"}, [], "is for the model 'talnet', not 'weanet'"),
            ({}, ["--device", "nowhere"], "Expected a device such as cpu or cuda:0"),
            ({}, ["--workers", "0"], "--workers needs a whole number"),
            ({}, ["--stage", "1"], "--stage is for self-teaching"),
            ({"validation_share": 1e-9}, [], "leaves 10 to train on and 0 to validate on"),
        ],
    )
    def test_refusals(
        self,
        settings: dict[str, Any],
        options: list[str],
        said: str,
        audioset: Path,
        small: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        small.write_text(json.dumps({**json.loads(small.read_text()), **settings}))
        command = ["train", "weanet", "--data", str(audioset), "--out", str(tmp_path / "run"), "--config", str(small)]
        assert main([*command, *options]) == 2
        told = capsys.readouterr()
        assert said in told.err
        assert "Traceback" not in told.err

    def test_a_folder_that_is_no_audioset(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["train", "talnet", "--data", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
        assert "balanced_train_segments.csv is not there" in capsys.readouterr().err

    @pytest.mark.parametrize("option", ["--data", "--out", "--config", "--cache"])
    def test_an_empty_path_is_not_the_current_folder(self, option: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["train", "talnet", "--data", "a", "--out", "b", option, ""])
        assert caught.value.code == 2
        assert "got an empty text" in capsys.readouterr().err

    @pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
    def test_names_that_the_terminal_cannot_show_do_not_end_the_run(
        self, audioset: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
    ) -> None:
        out = tmp_path / "run ☃"
        shown = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding, write_through=True))
        command = ["train", "weanet", "--data", str(audioset), "--out", str(out), "--config", str(small)]
        assert (
            main([*command, "--validation", "eval", "--workers", "1", "--device", "cpu", "--json"]) == 1
        )  # a clip cannot be decoded
        assert json.loads(shown.getvalue().decode(encoding))["model"] == str(out / "model")
