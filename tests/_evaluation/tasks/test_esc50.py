"""Tests of esc50."""

from __future__ import annotations

from collections import Counter

import pytest

from sedembed._evaluation.tasks.base import Clip
from sedembed._evaluation.tasks.esc50 import ESC50
from sedembed.errors import DatasetError
from tests._evaluation.tasks.one_label_helpers import (  # noqa: F401
    ESC50_CSV,
    SHARED,
    check_rounds,
    edit,
    esc50,
    refusal,
    sounds,
    write_table,
)


class TestESC50:
    def test_clips(self, esc50):
        clips = ESC50().read(esc50).clips
        assert clips[0] == Clip("audio/1-100032-A-0.wav", ("dog",), "fold1", "100032")
        assert clips[-1] == Clip("audio/5-203128-B-0.wav", ("dog",), "fold5", "203128")

    def test_rounds(self, esc50):
        clips = ESC50().read(esc50).clips
        rounds = ESC50().rounds(clips)
        assert [(r.name, len(r.train), len(r.test)) for r in rounds] == [
            ("fold1", 9, 3),
            ("fold2", 10, 2),
            ("fold3", 10, 2),
            ("fold4", 10, 2),
            ("fold5", 9, 3),
        ]
        assert rounds[1].inner_folds is not None
        assert rounds[1].inner_folds.tolist() == [1, 1, 1, 3, 3, 4, 4, 5, 5, 5]
        assert all(r.validation is None for r in rounds)
        assert sorted(i for r in rounds for i in r.test) == list(range(12))

    def test_rounds_of_some_folds(self, esc50):
        clips = [clip for clip in ESC50().read(esc50).clips if clip.part in ("fold2", "fold5")]
        rounds = ESC50().rounds(clips)
        assert [r.name for r in rounds] == ["fold2", "fold5"]
        # With one training fold there is none to leave out: the engine makes an inner split by group.
        assert [r.inner_folds for r in rounds] == [None, None]
        check_rounds(rounds, clips)

    @pytest.mark.parametrize("parts", [(), ("fold3",)])
    def test_rounds_of_one_fold(self, esc50, parts):
        clips = [clip for clip in ESC50().read(esc50).clips if clip.part in parts]
        with pytest.raises(DatasetError, match=r"at least two folds.*add recordings of other folds"):
            ESC50().rounds(clips)

    def test_two_targets_of_one_category(self, esc50, edit):
        edit(esc50 / "meta" / "esc50.csv", "rain", "dog")
        assert "several targets the same category" in refusal(ESC50(), esc50)

    def test_more_clips_in_a_fold_than_there_are(self, esc50, edit):
        lines = [f"1-{i}-A-0.wav,1,0,dog,True,{i},A" for i in range(398)]
        write_table(esc50 / "meta" / "esc50.csv", [*ESC50_CSV.splitlines(), *lines])
        assert "puts 401 clips into fold1, which has 400" in refusal(ESC50(), esc50)

    def test_a_category_left_blank(self, esc50, edit):
        edit(esc50 / "meta" / "esc50.csv", "dog", "")
        assert "has the category '' for target 0" in refusal(ESC50(), esc50)

    @pytest.mark.shared
    @pytest.mark.skipif(not (SHARED / "esc50").is_dir(), reason="ESC-50 is not beside the repository")
    def test_full_data(self):
        contents = ESC50().read(SHARED / "esc50")
        assert len(contents.clips) == 2000
        assert contents.missing == contents.extra == []
        assert contents.notes == ["2000 recordings are .ogg files, distributed as .wav"]
        assert set(Counter(clip.labels for clip in contents.clips).values()) == {40}
        assert set(Counter((clip.labels, clip.part) for clip in contents.clips).values()) == {8}
        rounds = ESC50().rounds(contents.clips)
        assert [(len(r.train), len(r.test)) for r in rounds] == [(1600, 400)] * 5
        check_rounds(rounds, contents.clips)

    @pytest.mark.shared
    @pytest.mark.skipif(not (SHARED / "esc50").is_dir(), reason="ESC-50 is not beside the repository")
    def test_full_data_under_the_official_names(self, tmp_path):
        (tmp_path / "meta").mkdir()
        text = (SHARED / "esc50" / "meta" / "esc50.csv").read_text()
        (tmp_path / "meta" / "esc50.csv").write_text(text.replace(".ogg", ".wav"))
        (tmp_path / "audio").symlink_to(SHARED / "esc50" / "audio")
        assert ESC50().read(tmp_path) == ESC50().read(SHARED / "esc50")
