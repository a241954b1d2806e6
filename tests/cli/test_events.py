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
from sedembed.cli.main import main
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


SPEECH = ("--labels", "Speech")


class TestCommand:
    def test_file(self, command, folder, capsys):
        assert command(folder / "a.wav", *SPEECH) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines == ["path,onset,offset,label,probability", "a.wav,1.000,2.000,Speech,1.000"]

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
        assert command(folder / "none.wav", "-o", tmp_path / "e.csv") == 1
        assert "none.wav: MissingFileError" in capsys.readouterr().err
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
        assert found["sub/b.txt"] == "0.500\t1.000\tSpeech\n"
        assert command(folder, "--format", "audacity") == 2
        assert "a folder" in capsys.readouterr().err

    def test_options(self, command, folder, capsys):
        assert command(folder / "a.wav", "--labels", "Speech; Dog", "--labels", "Bird", "--threshold", "1.0") == 0
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
        [["--threshold", "30"], ["--labels", "speech"], ["--median", "-1"], ["--threshold", "Speach=0.4"]],
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
