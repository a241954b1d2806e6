"""Tests of kinetics700."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from sedembed._evaluation.tasks import kinetics700
from sedembed._evaluation.tasks.base import Clip
from sedembed._evaluation.tasks.kinetics700 import Kinetics700
from tests._evaluation.tasks.video_helpers import VALIDATE, kinetics_copy, refused, touch  # noqa: F401


def make_clips(sizes: dict[str, int], tests: int = 10, videos: int = 1) -> list[Clip]:
    """Training clips of each class, and test clips; each `videos` clips come from one video."""
    clips = []
    for label, size in sizes.items():
        for number in range(size):
            video = f"{label}-{number // videos:06d}"
            clips.append(Clip(f"train/{label}/{video}_{number:06d}.mp4", (label,), "train", video))
    label = next(iter(sizes))
    clips += [Clip(f"val/{number}.mp4", (label,), "validate", f"t{number}") for number in range(tests)]
    return clips


class TestKinetics700:
    def test_reads_lists_and_folders(self, kinetics_copy: Path) -> None:
        contents = Kinetics700().read(kinetics_copy)
        assert [(clip.path, clip.labels, clip.part, clip.group) for clip in contents.clips] == [
            ("train/abseiling/__NrybzYzUg_000415_000425.mp4", ("abseiling",), "train", "__NrybzYzUg"),
            ("train/abseiling/-3B32lodo2M_000059_000069.mkv", ("abseiling",), "train", "-3B32lodo2M"),
            (
                "train/tying knot (not on a tie)/aTEL_jDcIzE_000001_000011.webm",
                ("tying knot (not on a tie)",),
                "train",
                "aTEL_jDcIzE",
            ),
            (
                "train/massaging person's head/Y0aaaaaaaaa_100000_100010.mp4",
                ("massaging person's head",),
                "train",
                "Y0aaaaaaaaa",
            ),
            ("train/abseiling/gonegonegon_000000_000010.mp4", ("abseiling",), "train", "gonegonegon"),
            ("validate/abseiling/3E7Jib8Yq5M_000118_000128.mp4", ("abseiling",), "validate", "3E7Jib8Yq5M"),
            (
                "validate/massaging person's head/_____-______000000_000010.mp4",
                ("massaging person's head",),
                "validate",
                "_____-_____",
            ),
        ]
        assert contents.missing == ["train/abseiling/gonegonegon_000000_000010.mp4"]
        assert contents.extra == []  # not even the test set

    def test_layout_of_the_mirror(self, kinetics_copy: Path) -> None:
        (kinetics_copy / "annotations").mkdir()
        (kinetics_copy / "train.csv").rename(kinetics_copy / "annotations/train.csv")
        (kinetics_copy / "validate.csv").rename(kinetics_copy / "annotations/val.csv")
        (kinetics_copy / "validate").rename(kinetics_copy / "val")
        for file in list((kinetics_copy / "train").glob("*/*.*")):
            file.rename(kinetics_copy / "train" / file.name)
        contents = Kinetics700().read(kinetics_copy)
        assert len(contents.missing) == 1
        assert "train/__NrybzYzUg_000415_000425.mp4" in {clip.path for clip in contents.clips}
        assert "val/abseiling/3E7Jib8Yq5M_000118_000128.mp4" in {clip.path for clip in contents.clips}

    @pytest.mark.parametrize("suffix", [".wav", ".flac", ".m4a"])
    def test_extracted_sound_goes_before_the_video(self, kinetics_copy: Path, suffix: str) -> None:
        touch(kinetics_copy, f"wav/__NrybzYzUg_000415_000425{suffix}")
        contents = Kinetics700().read(kinetics_copy)
        assert contents.clips[0].path == f"wav/__NrybzYzUg_000415_000425{suffix}"
        assert contents.extra == ["train/abseiling/__NrybzYzUg_000415_000425.mp4"]

    def test_another_segment_of_the_video_is_not_the_clip(self, kinetics_copy: Path) -> None:
        touch(kinetics_copy, "train/abseiling/gonegonegon_000001_000011.mp4", "train/abseiling/gonegonegon.mp4")
        contents = Kinetics700().read(kinetics_copy)
        assert contents.missing == ["train/abseiling/gonegonegon_000000_000010.mp4"]
        assert len(contents.extra) == 2

    def test_what_is_odd_about_the_lists_is_noted(self, kinetics_copy: Path) -> None:
        with (kinetics_copy / "train.csv").open("a") as file:
            file.write("abseiling,3E7Jib8Yq5M,118,128,train\nabseiling,__NrybzYzUg,415,425,train\n")
        with (kinetics_copy / "validate.csv").open("a") as file:
            file.write("zumba,0123456789a,1,11\n")
        contents = Kinetics700().read(kinetics_copy)
        assert Counter(clip.group for clip in contents.clips).most_common(1)[0][1] == 1
        assert next(clip for clip in contents.clips if clip.group == "3E7Jib8Yq5M").part == "validate"
        notes = "\n".join(contents.notes)
        assert "train.csv names 2 clips that a list names before" in notes
        assert "incomplete: train.csv names 7 clips; the edition of 2020 has 542352" in notes
        assert "incomplete: validate.csv names 3 clips; the edition of 2020 has 34125" in notes
        assert "incomplete: train.csv has 3 of 700 classes" in notes
        assert "incomplete: 1 classes of validate.csv have no clip in train.csv, the first 'zumba'" in notes
        assert len(contents.notes) == 5

    def test_lists_of_other_editions_are_complete(self, kinetics_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(kinetics700, "_SIZES", {"train": 5, "validate": 2})
        monkeypatch.setattr(Kinetics700, "classes", 3)
        assert Kinetics700().read(kinetics_copy).notes == []
        monkeypatch.setattr(Kinetics700, "classes", 2)
        refused(Kinetics700(), kinetics_copy, "have 3 classes, expected 2")

    @pytest.mark.parametrize(
        ("row", "said"),
        [
            ("abseiling,abc,1,11", "'abc' as youtube_id"),
            ("abseiling,../../../aa,1,11", "'../../../aa' as youtube_id"),
            (",0123456789a,1,11", "has no label"),
            ("abseiling,0123456789a,one,11", "'one' and '11'"),
            ("abseiling,0123456789a,11,1", "in this order"),
            ("abseiling,0123456789a,-1,11", "in this order"),
            ("abseiling,0123456789a,1,nan", "in this order"),
            ("abseiling,0123456789a,1", "cut short"),
        ],
    )
    def test_malformed_lines(self, kinetics_copy: Path, row: str, said: str) -> None:
        (kinetics_copy / "validate.csv").write_text(VALIDATE + row + "\n")
        refused(Kinetics700(), kinetics_copy, "line 4 of validate.csv", said, "fetch it again")

    def test_wrong_columns(self, kinetics_copy: Path) -> None:
        (kinetics_copy / "train.csv").write_text("train/a.mp4 0\ntrain/b.mp4 1\n")
        refused(Kinetics700(), kinetics_copy, "train.csv lacks the columns", "youtube_id")
        (kinetics_copy / "train.csv").write_text("label,youtube_id,time_start,time_end\n")
        refused(Kinetics700(), kinetics_copy, "train.csv names no clips")

    def test_wrong_folders(self, kinetics_copy: Path, tmp_path: Path) -> None:
        refused(Kinetics700(), tmp_path / "nowhere", "no such folder")
        refused(Kinetics700(), kinetics_copy / "train.csv", "it is a file")
        refused(Kinetics700(), tmp_path, f"it is in {kinetics_copy}, so give that folder")
        refused(Kinetics700(), kinetics_copy / "train", f"it is in {kinetics_copy}, so give that folder")
        (kinetics_copy / "validate.csv").unlink()
        refused(Kinetics700(), kinetics_copy, "validate.csv or val.csv is not there")
        (kinetics_copy / "val.csv").write_text(VALIDATE)
        for folder in ("train", "validate"):
            shutil.rmtree(kinetics_copy / folder)
        refused(Kinetics700(), kinetics_copy, "none of the 7 recordings", "all files are in folders named test")
        shutil.rmtree(kinetics_copy / "test")
        refused(Kinetics700(), kinetics_copy, "no sound or video file")


class TestKineticsHeldOut:
    def test_the_full_lists_give_20525(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # A hundredth of everything, in classes of unequal size.
        monkeypatch.setattr(kinetics700, "_SIZES", {"train": 5_424, "validate": 10})
        monkeypatch.setattr(kinetics700, "_HELD_OUT", 205)
        sizes = {f"class {i}": 30 + 7 * i for i in range(35)}
        sizes["rest"] = 5_424 - sum(sizes.values())
        clips = make_clips(sizes)
        (only,) = Kinetics700().rounds(clips)
        assert only.validation is not None
        assert len(only.validation) == 205
        assert sorted([*only.train, *only.validation, *only.test]) == list(range(len(clips)))
        assert {clips[i].part for i in only.test} == {"validate"}
        taken = Counter(clips[i].labels[0] for i in only.validation)
        for label, size in sizes.items():
            assert abs(taken[label] - 205 * size / 5_424) < 1

    @pytest.mark.parametrize("clips", [5_424, 5_600, 5_200])
    def test_lists_of_other_editions_give_as_many(self, monkeypatch: pytest.MonkeyPatch, clips: int) -> None:
        monkeypatch.setattr(kinetics700, "_SIZES", {"train": 5_424, "validate": 10})
        monkeypatch.setattr(kinetics700, "_HELD_OUT", 205)
        (only,) = Kinetics700().rounds(make_clips({"a": clips - 1000, "b": 1000}))
        assert only.validation is not None
        assert len(only.validation) == 205

    def test_the_real_numbers(self) -> None:
        assert kinetics700._HELD_OUT == 20_525
        assert round(542_357 * kinetics700._HELD_OUT / kinetics700._SIZES["train"]) == 20_525  # the edition of 2019

    def test_partial_copies_give_the_same_share(self) -> None:
        clips = make_clips({"a": 1000, "b": 3000})
        (only,) = Kinetics700().rounds(clips)
        assert only.validation is not None
        assert len(only.validation) == round(4000 * 20_525 / 542_352)
        taken = Counter(clips[i].labels[0] for i in only.validation)
        assert taken["b"] == pytest.approx(3 * taken["a"], abs=2)

    def test_order_and_names_of_files_do_not_matter(self) -> None:
        clips = make_clips({"a": 900, "b": 500, "c": 100})
        (first,) = Kinetics700().rounds(clips)
        other = [Clip(clip.path.replace(".mp4", ".wav"), clip.labels, clip.part, clip.group) for clip in clips]
        random.Random(1).shuffle(other)
        (second,) = Kinetics700().rounds(other)
        assert first.validation is not None
        assert second.validation is not None
        assert {clips[i].group for i in first.validation} == {other[i].group for i in second.validation}
        assert {clips[i].group for i in first.train} == {other[i].group for i in second.train}

    def test_a_lost_clip_leaves_most_of_the_choice(self) -> None:
        clips = make_clips({"a": 2000})
        (first,) = Kinetics700().rounds(clips)
        (second,) = Kinetics700().rounds(clips[100:])
        assert first.validation is not None
        assert second.validation is not None
        before = {clips[i].group for i in first.validation} & {clip.group for clip in clips[100:]}
        assert len(before & {clips[100:][i].group for i in second.validation}) > 0.9 * len(before)

    def test_a_class_is_never_held_out_whole_nor_a_video_split(self) -> None:
        (only,) = Kinetics700().rounds(make_clips({f"class {i}": 1 for i in range(100)}))
        assert only.validation is None
        clips = make_clips({"a": 400, "b": 2}) + make_clips({"c": 400}, tests=0, videos=2)
        (only,) = Kinetics700().rounds(clips)
        assert only.validation is not None
        assert {clips[i].group for i in only.validation}.isdisjoint({clips[i].group for i in only.train})
        assert "c" not in {clips[i].labels[0] for i in only.validation}

    def test_subsets(self) -> None:
        clips = make_clips({"a": 5, "b": 5}, tests=3)
        (only,) = Kinetics700().rounds(clips)
        assert only.validation is None
        assert (len(only.train), len(only.test)) == (10, 3)
        assert Kinetics700().rounds(clips[:10]) == Kinetics700().rounds(clips[10:]) == Kinetics700().rounds([]) == []
