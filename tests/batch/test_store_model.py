"""Tests of store model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sedembed
from sedembed.batch.store_model import load_store_model
from sedembed.cli.main import main
from sedembed.engine.provenance import FRONT_END_VERSION
from sedembed.errors import StoreError
from sedembed.store.layout import FORMAT_VERSION
from sedembed.store.store import EmbeddingStore
from sedembed.store.writer import StoreWriter
from tests.cli.explore_helpers import folder, made, out  # noqa: F401


def change_run(out: Path, **changes: Any) -> None:
    run = json.loads((out / "run.json").read_text())
    for key, value in changes.items():
        (run["model"] if key in run["model"] else run["settings"])[key] = value
    run["fingerprint"] = hashlib.sha256(json.dumps(run["settings"], sort_keys=True).encode()).hexdigest()
    (out / "run.json").write_text(json.dumps(run))


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
