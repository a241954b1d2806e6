"""ESC-50, UrbanSound8K and DCASE 2019 task 1A: small copies in the official layout, and the full metadata at hand."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sedembed._evaluation.tasks.base import Task
from sedembed._evaluation.tasks.dcase2019 import DCASE2019Task1A
from sedembed._evaluation.tasks.esc50 import ESC50
from sedembed._evaluation.tasks.urbansound8k import UrbanSound8K
from sedembed.metrics import check_name
from tests._evaluation.tasks.one_label_helpers import (  # noqa: F401
    check_rounds,
    dcase2019,
    edit,
    esc50,
    refusal,
    sounds,
    urbansound8k,
)

CASES = [
    (ESC50(), "esc50", "meta/esc50.csv", 12, 2000),
    (UrbanSound8K(), "urbansound8k", "metadata/UrbanSound8K.csv", 14, 8732),
    (DCASE2019Task1A(), "dcase2019", "evaluation_setup/fold1_train.csv", 12, 13370),
]


@pytest.fixture(params=CASES, ids=lambda case: case[0].name)
def case(request) -> tuple[Task, Path, str, int, int]:
    task, fixture, *rest = request.param
    return (task, request.getfixturevalue(fixture), *rest)


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


def test_contents_of_a_folder_that_cannot_be_listed(esc50, monkeypatch):
    """Recordings that are not seen must not be reported as missing."""
    from sedembed.audio import listing

    def list_nothing(path: Path) -> listing.Listing:
        return listing.Listing(
            files=["1-100032-A-0.wav"], failures={"deep": ("PermissionError", "no right to list it")}
        )

    monkeypatch.setattr(listing, "list_recordings", list_nothing)
    assert "audio/deep cannot be used: no right to list it" in refusal(ESC50(), esc50)
