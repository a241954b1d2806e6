"""Tests of train with stages of self-teaching."""

from __future__ import annotations

import csv
import json
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import sedembed
from sedembed.cli.main import main
from tests._training.sustain_helpers import (  # noqa: F401
    CONFIG,
    clips,
    weights,
)


@pytest.fixture
def audioset(tmp_path, clips) -> Path:
    """Copy of AudioSet: seven clips to train on, one of them broken, one to evaluate on."""
    text = files("sedembed.models").joinpath("class_labels_indices.csv").read_text(encoding="utf-8")
    mids = [row["mid"] for row in csv.DictReader(text.splitlines())]
    data = tmp_path / "audioset"
    data.mkdir()
    rows = []
    for i in range(8):
        video = f"abcdefghi_{i}"
        shutil.copy(clips.paths[i], data / f"Y{video}.wav")
        rows.append(f'{video}, 0.000, 10.000, "{mids[i % 3]}"\n')
    (data / "Yabcdefghi_6.wav").write_bytes(b"RIFF" + bytes(100))
    header = "# one\n# two\n# YTID, start_seconds, end_seconds, positive_labels\n"
    (data / "balanced_train_segments.csv").write_text(header + "".join(rows[:7]))
    (data / "eval_segments.csv").write_text(header + rows[7])
    return data


def test_command_trains_stages(audioset, tmp_path, capsys):
    out, settings = tmp_path / "run", tmp_path / "settings.json"
    table = {**CONFIG.as_table(), "sustain": {"stages": 1, "alphas": [0.3, 0.7]}}
    settings.write_text(json.dumps(table))
    command = ["train", "weanet", "--data", str(audioset), "--config", str(settings), "--workers", "1"]
    command += ["--device", "cpu", "--out"]
    assert main([*command, str(out)]) == 1  # one clip is broken
    kept = safetensors.numpy.load_file(out / "stage-0" / "probabilities.safetensors")["probabilities"]
    assert kept.shape == (7, 527)
    np.testing.assert_array_equal(np.isnan(kept).all(1), [i == 6 for i in range(7)])
    model = sedembed.load_model(out / "stage-1" / "model", device="cpu")
    assert model.tag(np.zeros(16_000, np.float32)).shape == (527,)
    first = weights(out / "stage-1")
    shutil.rmtree(out / "stage-1")
    assert main([*command, str(out), "--stage", "1"]) == 1
    assert weights(out / "stage-1") == first
    capsys.readouterr()
    assert main([*command, str(tmp_path / "other"), "--stage", "1"]) == 2
    assert "Stage 1 needs the model of stage 0" in capsys.readouterr().err
    settings.write_text(json.dumps({**table, "sustain": {"alpha": [0.3, 0.7]}}))
    assert main([*command, str(tmp_path / "other")]) == 2
    assert "sustain: unknown key 'alpha'" in capsys.readouterr().err
