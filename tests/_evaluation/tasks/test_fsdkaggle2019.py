"""Tests of fsdkaggle2019."""

from __future__ import annotations

import csv
import re
from collections import Counter

import numpy as np
import pytest

from sedembed._evaluation.evaluate import evaluate
from sedembed._evaluation.tasks.base import Clip
from sedembed._evaluation.tasks.fsdkaggle2019 import FSDKaggle2019Curated, FSDKaggle2019Noisy
from sedembed.audio.reader import load_audio
from sedembed.errors import DatasetError
from tests._evaluation.tasks.several_labels_helpers import SHARED, refusal, write_scene

META = "FSDKaggle2019.meta"


TEST = "FSDKaggle2019.audio_test"


VOCABULARY = re.findall(
    r"\S+",
    """
Accelerating_and_revving_and_vroom Accordion Acoustic_guitar Applause Bark Bass_drum Bass_guitar
Bathtub_(filling_or_washing) Bicycle_bell Burping_and_eructation Bus Buzz Car_passing_by Cheering
Chewing_and_mastication Child_speech_and_kid_speaking Chink_and_clink Chirp_and_tweet Church_bell Clapping
Computer_keyboard Crackle Cricket Crowd Cupboard_open_or_close Cutlery_and_silverware Dishes_and_pots_and_pans
Drawer_open_or_close Drip Electric_guitar Fart Female_singing Female_speech_and_woman_speaking Fill_(with_liquid)
Finger_snapping Frying_(food) Gasp Glockenspiel Gong Gurgling Harmonica Hi-hat Hiss Keys_jangling Knock Male_singing
Male_speech_and_man_speaking Marimba_and_xylophone Mechanical_fan Meow Microwave_oven Motorcycle Printer Purr
Race_car_and_auto_racing Raindrop Run Scissors Screaming Shatter Sigh Sink_(filling_or_washing) Skateboard Slam Sneeze
Squeak Stream Strum Tap Tick-tock Toilet_flush Traffic_noise_and_roadway_noise Trickle_and_dribble Walk_and_footsteps
Water_tap_and_faucet Waves_and_surf Whispering Writing Yell Zipper_(clothing)
""",
)


CURATED = [
    ("fname", "labels", "freesound_id", "license"),
    ("ac9e7a91.wav", "Church_bell", "65579", "CC-BY-NC"),
    ("1d44b0bd.wav", "Whispering", "2", "CC0"),
    ("db198721.wav", "Applause,Crowd,Cheering", "32864", "CC-BY-NC"),
    ("f76181c4.wav", "Male_speech_and_man_speaking", "1", "CC0"),
    ("65ae847e.wav", "Frying_(food)", "65583", "CC Sampling+"),
]


NOISY = [
    ("fname", "labels", "flickr_video_URL", "license"),
    ("000b6cfb.wav", "Motorcycle", "http://www.flickr.com/videos/72067179@N00/4562502071/", "CC BY 2.0"),
    ("00116cd2.wav", "Marimba_and_xylophone,Glockenspiel", "http://www.flickr.com/videos/a/b/", "CC BY 2.0"),
]


TESTED = [
    ("fname", "labels", "usage", "freesound_id", "license"),
    ("d527f12d.wav", "Chewing_and_mastication", "Private", "327681", "CC-BY-NC"),
    ("4030a4f2.wav", "Cupboard_open_or_close", "Public", "180226", "CC-BY"),
    ("928c90aa.wav", "Hiss,Crackle", "Private", "155660", "CC0"),
    ("2d5dcc5d.wav", "Tap,Drawer_open_or_close", "Public", "245765", "CC0"),
]


KAGGLE = {
    "curated": (FSDKaggle2019Curated(), CURATED),
    "noisy": (FSDKaggle2019Noisy(), NOISY),
}


def write_csv(path, rows, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=options.pop("encoding", "utf-8")) as stream:
        csv.writer(stream, **options).writerows(rows)


