"""`sedembed search`: what is printed, and that no vectors of another model are ever compared."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sedembed
from sedembed.batch.store_model import load_store_model
from sedembed.cli.main import main
from sedembed.embedder import Embedder
from sedembed.engine.provenance import FRONT_END_VERSION
from sedembed.errors import StoreError
from sedembed.store.layout import FORMAT_VERSION
from sedembed.store.store import EmbeddingStore
from sedembed.store.writer import StoreWriter

SOUNDS = {"a.wav": 0.4, "sub/b ö.flac": 0.5, "sub/c.wav": 1.25, "d.wav": 0.3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_sounds: Callable[..., Path]) -> Path:
    return write_sounds(tmp_path_factory.mktemp("sounds"), SOUNDS)


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory, untrained_embedder: Embedder) -> Path:
    out = tmp_path_factory.mktemp("stores") / "out"
    sedembed.embed_folder(folder, out, untrained_embedder, progress=False)
    return out


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A store of four recordings; to be changed."""
    return Path(shutil.copytree(made, tmp_path / "out"))


def change_run(out: Path, **changes: Any) -> None:
    run = json.loads((out / "run.json").read_text())
    for key, value in changes.items():
        (run["model"] if key in run["model"] else run["settings"])[key] = value
    run["fingerprint"] = hashlib.sha256(json.dumps(run["settings"], sort_keys=True).encode()).hexdigest()
    (out / "run.json").write_text(json.dumps(run))


def lines(printed: str) -> list[list[str]]:
    return [line.split("\t") for line in printed.splitlines()]


