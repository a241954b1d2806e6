"""Tests of audioset."""

from __future__ import annotations

import os
import random
import shutil
import string
from pathlib import Path

import numpy as np
import pytest

import sedembed
from sedembed._evaluation.tasks import audioset
from sedembed._evaluation.tasks.audioset import AudioSet
from sedembed.embedder import Embedder
from tests._evaluation.tasks.video_helpers import EVALUATION, HEADER, audioset_copy, refused, touch  # noqa: F401


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
