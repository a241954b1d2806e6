"""Tests of urbansound8k."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path

import pytest

from sedembed._evaluation.tasks.base import Clip
from sedembed._evaluation.tasks.urbansound8k import UrbanSound8K
from tests._evaluation.tasks.one_label_helpers import SHARED, check_rounds, refusal, sounds, urbansound8k  # noqa: F401


class TestUrbanSound8K:
    def test_clips(self, urbansound8k):
        clips = UrbanSound8K().read(urbansound8k).clips
        assert clips[0] == Clip("audio/fold5/100032-3-0-0.wav", ("dog_bark",), "fold5", "100032")
        assert clips[-1] == Clip("audio/fold10/159742-8-0-0.wav", ("siren",), "fold10", "159742")

    def test_rounds_in_the_order_of_the_folds(self, urbansound8k):
        clips = UrbanSound8K().read(urbansound8k).clips
        rounds = UrbanSound8K().rounds(clips)
        assert [r.name for r in rounds] == [f"fold{i}" for i in range(1, 11)]
        assert [len(r.test) for r in rounds] == [2, 2, 1, 1, 2, 1, 1, 1, 2, 1]
        assert all(r.inner_folds is not None and len(set(r.inner_folds.tolist())) == 9 for r in rounds)

    def test_recordings_without_fold_folders(self, urbansound8k):
        for file in sorted((urbansound8k / "audio").glob("*/*.wav")):
            file.rename(urbansound8k / "audio" / file.name)
        message = refusal(UrbanSound8K(), urbansound8k)
        assert "other sound files such as audio/100032-3-0-0.wav, expected audio/fold5/100032-3-0-0.wav" in message

    def test_a_recording_in_another_fold_is_not_taken(self, urbansound8k):
        audio = urbansound8k / "audio"
        (audio / "fold5" / "100032-3-0-0.wav").rename(audio / "fold6" / "100032-3-0-0.wav")
        contents = UrbanSound8K().read(urbansound8k)
        assert contents.missing == ["audio/fold5/100032-3-0-0.wav"]
        assert contents.extra == ["audio/fold6/100032-3-0-0.wav"]

    @pytest.fixture
    def full_metadata(self, tmp_path) -> Path:
        """Return a copy with all rows and one recording."""
        file = SHARED / "metadata" / "UrbanSound8K.csv"
        if not file.is_file():
            pytest.skip("the metadata of UrbanSound8K are not beside the repository")
        (tmp_path / "metadata").mkdir()
        shutil.copy(file, tmp_path / "metadata")
        (tmp_path / "audio" / "fold5").mkdir(parents=True)
        (tmp_path / "audio" / "fold5" / "100032-3-0-0.wav").touch()
        return tmp_path

    @pytest.mark.shared
    def test_full_metadata(self, full_metadata):
        contents = UrbanSound8K().read(full_metadata)
        assert len(contents.clips) == 8732
        assert len(contents.missing) == 8731
        assert contents.notes == contents.extra == []
        rounds = UrbanSound8K().rounds(contents.clips)
        sizes = [873, 888, 925, 990, 936, 823, 838, 806, 816, 837]
        assert [len(r.test) for r in rounds] == sizes
        assert [len(r.train) for r in rounds] == [8732 - size for size in sizes]
        check_rounds(rounds, contents.clips)
        assert Counter(clip.labels[0] for clip in contents.clips) == {
            "air_conditioner": 1000,
            "car_horn": 429,
            "children_playing": 1000,
            "dog_bark": 1000,
            "drilling": 1000,
            "engine_idling": 1000,
            "gun_shot": 374,
            "jackhammer": 1000,
            "siren": 929,
            "street_music": 1000,
        }

    @pytest.mark.shared
    def test_recordings_whose_slices_are_in_several_folds(self, full_metadata):
        folds: dict[str, set[str]] = {}
        for clip in UrbanSound8K().read(full_metadata).clips:
            folds.setdefault(clip.group, set()).add(clip.part)
        assert sorted(group for group, parts in folds.items() if len(parts) > 1) == [
            "106905",
            "132016",
            "176638",
            "180937",
            "77751",
        ]

    @pytest.mark.shared
    def test_reshuffled_folds(self, full_metadata):
        file = full_metadata / "metadata" / "UrbanSound8K.csv"
        with file.open(newline="") as stream:
            rows = list(csv.reader(stream))
        for i, row in enumerate(rows[1:]):
            row[5] = str(i % 10 + 1)
        with file.open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)
        message = refusal(UrbanSound8K(), full_metadata)
        assert "puts 874 clips into fold1, which has 873; it is of another edition or was changed" in message