def kaggle_meta(data, curated=CURATED, noisy=NOISY, tested=TESTED, **options):
    write_csv(data / META / "train_curated_post_competition.csv", curated, **options)
    write_csv(data / META / "train_noisy_post_competition.csv", noisy, **options)
    write_csv(data / META / "test_post_competition.csv", tested, **options)
    write_csv(data / META / "vocabulary.csv", enumerate(VOCABULARY), **options)


@pytest.fixture(params=KAGGLE)
def kaggle(request, tmp_path, write_sounds):
    """Task, a small copy in which everything is there, its training folder, its training table."""
    task, table = KAGGLE[request.param]
    folder = f"FSDKaggle2019.audio_train_{request.param}"
    data = tmp_path / "copies" / "fsd"
    kaggle_meta(data)
    sounds = [f"{folder}/{row[0]}" for row in table[1:]] + [f"{TEST}/{row[0]}" for row in TESTED[1:]]
    write_sounds(data, dict.fromkeys(sounds, 0.1), rate=44_100)
    return task, data, folder, table


class TestFSDKaggle2019:
    def test_reads_labels_and_parts(self, kaggle):
        task, data, folder, table = kaggle
        contents = task.read(data)
        good = [row for row in table[1:] if row[0] not in ("1d44b0bd.wav", "f76181c4.wav")]
        training = folder.removeprefix("FSDKaggle2019.audio_")
        assert contents.clips == [
            *(Clip(f"{folder}/{row[0]}", tuple(row[1].split(",")), training) for row in good),
            *(Clip(f"{TEST}/{row[0]}", tuple(row[1].split(",")), row[2]) for row in TESTED[1:]),
        ]
        assert max(len(clip.labels) for clip in contents.clips) > 1
        assert not contents.missing
        assert not contents.extra
        for clip in contents.clips:
            assert load_audio(data / clip.path, None)[0].shape[-1] > 1000

    def test_names_and_suffixes_in_any_case(self, kaggle):
        task, data, folder, _ = kaggle
        before = task.read(data)
        for number, file in enumerate([*(data / folder).iterdir(), *(data / TEST).iterdir()]):
            file.rename(file.with_name(f"{file.stem.upper()}{('.WAV', '.Flac')[number % 2]}"))
        contents = task.read(data)
        assert not contents.missing
        assert not contents.extra
        assert [clip.labels for clip in contents.clips] == [clip.labels for clip in before.clips]
        assert len(contents.excluded) == len(before.excluded)
        assert all((data / clip.path).is_file() for clip in contents.clips)

    def test_known_bad_clips_are_left_out_of_the_curated_set(self, kaggle):
        task, data, folder, _ = kaggle
        contents = task.read(data)
        note = "3 of 5 training clips are used, the others are known to be bad"
        if "noisy" in folder:
            assert not contents.excluded
            assert note not in contents.notes
        else:
            assert list(contents.excluded) == [f"{folder}/1d44b0bd.wav", f"{folder}/f76181c4.wav"]
            assert "no signal" in contents.excluded[f"{folder}/1d44b0bd.wav"]
            assert "label is wrong" in contents.excluded[f"{folder}/f76181c4.wav"]
            assert note in contents.notes
            (data / folder / "1d44b0bd.wav").unlink()
            assert not task.read(data).missing

    def test_a_test_clip_of_the_same_name_is_not_bad(self, kaggle):
        task, data, _, _ = kaggle
        kaggle_meta(data, tested=[*TESTED, ("1d44b0bd.wav", "Run", "Public", "1", "CC0")])
        assert task.read(data).clips[-1].path == f"{TEST}/1d44b0bd.wav"

    def test_says_what_is_missing_and_what_is_extra(self, kaggle, write_sounds):
        task, data, folder, table = kaggle
        (data / folder / table[1][0]).unlink()
        (data / TEST / "2d5dcc5d.wav").unlink()
        write_sounds(data, {f"{folder}/mine.wav": 0.1, f"{TEST}/sub/mine.flac": 0.1, "elsewhere.wav": 0.1})
        (data / TEST / "notes.txt").write_text("no sound")
        (data / TEST / "._4030a4f2.wav").write_bytes(b"resource fork")
        contents = task.read(data)
        assert contents.missing == [f"{folder}/{table[1][0]}", f"{TEST}/2d5dcc5d.wav"]
        assert contents.extra == [f"{folder}/mine.wav", f"{TEST}/sub/mine.flac"]
        assert set(contents.missing) < {clip.path for clip in contents.clips}

    def test_counts_what_shortened_metadata_lack(self, kaggle):
        task, data, folder, table = kaggle
        full = 19815 if "noisy" in folder else 4970
        incomplete = [note for note in task.read(data).notes if note.startswith("incomplete:")]
        assert len(incomplete) == 2
        assert f"{len(table) - 1} of {full} rows" in incomplete[0]
        assert "test_post_competition.csv has 4 of 4481 rows" in incomplete[1]

    def test_other_line_ends_and_a_byte_order_mark_change_nothing(self, kaggle):
        task, data, _, _ = kaggle
        before = task.read(data)
        kaggle_meta(data, lineterminator="\n", quoting=csv.QUOTE_ALL, encoding="utf-8-sig")
        assert task.read(data) == before

    def test_one_round_tuned_on_the_public_part(self, kaggle):
        task, data, _, _ = kaggle
        clips = task.read(data).clips[::-1]
        (only,) = task.rounds(clips)
        parts = {name: {clips[i].part for i in getattr(only, name)} for name in ("train", "validation", "test")}
        assert parts["train"] <= {"train_curated", "train_noisy"}
        assert (parts["validation"], parts["test"]) == ({"Public"}, {"Private"})
        used = np.concatenate([only.train, only.validation, only.test])
        assert sorted(used) == list(range(len(clips)))
        assert used.dtype == np.int64
        assert only.inner_folds is None

    def test_rounds_of_a_part_of_the_data(self, kaggle):
        task, data, _, _ = kaggle
        clips = task.read(data).clips
        (only,) = task.rounds([clip for clip in clips if clip.part != "Public"])
        assert only.validation is None
        assert len(only.train)
        assert len(only.test) == 2
        with pytest.raises(DatasetError, match=r"usage Private, found none among \d clips; add some"):
            task.rounds([clip for clip in clips if clip.part != "Private"])
        with pytest.raises(DatasetError, match=r"of audio_train_\w+, found none among 4 clips; add some"):
            task.rounds([clip for clip in clips if clip.part in ("Public", "Private")])
        with pytest.raises(DatasetError, match="add some"):
            task.rounds([])

    def test_end_to_end(self, kaggle, tmp_path, untrained_embedder):
        task, data, folder, _ = kaggle
        labels = ["Bark", "Hiss", "Bark,Hiss"] * 4
        rows = [(f"{i:08x}.wav", given, "Public" if i < 6 else "Private") for i, given in enumerate(labels)]
        bad = [("f76181c4.wav", "Hiss")]
        training = [("fname", "labels"), *(row[:2] for row in rows), *bad]
        kaggle_meta(data, curated=training, noisy=training, tested=[TESTED[0][:3], *rows])
        for i, (name, given, *_) in enumerate([*rows, *bad]):
            write_scene(data / folder / name, given, 2 * i)
            write_scene(data / TEST / name, given, 2 * i + 1)
        (data / TEST / rows[-1][0]).unlink()
        full = 19815 if "noisy" in folder else 4970
        with pytest.raises(DatasetError, match=rf"has 13 of {full} rows.*has 12 of 4481 rows.*1 of \d+ recordings"):
            evaluate(task, data, untrained_embedder, tmp_path / "results", progress=False)
        result = evaluate(task, data, untrained_embedder, tmp_path / "results", partial=True, progress=False)
        used = {"train_curated": 12} if "curated" in folder else {"train_noisy": 13}
        assert result["split_sizes"] == {**used, "Public": 6, "Private": 5}
        assert list(result["excluded"]) == ([] if "noisy" in folder else [f"{folder}/f76181c4.wav"])
        assert (result["missing"], result["partial"], result["metric"]) == (1, True, "lwlrap")
        assert set(result["other_metrics"]) == {"map", "mauc"}
        assert set(result["per_class"]) == {"Bark", "Hiss"}
        assert result["score"] > 0.9  # a tone, noise or both: even untrained layers tell them apart

    def test_names_the_right_folder(self, kaggle, tmp_path):
        task, data, folder, _ = kaggle
        for near in (data / META, data / TEST, data / folder, data.parent):
            assert f"it is in {data}, so give that folder" in refusal(task, near)
        assert "test_post_competition.csv is not there." in refusal(task, tmp_path)  # too far away to be looked for

    def test_other_layouts(self, kaggle, tmp_path):
        task, data, folder, _ = kaggle
        assert "no such folder" in refusal(task, tmp_path / "nothing")
        assert "it is a file" in refusal(task, data / META / "vocabulary.csv")
        (data / TEST).rename(data / "audio_test")
        assert f"no folder {TEST}; extract {TEST}.zip there" in refusal(task, data)
        (data / "audio_test").rename(data / TEST)
        (data / folder).rename(data / "train")
        message = refusal(task, data)
        assert f"no folder {folder}; " in message
        assert ("zip -s 0" if "noisy" in folder else f"extract {folder}.zip there") in message
        (data / folder).mkdir()
        (data / "train").rename(data / folder / folder)
        assert f"move {folder}/{folder} to {folder}" in refusal(task, data)

    def test_metadata_one_folder_too_deep(self, kaggle):
        task, data, _, _ = kaggle
        (data / META).rename(data / "moved")
        (data / META).mkdir()
        (data / "moved").rename(data / META / META)
        assert f"move {META}/{META} to {META}" in refusal(task, data)

    def test_the_copy_of_the_competition(self, kaggle):
        task, data, _, _ = kaggle
        (data / "train_curated.csv").write_text("fname,labels\n")
        assert "without test labels; get the later Zenodo release" in refusal(task, data)

    @pytest.mark.parametrize(
        ("row", "problem"),
        [
            (
                ("a.wav", "Dog", "Public"),
                r"line 6 of .*test_post.* not in vocabulary.csv: \['Dog'\]; fetch the file again",
            ),
            (("a.wav", "Run;Yell", "Public"), r"not in vocabulary.csv: \['Run;Yell'\]"),
            (("a.wav", "", "Public"), r"not in vocabulary.csv: \[''\]"),
            (("a.wav", "Run,Yell,Run", "Public"), "line 6 .* has a label twice: Run,Yell,Run"),
            (("a.wav", "Run", "public"), "usage 'public' instead of Public or Private"),
            (("928c90aa.wav", "Run", "Public"), "names 928c90aa.wav a second time"),
            (("../a.wav", "Run", "Public"), "'../a.wav', which is not a file name"),
            (("", "Run", "Public"), "'', which is not a file name"),
            (("a.wav",), "line 6 .* is cut short; fetch it again"),
        ],
    )
    def test_damaged_rows(self, kaggle, row, problem):
        task, data, _, _ = kaggle
        kaggle_meta(data, tested=[*TESTED, row])
        assert re.search(problem, refusal(task, data))

    def test_damaged_training_rows(self, kaggle):
        task, data, _, table = kaggle
        damaged = [*table, ("a.wav", "Dog", "1", "CC0")]
        kaggle_meta(data, curated=damaged, noisy=damaged)
        assert re.search(rf"line {len(damaged)} of .*train_\w+_post_.* not in vocabulary", refusal(task, data))

    def test_damaged_tables(self, kaggle):
        task, data, _, table = kaggle
        file = data / META / "test_post_competition.csv"
        kaggle_meta(data, tested=[row[:2] for row in TESTED])
        assert "lacks the columns ['usage'], it has ['fname', 'labels']" in refusal(task, data)
        kaggle_meta(data, tested=TESTED[:1])
        assert "has 0 rows, the release has 4481; fetch it again" in refusal(task, data)
        kaggle_meta(data, tested=[TESTED[0], *((f"{i:08x}.wav", "Run", "Public") for i in range(4482))])
        assert "has 4482 rows, the release has 4481" in refusal(task, data)
        file.write_bytes(b"fname,labels,usage\n\xff\xfe\n")
        assert "cannot be read" in refusal(task, data)
        kaggle_meta(data)
        for name in ("train_curated_post_competition.csv", "train_noisy_post_competition.csv"):
            (data / META / name).unlink()
        assert f"train_{task.name.partition('-')[2]}_post_competition.csv is not there" in refusal(task, data)
        assert len(table) > 1

    @pytest.mark.parametrize(
        ("rows", "problem"),
        [
            ([("index", "label"), *enumerate(VOCABULARY)], "has 81 with 81 names, the first 'index,label'; fetch it"),
            (list(enumerate(VOCABULARY[:-1])), "has 79 with 79 names"),
            ([(name,) for name in VOCABULARY], "has 80 with 0 names"),
            (list(enumerate([*VOCABULARY[:-1], "Yell"])), "has 80 with 79 names"),
            ([], "has 0 with 0 names"),
        ],
    )
    def test_damaged_vocabulary(self, kaggle, rows, problem):
        task, data, _, _ = kaggle
        write_csv(data / META / "vocabulary.csv", rows)
        assert problem in refusal(task, data)

    def test_no_vocabulary(self, kaggle):
        task, data, _, _ = kaggle
        (data / META / "vocabulary.csv").write_bytes(b"\xff\xfe")
        assert "vocabulary.csv cannot be read" in refusal(task, data)
        (data / META / "vocabulary.csv").unlink()
        assert f"vocabulary.csv is not there; extract {META}.zip again" in refusal(task, data)

    @pytest.mark.shared
    @pytest.mark.parametrize(("name", "rows", "bad"), [("curated", 4970, 6), ("noisy", 19815, 0)])
    def test_full_metadata(self, tmp_path, name, rows, bad):
        source = SHARED / "FSDKaggle2019"
        if not source.is_dir():
            pytest.skip(f"needs {source}")
        task = KAGGLE[name][0]
        folder = f"FSDKaggle2019.audio_train_{name}"
        (tmp_path / folder).mkdir()
        (tmp_path / TEST).mkdir()
        (tmp_path / META).symlink_to(source)
        contents = task.read(tmp_path)
        assert Counter(clip.part for clip in contents.clips) == {
            f"train_{name}": rows - bad,
            "Public": 1120,
            "Private": 3361,
        }
        assert len(contents.clips) == task.clips == rows - bad + 4481
        assert len(contents.excluded) == bad
        assert contents.missing == [clip.path for clip in contents.clips]
        assert not any(note.startswith("incomplete:") for note in contents.notes)
        (only,) = task.rounds(contents.clips)
        assert (len(only.train), len(only.validation), len(only.test)) == (rows - bad, 1120, 3361)
        for indices in (only.train, only.validation, only.test):
            assert {label for i in indices for label in contents.clips[i].labels} == set(VOCABULARY)
        assert task.classes == len(VOCABULARY)
        with (source / f"train_{name}_post_competition.csv").open(newline="") as stream:
            labels = sum(row["labels"].count(",") + 1 for row in csv.DictReader(stream))
        assert sum(len(contents.clips[i].labels) for i in only.train) == labels - bad  # bad ones have one label each
