"""The example scripts run, on small data."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def esc50(tmp_path_factory) -> Path:
    """Two kinds of sound in five folds, laid out and named as ESC-50 is."""
    folder = tmp_path_factory.mktemp("esc50")
    (folder / "audio").mkdir()
    (folder / "meta").mkdir()
    rows = []
    for fold in range(1, 6):
        for target in range(2):
            for take in "AB":
                name = f"{fold}-{100 + target}-{take}-{target}.wav"
                rng = np.random.default_rng([fold, target, ord(take)])
                wave = rng.normal(0, 0.1, 16_000)
                if target:
                    wave = 0.3 * np.sin(2 * np.pi * rng.uniform(400, 600) * np.arange(16_000) / 16_000) + wave / 50
                soundfile.write(folder / "audio" / name.replace(".wav", ".ogg"), wave, 16_000)
                rows.append({"filename": name, "fold": fold, "target": target, "category": f"class {target}"})
    with (folder / "meta" / "esc50.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.mark.parametrize("model", ["log-mel", "untrained", "talnet"])
def test_evaluate_esc50(esc50, model):
    result = json.loads(run("evaluate_esc50.py", "--data", esc50, "--model", model))
    assert result["clips"] == 20
    assert len(result["folds"]) == 5
    assert result["accuracy"] >= 0.9  # noise against tones


@pytest.mark.slow
def test_compare_speed(esc50):
    printed = run("compare_speed.py", esc50 / "audio", "--limit", 4, "--rounds", 1)
    assert "by hand" in printed
    assert float(printed.rsplit("at most ", 1)[1]) < 1e-4


@pytest.mark.parametrize("arguments", [("--hours", 0.005), ("--files", 3)])
def test_measure_memory(arguments):
    assert "MiB" in run("measure_memory.py", *arguments)


def test_make_sounds(tmp_path):
    pytest.importorskip("scipy")
    command = [sys.executable, str(EXAMPLES / "make_sounds.py"), "--out", str(tmp_path)]
    subprocess.run(command, capture_output=True, text=True)  # exit status 1 without espeak-ng, the others are made
    for path in EXAMPLES.joinpath("sounds").iterdir():
        if path.suffix == ".md" or path.name.startswith("speech"):
            continue
        made, rate = soundfile.read(tmp_path / path.name)
        shipped, shipped_rate = soundfile.read(path)
        assert rate == shipped_rate
        assert made.shape == shipped.shape
        assert np.corrcoef(made.ravel(), shipped.ravel())[0, 1] > 0.99
