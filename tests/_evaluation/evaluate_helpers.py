"""Fixtures and helpers that several test files share."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import soundfile

from sedembed._evaluation import evaluate as engine
from sedembed._evaluation.tasks.base import Clip, Contents, Round, Task, read_table
from sedembed.audio.reader import AudioReader
from sedembed.cli.main import main
from sedembed.embedder import Embedder
from sedembed.probe import probe as probe_module

CLASSES = ("buzz", "hiss", "whistle")


class _Tiny(Task):
    """A data set like the real ones: labels.csv (path,labels,part,group) and audio/."""

    metric = "accuracy"
    classes = 3
    clips = 18
    paper: ClassVar[dict[str, float]] = {"talnet": 0.5}
    source = "https://example.org/tiny"
    licence = "CC0"
    layout = "labels.csv\naudio/*.wav"

    def read(self, data: Path) -> Contents:
        rows = read_table(self, data, "labels.csv", ["path", "labels", "part", "group"])
        clips = [
            Clip(row["path"], tuple(row["labels"].split(";")) if row["labels"] else (), row["part"], row["group"])
            for row in rows
        ]
        named = {clip.path for clip in clips}
        there = {file.relative_to(data).as_posix() for file in data.glob("audio/*")}
        notes = [f"incomplete: labels.csv names {len(clips)} clips"] if (data / "cut").exists() else []
        excluded = {clip.path: "known to be broken" for clip in clips if clip.part == "broken"}
        missing = [clip.path for clip in clips if clip.path not in there]
        return Contents(clips, missing, sorted(there - named), excluded, notes)


class Folds(_Tiny):
    name, title = "folds", "Tiny Folds"
    other_metrics = ("macro_accuracy", "top2")

    def rounds(self, clips: Sequence[Clip]) -> list[Round]:
        parts = np.array([clip.part for clip in clips])
        return [
            Round(part, np.flatnonzero(parts != part), np.flatnonzero(parts == part),
                  inner_folds=np.unique(parts[parts != part], return_inverse=True)[1])
            for part in sorted({*parts})
        ]  # fmt: skip


class Split(_Tiny):
    """Fold a for training, b for testing, C on c if there is one."""

    name, title = "split", "Tiny Split"
    with_validation: ClassVar[bool] = False

    def rounds(self, clips: Sequence[Clip]) -> list[Round]:
        parts = np.array([clip.part for clip in clips])
        a, b, c = (np.flatnonzero(parts == part) for part in "abc")
        if self.with_validation:
            return [Round("split", a, b, c)]
        return [Round("split", np.concatenate((a, c)), b)]


class Validated(Split):
    name, title, with_validation = "validated", "Tiny Validated", True


class Tags(Validated):
    name, title, metric, other_metrics, multilabel = "tags", "Tiny Tags", "lwlrap", ("map", "d_prime"), True


class Own(Split):
    name, title, metric, other_metrics, multilabel, own_outputs = "own", "Tiny Own", "map", ("mauc",), True, True
    paper_other: ClassVar[dict[str, dict[str, float]]] = {"mauc": {"talnet": 0.75}}


TASKS = {task.name: f"{__name__}:{task.__name__}" for task in (Folds, Split, Validated, Tags, Own)}


def sound(label: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(3200) / 16_000
    noise = rng.standard_normal(3200)
    if label == "hiss":
        return 0.2 * noise
    pitch = rng.uniform(90, 130) if label == "buzz" else rng.uniform(2500, 3000)
    return (
        0.3 * np.sign(np.sin(2 * np.pi * pitch * time)) * (label == "buzz")
        + 0.01 * noise
        + (0.3 * np.sin(2 * np.pi * pitch * time) * (label == "whistle"))
    )


def write_data(folder: Path, label_of: Callable[[str, int], str]) -> Path:
    """Three parts of two recordings of each class; `label_of` gives the labels of a recording."""
    (folder / "audio").mkdir(parents=True)
    with (folder / "labels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "labels", "part", "group"])
        for number in range(18):
            kind, part = CLASSES[number % 3], "abc"[number // 6]
            path = f"audio/{part}-{number:02}.wav"
            soundfile.write(folder / path, sound(kind, number), 16_000)
            writer.writerow([path, label_of(kind, number), part, f"g{number // 3}"])
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "plain", lambda kind, number: kind)


@pytest.fixture
def copied(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "data"))


@pytest.fixture
def run(tmp_path: Path, untrained_embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """``sedembed evaluate`` with the untrained network and few C to choose from, results in tmp_path/results."""
    monkeypatch.setattr(probe_module, "DEFAULT_CS", (1.0, 100.0))
    monkeypatch.setattr("sedembed.loading.load_model", lambda *args, **options: untrained_embedder)
    return lambda *arguments: main(["evaluate", *map(str, arguments), "-o", str(tmp_path / "results")])


def written(folder: Path, task: str) -> dict:
    return json.loads((folder / "results" / f"{task}-untrained.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, plain: Path, untrained_model_dir: Path) -> Path:
    """Folder of a run of Folds by the command line as it is."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_TASKS", TASKS)
        arguments = ["--data", plain, "--model", untrained_model_dir, "--device", "cpu", "-o", folder / "results"]
        assert main(["evaluate", "folds", *map(str, arguments)]) == 0
    return folder


@pytest.fixture
def run_embedded(run: Callable[..., int], finished: Path, tmp_path: Path) -> Callable[..., int]:
    """As `run`, for tasks on `plain`, whose recordings are embedded already."""
    for task in ("folds", "split", "validated"):
        store = finished / "results" / "stores" / "folds-untrained"
        shutil.copytree(store, tmp_path / "results" / "stores" / f"{task}-untrained")
    return run


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the recordings that are read."""
    names: list[str] = []
    init = AudioReader.__init__
    monkeypatch.setattr(
        AudioReader,
        "__init__",
        lambda self, path, **options: (names.append(path.name), init(self, path, **options))[1],
    )
    return names


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What the probes are made of and fitted on."""
    calls: list[dict] = []

    class Spy(probe_module.LinearProbe):
        def __init__(self, **options: object) -> None:
            super().__init__(**options)
            self.asked = options

        def fit(self, X: np.ndarray, y: np.ndarray, **options: object) -> Spy:
            calls.append({**self.asked, "X": X, "y": y, **options})
            super().fit(X, y, **options)
            return self

    monkeypatch.setattr(probe_module, "LinearProbe", Spy)
    return calls
