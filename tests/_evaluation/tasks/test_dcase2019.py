"""Tests of dcase2019."""

from __future__ import annotations

from collections import Counter

import pytest

from sedembed._evaluation.tasks.base import Clip
from sedembed._evaluation.tasks.dcase2019 import DCASE2019Task1A
from sedembed.errors import DatasetError
from tests._evaluation.tasks.one_label_helpers import (  # noqa: F401
    DCASE_TRAIN,
    DCASE_UNUSED,
    dcase2019,
    edit,
    refusal,
    sounds,
    write_table,
)


class TestDCASE2019Task1A:
    def test_clips(self, dcase2019):
        contents = DCASE2019Task1A().read(dcase2019)
        assert contents.clips[0] == Clip(
            "audio/airport-lisbon-1000-40000-a.wav", ("airport",), "fold1_train", "lisbon-1000"
        )
        assert contents.clips[-1] == Clip("audio/bus-lyon-1177-44109-a.wav", ("bus",), "fold1_evaluate", "lyon-1177")
        assert Counter(clip.part for clip in contents.clips) == {"fold1_train": 8, "fold1_evaluate": 4}

    def test_official_metric_is_macro_and_micro_is_shown(self):
        assert DCASE2019Task1A.metric == "macro_accuracy"
        assert DCASE2019Task1A.other_metrics == ("accuracy",)

    def test_one_round(self, dcase2019):
        clips = DCASE2019Task1A().read(dcase2019).clips
        (round_,) = DCASE2019Task1A().rounds(clips)
        assert round_.name == "fold1"
        assert round_.train.tolist() == list(range(8))
        assert round_.test.tolist() == [8, 9, 10, 11]
        assert round_.validation is None
        assert round_.inner_folds is None
        # The inner split is by location, so some location must have several clips.
        assert len({clips[i].group for i in round_.train}) == 5

    @pytest.mark.parametrize("part", ["fold1_train", "fold1_evaluate"])
    def test_rounds_of_one_part(self, dcase2019, part):
        clips = [clip for clip in DCASE2019Task1A().read(dcase2019).clips if clip.part == part]
        with pytest.raises(DatasetError, match=r"clips of both fold1_train and fold1_evaluate.*add the other part"):
            DCASE2019Task1A().rounds(clips)

    @pytest.mark.parametrize("name", ["fold1_train.csv", "fold1_evaluate.csv"])
    def test_no_split(self, dcase2019, name):
        (dcase2019 / "evaluation_setup" / name).unlink()
        assert refusal(DCASE2019Task1A(), dcase2019) == f"evaluation_setup/{name} is not there"

    def test_unused_clips_need_not_be_there(self, dcase2019):
        (dcase2019 / "audio" / DCASE_UNUSED[0]).unlink()
        assert DCASE2019Task1A().read(dcase2019).missing == []

    def test_commas_for_tabs(self, dcase2019, edit):
        edit(dcase2019 / "meta.csv", "\t", ",")
        assert "meta.csv lacks the columns ['filename', 'scene_label', 'identifier']" in refusal(
            DCASE2019Task1A(), dcase2019
        )

    def test_scenes_that_disagree(self, dcase2019, edit):
        edit(dcase2019 / "meta.csv", "40001-a.wav\tbus", "40001-a.wav\ttram")
        message = refusal(DCASE2019Task1A(), dcase2019)
        assert "has the scene 'bus' for audio/bus-lyon-1001-40001-a.wav, meta.csv has 'tram'; fetch both" in message

    def test_location_from_meta_csv(self, dcase2019, edit):
        edit(dcase2019 / "meta.csv", "\tlisbon-1007\t", "\tlisbon-station\t")
        groups = [clip.group for clip in DCASE2019Task1A().read(dcase2019).clips]
        assert groups[1:5] == ["lyon-1001", "lisbon-station", "lisbon-station", "lyon-1003"]

    def test_location_from_the_name(self, dcase2019):
        before = DCASE2019Task1A().read(dcase2019)
        lines = (dcase2019 / "meta.csv").read_text().splitlines()
        write_table(dcase2019 / "meta.csv", [lines[0], *lines[4:]])
        contents = DCASE2019Task1A().read(dcase2019)
        assert contents.clips == before.clips
        assert contents.notes[-1] == "meta.csv lacks 3 clips; their locations are taken from their names"

    def test_no_location_at_all(self, dcase2019, edit):
        edit(dcase2019 / "evaluation_setup" / "fold1_train.csv", "bus-lyon-1001-40001-a.wav", "clip7.wav")
        assert "'audio/clip7.wav', which is not in meta.csv nor of the form scene-city-location" in refusal(
            DCASE2019Task1A(), dcase2019
        )

    def test_a_clip_in_both_parts(self, dcase2019):
        file = dcase2019 / "evaluation_setup" / "fold1_evaluate.csv"
        file.write_text(file.read_text() + f"audio/{DCASE_TRAIN[0]}\tairport\n")
        assert f"names audio/{DCASE_TRAIN[0]} 2 times" in refusal(DCASE2019Task1A(), dcase2019)

    def test_full_size(self, dcase2019):
        """The full split has 9185 and 4185 clips; one more is another edition, such as that of other devices."""
        names = {
            part: [f"audio/bus-lyon-1001-{start + i}-a.wav" for i in range(size)]
            for part, start, size in (("fold1_train", 50_000, 9185), ("fold1_evaluate", 70_000, 4185))
        }
        for part, paths in names.items():
            lines = [f"{path}\tbus" for path in paths]
            write_table(dcase2019 / "evaluation_setup" / f"{part}.csv", ["filename\tscene_label", *lines])
        (dcase2019 / names["fold1_train"][0]).touch()
        contents = DCASE2019Task1A().read(dcase2019)
        assert len(contents.missing) == 13_369
        assert not any(note.startswith("incomplete") for note in contents.notes)
        (round_,) = DCASE2019Task1A().rounds(contents.clips)
        assert (len(round_.train), len(round_.test)) == (9185, 4185)

        lines = [f"{path}\tbus" for path in (*names["fold1_train"], "audio/bus-lyon-1001-60000-b.wav")]
        write_table(dcase2019 / "evaluation_setup" / "fold1_train.csv", ["filename\tscene_label", *lines])
        assert "puts 9186 clips into fold1_train, which has 9185" in refusal(DCASE2019Task1A(), dcase2019)
