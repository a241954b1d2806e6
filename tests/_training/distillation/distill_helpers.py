"""Fixtures and helpers that several test files share."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from sedembed._training.distillation.config import DistillConfig
from sedembed._training.distillation.distill import Trainer
from sedembed._training.distillation.teacher import Teacher

TINY = {
    "steps": 4,
    "batch_size": 2,
    "seconds": 1.0,
    "held_out_share": 0.2,
    "validate_every": 10,
    "checkpoint_every": 2,
    "warmup_steps": 1,
    "optimizer": "muon",
}


def trainer(data: Path, out: Path, start: Path | None = None, **settings: object) -> Trainer:
    return Trainer(DistillConfig(**{**TINY, **settings}), data, out, data / "cache", start)


def write_folder(folder: Path, names: list[str]) -> Path:
    """A folder of recordings of one second, as `data` is, without a teacher."""
    rng = np.random.default_rng(5)
    for name in names:
        path = folder / "audio" / f"{name}.ogg"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.normal(0, 0.1, 16_000), 16_000)
    rows = "".join(f"{name}.ogg,{name[0]},1.0,cut\n" for name in names)
    (folder / "segments.csv").write_text("file,collection,seconds,how\n" + rows)
    count = len(names)
    np.savez(
        folder / "teacher.npz",
        logits=rng.normal(-4, 2, (count, 527)).astype(np.float16),
        embeddings=rng.normal(size=(count, 384)).astype(np.float16),
    )
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A training set of six recordings in three collections, with an untrained teacher."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    rows = []
    for i, name in enumerate(["a/0", "a/1", "b/0", "b/1", "b/2", "c/0"]):
        seconds = (0.5, 1.5, 2.0, 1.2, 3.0, 1.0)[i]
        t = np.arange(round(16_000 * seconds)) / 16_000
        wave = 0.3 * np.sin(2 * np.pi * 200 * (i + 1) * t) + rng.normal(0, 0.02, len(t))
        path = folder / "audio" / f"{name}.ogg"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, wave, 16_000)
        rows.append({"file": f"{name}.ogg", "collection": name[0], "seconds": seconds, "how": "cut"})
    with (folder / "segments.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    torch.manual_seed(0)
    teacher = Teacher()
    (folder / "teacher").mkdir()
    save_file(teacher.state_dict(), folder / "teacher" / "mn04_as.safetensors")
    logits = rng.normal(-4, 2, (6, 527)).astype(np.float16)
    np.savez(folder / "teacher.npz", logits=logits, embeddings=rng.normal(size=(6, 384)).astype(np.float16))
    return folder
