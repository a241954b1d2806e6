"""Fixtures and helpers of the tests of self-teaching."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch

import sedembed._training.sustain as sustain_module
from sedembed._training.clips import ClipSet
from sedembed._training.distributed import join_processes
from sedembed._training.features import FeatureStore
from sedembed._training.loop import Training, predict
from sedembed._training.settings import TrainConfig
from sedembed._training.sustain import (
    SustainConfig,
    run_stages,
)
from sedembed.models.weights import load_network, resolve

CLASSES = ("Dog", "Rain, drizzle", "Church bell")
CONFIG = TrainConfig.from_table(
    {
        "model": "weanet",
        "network": {
            "channels": [4, 4, 4, 4],
            "pools": [2, 2, 2, 2],
            "segment_channels": 8,
            "hidden_channels": [8, 8],
            "n_mels": 32,
        },
        "normalization": "measured",
        "batch_size": 4,
        "steps": 4,
        "checkpoint_every": 2,
        "seconds": 0.6,
        "learning_rate": 1e-2,
        "balanced": False,
        "spec_augment_bins": 4,
        "spec_augment_seconds": 0.1,
        "validation": "none",
        "seed": 3,
    }
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory, write_sounds) -> ClipSet:
    names = tuple(f"clip {i:02}.wav" for i in range(10))
    folder = write_sounds(tmp_path_factory.mktemp("sounds"), dict.fromkeys(names, 0.8))
    targets = (np.random.default_rng(0).random((10, 3)) < 0.5).astype(np.float32)
    return ClipSet(names, tuple(folder / name for name in names), targets, CLASSES)


@pytest.fixture(scope="module")
def features(clips, tmp_path_factory) -> FeatureStore:
    return FeatureStore.open(clips, CONFIG.build(3), tmp_path_factory.mktemp("cache") / "features", workers=1)


@pytest.fixture(scope="module")
def finished(clips, features, tmp_path_factory) -> Path:
    """Stages 0 to 2, each taught by the labels and the stage before; copy it before changing anything."""
    out = tmp_path_factory.mktemp("finished")
    run_stages(CONFIG, SustainConfig(stages=2), clips, features, out, device="cpu")
    return out


@pytest.fixture
def taught(monkeypatch) -> list[dict]:
    """What each training is given from now on."""
    seen: list[dict] = []

    class Spy(Training):
        def __init__(self, config, train, *arguments, **options):
            super().__init__(config, train, *arguments, **options)
            seen.append({"config": config, "targets": train.targets, "initial": options["initial"]})

    monkeypatch.setattr(sustain_module, "Training", Spy)
    return seen


@pytest.fixture
def predictions(monkeypatch) -> list[int]:
    """One entry for each time that a network predicts from now on."""
    made: list[int] = []

    def counting(network, features, **options):
        made.append(len(features))
        return predict(network, features, **options)

    monkeypatch.setattr(sustain_module, "predict", counting)
    return made


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def predict_alone(folder: Path, features: FeatureStore) -> np.ndarray:
    """Clip probabilities of a stage's network, one clip after the other, in float64."""
    network = load_network(resolve(folder / "model")).double()
    rows = []
    with torch.no_grad():
        for i in range(len(features)):
            rows.append(network.pool(network(torch.from_numpy(features[i])[None].double()))[0].numpy())
    return np.stack(rows)


def write_table(path: Path, names: list[str], classes: list[str], values: np.ndarray) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["clip", *classes])
            writer.writerows([name, *map(repr, map(float, row))] for name, row in zip(names, values, strict=True))
    elif path.suffix == ".parquet":
        columns = {"clip": names, **{name: values[:, i] for i, name in enumerate(classes)}}
        parquet.write_table(pa.table(columns), path)
    else:
        np.savez(path, clips=names, classes=classes, probabilities=values)
    return path


def shuffled_table(path: Path, clips: ClipSet) -> tuple[Path, np.ndarray]:
    """Table with rows and columns in another order and more of both than needed; what of it belongs to the clips."""
    rng = np.random.default_rng(5)
    names, classes = [*clips.names, "other.wav"], [*clips.classes, "Cat"]
    values = rng.random((11, 4), np.float32)
    rows, columns = rng.permutation(11), rng.permutation(4)
    table = write_table(path, [names[i] for i in rows], [classes[i] for i in columns], values[np.ix_(rows, columns)])
    return table, values[:10, :3]


def teach(settings: dict, sounds: Path, out: Path) -> None:
    """What each of several processes does."""
    config, paths = TrainConfig.from_table(settings), tuple(sorted(sounds.glob("*.wav")))
    clips = ClipSet(tuple(path.name for path in paths), paths, np.tile(np.eye(3, dtype=np.float32), (3, 1)), CLASSES)
    with join_processes("cpu") as device:
        store = FeatureStore.open(clips, config.build(3), workers=1)
        run_stages(config, SustainConfig(), clips, store, out, device=device)
