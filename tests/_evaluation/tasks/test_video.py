"""Kinetics-700 and AudioSet: small copies in the layouts of their distributors, and the cache of probabilities."""

from __future__ import annotations

import os
import random
import shutil
import signal
import string
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sedembed
from sedembed._evaluation.tasks import audioset, kinetics700
from sedembed._evaluation.tasks.audioset import AudioSet
from sedembed._evaluation.tasks.base import Clip
from sedembed._evaluation.tasks.kinetics700 import Kinetics700
from sedembed.audio.reader import AudioReader
from sedembed.batch.embed_folder import embed_folder
from sedembed.batch.readers import ReaderPool
from sedembed.batch.tag_files import tag_files
from sedembed.embedder import Embedder, load_model
from sedembed.engine.runner import Runner
from sedembed.errors import DatasetError, StoreError
from sedembed.models.talnet import TALNet, TALNetConfig
from sedembed.models.weights import save_pretrained
from sedembed.store import writer as shards

Write = Callable[..., Path]
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the program ffmpeg is not installed")

HEADER = (
    "# Segments csv created Sun Mar  5 10:54:31 2017\n"
    "# num_ytids=2, num_segs=2, num_unique_labels=3, num_positive_labels=3\n"
    "# YTID, start_seconds, end_seconds, positive_labels\n"
)
BALANCED = (
    HEADER + '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n'
    '__4SeRPmQ_8, 0.000, 10.000, "/m/012xff"\n'
    'Y23456789_1, 7.000, 17.000, "/m/09x0r"\n'
    '-BfyRSpKyTM, 5.500, 8.000, "/m/0jbk,/m/09x0r"\n'
    '_missing_-1, 70.000, 80.000, "/m/03fwl"\n'
)
EVALUATION = (
    HEADER + '--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/07q6cd_,/m/0bt9lr,/m/0jbk"\n'
    'abcdefghi_5, 20.000, 30.000, "/m/03m9d0z"\n'
)


@pytest.fixture
def audioset_copy(tmp_path: Path) -> Path:
    """Lists as Google gives them; empty files stand for the recordings."""
    data = tmp_path / "audioset"
    for path in (
        "balanced_train_segments/Y--PJHxphWEs.wav",
        "balanced_train_segments/__4SeRPmQ_8_0.000_10.000.flac",
        "balanced_train_segments/Y23456789_1_7000.wav",
        "balanced_train_segments/deep/er/-BfyRSpKyTM_5500_8000.m4a",
        "eval_segments/--4gqARaEJE_000000.mp3",
        "eval_segments/Yabcdefghi_5.mp4",
    ):
        touch(data, path)
    (data / "balanced_train_segments.csv").write_text(BALANCED)
    (data / "eval_segments.csv").write_text(EVALUATION)
    return data


def touch(data: Path, *paths: str) -> None:
    for path in paths:
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        (data / path).touch()


def refused(task: Any, data: Path, *parts: str) -> str:
    with pytest.raises(DatasetError) as caught:
        task.read(data)
    message = str(caught.value)
    for part in (*parts, task.title, task.source, task.layout):
        assert part in message
    return message


