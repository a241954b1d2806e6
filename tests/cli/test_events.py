"""Tests of events."""

from __future__ import annotations

import csv
import inspect
import io
import json
from pathlib import Path

import pytest
import soundfile

import sedembed
from sedembed.batch.annotate import detect_recordings
from sedembed.cli.main import main
from sedembed.detection.events import EventRules
from tests.detection.events_helpers import RATE, SOUNDS, bursts, loudness, talnet  # noqa: F401


@pytest.fixture
def command(loudness, monkeypatch):
    """Run `sedembed detect` with the model of known onsets, looking for speech."""
    monkeypatch.setattr("sedembed.cli.events.load", lambda options: loudness)
    return lambda *arguments: main(["detect", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    soundfile.write(tmp_path / "in" / "a.wav", bursts(3, (1.0, 2.0)), RATE)
    soundfile.write(tmp_path / "in" / "sub" / "b.wav", bursts(2, (0.5, 1.0)), RATE)
    soundfile.write(tmp_path / "in" / "quiet.wav", bursts(1), RATE)
    return tmp_path / "in"


SPEECH = ("--labels", "Sneeze")


class TestCommand:
    def test_file(self, command, folder, capsys):
        assert command(folder / "a.wav", *SPEECH) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines == ["path,onset,offset,label,probability", "a.wav,1.000,2.000,Sneeze,1.000"]

    def test_folder(self, command, folder, tmp_path, capsys):
        assert command(folder, *SPEECH) == 0
        rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
        assert [(row["path"], row["onset"]) for row in rows] == [("a.wav", "1.000"), ("sub/b.wav", "0.500")]
        assert command(folder, *SPEECH, "-o", tmp_path / "events.csv") == 0
        assert capsys.readouterr().out == ""
        assert list(csv.DictReader(io.StringIO((tmp_path / "events.csv").read_text()))) == rows

    def test_failures_are_listed_and_the_rest_is_kept(self, command, folder, tmp_path, capsys):
        (folder / "broken.wav").write_text("no sound")
        assert command(folder, *SPEECH, "-o", tmp_path / "e.json") == 1
        assert "broken.wav: AudioDecodeError" in capsys.readouterr().err
        read = json.loads((tmp_path / "e.json").read_text())
        assert [row["path"] for row in read] == ["a.wav", "quiet.wav", "sub/b.wav"]

    def test_nothing_readable_leaves_the_old_file(self, command, folder, tmp_path, capsys):
        (tmp_path / "e.csv").write_text("old")
        (tmp_path / "text.wav").write_text("no sound")
        assert command(tmp_path / "text.wav", "-o", tmp_path / "e.csv") == 1
        assert "text.wav: AudioDecodeError" in capsys.readouterr().err
        assert command(folder / "none.wav", "-o", tmp_path / "e.csv") == 2
        assert (tmp_path / "e.csv").read_text() == "old"

    def test_format_goes_by_the_suffix(self, command, folder, tmp_path):
        for name, beginning in {"e.rttm": "SPEAKER a 1 ", "e.json": "[\n{", "e.txt": "1.000\t2", "e": "path,"}.items():
            assert command(folder / "a.wav", *SPEECH, "-o", tmp_path / name) == 0
            assert (tmp_path / name).read_text().startswith(beginning)
        assert command(folder / "a.wav", *SPEECH, "-o", tmp_path / "e.tsv") == 2
        assert command(folder / "a.wav", *SPEECH, "-o", tmp_path / "e.tsv", "--format", "csv") == 0

    def test_json_option(self, command, folder, capsys):
        assert command(folder, *SPEECH, "--json") == 0
        assert len(json.loads(capsys.readouterr().out)) == 3

    def test_audacity_has_a_file_for_each_recording(self, command, folder, tmp_path, capsys):
        out = tmp_path / "labels"
        assert command(folder, *SPEECH, "--format", "audacity", "-o", out) == 0
        found = {str(p.relative_to(out)): p.read_text() for p in out.rglob("*") if p.is_file()}
        assert set(found) == {"a.txt", "quiet.txt", "sub/b.txt"}
        assert found["quiet.txt"] == ""
        assert found["sub/b.txt"] == "0.500\t1.000\tSneeze\n"
        assert command(folder, "--format", "audacity") == 2
        assert "a folder" in capsys.readouterr().err

    def test_raven_has_a_file_for_each_recording(self, command, folder, tmp_path, capsys):
        out = tmp_path / "tables"
        assert command(folder / "a.wav", folder / "sub", *SPEECH, "--format", "raven", "-o", out) == 0
        found = {str(p.relative_to(out)): p.read_text().splitlines() for p in out.rglob("*") if p.is_file()}
        assert set(found) == {"a.selections.txt", "sub/b.selections.txt"}
        assert found["sub/b.selections.txt"][1].split("\t")[3:5] == ["0.500", "1.000"]
        assert "2 events (Sneeze 2) in 2 recordings of 5.0 s" in capsys.readouterr().err

    def test_files_folders_and_globs(self, command, folder, capsys, monkeypatch):
        def paths(*arguments: object) -> list[str]:
            assert command(*arguments, *SPEECH, "--json") == 0
            return [row["path"] for row in json.loads(capsys.readouterr().out)]

        assert paths(folder / "?.wav") == ["a.wav"]
        assert paths(folder / "**" / "*.wav") == ["a.wav", "quiet.wav", "sub/b.wav"]
        assert paths(folder / "sub" / "b.wav", folder) == ["sub/b.wav", "a.wav", "quiet.wav"]
        monkeypatch.chdir(folder)
        assert paths("sub", "a.wav") == ["sub/b.wav", "a.wav"]
        assert command(folder / "*.mp3") == 2
        assert "match" in capsys.readouterr().err

    def test_time_of_day(self, command, folder, tmp_path, capsys):
        (folder / "a.wav").rename(folder / "SITE_20260501_043000.wav")
        assert command(folder, *SPEECH, "--start", "names") == 0
        told = capsys.readouterr()
        times = {row["path"]: row["time"] for row in csv.DictReader(io.StringIO(told.out))}
        assert times == {"SITE_20260501_043000.wav": "2026-05-01T04:30:01.000", "sub/b.wav": ""}
        assert "2 of 3 file names hold no time" in told.err
        assert command(folder / "sub" / "b.wav", *SPEECH, "--start", "2026-05-01 12:00") == 0
        assert "2026-05-01T12:00:00.500" in capsys.readouterr().out
        assert command(folder, "--start", "2026-05-01 12:00") == 2
        assert "--start names" in capsys.readouterr().err

    def test_events_are_cut_out(self, command, folder, tmp_path):
        assert command(folder, *SPEECH, "-o", tmp_path / "e.csv", "--extract", tmp_path / "cut", "--margin", "0.5") == 0
        found = {
            str(p.relative_to(tmp_path / "cut")): soundfile.info(p).duration for p in tmp_path.rglob("cut/**/*.wav")
        }
        assert found == {"a_00001.000_Sneeze.wav": 2.0, "sub/b_00000.500_Sneeze.wav": 1.5}

    def test_a_long_file_has_a_bar_in_seconds(self, loudness, tmp_path, capsys):
        soundfile.write(tmp_path / "long.wav", bursts(45, (20.0, 21.0)), RATE)
        found = detect_recordings(
            loudness.runner, tmp_path, ["long.wav"], EventRules.check(loudness.labels, 10.0), progress=True
        )
        assert len(list(found)) == 1
        told = capsys.readouterr().err
        assert "45.0/45.0 [" in told
        assert " s/s" in told

    def test_options(self, command, folder, capsys):
        assert command(folder / "a.wav", "--labels", "Sneeze; hiccup", "--labels", "SNIFF", "--threshold", "1.0") == 0
        assert len(capsys.readouterr().out.splitlines()) == 4
        assert command(folder / "a.wav", *SPEECH, "--min-duration", "1.5", "--max-gap", "0", "--median", "0") == 0
        assert len(capsys.readouterr().out.splitlines()) == 1

    def test_thresholds_of_single_sounds(self, talnet, monkeypatch, capsys):
        monkeypatch.setattr("sedembed.cli.events.load", lambda options: talnet)
        sound = str(SOUNDS / "police_siren.ogg")
        assert main(["detect", sound, "--threshold", "Siren=0.6", "--threshold", "0.99"]) == 0
        assert {row["label"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))} == {"Siren"}

    @pytest.mark.parametrize(
        "options",
        [["--threshold", "30"], ["--labels", "speach"], ["--median", "-1"], ["--threshold", "Speach=0.4"]],
    )
    def test_bad_values(self, command, folder, options, capsys):
        assert command(folder, *options) == 2
        assert capsys.readouterr().err.count("\n") == 1

    def test_no_number(self, command, folder):
        with pytest.raises(SystemExit) as exit_:
            command(folder, "--threshold", "high")
        assert exit_.value.code == 2

    def test_a_folder_without_sound(self, command, tmp_path, capsys):
        (tmp_path / "notes.md").write_text("no sound")
        assert command(tmp_path) == 2
        assert ".wav" in capsys.readouterr().err

    def test_help_tells_the_defaults_of_detect(self, capsys):
        with pytest.raises(SystemExit):
            main(["detect", "--help"])
        text = " ".join(capsys.readouterr().out.split())
        defaults = {n: p.default for n, p in inspect.signature(sedembed.Embedder.detect).parameters.items()}
        for name in ("threshold", "median", "min_duration", "max_gap"):
            after = text.rsplit("--" + name.replace("_", "-"), 1)[1]
            assert f"(default: {defaults[name]:g})" in after


class TestLabels:
    def test_a_tree_of_what_matches(self, capsys):
        assert main(["labels", "dog"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[:3] == ["Dog", "  Bark", "  Yip"]
        assert lines.count("  Bark") == 1
        assert main(["labels", "dog", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)[:2] == ["Dog", "Bark"]

    def test_all_and_none(self, capsys):
        assert main(["labels"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "[Human sounds]"
        shown = {line.strip() for line in lines}
        assert set(sedembed.load_network("talnet").labels) <= shown
        assert main(["labels", "sirene"]) == 2
        assert "did you mean 'Siren'" in capsys.readouterr().err
