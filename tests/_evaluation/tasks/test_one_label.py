"""ESC-50, UrbanSound8K and DCASE 2019 task 1A: small copies in the official layout, and the full metadata at hand."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sedembed._evaluation.tasks.base import Clip, Round, Task
from sedembed._evaluation.tasks.dcase2019 import DCASE2019Task1A
from sedembed._evaluation.tasks.esc50 import ESC50
from sedembed._evaluation.tasks.urbansound8k import UrbanSound8K
from sedembed.errors import DatasetError
from sedembed.metrics import check_name

SHARED = Path(__file__).parents[4] / "shared" / "data"

# Lines of the distributors' files.
ESC50_CSV = """\
filename,fold,target,category,esc10,src_file,take
1-100032-A-0.wav,1,0,dog,True,100032,A
1-110389-A-0.wav,1,0,dog,True,110389,A
1-17367-A-10.wav,1,10,rain,True,17367,A
2-101676-A-10.wav,2,10,rain,True,101676,A
2-114280-A-0.wav,2,0,dog,True,114280,A
3-132852-A-10.wav,3,10,rain,True,132852,A
3-136288-A-0.wav,3,0,dog,True,136288,A
4-160999-A-10.wav,4,10,rain,True,160999,A
4-182395-A-0.wav,4,0,dog,True,182395,A
5-181766-A-10.wav,5,10,rain,True,181766,A
5-203128-A-0.wav,5,0,dog,True,203128,A
5-203128-B-0.wav,5,0,dog,True,203128,B
"""
URBANSOUND8K_CSV = """\
slice_file_name,fsID,start,end,salience,fold,classID,class
100032-3-0-0.wav,100032,0,0.317551,1,5,3,dog_bark
101415-3-0-2.wav,101415,1,5,1,1,3,dog_bark
106905-8-0-0.wav,106905,43.636489,47.636489,2,1,8,siren
100652-3-0-0.wav,100652,0,4,1,2,3,dog_bark
102871-8-0-0.wav,102871,0,4,1,2,8,siren
102105-3-0-0.wav,102105,2.041889,6.041889,2,3,3,dog_bark
102102-3-0-0.wav,102102,1.573952,4.673824,2,4,3,dog_bark
111671-8-0-0.wav,111671,1.197766,5.197766,1,5,8,siren
124389-8-1-0.wav,124389,195.913986,199.913986,2,6,8,siren
102853-8-0-0.wav,102853,0,4,2,7,8,siren
103076-3-0-0.wav,103076,0,2.527184,1,8,3,dog_bark
105088-3-0-10.wav,105088,5,9,1,9,3,dog_bark
157866-8-0-0.wav,157866,0,4,1,9,8,siren
159742-8-0-0.wav,159742,0.129945,4.129945,2,10,8,siren
"""
DCASE_TRAIN = [
    "airport-lisbon-1000-40000-a.wav",
    "bus-lyon-1001-40001-a.wav",
    "metro_station-lisbon-1007-40007-a.wav",
    "metro_station-lisbon-1007-40011-a.wav",
    "street_pedestrian-lyon-1003-40003-a.wav",
    "street_traffic-lisbon-1008-40008-a.wav",
    "airport-lisbon-1000-40073-a.wav",
    "bus-lyon-1001-40044-a.wav",
]
DCASE_TEST = [
    "street_pedestrian-lyon-1162-44093-a.wav",
    "metro_station-lyon-1167-44098-a.wav",
    "airport-milan-1172-44103-a.wav",
    "bus-lyon-1177-44109-a.wav",
]
DCASE_UNUSED = ["tram-milan-1200-49999-a.wav"]


def write_table(file: Path, lines: list[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def sounds(tmp_path_factory, write_sounds) -> Path:
    """Return a folder with the recordings of all three, made once."""
    folder = tmp_path_factory.mktemp("sounds")
    names = [line.split(",")[0] for line in ESC50_CSV.splitlines()[1:]]
    write_sounds(folder / "esc50", dict.fromkeys(names, 0.1), rate=44_100)
    rows = [line.split(",") for line in URBANSOUND8K_CSV.splitlines()[1:]]
    write_sounds(folder / "urbansound8k", {f"fold{row[5]}/{row[0]}": 0.1 for row in rows}, rate=96_000, channels=2)
    names = DCASE_TRAIN + DCASE_TEST + DCASE_UNUSED
    write_sounds(folder / "dcase2019", dict.fromkeys(names, 0.1), rate=48_000, channels=2)
    return folder


@pytest.fixture
def esc50(tmp_path, sounds) -> Path:
    data = tmp_path / "ESC-50-master"
    write_table(data / "meta" / "esc50.csv", ESC50_CSV.splitlines())
    shutil.copytree(sounds / "esc50", data / "audio")
    return data


@pytest.fixture
def urbansound8k(tmp_path, sounds) -> Path:
    data = tmp_path / "UrbanSound8K"
    write_table(data / "metadata" / "UrbanSound8K.csv", URBANSOUND8K_CSV.splitlines())
    shutil.copytree(sounds / "urbansound8k", data / "audio")
    return data


@pytest.fixture
def dcase2019(tmp_path, sounds) -> Path:
    data = tmp_path / "TAU-urban-acoustic-scenes-2019-development"
    named = {name: name.split("-") for name in DCASE_TRAIN + DCASE_TEST + DCASE_UNUSED}
    meta = [f"audio/{name}\t{scene}\t{city}-{place}\ta" for name, (scene, city, place, *_) in named.items()]
    write_table(data / "meta.csv", ["filename\tscene_label\tidentifier\tsource_label", *meta])
    for part, names in (("train", DCASE_TRAIN), ("evaluate", DCASE_TEST)):
        lines = [f"audio/{name}\t{named[name][0]}" for name in names]
        write_table(data / "evaluation_setup" / f"fold1_{part}.csv", ["filename\tscene_label", *lines])
    write_table(data / "evaluation_setup" / "fold1_test.csv", ["filename", *(f"audio/{name}" for name in DCASE_TEST)])
    shutil.copytree(sounds / "dcase2019", data / "audio")
    return data


CASES = [
    (ESC50(), "esc50", "meta/esc50.csv", 12, 2000),
    (UrbanSound8K(), "urbansound8k", "metadata/UrbanSound8K.csv", 14, 8732),
    (DCASE2019Task1A(), "dcase2019", "evaluation_setup/fold1_train.csv", 12, 13370),
]


@pytest.fixture(params=CASES, ids=lambda case: case[0].name)
def case(request) -> tuple[Task, Path, str, int, int]:
    task, fixture, *rest = request.param
    return (task, request.getfixturevalue(fixture), *rest)


@pytest.fixture
def edit() -> Callable[[Path, str, str], None]:
    """Function that replaces a text, which must be there, in a file."""

    def replace_text(file: Path, old: str, new: str) -> None:
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    return replace_text


def refusal(task: Task, data: Path) -> str:
    """Message of the refusal, which always says what was expected and where to get it."""
    with pytest.raises(DatasetError) as caught:
        task.read(data)
    message = str(caught.value)
    assert message.startswith(f"{data} is not a usable copy of {task.title}: ")
    assert task.layout in message
    assert message.endswith(f"Get it from {task.source} ({task.licence})")
    return message.split(": ", 1)[1].split(". Expected:")[0]


def check_rounds(rounds: list[Round], clips: list[Clip]) -> None:
    """What holds for every protocol."""
    for round_ in rounds:
        train, test = set(round_.train.tolist()), set(round_.test.tolist())
        assert train
        assert test
        assert not train & test
        assert train | test <= set(range(len(clips)))
        assert round_.train.dtype == round_.test.dtype == np.int64
        assert not {clips[i].part for i in train} & {clips[i].part for i in test}
        if round_.inner_folds is not None:
            assert [f"fold{fold}" for fold in round_.inner_folds] == [clips[i].part for i in round_.train]


class TestEveryTask:
    def test_facts(self, case):
        task, _, _, _, full = case
        assert task.clips == full
        assert set(task.paper) == {"talnet", "weanet"}
        assert all(0 < score < 1 for score in task.paper.values())
        assert not task.multilabel
        for metric in (task.metric, *task.other_metrics):
            check_name(metric)

    def test_small_copy(self, case):
        task, data, _, count, full = case
        contents = task.read(data)
        assert len(contents.clips) == count
        assert all((data / clip.path).is_file() and len(clip.labels) == 1 and clip.group for clip in contents.clips)
        assert contents.missing == contents.extra == []
        assert contents.excluded == {}
        assert len(contents.notes) == 1
        assert contents.notes[0].startswith("incomplete: ")
        assert contents.notes[0].endswith(f"names {count} of {full} recordings")
        check_rounds(task.rounds(contents.clips), contents.clips)

    def test_missing_and_extra_recordings(self, case):
        task, data, _, count, _ = case
        before = task.read(data).clips
        gone, moved = before[3].path, before[5].path
        (data / gone).unlink()
        stray = str(Path(moved).with_name("stray.wav"))
        (data / moved).rename(data / stray)
        (data / "audio" / "readme.txt").write_text("not a sound")
        (data / "audio" / ".hidden.wav").write_text("not listed")
        contents = task.read(data)
        assert contents.missing == [gone, moved]
        assert contents.extra == [stray]
        assert contents.clips == before
        assert len(contents.clips) == count

    @pytest.mark.parametrize("suffix", [".flac", ".ogg"])
    def test_recordings_of_another_format(self, case, suffix):
        task, data, _, count, _ = case
        before = task.read(data).clips
        for clip in before:
            file = data / clip.path
            file.rename(file.with_suffix(suffix))
        contents = task.read(data)
        assert contents.missing == contents.extra == []
        assert [clip.path for clip in contents.clips] == [clip.path.replace(".wav", suffix) for clip in before]
        assert [replace(clip, path="") for clip in contents.clips] == [replace(clip, path="") for clip in before]
        assert f"{count} recordings are {suffix} files, distributed as .wav" in contents.notes

    def test_the_named_file_comes_before_one_of_another_format(self, case):
        task, data, _, _, _ = case
        file = data / task.read(data).clips[0].path
        shutil.copy(file, file.with_suffix(".flac"))
        contents = task.read(data)
        assert data / contents.clips[0].path == file
        assert contents.extra == [str(file.with_suffix(".flac").relative_to(data))]

    def test_no_such_folder(self, case):
        task, data, *_ = case
        assert "no such folder" in refusal(task, data / "nowhere")

    def test_an_archive(self, case, tmp_path):
        task, *_ = case
        (tmp_path / "data.zip").write_bytes(b"PK")
        assert "unpack it" in refusal(task, tmp_path / "data.zip")

    def test_the_parent_folder(self, case):
        task, data, *_ = case
        assert f"it is in {data}, so give that folder" in refusal(task, data.parent)

    def test_the_audio_folder(self, case):
        task, data, *_ = case
        assert f"it is in {data}, so give that folder" in refusal(task, data / "audio")

    def test_a_fold_of_the_audio_folder(self, urbansound8k):
        assert f"it is in {urbansound8k}, so" in refusal(UrbanSound8K(), urbansound8k / "audio" / "fold1")

    def test_relative_folder(self, case, monkeypatch):
        task, data, _, count, _ = case
        monkeypatch.chdir(data / "audio")
        assert len(task.read(Path("..")).clips) == count
        assert str(data) in refusal(task, Path())

    def test_another_folder(self, case, tmp_path):
        task, *_ = case
        (tmp_path / "other").mkdir()
        assert " is not there" in refusal(task, tmp_path / "other")

    def test_no_audio_folder(self, case):
        task, data, *_ = case
        shutil.rmtree(data / "audio")
        assert refusal(task, data) == "it has no folder audio/"

    def test_no_recordings(self, case):
        task, data, _, count, _ = case
        first = task.read(data).clips[0].path
        shutil.rmtree(data / "audio")
        (data / "audio").mkdir()
        message = refusal(task, data)
        assert f"none of the {count} recordings" in message
        assert message.endswith(f"audio/ holds no sound files, expected {first}")

    def test_recordings_a_folder_too_deep(self, case):
        task, data, *_ = case
        (data / "audio").rename(data / "inner")
        (data / "audio").mkdir()
        (data / "inner").rename(data / "audio" / "inner")
        assert "audio/ holds other sound files such as audio/inner/" in refusal(task, data)

    def test_missing_column(self, case, edit):
        task, data, metadata, *_ = case
        column = {"esc50": "target", "urbansound8k": "fsID", "dcase2019-1a": "scene_label"}[task.name]
        edit(data / metadata, column, "renamed")
        message = refusal(task, data)
        assert f"{metadata} lacks the columns ['{column}'], it has [" in message
        assert message.endswith("fetch it again")

    def test_line_cut_short(self, case):
        task, data, metadata, *_ = case
        text = (data / metadata).read_text().rstrip("\n")
        (data / metadata).write_text(text[: text.rindex("\n") + 5])
        assert f"of {metadata} is cut short; fetch it again" in refusal(task, data)

    def test_no_rows(self, case):
        task, data, metadata, *_ = case
        header = (data / metadata).read_text().splitlines()[0]
        (data / metadata).write_text(header + "\n")
        if isinstance(task, DCASE2019Task1A):
            contents = task.read(data)
            assert contents.notes == ["incomplete: evaluation_setup names 4 of 13370 recordings"]
        else:
            assert f"{metadata} names no recordings; fetch it again" in refusal(task, data)

    def test_a_recording_named_twice(self, case):
        task, data, metadata, *_ = case
        text = (data / metadata).read_text()
        (data / metadata).write_text(text + text.splitlines()[-1] + "\n")
        assert " 2 times; fetch it again" in refusal(task, data)

    def test_no_file_name(self, case, edit):
        task, data, metadata, *_ = case
        name = (data / metadata).read_text().splitlines()[1].replace("\t", ",").split(",")[0]
        edit(data / metadata, name, "")
        where = "which is not in meta.csv nor" if isinstance(task, DCASE2019Task1A) else "which is no sound file"
        assert where in refusal(task, data)

    def test_not_text(self, case):
        task, data, metadata, *_ = case
        (data / metadata).write_bytes(b"\xff\xfe\x00\x01" * 50)
        assert f"{metadata} cannot be read" in refusal(task, data)

    def test_byte_order_mark_and_windows_line_ends(self, case):
        task, data, metadata, *_ = case
        before = task.read(data)
        (data / metadata).write_bytes(b"\xef\xbb\xbf" + (data / metadata).read_bytes().replace(b"\n", b"\r\n"))
        assert task.read(data) == before

    def test_a_class_that_is_none(self, case, edit):
        task, data, metadata, *_ = case
        old, new = {
            "esc50": ("3-136288-A-0.wav,3,0,dog", "3-136288-A-0.wav,3,0,cat"),
            "urbansound8k": ("3,dog_bark\n101415", "3,siren\n101415"),
            "dcase2019-1a": ("40001-a.wav\tbus", "40001-a.wav\ttrain"),
        }[task.name]
        edit(data / metadata, old, new)
        assert f"of {metadata} has the " in refusal(task, data)


class TestNumbers:
    @pytest.mark.parametrize("value", ["0", "6", "1.0", "one", "", "-1", "nan"])
    def test_esc50_fold(self, esc50, edit, value):
        edit(esc50 / "meta" / "esc50.csv", "3-132852-A-10.wav,3,", f"3-132852-A-10.wav,{value},")
        assert f"line 7 of meta/esc50.csv has {value!r} as fold, expected a whole number from 1 to 5" in refusal(
            ESC50(), esc50
        )

    @pytest.mark.parametrize("value", ["50", "-1", "ten", "10.0"])
    def test_esc50_target(self, esc50, edit, value):
        edit(esc50 / "meta" / "esc50.csv", "3-132852-A-10.wav,3,10", f"3-132852-A-10.wav,3,{value}")
        assert f"has {value!r} as target, expected a whole number from 0 to 49" in refusal(ESC50(), esc50)

    @pytest.mark.parametrize("value", ["0", "11", "5.5", "x"])
    def test_urbansound8k_fold(self, urbansound8k, edit, value):
        edit(urbansound8k / "metadata" / "UrbanSound8K.csv", "0.317551,1,5,", f"0.317551,1,{value},")
        assert f"line 2 of metadata/UrbanSound8K.csv has {value!r} as fold, expected a whole number from 1 to 10" in (
            refusal(UrbanSound8K(), urbansound8k)
        )

    @pytest.mark.parametrize("value", ["10", "-3", "dog"])
    def test_urbansound8k_class(self, urbansound8k, edit, value):
        edit(urbansound8k / "metadata" / "UrbanSound8K.csv", "0.317551,1,5,3", f"0.317551,1,5,{value}")
        assert f"has {value!r} as classID, expected a whole number from 0 to 9" in refusal(UrbanSound8K(), urbansound8k)


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


def test_contents_of_a_folder_that_cannot_be_listed(esc50, monkeypatch):
    """Recordings that are not seen must not be reported as missing."""
    from sedembed.audio import listing

    def list_nothing(path: Path) -> listing.Listing:
        return listing.Listing(
            files=["1-100032-A-0.wav"], failures={"deep": ("PermissionError", "no right to list it")}
        )

    monkeypatch.setattr(listing, "list_recordings", list_nothing)
    assert "audio/deep cannot be used: no right to list it" in refusal(ESC50(), esc50)
