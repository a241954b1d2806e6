"""The example scripts run, on small data."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch

import sedembed

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def esc50(tmp_path_factory, write_esc50) -> Path:
    return write_esc50(tmp_path_factory.mktemp("data") / "esc50", suffix=".ogg")


@pytest.mark.parametrize("features", ["log-mel", "untrained"])
def test_esc50_baselines(esc50, features):
    result = json.loads(run("esc50_baselines.py", "--data", esc50, "--features", features))
    assert result["clips"] == 20
    assert len(result["folds"]) == 5
    assert result["accuracy"] >= 0.9  # noise against tones


@pytest.mark.slow
def test_compare_speed(esc50):
    printed = run("compare_speed.py", esc50 / "audio", "--limit", 4, "--rounds", 1)
    assert "by hand" in printed
    assert float(printed.rsplit("at most ", 1)[1]) < 1e-4


def test_compare_training_speed():
    printed = run("compare_training_speed.py", "--models", "talnet", "--rounds", 1, "--clips", 2, "--seconds", 0.5)
    rows = [line.split(" | ") for line in printed.splitlines()[2:]]
    assert [row[1] for row in rows] == ["float32", "float32, Winograd", "bfloat16"]
    assert float(rows[0][3].rstrip(" |")) == 1.0
    for row in rows[1:]:  # to the two decimals that are printed
        assert float(row[3].rstrip(" |")) * float(row[2]) == pytest.approx(float(rows[0][2]), abs=0.03, rel=0.2)


def test_compare_probe_speed():
    printed = run("compare_probe_speed.py", "--rounds", 1, "--rows", 120, "--size", 8, "--classes", 3)
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ") and "---" not in line]
    assert [row[0].lstrip("| ") for row in rows[1:]] == [
        "LinearProbe",
        "GridSearchCV, default tolerance",
        "GridSearchCV, same optimum",
    ]
    # Three made-up classes: all ways agree on what to predict.
    assert min(float(row[5]) for row in rows[1:]) > 0.95


def test_measure_probe(tmp_path):
    sizes = ("--size", 8, "--classes", 3, "--memory", 1000)
    (line,) = run("measure_probe.py", "--rows", 5000, *sizes, "--folder", tmp_path).splitlines()
    result = json.loads(line)
    assert not result["in memory"]
    assert result["passes"] >= 1
    assert not list(tmp_path.iterdir())


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


class TestFinetune:
    @pytest.fixture
    def finetune(self, monkeypatch) -> ModuleType:
        spec = importlib.util.spec_from_file_location("finetune", EXAMPLES / "finetune.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "finetune", module)
        spec.loader.exec_module(module)
        return module

    def test_embeddings_with_gradients_are_those_of_the_embedder(
        self, finetune, untrained_embedder, untrained_model_dir
    ):
        rng = np.random.default_rng(0)
        sounds = [rng.normal(0, 0.1, length).astype(np.float32) for length in (9_000, 14_000, 700)]
        network = finetune.load_network(untrained_model_dir)
        embeddings = finetune.embed_batch(network, finetune.read_features(network, sounds))
        np.testing.assert_allclose(embeddings.detach().numpy(), untrained_embedder.embed(sounds), atol=2e-5)
        embeddings[0, 0].backward()
        assert network.conv1.conv.weight.grad.abs().max() > 0

    def test_clips(self, finetune, esc50):
        heard, held_out = finetune.read_shipped(16_000)
        assert set(heard.labels) == set(held_out.labels) == {"background", "device", "living"}
        assert not set(heard.groups) & set(held_out.groups)
        assert set(heard.groups) | set(held_out.groups) | {"README.md"} == {
            path.name for path in (EXAMPLES / "sounds").iterdir()
        }
        heard, held_out = finetune.read_esc50(esc50, 2, False)
        assert set(heard.groups) == {1, 3, 4, 5}
        assert {path.name[0] for path in held_out.sounds} == {"2"}
        with pytest.raises(SystemExit, match="--fold"):
            finetune.read_esc50(esc50, 6, False)

    def test_it_trains_a_copy(self, finetune, untrained_model_dir, esc50, tmp_path, monkeypatch, capsys):
        heard, held_out = finetune.read_esc50(esc50, 5, False)
        few = [clips.where(np.arange(len(clips.labels)) % 2 == 0) for clips in (heard, held_out)]
        monkeypatch.setattr(finetune, "read_shipped", lambda rate: few)
        before = (untrained_model_dir / "model.safetensors").read_bytes()
        arguments = ["--model", untrained_model_dir, "--out", tmp_path, "--epochs", 2, "--learning-rate", 1e-5]
        with torch.random.fork_rng():
            finetune.main([*map(str, arguments), "--device", "cpu"])
        printed = capsys.readouterr().out
        assert "8 clips to train on, 2 held out, 2 classes" in printed
        first, second = (float(line.rsplit(maxsplit=1)[1]) for line in printed.splitlines() if "loss" in line)
        assert second < first
        assert printed.count("network") >= 3
        assert (untrained_model_dir / "model.safetensors").read_bytes() == before

        old = finetune.load_network(untrained_model_dir).state_dict()
        new = finetune.load_network(tmp_path / "model").state_dict()
        assert all(not torch.equal(old[f"conv{i}.conv.weight"], new[f"conv{i}.conv.weight"]) for i in range(1, 11))
        assert torch.equal(old["conv5.bn.running_mean"], new["conv5.bn.running_mean"])
        assert torch.equal(old["fc_prob.weight"], new["fc_prob.weight"])
        tuned = sedembed.load_model(tmp_path / "model", device="cpu")
        assert tuned.embed(few[1].sounds[0]).shape == (1024,)
