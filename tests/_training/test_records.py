"""Tests of records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sedembed._training.records import RunFolder
from sedembed._training.settings import TrainConfig
from sedembed.errors import DatasetError

DATA = {"clips": 3, "clips_sha256": "a"}


def start(out: Path, config: TrainConfig | None = None, **data: object) -> None:
    RunFolder(out).check_or_write(config or TrainConfig(), {**DATA, **data}, {"versions": {"torch": "2"}})


@pytest.mark.parametrize("name", ["config.json", "run.json"])
@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000, "", "\xff"])
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: str) -> None:
    start(tmp_path)
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(DatasetError, match=name):
        start(tmp_path)


@pytest.mark.parametrize("starts", [None, 3, [3], {"a": 1}])
def test_starts_of_another_type_are_refused(tmp_path: Path, starts: object) -> None:
    start(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({**DATA, "starts": starts}))
    with pytest.raises(DatasetError, match="Expected a list of starts"):
        start(tmp_path)


def test_each_start_is_kept_and_other_runs_are_refused(tmp_path: Path) -> None:
    start(tmp_path)
    start(tmp_path)
    assert len(json.loads((tmp_path / "run.json").read_text())["starts"]) == 2
    with pytest.raises(DatasetError, match=r"other settings \(seed, steps\)"):
        start(tmp_path, TrainConfig(steps=7, seed=1))
    with pytest.raises(DatasetError, match=r"other data \(clips_sha256\)"):
        start(tmp_path, clips_sha256="b")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "checkpoint.pt").touch()
    with pytest.raises(DatasetError, match="checkpoint without settings"):
        start(tmp_path / "other")


def test_a_setting_that_did_not_exist_has_its_default(tmp_path: Path) -> None:
    start(tmp_path)
    file = tmp_path / "config.json"
    table = json.loads(file.read_text())
    del table["winograd"]
    file.write_text(json.dumps(table))
    start(tmp_path)
    with pytest.raises(DatasetError, match=r"other settings \(winograd\)"):
        start(tmp_path, TrainConfig(winograd=False))
    file.write_text(json.dumps({**table, "unheard": 1}))
    with pytest.raises(DatasetError, match=r"other settings \(unheard\)"):
        start(tmp_path)


def test_a_log_goes_back_to_a_step(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, columns=("step", "bce"))
    folder.rewind(0)
    for step in (5, 10, 15):
        folder.log({"step": step, "bce": 0.5})
    with (tmp_path / "log.csv").open("a") as stream:
        stream.write("2")  # cut by whatever ended the run
    folder.rewind(10)
    assert (tmp_path / "log.csv").read_text() == "step,bce\n5,0.5\n10,0.5\n"
    RunFolder(tmp_path / "second", writes=False).rewind(3)
    assert not (tmp_path / "second").exists()
