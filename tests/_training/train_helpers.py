"""Fixtures and helpers that several test files share."""

from __future__ import annotations

import csv
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sedembed._training.clips import ClipSet
from sedembed._training.features import FeatureStore
from sedembed._training.loop import Training
from sedembed._training.settings import TrainConfig

TINY: dict[str, Any] = {"channels": [4, 8, 8, 8], "segment_channels": 16, "hidden_channels": [16, 16]}


HEADER = "# Segments csv\n# num_ytids=1\n# YTID, start_seconds, end_seconds, positive_labels\n"


def tiny(**settings: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "model": "weanet",
        "network": TINY,
        "batch_size": 6,
        "steps": 6,
        "validate_every": 3,
        "checkpoint_every": 2,
        "log_every": 1,
        "seconds": 1.0,
    }
    return TrainConfig(**{**values, **settings})


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> ClipSet:
    """Twelve recordings of a second, low, middle and high tones; the last three of other lengths."""
    folder, rng = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    paths = []
    for i in range(12):
        t = np.arange(round(16_000 * {9: 0.3, 10: 1.5, 11: 2.2}.get(i, 1.0))) / 16_000
        wave = 0.3 * np.sin(2 * np.pi * (300, 1200, 4000)[i % 3] * t) + 0.02 * rng.standard_normal(len(t))
        paths.append(folder / f"clip{i}.wav")
        soundfile.write(paths[-1], wave, 16_000)
    return ClipSet(
        tuple(p.name for p in paths), tuple(paths), np.tile(np.eye(3, dtype=np.float32), (4, 1)), tuple("abc")
    )


def store(clips: ClipSet, config: TrainConfig | None = None, **options: Any) -> FeatureStore:
    return FeatureStore.open(clips, (config or tiny()).build(1), workers=1, **options)


def fake_store(clips: ClipSet, config: TrainConfig, read: Any) -> FeatureStore:
    network = config.build(1)
    return FeatureStore(clips, read, {}, network.describe_front_end(), network.spectrogram, 0.5, True, 1)


def training(config: TrainConfig, clips: ClipSet, out: Path, validate: bool = True, **options: Any) -> Training:
    train = clips.select(range(9)) if validate else clips
    held_out = clips.select(range(9, 12)) if validate else None
    features = None if held_out is None else store(held_out, config)
    return Training(
        config,
        train,
        store(train, config),
        out,
        validation=held_out,
        validation_features=features,
        device="cpu",
        **options,
    )


@pytest.fixture(scope="module")
def mids() -> list[str]:
    text = (files("sedembed.models") / "class_labels_indices.csv").read_text()
    return [row["mid"] for row in csv.DictReader(text.splitlines())]


@pytest.fixture
def audioset(tmp_path: Path, clips: ClipSet, mids: list[str]) -> Path:
    """Copy of AudioSet: nine clips to train on, three to evaluate on, one of each list missing; one is broken."""
    data = tmp_path / "audioset"
    (data / "deep").mkdir(parents=True)
    rows = []
    for i in range(12):
        video = f"-bcdefgh_{i:02d}"
        name = (f"Y{video}.wav", f"deep/{video}_30.000_31.000.wav", f"{video}_30000.wav")[i % 3]
        shutil.copy(clips.paths[i], data / name)
        rows.append(f'{video}, 30.000, 31.000, "{mids[i % 3]},{mids[10]}"\n')
    (data / "Y-bcdefgh_99.wav").write_bytes(b"RIFF" + bytes(100))
    train = [
        *rows[:9],
        f'-missing_01, 0.000, 10.000, "{mids[5]}"\n',
        f'-bcdefgh_99, 0.000, 10.000, "{mids[0]}"\n',
        rows[9],
    ]
    (data / "balanced_train_segments.csv").write_text(HEADER + "".join(train))
    (data / "eval_segments.csv").write_text(HEADER + "".join(rows[9:]) + f'-missing_02, 0.000, 1.000, "{mids[0]}"\n')
    return data


def run(config: TrainConfig, clips: ClipSet, out: Path, **options: Any) -> Training:
    made = training(config, clips, out, **options)
    made.run()
    return made


# log_every 3 and checkpoint_every 2: the sums of a line of the log are carried over, too.
WHOLE = tiny(log_every=3, steps=7, plateau_patience=0)


@pytest.fixture(scope="module")
def whole(clips: ClipSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(WHOLE, clips, out)
    return out
