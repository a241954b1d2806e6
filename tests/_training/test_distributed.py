"""Several processes that train together give what one gives."""

from __future__ import annotations

import csv
import json
import socket
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from sedembed._training import features as features_module
from sedembed._training.clips import ClipSet
from sedembed._training.distributed import Processes, current_processes, join_processes
from sedembed._training.features import FeatureStore
from sedembed._training.loop import Training
from sedembed._training.settings import TrainConfig

TINY = {"channels": [4, 8, 8, 8], "segment_channels": 16, "hidden_channels": [16, 16], "mean": -40.0, "std": 20.0}
SETTINGS: dict[str, Any] = {
    "model": "weanet",
    "network": TINY,
    "batch_size": 7,  # four clips for one process, three for the other
    "steps": 8,
    "validate_every": 4,
    "checkpoint_every": 4,
    "log_every": 1,
    "seconds": 1.0,
    "spec_augment_fill": 0.0,
    # Rounding would hide little here: batch normalisation over few values, maxima and Adam's division enlarge it.
    "precision": "float64",
}
PROGRAM = """
import os, warnings
warnings.simplefilter("error")
os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
import sys
sys.path.insert(0, tests)
import torch
torch.set_num_threads(1)
import test_distributed
from sedembed._training import features
features.SHARD_CLIPS = 4  # so that both have something to do
test_distributed.train(settings, sounds, out, cache)
"""


def read_clips(sounds: Path) -> ClipSet:
    paths = tuple(sorted(sounds.glob("*.wav")))
    targets = np.tile(np.eye(3, dtype=np.float32), (4, 1))
    return ClipSet(tuple(path.name for path in paths), paths, targets, tuple("abc"))


def train(settings: dict[str, Any], sounds: Path, out: Path, cache: Path | None) -> None:
    """What every process does."""
    config, clips = TrainConfig(**settings), read_clips(sounds)
    with join_processes("cpu") as device:
        features = FeatureStore.open(clips, config.build(1), cache, workers=1)
        parts = clips.select(range(9)), clips.select(range(9, 12))
        Training(
            config,
            parts[0],
            features.subset(parts[0]),
            out,
            validation=parts[1],
            validation_features=features.subset(parts[1]),
            device=device,
        ).run()
        assert current_processes().first or current_processes().count == 2
    assert current_processes() == Processes()


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    for i in range(12):
        t = np.arange(round(16_000 * {9: 0.3, 10: 1.5, 2: 2.2}.get(i, 1.0))) / 16_000
        wave = 0.3 * np.sin(2 * np.pi * (300, 1200, 4000)[i % 3] * t) + 0.05 * rng.standard_normal(len(t))
        soundfile.write(folder / f"{i:02d}.wav", wave, 16_000)
    return folder


def both(start_process: Callable[..., BaseProcess], **variables: Any) -> None:
    """Run two processes to their end."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    tests = str(Path(__file__).parent)
    processes = [start_process(PROGRAM, rank=rank, port=port, tests=tests, **variables) for rank in range(2)]
    for process in processes:
        process.join(120)
        if process.is_alive():
            process.kill()
    assert [process.exitcode for process in processes] == [0, 0]


def read_log(out: Path) -> list[dict[str, float]]:
    with (out / "log.csv").open() as stream:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(stream)]


@pytest.fixture(scope="module")
def one(sounds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the run of a single process."""
    out = tmp_path_factory.mktemp("runs") / "one"
    train(SETTINGS, sounds, out, None)
    return out


class TestTwoProcesses:
    def test_the_same_losses_as_one(
        self, one: Path, sounds: Path, tmp_path: Path, start_process: Callable[..., BaseProcess]
    ) -> None:
        both(start_process, settings=SETTINGS, sounds=sounds, out=tmp_path, cache=None)
        alone, two = read_log(one), read_log(tmp_path)
        assert [row["step"] for row in two] == list(range(1, 9))
        for name in ("loss", "gradient_norm"):
            np.testing.assert_allclose([row[name] for row in two], [row[name] for row in alone], rtol=1e-5)
        assert len({round(row["loss"], 4) for row in alone}) > 4  # it moves
        assert two[3].keys() == alone[3].keys() >= {"validation_map"}
        states = [torch.load(out / "checkpoint.pt", weights_only=True)["network"] for out in (one, tmp_path)]
        for key, value in states[0].items():
            torch.testing.assert_close(states[1][key], value, rtol=1e-7, atol=1e-7)
        starts = json.loads((tmp_path / "run.json").read_text())["starts"]
        assert [start["processes"] for start in starts] == [2]
        assert (tmp_path / "model" / "model.safetensors").is_file()

    def test_a_cache_filled_together_and_whole_clips(
        self,
        sounds: Path,
        tmp_path: Path,
        start_process: Callable[..., BaseProcess],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        settings = {**SETTINGS, "seconds": None, "steps": 3}
        both(start_process, settings=settings, sounds=sounds, out=tmp_path / "two", cache=tmp_path / "shared")
        monkeypatch.setattr(features_module, "SHARD_CLIPS", 4)
        train(settings, sounds, tmp_path / "one", tmp_path / "own")
        losses = [[row["loss"] for row in read_log(tmp_path / name)] for name in ("one", "two")]
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
        for file in sorted((tmp_path / "own").iterdir()):
            assert (tmp_path / "shared" / file.name).read_bytes() == file.read_bytes()

    def test_one_goes_on_where_two_were_stopped(
        self, one: Path, sounds: Path, tmp_path: Path, start_process: Callable[..., BaseProcess]
    ) -> None:
        both(start_process, settings={**SETTINGS, "steps": 4}, sounds=sounds, out=tmp_path, cache=None)
        # Stands for a run that was killed after its checkpoint of step 4.
        file = tmp_path / "config.json"
        file.write_text(file.read_text().replace('"steps": 4', '"steps": 8'))
        train(SETTINGS, sounds, tmp_path, None)
        losses = [[row["loss"] for row in read_log(out)] for out in (one, tmp_path)]
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
        assert [s["processes"] for s in json.loads((tmp_path / "run.json").read_text())["starts"]] == [2, 1]


class TestOneProcess:
    def test_is_alone(self) -> None:
        alone = current_processes()
        assert (alone.first, alone.count, alone.gather(3)) == (True, 1, [3])
        assert alone.share([1, 2, 3]) == [1, 2, 3]
        with join_processes("cpu") as device:
            assert device == torch.device("cpu")
            assert current_processes() == alone
        with pytest.raises(ValueError, match="Expected a device such as"), join_processes("gpu"):
            pass
        with pytest.raises(ValueError, match="Training runs on cpu or cuda"), join_processes("meta"):
            pass