class TestSearch:
    def test_a_file(self, made: Path, folder: Path, untrained_model_dir: Path, capsys: pytest.CaptureFixture[str]):
        arguments = ["search", str(made), str(folder / "sub" / "c.wav"), "--model", str(untrained_model_dir)]
        assert main([*arguments, "--device", "cpu"]) == 0
        rows = lines(capsys.readouterr().out)
        assert len(rows) == 4
        assert rows[0] == ["1.0000", "1.25 s", "sub/c.wav"]
        assert [float(row[0]) for row in rows] == sorted((float(row[0]) for row in rows), reverse=True)
        vectors = {path: v.astype(float) for path, v in zip(*_contents(made), strict=True)}
        query = vectors["sub/c.wav"]
        for cosine, _, path in rows:
            expected = query @ vectors[path] / np.linalg.norm(query) / np.linalg.norm(vectors[path])
            assert float(cosine) == pytest.approx(expected, abs=1e-4)

    def test_a_path_of_the_store_needs_no_model(self, made: Path, capsys: pytest.CaptureFixture[str]):
        assert main(["search", str(made), "sub/b ö.flac", "-k", "2", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["query"] == "sub/b ö.flac"
        expected = sedembed.open_store(made).search("sub/b ö.flac", 2)
        assert [(row["path"], row["cosine"]) for row in found["results"]] == expected
        assert [row["duration"] for row in found["results"]] == [SOUNDS[path] for path, _ in expected]

    def test_a_file_comes_before_a_path(
        self,
        made: Path,
        folder: Path,
        untrained_model_dir: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ):
        shutil.copy(folder / "d.wav", tmp_path / "a.wav")
        monkeypatch.chdir(tmp_path)
        assert main(["search", str(made), "a.wav", "-k", "1", "--model", str(untrained_model_dir)]) == 0
        assert lines(capsys.readouterr().out)[0][2] == "d.wav"

    @pytest.mark.parametrize(
        ("query", "options", "message"),
        [
            ("none.wav", [], "neither a sound file nor the path of a recording"),
            ("a.wav", ["-k", "0"], "at least 1, got 0"),
            ("{broken}", [], "broken.wav"),
            ("{folder}", [], "sub"),
        ],
    )
    def test_bad_queries(
        self,
        made: Path,
        untrained_model_dir: Path,
        tmp_path: Path,
        query: str,
        options: list[str],
        message: str,
        capsys: pytest.CaptureFixture[str],
    ):
        (tmp_path / "broken.wav").write_text("no sound")
        (tmp_path / "sub").mkdir()
        query = query.format(broken=tmp_path / "broken.wav", folder=tmp_path / "sub")
        assert main(["search", str(made), query, *options, "--model", str(untrained_model_dir)]) == 2
        printed = capsys.readouterr()
        assert message in printed.err
        assert printed.err.count("\n") == 1
        assert not printed.out

    def test_no_store(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        assert main(["search", str(tmp_path), "a.wav"]) == 2
        assert "found no run.json" in capsys.readouterr().err


def _contents(out: Path) -> tuple[list[str], np.ndarray]:
    store = sedembed.open_store(out)
    return store.paths, store.vectors


class TestModelOfAStore:
    def test_a_directory_has_to_be_said(self, out: Path, folder: Path, capsys: pytest.CaptureFixture[str]):
        assert main(["search", str(out), str(folder / "a.wav")]) == 2
        assert "called 'untrained'; say where that is: --model DIRECTORY" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"model_sha256": "0" * 64}, r"version local-\w+ \(sha256 000000000000\).*embed the folder again"),
            ({"front_end_version": FRONT_END_VERSION + 1}, "front_end_version"),
            ({"window_seconds": 30.0}, "window_seconds 30.0.*use sedembed"),
        ],
    )
    def test_another_model_is_refused(
        self, out: Path, untrained_model_dir: Path, changes: dict[str, Any], message: str
    ):
        change_run(out, **changes)
        with pytest.raises(StoreError, match=message):
            load_store_model(sedembed.open_store(out), str(untrained_model_dir), device="cpu")

    def test_the_precision_of_the_store(self, out: Path, untrained_model_dir: Path):
        model = load_store_model(sedembed.open_store(out), str(untrained_model_dir), device="cpu")
        assert model.precision == "float32"
        change_run(out, precision="bfloat16")
        model = load_store_model(sedembed.open_store(out), str(untrained_model_dir), device="cpu")
        assert model.precision == "bfloat16"

    @pytest.mark.parametrize(
        ("model", "settings", "message"),
        [
            ({}, {}, None),
            ({}, {"model_version": "local-123"}, None),  # the same weights, loaded from a directory
            ({}, {"model_version": "0.9"}, "version 0.9"),
            ({}, {"model_sha256": "f" * 64}, "sha256 ffffffffffff"),
            ({"name": "other", "source": "hf://nobody/nothing"}, {}, "nobody/nothing"),
            ({"name": "", "source": ""}, {}, "does not name"),
        ],
    )
    def test_the_registered_one(
        self,
        tmp_path: Path,
        model: dict[str, str],
        settings: dict[str, Any],
        message: str | None,
        monkeypatch: pytest.MonkeyPatch,
    ):
        record = sedembed.describe_model("talnet")
        monkeypatch.setenv("SEDEMBED_OFFLINE", "1")
        store = make_store(
            tmp_path,
            {"name": "talnet", "source": record.source, "revision": record.revision, **model},
            {"model_version": record.version, "model_sha256": record.sha256, **settings},
        )
        if message is None:
            assert load_store_model(store, device="cpu").record.name == "talnet"
        else:
            with pytest.raises(sedembed.SedembedError, match=message):
                load_store_model(store, device="cpu")


def make_store(out: Path, model: dict[str, str], settings: dict[str, Any]) -> EmbeddingStore:
    settings = {"embedding_size": 1024, "frames": False, "precision": "float32", **settings}
    run = {
        "format_version": FORMAT_VERSION,
        "fingerprint": json.dumps(settings),
        "settings": settings,
        "model": model,
        "folder": "/sounds",
    }
    with StoreWriter(out, run) as writer:
        writer.add("a.wav", 1.0, 16_000, 1, np.ones(1024, np.float32))
        writer.commit()
    return sedembed.open_store(out)


def test_measure_search(tmp_path: Path):
    script = Path(__file__).parents[2] / "examples" / "measure_search.py"
    command = [sys.executable, str(script), "--rows", "600", "--size", "8", "--scratch", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "the same rows and cosines as float64 throughout" in done.stdout
    assert not list(tmp_path.iterdir())