class TestAudioSet:
    def test_reads_the_lists_and_finds_every_spelling_of_a_name(self, audioset_copy: Path) -> None:
        contents = AudioSet().read(audioset_copy)
        assert [(clip.group, clip.path, clip.part) for clip in contents.clips] == [
            ("--PJHxphWEs", "balanced_train_segments/Y--PJHxphWEs.wav", "balanced_train"),
            ("__4SeRPmQ_8", "balanced_train_segments/__4SeRPmQ_8_0.000_10.000.flac", "balanced_train"),
            ("Y23456789_1", "balanced_train_segments/Y23456789_1_7000.wav", "balanced_train"),
            ("-BfyRSpKyTM", "balanced_train_segments/deep/er/-BfyRSpKyTM_5500_8000.m4a", "balanced_train"),
            ("_missing_-1", "balanced_train_segments/Y_missing_-1.wav", "balanced_train"),
            ("--4gqARaEJE", "eval_segments/--4gqARaEJE_000000.mp3", "eval"),
            ("abcdefghi_5", "eval_segments/Yabcdefghi_5.mp4", "eval"),
        ]
        assert contents.missing == ["balanced_train_segments/Y_missing_-1.wav"]
        assert contents.extra == []
        assert contents.clips[0].labels == ("Speech", "Gush")
        assert contents.clips[5].labels == ("Domestic animals, pets", "Squeak", "Dog", "Animal")

    def test_labels_are_those_of_the_networks(self, audioset_copy: Path, untrained_embedder: Embedder) -> None:
        named = {label for clip in AudioSet().read(audioset_copy).clips for label in clip.labels}
        assert named <= set(untrained_embedder.labels)
        assert len(untrained_embedder.labels) == AudioSet.classes

    def test_short_lists_and_an_absent_one_are_noted(self, audioset_copy: Path) -> None:
        notes = AudioSet().read(audioset_copy).notes
        assert "incomplete: balanced_train_segments.csv names 5 of 22160 recordings" in notes
        assert "incomplete: eval_segments.csv names 2 of 20371 recordings" in notes
        assert any(note.startswith("unbalanced_train_segments.csv is not there") for note in notes)
        assert len(notes) == 3

    def test_lists_of_full_length_are_not_noted(self, audioset_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(audioset, "_SIZES", {"balanced_train": 5, "unbalanced_train": 9, "eval": 2})
        assert not [note for note in AudioSet().read(audioset_copy).notes if note.startswith("incomplete")]

    @pytest.mark.parametrize("folder", ["metadata", "csv"])
    def test_lists_in_a_folder_of_their_own(self, audioset_copy: Path, folder: str) -> None:
        (audioset_copy / folder).mkdir()
        for file in audioset_copy.glob("*.csv"):
            file.rename(audioset_copy / folder / file.name)
        assert len(AudioSet().read(audioset_copy).missing) == 1

    @pytest.mark.parametrize(
        ("name", "found"),
        [
            ("--PJHxphWEs", True),
            ("Y--PJHxphWEs", True),
            ("--PJHxphWEs_30", True),
            ("--PJHxphWEs_30.000", True),
            ("--PJHxphWEs_30000", True),
            ("--PJHxphWEs_000030", True),
            ("--PJHxphWEs_30_40", True),
            ("--PJHxphWEs_30.0_40.0", True),
            ("Y--PJHxphWEs_30000_40000", True),
            ("--PJHxphWEs_31", False),
            ("--PJHxphWEs_30_41", False),
            ("--PJHxphWEs_30_40000", False),
            ("Z--PJHxphWEs", False),
            ("--PJHxphWE", False),
            ("--PJHxphWEs_30_40_50", False),
            ("--PJHxphWEs-30", False),
        ],
    )
    def test_names(self, audioset_copy: Path, name: str, found: bool) -> None:
        (audioset_copy / "balanced_train_segments/Y--PJHxphWEs.wav").unlink()
        touch(audioset_copy, f"{name}.wav")
        contents = AudioSet().read(audioset_copy)
        assert (f"{name}.wav" in {clip.path for clip in contents.clips}) == found
        assert (contents.extra == []) == found
        assert len(contents.missing) == (1 if found else 2)

    def test_ids_of_random_characters(self, tmp_path: Path) -> None:
        rng = random.Random(0)
        alphabet = "Y" * 20 + "_" * 30 + "-" * 20 + string.digits * 3 + string.ascii_letters
        spellings = ["{}", "Y{}", "{}_30", "Y{}_30.000", "{}_30000_40000", "Y{}_30_40"]
        expected = {}
        for _ in range(300):
            video = "".join(rng.choices(alphabet, k=11))
            expected[video] = f"{rng.choice(spellings).format(video)}.wav"
        touch(tmp_path, *expected.values())
        rows = [f'{video}, 30.000, 40.000, "/m/09x0r"\n' for video in expected]
        (tmp_path / "balanced_train_segments.csv").write_text(HEADER + "".join(rows[:200]))
        (tmp_path / "eval_segments.csv").write_text(HEADER + "".join(rows[200:]))
        contents = AudioSet().read(tmp_path)
        assert {clip.group: clip.path for clip in contents.clips} == expected
        assert contents.missing == contents.extra == []

    def test_of_two_recordings_sound_goes_before_video_and_the_other_is_extra(self, audioset_copy: Path) -> None:
        touch(audioset_copy, "a/abcdefghi_5.mkv", "z/Yabcdefghi_5.wav", "notes.wav")
        contents = AudioSet().read(audioset_copy)
        assert contents.clips[-1].path == "z/Yabcdefghi_5.wav"
        assert contents.extra == ["a/abcdefghi_5.mkv", "eval_segments/Yabcdefghi_5.mp4", "notes.wav"]

    def test_the_unbalanced_set_counts_once_some_of_it_is_there(self, audioset_copy: Path) -> None:
        rows = ['---1_cCGK4M, 0.000, 10.000, "/m/01g50p,/m/0284vy3"\n', '---2_BBVHAA, 30.000, 40.000, "/m/09x0r"\n']
        (audioset_copy / "unbalanced_train_segments.csv").write_text(HEADER + "".join(rows))
        contents = AudioSet().read(audioset_copy)
        assert len(contents.clips) == 7
        assert any(note.startswith("no recording of unbalanced_train_segments.csv is there") for note in contents.notes)
        touch(audioset_copy, "unbalanced_train_segments/unbalanced_train_segments_part00/Y---1_cCGK4M.wav")
        contents = AudioSet().read(audioset_copy)
        assert [clip.part for clip in contents.clips].count("unbalanced_train") == 2
        assert "unbalanced_train_segments/Y---2_BBVHAA.wav" in contents.missing
        assert "incomplete: unbalanced_train_segments.csv names 2 of 2041789 recordings" in contents.notes
        (only,) = AudioSet().rounds(contents.clips)
        assert (len(only.train), len(only.test)) == (7, 2)

    def test_an_evaluation_clip_is_never_trained_on(self, audioset_copy: Path) -> None:
        with (audioset_copy / "balanced_train_segments.csv").open("a") as file:
            file.write('abcdefghi_5, 20.000, 30.000, "/m/03m9d0z"\n')
        contents = AudioSet().read(audioset_copy)
        assert [clip.part for clip in contents.clips if clip.group == "abcdefghi_5"] == ["eval"]
        assert any("names 1 recordings that a list names before" in note for note in contents.notes)

    def test_one_round_over_any_subset(self, audioset_copy: Path) -> None:
        clips = AudioSet().read(audioset_copy).clips[::-1]
        (only,) = AudioSet().rounds(clips)
        assert {clips[i].part for i in only.test} == {"eval"}
        assert {clips[i].part for i in only.train} == {"balanced_train"}
        assert sorted([*only.train, *only.test]) == list(range(len(clips)))
        assert only.train.dtype == only.test.dtype == np.int64
        assert only.validation is None
        tests = [clip for clip in clips if clip.part == "eval"]
        (own,) = AudioSet().rounds(tests)
        assert (len(own.train), len(own.test)) == (0, len(tests)), "the network's own outputs need no training clips"
        assert AudioSet().rounds([clip for clip in clips if clip.part != "eval"]) == AudioSet().rounds([]) == []

    def test_own_class_list_is_compared(self, audioset_copy: Path) -> None:
        packaged = (Path(sedembed.__file__).parent / "models" / "class_labels_indices.csv").read_text()
        (audioset_copy / "class_labels_indices.csv").write_text(packaged)
        AudioSet().read(audioset_copy)
        lines = packaged.splitlines()
        lines[1], lines[2] = lines[2], lines[1]
        (audioset_copy / "class_labels_indices.csv").write_text("\n".join(lines))
        refused(AudioSet(), audioset_copy, "class_labels_indices.csv", "in the order of 2017")

    @pytest.mark.parametrize(
        ("row", "said"),
        [
            ('--PJHxphWEs, 30.000, "/m/09x0r"', "has 3 columns"),
            ("#NAME?,30,40,  /m/09x0r,/t/dd00088 ,,", "spreadsheet"),
            ("--PJHxphWEt,30,40,/m/09x0r,/t/dd00088", "has 5 columns"),
            ('PJHxphWEs, 30.000, 40.000, "/m/09x0r"', "YouTube id of 11 characters"),
            ('../../../aa, 30.000, 40.000, "/m/09x0r"', "YouTube id of 11 characters"),
            ('--PJHxphWEt, 30,000, 40.000, "/m/09x0r"', "has 5 columns"),
            ('--PJHxphWEt, thirty, 40.000, "/m/09x0r"', "'thirty'"),
            ('--PJHxphWEt, 40.000, 30.000, "/m/09x0r"', "in this order"),
            ('--PJHxphWEt, nan, 30.000, "/m/09x0r"', "in this order"),
            ('--PJHxphWEt, 30.000, 40.000, "/m/09x0r,/m/none"', "'/m/none', which is none of the 527"),
            ('--PJHxphWEt, 30.000, 40.000, ""', "none of the 527"),
            ('--PJHxphWEt, 30.000, 40.000, "/m/09x0', "cannot be read"),
        ],
    )
    def test_malformed_lines(self, audioset_copy: Path, row: str, said: str) -> None:
        (audioset_copy / "eval_segments.csv").write_text(EVALUATION + row)
        message = refused(AudioSet(), audioset_copy, "eval_segments.csv", said, "fetch it again")
        assert "line 6" in message or "cannot be read" in message

    def test_lists_that_are_no_lists(self, audioset_copy: Path) -> None:
        (audioset_copy / "eval_segments.csv").write_text(HEADER)
        refused(AudioSet(), audioset_copy, "eval_segments.csv names no recordings")
        (audioset_copy / "eval_segments.csv").write_bytes(b"\xff\xfe\x00")
        refused(AudioSet(), audioset_copy, "eval_segments.csv cannot be read")

    def test_wrong_folders(self, audioset_copy: Path, tmp_path: Path) -> None:
        refused(AudioSet(), tmp_path / "nowhere", "no such folder")
        refused(AudioSet(), audioset_copy / "eval_segments.csv", "it is a file")
        refused(AudioSet(), tmp_path, f"it is in {audioset_copy}, so give that folder")
        refused(AudioSet(), audioset_copy / "eval_segments", f"it is in {audioset_copy}, so give that folder")
        (audioset_copy / "eval_segments.csv").unlink()
        message = refused(AudioSet(), audioset_copy, "eval_segments.csv is not there")
        assert "give that folder" not in message

    def test_lists_without_recordings(self, audioset_copy: Path) -> None:
        lists = audioset_copy / "metadata"
        lists.mkdir()
        for file in audioset_copy.glob("*.csv"):
            shutil.copy(file, lists)
        refused(AudioSet(), lists, "no sound or video file")
        touch(lists, "other.wav")
        refused(AudioSet(), lists, "none of the 7 recordings", "Y--PJHxphWEs.wav", "other.wav is the first file")

    def test_what_cannot_be_listed_is_noted(self, audioset_copy: Path) -> None:
        try:
            (audioset_copy / os.fsdecode(b"Y_missing_-1\xff.wav")).touch()
        except OSError:
            pytest.skip("this file system takes only names that are valid UTF-8")
        (note,) = [note for note in AudioSet().read(audioset_copy).notes if "passed over" in note]
        assert "UTF-8" in note
        note.encode()


TRAIN = """label,youtube_id,time_start,time_end,split
abseiling,__NrybzYzUg,415,425,train
abseiling,-3B32lodo2M,59,69,train
"tying knot (not on a tie)",aTEL_jDcIzE,1,11,train
"massaging person's head",Y0aaaaaaaaa,100000,100010,train
abseiling,gonegonegon,0,10,train
"""
VALIDATE = """label,youtube_id,time_start,time_end
abseiling,3E7Jib8Yq5M,118,128
massaging person's head,_____-_____,0,10
"""


@pytest.fixture
def kinetics_copy(tmp_path: Path) -> Path:
    """Lists of DeepMind, folders as the usual downloaders make them; empty files stand for the videos."""
    data = tmp_path / "kinetics700"
    touch(
        data,
        "train/abseiling/__NrybzYzUg_000415_000425.mp4",
        "train/abseiling/-3B32lodo2M_000059_000069.mkv",
        "train/tying knot (not on a tie)/aTEL_jDcIzE_000001_000011.webm",
        "train/massaging person's head/Y0aaaaaaaaa_100000_100010.mp4",
        "validate/abseiling/3E7Jib8Yq5M_000118_000128.mp4",
        "validate/massaging person's head/_____-______000000_000010.mp4",
        "test/zzzzzzzzzzz_000000_000010.mp4",
    )
    (data / "train.csv").write_text(TRAIN)
    (data / "validate.csv").write_text(VALIDATE)
    return data


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


@needs_ffmpeg
class TestVideo:
    @pytest.fixture
    def videos(self, kinetics_copy: Path) -> Path:
        """Real containers with picture and tone; one has no sound, one is damaged."""
        for number, file in enumerate(sorted(kinetics_copy.glob("[tv]*/*/*.*"))):
            codecs = ["-c:v", "libvpx", "-c:a", "libvorbis"] if file.suffix == ".webm" else []
            sound = ["-f", "lavfi", "-i", f"sine=frequency={200 + 100 * number}:duration=0.5"]
            if "aTEL_jDcIzE" in file.name:
                sound = []
            picture = ["-f", "lavfi", "-i", "color=size=32x32:rate=5:duration=0.5"]
            command = ["ffmpeg", "-nostdin", "-v", "error", "-y", *picture, *sound, *codecs, f"file:{file}"]
            subprocess.run(command, check=True, timeout=60)
        (kinetics_copy / "train/massaging person's head/Y0aaaaaaaaa_100000_100010.mp4").write_bytes(
            b"\0\0\0\x18ftypmp42"
        )
        return kinetics_copy

    def test_sound_of_videos(self, videos: Path, untrained_embedder: Embedder, tmp_path: Path) -> None:
        contents = Kinetics700().read(videos)
        paths = [clip.path for clip in contents.clips if clip.path not in contents.missing]
        probabilities, failures = tag_files(videos, paths, tmp_path / "tags", untrained_embedder, progress=False)
        assert set(failures) == {paths[2], paths[3]}
        assert failures[paths[2]][0] == "AudioDecodeError"
        assert "no audio track" in failures[paths[2]][1]
        for path, row in zip(paths, probabilities, strict=True):
            if path in failures:
                assert np.isnan(row).all()
            else:
                np.testing.assert_allclose(row, untrained_embedder.tag(videos / path), rtol=1e-5)


@pytest.fixture
def sounds(tmp_path: Path, write_sounds: Write) -> tuple[Path, list[str]]:
    names = {f"{letter}/{i}.wav": 0.3 + 0.1 * i for letter in "ab" for i in range(4)}
    return write_sounds(tmp_path / "sounds", names), sorted(names, reverse=True)


def watch_reading(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are opened from now on."""
    read: list[str] = []
    init = AudioReader.__init__

    def remember(self: AudioReader, path: Path, **options: Any) -> None:
        read.append(path.name)
        init(self, path, **options)

    monkeypatch.setattr(AudioReader, "__init__", remember)
    return read


class TestTagFiles:
    def test_same_as_tag_in_the_order_given(
        self, sounds: tuple[Path, list[str]], untrained_embedder: Embedder, tmp_path: Path
    ) -> None:
        folder, paths = sounds
        probabilities, failures = tag_files(folder, paths, tmp_path / "tags", untrained_embedder, progress=False)
        assert failures == {}
        assert probabilities.shape == (8, 527)
        assert probabilities.dtype == np.float32
        expected = untrained_embedder.tag([folder / path for path in paths])
        np.testing.assert_allclose(probabilities, expected, rtol=1e-5)
        assert np.ptp(expected, axis=0).max() > 1e-3  # the rows could be told apart

    @pytest.mark.parametrize("pooling", ["linear", "max"])
    def test_clips_of_several_windows(
        self,
        pooling: str,
        write_sounds: Write,
        untrained_embedder: Embedder,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        model = untrained_embedder
        monkeypatch.setattr(type(model.runner), "window_samples", 16_000)
        network = model.runner.network
        monkeypatch.setattr(network, "config", replace(network.config, pooling=pooling))
        folder = write_sounds(tmp_path / "sounds", {"long.wav": 3.4, "short.wav": 0.02})
        probabilities, _ = tag_files(folder, ["long.wav", "short.wav"], tmp_path / "tags", model, progress=False)
        np.testing.assert_allclose(probabilities[0], model.tag(folder / "long.wav"), rtol=1e-5)
        np.testing.assert_allclose(probabilities[1], model.tag(folder / "short.wav"), rtol=1e-5)

    def test_a_bad_file_costs_no_good_one(
        self,
        sounds: tuple[Path, list[str]],
        untrained_embedder: Embedder,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        folder, paths = sounds
        good = (folder / "a/1.wav").read_bytes()
        (folder / "a/1.wav").write_bytes(b"RIFF" + bytes(100))
        (folder / "a/2.wav").write_bytes(b"")
        wanted = [*paths, "gone.wav", paths[0]]
        probabilities, failures = tag_files(folder, wanted, tmp_path / "tags", untrained_embedder, progress=False)
        assert {path: error for path, (error, _) in failures.items()} == {
            "a/1.wav": "AudioDecodeError",
            "a/2.wav": "AudioDecodeError",
            "gone.wav": "MissingFileError",
        }
        assert all(message for _, message in failures.values())
        assert [np.isnan(row).all() for row in probabilities] == [path in failures for path in wanted]
        assert np.isfinite(probabilities[[path not in failures for path in wanted]]).all()
        np.testing.assert_array_equal(probabilities[0], probabilities[-1])
        # Once repaired it is read again, and nothing else is but the failures.
        (folder / "a/1.wav").write_bytes(good)
        read = watch_reading(monkeypatch)
        again, failures = tag_files(folder, wanted, tmp_path / "tags", untrained_embedder, progress=False)
        assert sorted(read) == ["1.wav", "2.wav", "gone.wav"]
        assert set(failures) == {"a/2.wav", "gone.wav"}
        repaired = paths.index("a/1.wav")
        np.testing.assert_allclose(again[repaired], untrained_embedder.tag(folder / "a/1.wav"), rtol=1e-5)
        np.testing.assert_array_equal(np.delete(again, repaired, 0), np.delete(probabilities, repaired, 0))

    def test_probabilities_that_are_not_finite_are_a_failure(
        self,
        sounds: tuple[Path, list[str]],
        untrained_embedder: Embedder,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        run = Runner.run

        def broken(self: Runner, features: Any, **options: Any) -> Any:
            results = run(self, features, **options)
            for item, result in zip(features, results, strict=True):
                if len(item) == 13 and result.pool_terms is not None:  # that of 0.3 s
                    result.pool_terms[0][5] = np.nan
            return results

        monkeypatch.setattr(Runner, "run", broken)
        folder, paths = sounds
        probabilities, failures = tag_files(folder, paths, tmp_path / "tags", untrained_embedder, progress=False)
        assert {path: error for path, (error, _) in failures.items()} == {
            "a/0.wav": "InvalidWaveformError",
            "b/0.wav": "InvalidWaveformError",
        }
        assert np.isnan(probabilities).all(1).sum() == 2

    def test_nothing_to_do(self, untrained_embedder: Embedder, tmp_path: Path) -> None:
        probabilities, failures = tag_files(tmp_path, [], tmp_path / "tags", untrained_embedder, progress=False)
        assert probabilities.shape == (0, 527)
        assert failures == {}

    def test_more_files_are_added(
        self,
        sounds: tuple[Path, list[str]],
        untrained_embedder: Embedder,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        folder, paths = sounds
        first, _ = tag_files(folder, paths[:3], tmp_path / "tags", untrained_embedder, progress=False)
        read = watch_reading(monkeypatch)
        both, _ = tag_files(folder, paths, tmp_path / "tags", untrained_embedder, progress=False)
        assert len(read) == 5
        np.testing.assert_array_equal(both[:3], first)
        # Those of an earlier call that are not asked for stay where they are.
        some, _ = tag_files(folder, paths[5:4:-1], tmp_path / "tags", untrained_embedder, progress=False)
        np.testing.assert_array_equal(some, both[5:4:-1])
        assert len(read) == 5

    def test_a_cache_of_other_weights_or_kind_is_refused(
        self, sounds: tuple[Path, list[str]], untrained_embedder: Embedder, tmp_path: Path
    ) -> None:
        folder, paths = sounds
        out = tmp_path / "tags"
        before, _ = tag_files(folder, paths[:2], out, untrained_embedder, progress=False)
        config = untrained_embedder.runner.network.config
        other = load_model(
            save_pretrained(TALNet(TALNetConfig(mean=config.mean, std=config.std)).eval(), tmp_path / "m")
        )
        with pytest.raises(StoreError, match=r"model_sha256 is .* use the same ones, or another output directory"):
            tag_files(folder, paths[:2], out, other, progress=False)
        embed_folder(folder, tmp_path / "vectors", untrained_embedder, progress=False)
        with pytest.raises(StoreError, match="another output directory"):
            tag_files(folder, paths[:2], tmp_path / "vectors", untrained_embedder, progress=False)
        with pytest.raises(StoreError, match="another output directory"):
            embed_folder(folder, out, untrained_embedder, progress=False)
        with pytest.raises(StoreError, match="use another output directory"):
            tag_files(tmp_path, paths[:2], out, untrained_embedder, progress=False)
        with pytest.raises(StoreError, match="choose another directory"):
            tag_files(folder, paths[:2], folder, untrained_embedder, progress=False)
        after, _ = tag_files(folder, paths[:2], out, untrained_embedder, progress=False)
        np.testing.assert_array_equal(after, before)

    def test_a_damaged_shard_is_named(
        self, sounds: tuple[Path, list[str]], untrained_embedder: Embedder, tmp_path: Path
    ) -> None:
        folder, paths = sounds
        tag_files(folder, paths, tmp_path / "tags", untrained_embedder, progress=False)
        (shard,) = (tmp_path / "tags").rglob("vectors-*.parquet")
        shard.write_bytes(shard.read_bytes()[:-20])
        with pytest.raises(StoreError, match=r"vectors-00000\.parquet is damaged"):
            tag_files(folder, paths, tmp_path / "tags", untrained_embedder, progress=False)
        shard.unlink()
        probabilities, failures = tag_files(folder, paths, tmp_path / "tags", untrained_embedder, progress=False)
        assert np.isfinite(probabilities).all()
        assert failures == {}

    def test_goes_on_after_a_crash(
        self,
        sounds: tuple[Path, list[str]],
        untrained_embedder: Embedder,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        folder, paths = sounds
        monkeypatch.setattr(shards, "SHARD_ROWS", 1)
        run, calls = Runner.run, []

        def crash(self: Runner, *args: Any, **options: Any) -> Any:
            calls.append(len(args[0]))
            if sum(calls) > 3:
                raise MemoryError("no memory left")
            return run(self, *args, **options)

        # One window at a time, so that some are done before the crash.
        take = ReaderPool.take
        with monkeypatch.context() as patch:
            patch.setattr(Runner, "run", crash)
            patch.setattr(ReaderPool, "take", lambda self, most, frames: take(self, 1, frames))
            with pytest.raises(MemoryError):
                tag_files(folder, paths, tmp_path / "tags", untrained_embedder, progress=False)
        read = watch_reading(monkeypatch)
        probabilities, failures = tag_files(folder, paths, tmp_path / "tags", untrained_embedder, progress=False)
        assert 0 < len(read) < len(paths)
        assert failures == {}
        expected = untrained_embedder.tag([folder / path for path in paths])
        np.testing.assert_allclose(probabilities, expected, rtol=1e-5)

    @pytest.mark.skipif(os.name == "nt", reason="no such signals there")
    def test_goes_on_after_ctrl_c(
        self,
        sounds: tuple[Path, list[str]],
        untrained_embedder: Embedder,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        folder, paths = sounds
        monkeypatch.setattr(signal, "getsignal", lambda number: signal.default_int_handler)
        take = ReaderPool.take

        def interrupt(self: Any, most: int, frames: int) -> Any:
            steps = take(self, 2, frames)
            if self.left < len(paths):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.05)
            return steps

        with monkeypatch.context() as patch:
            patch.setattr(ReaderPool, "take", interrupt)
            with pytest.raises(KeyboardInterrupt, match="run the same command again"):
                tag_files(folder, paths, tmp_path / "tags", untrained_embedder, progress=False)
        read = watch_reading(monkeypatch)
        probabilities, _ = tag_files(folder, paths, tmp_path / "tags", untrained_embedder, progress=False)
        assert 0 < len(read) < len(paths)
        assert np.isfinite(probabilities).all()

    def test_audioset_end_to_end(
        self, audioset_copy: Path, write_sounds: Write, untrained_embedder: Embedder, tmp_path: Path
    ) -> None:
        write_sounds(
            audioset_copy,
            {"eval_segments/--4gqARaEJE_000000.mp3": 0.5, "balanced_train_segments/Y--PJHxphWEs.wav": 0.5},
            rate=22_050,
        )
        contents = AudioSet().read(audioset_copy)
        clips = [clip for clip in contents.clips if clip.path not in contents.missing]
        (only,) = AudioSet().rounds(clips)
        paths = [clips[i].path for i in only.test]
        probabilities, failures = tag_files(audioset_copy, paths, tmp_path / "tags", untrained_embedder, progress=False)
        assert paths == ["eval_segments/--4gqARaEJE_000000.mp3", "eval_segments/Yabcdefghi_5.mp4"]
        assert list(failures) == paths[1:]
        assert np.isfinite(probabilities[0]).all()
        assert np.isnan(probabilities[1]).all()
