"""Tests of clips."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import sedembed
from sedembed._training.clips import ClipSet, hold_out, read_audioset
from sedembed.errors import DatasetError
from tests._training.train_helpers import HEADER, audioset, clips, mids, whole  # noqa: F401


class TestClips:
    def test_targets_are_checked(self, clips: ClipSet) -> None:
        soft = clips.with_targets(np.full((12, 3), 0.25, np.float32))
        assert (
            [list(own) for own in soft.members]
            == [list(own) for own in clips.members]
            == [list(range(c, 12, 3)) for c in range(3)]
        )
        for bad in (np.full((12, 3), 1.1), np.full((12, 3), np.nan), np.full((12, 3), -0.1), np.zeros((12, 2))):
            with pytest.raises(DatasetError, match="Expected targets"):
                clips.with_targets(bad)
        with pytest.raises(DatasetError, match="Names of clips must differ"):
            ClipSet(("a", "a"), clips.paths[:2], clips.targets[:2], clips.classes)

    def test_select(self, clips: ClipSet) -> None:
        some = clips.with_targets(clips.targets * 0.4).select([7, 0, 1])
        assert some.names == ("clip7.wav", "clip0.wav", "clip1.wav")
        assert [list(own) for own in some.members] == [[1], [0, 2], []]
        np.testing.assert_array_equal(some.targets.argmax(1), [1, 0, 1])

    def test_a_clip_is_held_out_whatever_else_there_is(self) -> None:
        names = tuple(f"{i:011d}" for i in range(2000))
        whole = ClipSet(names, tuple(map(Path, names)), np.ones((2000, 1), np.float32), ("a",))
        train, held_out = hold_out(whole, 0.1)
        assert 140 < len(held_out) < 260
        assert {*train.names, *held_out.names} == {*names}
        assert set(hold_out(whole.select(range(500)), 0.1)[1].names) == set(held_out.names) & set(names[:500])
        with pytest.raises(DatasetError, match="leaves 5 to train on and 0 to"):
            hold_out(whole.select(range(5)), 1e-6)


class TestAudioSet:
    def test_parts(self, audioset: Path) -> None:
        train, missing = read_audioset(audioset, "train")
        assert train.names == (*(f"-bcdefgh_{i:02d}" for i in range(9)), "-bcdefgh_99")
        assert missing == ["balanced_train_segments/Y-missing_01.wav"]
        assert train.paths[:3] == (
            audioset / "Y-bcdefgh_00.wav",
            audioset / "deep/-bcdefgh_01_30.000_31.000.wav",
            audioset / "-bcdefgh_02_30000.wav",
        )
        assert train.classes == sedembed.models.labels.load_labels()
        assert [list(np.flatnonzero(row)) for row in train.targets[:3]] == [[0, 10], [1, 10], [2, 10]]
        # The one that both lists name is the evaluation's.
        evaluation, missing = read_audioset(audioset, "eval")
        assert evaluation.names == ("-bcdefgh_09", "-bcdefgh_10", "-bcdefgh_11")
        assert missing == ["eval_segments/Y-missing_02.wav"]
        with pytest.raises(DatasetError, match="none of the 0 recordings of the part unbalanced_train"):
            read_audioset(audioset, "unbalanced_train")
        with pytest.raises(ValueError, match="Part must be train, balanced_train"):
            read_audioset(audioset, "test")

    def test_balanced_and_unbalanced_are_one(self, audioset: Path, clips: ClipSet, mids: list[str]) -> None:
        shutil.copy(clips.paths[0], audioset / "Yunbalanced1.wav")
        rows = f'unbalanced1, 0.000, 10.000, "{mids[2]}"\nunbalanced2, 0.000, 10.000, "{mids[2]}"\n'
        (audioset / "unbalanced_train_segments.csv").write_text(HEADER + rows)
        train, missing = read_audioset(audioset, "train")
        assert train.names[-1] == "unbalanced1"
        assert len(missing) == 2
        assert list(train.members[2]) == [2, 5, 8, 10]
