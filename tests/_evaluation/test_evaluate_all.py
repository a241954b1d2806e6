"""All eight tasks in one run of the command line, on small copies in the layouts of their distributors."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sedembed._evaluation.tasks.fsdkaggle2019 import FSDKaggle2019Curated
from sedembed._evaluation.tasks.magnatagatune import TOP_TAGS
from sedembed.cli.main import main
from sedembed.probe import probe


def write_sound(file: Path, kind: int, seed: int) -> None:
    """A tone (kind 0), noise (1) or both (2)."""
    rng = np.random.default_rng(seed)
    wave = 1e-3 * rng.standard_normal(3200)
    if kind != 1:
        wave += 0.3 * np.sin(2 * np.pi * rng.uniform(300, 330) / 16_000 * np.arange(3200))
    if kind != 0:
        wave += 0.1 * rng.standard_normal(3200)
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, wave.clip(-1, 1), 16_000)


def write_rows(file: Path, rows: Iterable[Sequence[object]], delimiter: str = ",") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as stream:
        csv.writer(stream, delimiter=delimiter).writerows(rows)


def make_esc50(data: Path) -> None:
    rows = [["filename", "fold", "target", "category", "esc10", "src_file", "take"]]
    for i in range(20):
        fold, kind = 1 + i // 4, i % 2
        rows.append([f"{fold}-{i}-A-{kind}.wav", fold, kind, ["dog", "rooster"][kind], "True", i, "A"])
        write_sound(data / "audio" / rows[-1][0], kind, i)
    write_rows(data / "meta" / "esc50.csv", rows)


def make_urbansound8k(data: Path) -> None:
    rows = [["slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class"]]
    for i in range(24):
        fold, kind = 1 + i // 4, 3 * (i % 2)
        rows.append([f"{i}-{kind}-0-0.wav", i, 0, 4, 1, fold, kind, {0: "air_conditioner", 3: "dog_bark"}[kind]])
        write_sound(data / "audio" / f"fold{fold}" / rows[-1][0], i % 2, i)
    write_rows(data / "metadata" / "UrbanSound8K.csv", rows)


def make_fsdkaggle2019(data: Path) -> None:
    vocabulary = ["Bark", "Hiss", *(f"Event_{i}" for i in range(FSDKaggle2019Curated.classes - 2))]
    labels = ["Bark", "Hiss", "Bark,Hiss"] * 4
    named = [(f"{i:08x}.wav", given) for i, given in enumerate(labels)]
    for part in ("train_curated", "train_noisy", "test"):
        usage = [("usage",), *([("Public",)] * 6), *([("Private",)] * 6)] if part == "test" else [()] * 13
        rows = [(*row, *more) for row, more in zip([("fname", "labels"), *named], usage, strict=True)]
        write_rows(data / "FSDKaggle2019.meta" / f"{part}_post_competition.csv", rows)
        for i, (name, _) in enumerate(named):
            write_sound(data / f"FSDKaggle2019.audio_{part}" / name, i % 3, i)
    write_rows(data / "FSDKaggle2019.meta" / "vocabulary.csv", enumerate(vocabulary))


def make_dcase2019(data: Path) -> None:
    meta = [["filename", "scene_label", "identifier", "source_label"]]
    parts = {part: [["filename", "scene_label"]] for part in ("train", "evaluate")}
    for i in range(24):
        scene = ["airport", "bus"][i % 2]
        path = f"audio/{scene}-lisbon-{1000 + i // 2}-{i}-a.wav"
        meta.append([path, scene, f"lisbon-{1000 + i // 2}", "a"])
        parts["train" if i < 16 else "evaluate"].append([path, scene])
        write_sound(data / path, i % 2, i)
    write_rows(data / "meta.csv", meta, "\t")
    for part, rows in parts.items():
        write_rows(data / "evaluation_setup" / f"fold1_{part}.csv", rows, "\t")


def make_magnatagatune(data: Path) -> None:
    rows = [["clip_id", *TOP_TAGS, "mp3_path"]]
    for i in range(36):
        path = f"{'01cdef'[i % 6]}/band-album-{i}-song-0-29.mp3"
        given = {"guitar": (i // 6) % 3 != 1, "techno": (i // 6) % 3 != 0}
        rows.append([str(i), *(str(int(given.get(tag, False))) for tag in TOP_TAGS), path])
        write_sound(data / path, (i // 6) % 3, i)
    write_rows(data / "annotations_final.csv", rows, "\t")


def make_kinetics700(data: Path) -> None:
    for part, count in (("train", 40), ("validate", 8)):
        rows = [["label", "youtube_id", "time_start", "time_end", "split"]]
        for i in range(count):
            label, video = ["abseiling", "air drumming"][i % 2], f"{part[0]}{i:010}"
            rows.append([label, video, 5, 15, part])
            write_sound(data / part / label / f"{video}_000005_000015.wav", i % 2, i)
        write_rows(data / f"{part}.csv", rows)


def make_audioset(data: Path) -> None:
    for part, count in (("balanced_train", 16), ("eval", 8)):
        lines = [
            "# Segments csv created Sun Mar  5 10:54:31 2017",
            "# YTID, start_seconds, end_seconds, positive_labels",
        ]
        for i in range(count):
            video, labels = f"{part[0]}{i:010}", ["/m/09x0r", "/m/0jbk", "/m/09x0r,/m/0jbk"][i % 3]
            lines.append(f'{video}, 0.000, 10.000, "{labels}"')
            write_sound(data / f"{part}_segments" / f"Y{video}.wav", i % 3, i)
        (data / f"{part}_segments.csv").write_text("\n".join(lines) + "\n")


# Folder, what fills it, and of each task in it the metric, other metrics, the sizes of its parts, and rounds.
COPIES: dict[str, tuple[Callable[[Path], None], dict[str, tuple]]] = {
    "ESC-50-master": (
        make_esc50, {"esc50": ("accuracy", (), {f"fold{i}": 4 for i in range(1, 6)}, 5)},
    ),
    "UrbanSound8K": (
        make_urbansound8k,
        {"urbansound8k": ("accuracy", ("macro_accuracy",), {f"fold{i}": 4 for i in range(1, 7)}, 6)},
    ),
    "FSDKaggle2019": (
        make_fsdkaggle2019,
        {
            "fsdkaggle2019-curated": ("lwlrap", ("map", "mauc"), {"train_curated": 12, "Public": 6, "Private": 6}, 1),
            "fsdkaggle2019-noisy": ("lwlrap", ("map", "mauc"), {"train_noisy": 12, "Public": 6, "Private": 6}, 1),
        },
    ),
    "TAU-urban-acoustic-scenes-2019-development": (
        make_dcase2019,
        {"dcase2019-1a": ("macro_accuracy", ("accuracy",), {"fold1_train": 16, "fold1_evaluate": 8}, 1)},
    ),
    "MagnaTagATune": (
        make_magnatagatune, {"magnatagatune": ("mauc", ("map",), {"train": 12, "valid": 6, "test": 18}, 1)},
    ),
    "kinetics700": (
        make_kinetics700, {"kinetics700": ("accuracy", ("top5",), {"train": 40, "validate": 8}, 1)},
    ),
    "audioset": (
        make_audioset,
        {
            "audioset": (
                "map",
                ("mauc", "d_prime", "probe_map", "probe_mauc", "probe_d_prime"),
                {"balanced_train": 16, "eval": 8},
                1,
            )
        },
    ),
}  # fmt: skip


def test_all(
    tmp_path: Path, untrained_model_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(probe, "DEFAULT_CS", (1.0, 100.0))
    for name, (make, _) in COPIES.items():
        make(tmp_path / "root" / name)
    arguments = ["--data-root", tmp_path / "root", "-o", tmp_path / "results", "--model", untrained_model_dir]
    assert main(["evaluate", "all", *map(str, arguments), "--json"]) == 1  # none is complete
    printed = capsys.readouterr()
    expected = {task: facts for _, tasks in COPIES.values() for task, facts in tasks.items()}
    assert json.loads(printed.out)["failed"].keys() == expected.keys()
    assert "meta/esc50.csv names 20 of 2000 recordings" in printed.err

    assert main(["evaluate", "all", *map(str, arguments), "--json", "--partial"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["failed"], printed["not_found"]) == ({}, [])
    results = {result["task"]: result for result in printed["results"]}
    assert list(results) == list(expected)
    for task, (metric, others, sizes, rounds) in expected.items():
        result = results[task]
        assert (result["metric"], tuple(result["other_metrics"]), len(result["folds"])) == (metric, others, rounds)
        assert result["split_sizes"] == sizes
        assert (result["missing"], result["partial"]) == (0, True)
        assert all(fold["C"] in (1.0, 100.0) for fold in result["folds"])
        assert all(note.startswith(("incomplete:", "clips without a top-50", "unbalanced")) for note in result["notes"])
        reached = result["other_metrics"]["probe_map"] if task == "audioset" else result["score"]
        assert reached > 0.75, task  # a tone, noise or both: even an untrained network tells them apart
        assert json.loads((tmp_path / "results" / f"{task}-untrained.json").read_text()) == result
    assert results["kinetics700"]["folds"][0]["validation"] == 2
    assert results["magnatagatune"]["folds"][0]["validation"] == 6
    assert results["fsdkaggle2019-noisy"]["folds"][0]["validation"] == 6
    (model,) = printed["table"]["models"]
    assert all(row["results"].keys() == {model} for row in printed["table"]["tasks"])
