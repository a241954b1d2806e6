"""Models compared on labels of one's own: the figures, what is left out, windows, and the command."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import sedembed
from sedembed._evaluation import own_labels
from sedembed._evaluation.own_labels import compare_on_labels
from sedembed._evaluation.report import format_own_labels, read_results
from sedembed.cli.main import main
from sedembed.embedder import Embedder
from sedembed.models.weanet import WEANet
from sedembed.models.weights import save_pretrained


@pytest.fixture(autouse=True)
def _few_cs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose between two values of C, which is quicker than between eleven."""
    monkeypatch.setattr("sedembed.probe.probe.DEFAULT_CS", (0.1, 10.0))


@pytest.fixture(scope="module")
def model_dirs(small_weanet: WEANet, small_weanet_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two untrained networks."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        other = WEANet(small_weanet.config).eval()
    directory = save_pretrained(other, tmp_path_factory.mktemp("models") / "other-weanet")
    return [str(small_weanet_dir), str(directory)]


@pytest.fixture(scope="module")
def models(model_dirs: list[str]) -> list[Embedder]:
    return [sedembed.load_model(path, device="cpu") for path in model_dirs]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifteen sounds of 2 s in three kinds, of five sites; one more that is none."""
    folder = tmp_path_factory.mktemp("recordings")
    for number in range(15):
        rng = np.random.default_rng(number)
        wave = rng.normal(0, 0.1, 32_000)
        if number % 3:
            pitch = rng.uniform(300, 500) if number % 3 == 1 else rng.uniform(2000, 5000)
            wave = 0.02 * wave + 0.3 * np.sin(2 * np.pi * pitch * np.arange(32_000) / 16_000)
        kind = folder / "abc"[number % 3]
        kind.mkdir(exist_ok=True)
        soundfile.write(kind / f"{number:02}.wav", wave, 16_000)
    (folder / "a" / "broken.wav").write_text("no sound")
    return folder


def table(file: Path, rows: list[tuple[Any, ...]], header: str) -> Path:
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([header.split(","), *rows])
    return file


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Labels by kind, with a fold and a site; one recording is broken and one is not there."""
    rows = [(f"{'abc'[n % 3]}/{n:02}.wav", "abc"[n % 3], n // 3 % 3, f"site {n // 3}") for n in range(15)]
    rows += [("a/broken.wav", "a", 0, "site 0"), ("a/gone.wav", "a", 1, "site 1")]
    return table(tmp_path / "mine.csv", rows, "path,label,fold,site")


def test_figures_are_those_of_the_probes(models: list[Embedder], folder: Path, labels: Path, tmp_path: Path):
    result = compare_on_labels(folder, labels, models, tmp_path / "results", fold_column="fold", progress=False)
    names = [row["model"] for row in result["models"]]
    assert len(set(names)) == 2
    scores = []
    for name, model in zip(names, models, strict=True):
        store = sedembed.embed_folder(folder, tmp_path / f"own {name}", model, progress=False)
        folds = [int(Path(path).stem) // 3 % 3 for path in store.paths]
        probe = sedembed.LinearProbe(normalize=model.default_normalize, progress=False)
        found = probe.evaluate(store, [path[0] for path in store.paths], folds=folds)
        row = next(row for row in result["models"] if row["model"] == name)
        assert row["score"] == found.score
        assert row["interval"] == list(found.interval)
        assert row["folds"] == found.summary()["folds"]
        scores.append(found)
    (difference,) = result["differences"]
    assert (difference["model"], difference["minus"]) == (names[1], names[0])
    expected = scores[1].compare(scores[0])
    assert (difference["difference"], tuple(difference["interval"])) == expected
    assert (result["rows"], result["folds"], result["classes"]) == (15, 3, ["a", "b", "c"])
    assert sorted(result["failures"]) == ["a/broken.wav", "a/gone.wav"]
    assert json.loads((tmp_path / "results" / "labels-mine.json").read_text()) == result
    assert read_results(tmp_path / "results") == []  # not a task of the paper's table


def test_groups_and_folders(models: list[Embedder], folder: Path, labels: Path, tmp_path: Path):
    grouped = compare_on_labels(folder, labels, models, tmp_path, group_column="site", folds=4, progress=False)
    assert (grouped["groups"], grouped["folds"]) == (5, 4)
    assert "5 values of the column site" in grouped["interval"]["method"]
    by_folder = compare_on_labels(folder, "folder", models[:1], tmp_path, folds=2, progress=False)
    assert (by_folder["rows"], by_folder["groups"], by_folder["differences"]) == (15, 15, [])
    assert list(by_folder["failures"]) == ["a/broken.wav"]


def test_windows(models: list[Embedder], folder: Path, tmp_path: Path):
    rows = [(f"{'abc'[n % 3]}/{n:02}.wav", start, start + 1, "abc"[n % 3]) for n in range(15) for start in (0, 1)]
    file = table(tmp_path / "parts.csv", rows[:-1], "path,start,end,label")
    result = compare_on_labels(folder, file, models, tmp_path, window=1.0, folds=3, progress=False)
    assert (result["rows"], result["groups"], result["hop"]) == (29, 15, 1.0)
    assert "15 recordings drawn again" in result["interval"]["method"]
    assert format_own_labels(result).startswith("29 windows of 3 classes in 3 folds")
    with pytest.raises(sedembed.SedembedError, match="give --window"):
        compare_on_labels(folder, file, models, tmp_path, progress=False)


def test_only_rows_that_all_models_have(
    models: list[Embedder], folder: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = own_labels.embed_files

    def without_one(folder: Path, paths: list[str], out: Path, model: Embedder, **options: Any) -> Any:
        # As if this network gave NaN for one recording.
        return real(folder, [p for p in paths if model is models[1] or p != "b/01.wav"], out, model, **options)

    monkeypatch.setattr(own_labels, "embed_files", without_one)
    result = compare_on_labels(folder, labels, models, tmp_path, fold_column="fold", progress=False)
    assert (result["rows"], result["left_out"]) == (14, 1)
    assert all(sum(row["rows"] for row in model["per_class"]) == 14 for model in result["models"])


def test_several_labels(models: list[Embedder], folder: Path, tmp_path: Path):
    rows = [(f"{'abc'[n % 3]}/{n:02}.wav", ("noise", "tone", "tone;high")[n % 3]) for n in range(15)]
    file = table(tmp_path / "several.csv", rows, "path,label")
    result = compare_on_labels(folder, file, models, tmp_path, folds=3, progress=False)
    assert (result["metric"], result["classes"]) == ("map", ["high", "noise", "tone"])
    assert "map (%)" in format_own_labels(result)


class TestCommand:
    def test_table(self, model_dirs: list[str], folder: Path, labels: Path, tmp_path: Path, capsys):
        out = tmp_path / "results"
        command = ["evaluate", "--labels", str(labels), "--data", str(folder), "-o", str(out), "--model", *model_dirs]
        assert main([*command, "--fold-column", "fold"]) == 1
        printed = capsys.readouterr()
        assert "15 recordings of 3 classes in 3 folds" in printed.out
        assert "paired 95 % interval" in printed.out
        assert "not which are fitted on" in printed.out
        assert sorted(line.split(":")[1].strip() for line in printed.err.splitlines()) == ["a/broken.wav", "a/gone.wav"]
        assert main([*command, "--fold-column", "fold", "--json"]) == 1
        result = json.loads(capsys.readouterr().out)
        saved = json.loads((out / "labels-mine.json").read_text())
        assert result["differences"] == saved["differences"]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["esc50"], "--labels goes without a task"),
            (["--partial"], "belong to a task"),
            (["--folds", "3", "--fold-column", "fold"], "leave one out"),
            (["--folds", "1"], "--folds must be at least 2, got 1"),
            (["--hop", "1"], "give --window as well"),
            (["--fold-column", "nothing"], "no column 'nothing'"),
            (["--metric", "acuracy"], "acuracy"),
        ],
    )
    def test_wrong_options(
        self, model_dirs: list[str], folder: Path, labels: Path, tmp_path: Path, capsys, options: list[str], message
    ):
        command = ["evaluate", "--labels", str(labels), "--data", str(folder), "-o", str(tmp_path / "results")]
        assert main([*command, *options, "--model", *model_dirs]) == 2
        assert message in capsys.readouterr().err

    def test_the_same_model_twice(self, model_dirs: list[str], folder: Path, labels: Path, tmp_path: Path, capsys):
        command = ["evaluate", "--labels", str(labels), "--data", str(folder), "-o", str(tmp_path / "results")]
        assert main([*command, "--model", model_dirs[0], model_dirs[0]]) == 2
        assert "twice; name each once" in capsys.readouterr().err
        assert main(["evaluate", "--labels", str(labels), "--model", *model_dirs]) == 2
        assert "--data is needed" in capsys.readouterr().err

    def test_options_of_labels_need_them(self, capsys):
        assert main(["evaluate", "esc50", "--data", ".", "--group-column", "site"]) == 2
        assert "--group-column goes with --labels" in capsys.readouterr().err

    def test_a_task_may_follow_the_model(self, capsys, tmp_path: Path):
        assert main(["evaluate", "--model", "talnet", "esc50", "--data", str(tmp_path / "none")]) == 2
        assert "is not a usable copy of ESC-50" in capsys.readouterr().err
