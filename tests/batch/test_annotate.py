"""Tags and events of many recordings: in order, and continued after an interruption."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sedembed.batch.annotate import Annotation, detect_recordings, tag_recordings
from sedembed.batch.journal import Journal
from sedembed.cli.main import main
from sedembed.detection.events import EventRules
from sedembed.embedder import Embedder
from sedembed.errors import StoreError

PATHS = [f"{name}.wav" for name in "abcdef"]


@pytest.fixture
def folder(tmp_path: Path, write_sounds: Callable[..., Path]) -> Path:
    return write_sounds(tmp_path / "in", {path: 0.3 + 0.2 * i for i, path in enumerate(PATHS)})


def tags(model: Embedder, folder: Path, out: Path | None = None) -> list[Annotation]:
    return list(tag_recordings(model.runner, folder, PATHS, 3, out, progress=False))


def test_tags_are_those_of_the_embedder(folder: Path, untrained_embedder: Embedder):
    found = tags(untrained_embedder, folder)
    assert [annotation.path for annotation in found] == PATHS
    for path, duration, values, error in found:
        assert error is None
        assert duration == pytest.approx(0.3 + 0.2 * PATHS.index(path))
        probabilities = untrained_embedder.tag(folder / path)
        for label, probability in values:
            assert probability == pytest.approx(probabilities[untrained_embedder.labels.index(label)], rel=1e-5)
        assert max(value for _, value in values) == pytest.approx(probabilities.max(), rel=1e-5)


def test_events_are_those_of_the_embedder(folder: Path, untrained_embedder: Embedder):
    rules = EventRules.check(untrained_embedder.labels, untrained_embedder.frame_rate, 0.5)
    found = list(detect_recordings(untrained_embedder.runner, folder, PATHS, rules, progress=False))
    assert [annotation.values for annotation in found] == [
        untrained_embedder.detect(folder / path, threshold=0.5) for path in PATHS
    ]
    assert any(annotation.values for annotation in found)


def test_a_recording_that_fails_is_in_its_place(folder: Path, untrained_embedder: Embedder):
    (folder / "c.wav").write_bytes(b"no sound")
    found = tags(untrained_embedder, folder)
    assert [annotation.path for annotation in found] == PATHS
    assert [annotation.error is None for annotation in found] == [True, True, False, True, True, True]


def test_what_was_taken_before_an_interruption_is_not_read_again(
    folder: Path, untrained_embedder: Embedder, tmp_path: Path
):
    out = tmp_path / "tags.csv"
    whole = tags(untrained_embedder, folder)
    results = tag_recordings(untrained_embedder.runner, folder, PATHS, 3, out, progress=False)
    first = next(results)
    results.close()  # as a crash would
    journal = tmp_path / ".tags.csv.journal"
    assert journal.exists()
    (folder / first.path).unlink()  # it would fail if it were read again
    again = tags(untrained_embedder, folder, out)
    assert [(a.path, a.error) for a in again] == [(a.path, a.error) for a in whole]
    for before, after in zip(whole, again, strict=True):
        assert [label for label, _ in after.values] == [label for label, _ in before.values]
        assert [p for _, p in after.values] == pytest.approx([p for _, p in before.values], abs=1e-5)
    assert not journal.exists()


def test_a_journal_of_other_settings_is_begun_anew(folder: Path, untrained_embedder: Embedder, tmp_path: Path):
    out = tmp_path / "tags.csv"
    results = tag_recordings(untrained_embedder.runner, folder, PATHS, 5, out, progress=False)
    next(results)
    results.close()
    assert all(len(annotation.values) == 3 for annotation in tags(untrained_embedder, folder, out))


class TestJournal:
    def test_a_line_cut_by_a_kill_is_left_out(self, tmp_path: Path):
        out = tmp_path / "x.csv"
        journal = Journal(out, {"k": 1})
        journal.add("a", [1])
        journal.add("b", [2])
        journal.close(complete=False)
        with journal.file.open("r+b") as stream:
            stream.truncate(journal.file.stat().st_size - 3)
        again = Journal(out, {"k": 1})
        assert again.results == {"a": [1]}
        again.add("c", [3])
        again.close(complete=False)
        last = Journal(out, {"k": 1})
        assert last.results == {"a": [1], "c": [3]}
        last.close(complete=True)
        assert list(tmp_path.iterdir()) == []

    def test_one_process_at_a_time(self, tmp_path: Path):
        first = Journal(tmp_path / "x.csv", {})
        with pytest.raises(StoreError, match="Another run is writing"):
            Journal(tmp_path / "x.csv", {})
        first.close(complete=True)


class TestCommands:
    def test_tag_writes_a_table(self, folder: Path, untrained_model_dir: Path, tmp_path: Path):
        out = tmp_path / "tags.csv"
        assert main(["tag", str(folder), "-k", "2", "-o", str(out), "--model", str(untrained_model_dir)]) == 0
        rows = out.read_text().splitlines()
        assert rows[0] == "path,rank,label,probability"
        assert [row.split(",")[:2] for row in rows[1:5]] == [
            ["a.wav", "1"],
            ["a.wav", "2"],
            ["b.wav", "1"],
            ["b.wav", "2"],
        ]
        assert len(rows) == 1 + 2 * len(PATHS)
        assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []

    def test_what_is_ignored_is_said_once(
        self, folder: Path, untrained_model_dir: Path, capsys: pytest.CaptureFixture[str]
    ):
        (folder / "notes.txt").touch()
        (folder / "more.txt").touch()
        assert main(["tag", str(folder), "--model", str(untrained_model_dir)]) == 0
        assert (
            capsys.readouterr().err.count("2 files are ignored, because the suffix is not one of sound: 2 .txt.") == 1
        )
