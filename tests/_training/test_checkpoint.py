"""Checkpoints come back as they were, or are refused with a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sedembed._training.checkpoint import load_checkpoint, save_checkpoint
from sedembed.errors import DatasetError


def test_round_trip(tmp_path: Path):
    state = {"step": 3, "weights": {"a": torch.arange(4.0)}, "losses": [0.1, 0.2]}
    save_checkpoint(tmp_path / "checkpoint.pt", state)
    found: list[dict] = []
    load_checkpoint(tmp_path / "checkpoint.pt", found.append)
    assert found[0]["step"] == 3
    assert torch.equal(found[0]["weights"]["a"], state["weights"]["a"])
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("keep", [0, 10, 300])
def test_a_cut_file_is_refused(tmp_path: Path, keep: int):
    file = tmp_path / "checkpoint.pt"
    save_checkpoint(file, {"a": torch.zeros(100)})
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DatasetError, match="cannot be read"):
        load_checkpoint(file, lambda state: None)


def test_what_does_not_fit_is_refused(tmp_path: Path):
    save_checkpoint(tmp_path / "checkpoint.pt", {"a": 1})
    with pytest.raises(DatasetError, match=r"cannot be read \(KeyError: 'b'\).*delete the file to begin again"):
        load_checkpoint(tmp_path / "checkpoint.pt", lambda state: state["b"])
