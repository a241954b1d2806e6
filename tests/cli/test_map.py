"""Tests of map."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sedembed._analysis.map_points import by_tag
from sedembed._analysis.projection import choose_rows, project
from sedembed.cli.main import main
from sedembed.embedder import Embedder
from sedembed.loading import load_model
from sedembed.store.store import EmbeddingStore, open_store
from tests._analysis.map_helpers import make_store, parse, store  # noqa: F401


class TestCommand:
    def test_page_picture_and_table(self, store: EmbeddingStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")
        lines = [f"{path},{path.split('/')[0]}" for path in store.paths]
        (tmp_path / "labels.csv").write_text("path,label\n" + "\n".join(lines))
        outputs = [tmp_path / name for name in ("map.html", "map.PNG", "map.csv")]
        options = [part for out in outputs for part in ("-o", str(out))]
        command = ["map", str(store.directory), *options, "--labels", str(tmp_path / "labels.csv"), "--method", "pca"]
        assert main(command) == 0
        assert capsys.readouterr().out.startswith("90 of 90 recordings in ")
        data = json.loads(parse(outputs[0].read_text(encoding="utf-8")).text["data"])
        assert data["paths"] == store.paths
        assert (data["by"], data["names"], data["counts"]) == ("label", ["cat", "dog", "rain"], [30, 30, 30])
        assert outputs[1].read_bytes().startswith(b"\x89PNG")
        with outputs[2].open(encoding="utf-8", newline="") as opened:
            rows = list(csv.DictReader(opened))
        assert [row["path"] for row in rows] == store.paths
        assert [row["group"] for row in rows] == [path.split("/")[0] for path in store.paths]
        expected = project(store, np.arange(90), "pca").points
        np.testing.assert_allclose([[float(row["x"]), float(row["y"])] for row in rows], expected, rtol=1e-4, atol=1e-6)
        before = [out.read_bytes() for out in outputs]
        assert main(command) == 0
        assert [out.read_bytes() for out in outputs] == before

    def test_by_sound_event(
        self,
        tmp_path: Path,
        untrained_model_dir: Path,
        untrained_embedder: Embedder,
        capsys: pytest.CaptureFixture[str],
    ):
        record = untrained_embedder.record
        settings = {"model_version": record.version, "model_sha256": record.sha256}
        vectors = np.random.default_rng(0).uniform(-1, 1, (12, 1024))
        names = [f"{'ab'[n % 2]}/{n:02d}.wav" for n in range(12)]
        model = {"name": record.name, "source": record.source}
        store = make_store(tmp_path / "out", names, vectors, settings=settings, model=model)
        out = tmp_path / "map.csv"
        command = ["map", str(store.directory), "-o", str(out), "--method", "pca"]
        groups = lambda: [line.rsplit(",", 2)[1] for line in out.read_text().splitlines()[1:]]  # noqa: E731

        assert main([*command, "--model", str(untrained_model_dir)]) == 0
        assert capsys.readouterr().err == ""
        expected = by_tag(store, np.arange(12), untrained_embedder)
        assert expected is not None
        with out.open(newline="") as opened:
            assert [row["group"] for row in csv.DictReader(opened)] == expected.texts

        assert main(command) == 0  # the model came from a directory, and nobody says which
        assert "coloured by folder, not by sound events" in capsys.readouterr().err
        assert groups() == [path.split("/")[0] for path in store.paths]

        assert main([*command, "--color", "tag"]) == 2
        assert "cannot be coloured by sound events" in capsys.readouterr().err
        assert main([*command, "--color", "folder"]) == 0
        assert capsys.readouterr().err == ""

    def test_a_sample(self, store: EmbeddingStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        out = tmp_path / "map.html"
        command = ["map", str(store.directory), "-o", str(out), "--color", "folder", "--max-points", "20"]
        assert main([*command, "--seed", "5"]) == 0
        assert "20 of 90 recordings" in capsys.readouterr().out
        data = json.loads(parse(out.read_text(encoding="utf-8")).text["data"])
        assert data["paths"] == [store.paths[row] for row in choose_rows(store, 20, 5)]
        assert "20 recordings of 90, chosen at random" in data["title"]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["-o", "map.gif"], "ends in .html, .png, .csv, got 'map.gif'"),
            (["-o", "none/map.html"], "there is no folder none"),
            (["-o", "map.csv", "--perplexity", "90"], "which is 90"),
            (["-o", "map.csv", "--max-points", "0"], "at least 1, got 0"),
            (["-o", "map.csv", "--seed", "-3"], "seed must be"),
            (["-o", "map.csv", "--column", "fold"], "--labels"),
            (["-o", "map.csv", "--labels", "none.csv"], "none.csv"),
        ],
    )
    def test_refused(
        self,
        store: EmbeddingStore,
        tmp_path: Path,
        options: list[str],
        message: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ):
        monkeypatch.chdir(tmp_path)
        before = sorted(tmp_path.iterdir())
        assert main(["map", str(store.directory), "--color", "folder", *options]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert sorted(tmp_path.iterdir()) == before

    def test_without_matplotlib(
        self, store: EmbeddingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ):
        monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
        monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
        command = ["map", str(store.directory), "--method", "pca", "--color", "folder"]
        assert main([*command, "-o", str(tmp_path / "map.png")]) == 2
        assert 'pip install "sedembed[plots]"' in capsys.readouterr().err
        assert main([*command, "-o", str(tmp_path / "map.html")]) == 0


def test_windows_and_their_tags(tmp_path: Path, write_sounds: Callable[..., Path], untrained_model_dir: Path):
    write_sounds(tmp_path / "in", {"a.wav": 3.0, "b.wav": 2.0})
    model = ["--model", str(untrained_model_dir), "--device", "cpu"]
    made = ["embed", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--window", "1", "--tags"]
    assert main([*made, *model]) == 0
    assert main(["map", str(tmp_path / "out"), "-o", str(tmp_path / "m.csv"), "--method", "pca", *model]) == 0
    rows = list(csv.DictReader((tmp_path / "m.csv").read_text(encoding="utf-8").splitlines()))
    assert [(row["path"], row["start"]) for row in rows] == [
        *(("a.wav", f"{start}.000") for start in range(3)),
        *(("b.wav", f"{start}.000") for start in range(2)),
    ]
    store = open_store(tmp_path / "out")
    assert store.tags is not None
    labels = load_model(untrained_model_dir, device="cpu").labels
    assert [row["group"] for row in rows] == [labels[event] for event in store.tags.argmax(1)]
    (tmp_path / "l.csv").write_text("path,start,end,label\na.wav,1,2,x\nb.wav,0,1,y\n", encoding="utf-8")
    by_part = ["--labels", str(tmp_path / "l.csv"), "-o", str(tmp_path / "m.html"), "--method", "pca"]
    assert main(["map", str(tmp_path / "out"), *by_part]) == 0
    data = json.loads(parse((tmp_path / "m.html").read_text(encoding="utf-8")).text["data"])
    assert data["paths"][1] == "a.wav 1-2 s"
    assert data["texts"] == ["", "x", "", "y", ""]
