"""The same exit code and message for the same mistake in every command, and every failure said once."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

import sedembed
from sedembed.cli import main as command_line
from sedembed.cli.main import main

# What stands for a command with its required arguments; a new command has to be added.
COMMANDS = {
    "embed": ["embed", "in", "-o", "out"],
    "merge": ["merge", "merged", "store"],
    "tag": ["tag", "in", "--model", "model"],
    "models": ["models"],
    "export": ["export", "model", "-o", "m.onnx"],
    "convert": ["convert", "in/1.wav", "-o", "converted"],
    "detect": ["detect", "in", "--model", "model"],
    "labels": ["labels", "dog"],
    "plot": ["plot", "in/1.wav", "-o", "a.png"],
    "search": ["search", "store", "1.wav"],
    "map": ["map", "store", "-o", "map.html"],
    "probe fit": ["probe", "fit", "store", "--labels", "labels.csv", "-o", "new"],
    "probe predict": ["probe", "predict", "probe", "store"],
    "evaluate": ["evaluate", "--labels", "labels.csv", "--data", "in", "--model", "model"],
    "analyze": ["analyze", "probe", "-o", "report"],
    "finetune": ["finetune", "in", "--labels", "labels.csv", "-o", "tuned"],
    "train": ["train", "weanet", "--data", "in", "--out", "run"],
    "check": ["check"],
    "completion": ["completion", "bash"],
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, small_weanet_dir: Path) -> Path:
    """Recordings, one of them broken, a store, labels, a probe and an empty folder."""
    work = tmp_path_factory.mktemp("work")
    (work / "in").mkdir()
    (work / "empty").mkdir()
    for number in range(1, 7):
        wave = np.random.default_rng(number).normal(0, 0.1, 16_000)
        soundfile.write(work / "in" / f"{number}.wav", wave, 16_000)
    (work / "model").symlink_to(small_weanet_dir)
    store = sedembed.embed_folder(work / "in", work / "store", small_weanet_dir, progress=False)
    lines = [f"{path},{('cat', 'dog')[number % 2]}\n" for number, path in enumerate(store.paths)]
    (work / "labels.csv").write_text("path,label\n" + "".join(lines))
    sedembed.LinearProbe(1.0, progress=False).fit(store, work / "labels.csv").save(work / "probe")
    (work / "in" / "broken.wav").write_text("no sound")
    return work


@pytest.fixture
def run(work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Function that runs a command where all that is named lies; its exit code, stdout and stderr, logs included."""
    monkeypatch.chdir(work)
    monkeypatch.setenv("SEDEMBED_OFFLINE", "1")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(logging.getLogger(), "handlers", [])
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as caught:
            code = caught.code
        printed = capsys.readouterr()
        for text in printed:
            assert "Traceback" not in text
            assert "[Errno" not in text
            assert "np.str_" not in text
        return code, printed.out, printed.err

    return run


def test_the_table_has_every_command():
    assert {name.split()[0] for name in COMMANDS} == set(command_line._parser().get_default("commands"))


class TestBadUsage:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_unknown_option(self, run, command: str):
        code, _, told = run(*COMMANDS[command], "--nonsense")
        assert (code, "unrecognized arguments: --nonsense" in told) == (2, True)

    @pytest.mark.parametrize("command", COMMANDS)
    def test_empty_text(self, run, command: str):
        code, _, told = run(*COMMANDS[command], "")
        assert code == 2
        assert told.splitlines()[-1] == (
            "sedembed: error: expected a path or another value, got an empty text; write . for the current folder"
        )

    @pytest.mark.parametrize("name", ["detct", "Detect", "detects"])
    def test_a_near_name(self, run, name: str):
        code, _, told = run(name, "a.wav")
        assert (code, "Did you mean 'detect'?" in told) == (2, True)

    def test_a_near_name_of_a_command_of_probe(self, run):
        code, _, told = run("probe", "fitt", "store")
        assert (code, "no command is called 'fitt'. Did you mean 'fit'? sedembed probe --help" in told) == (2, True)

    @pytest.mark.parametrize("option", ["--version", "--help"])
    def test_what_is_no_mistake(self, run, option: str):
        code, printed, _ = run(option)
        assert code == 0
        assert (sedembed.__version__ if option == "--version" else "detect") in printed


# Each with something that is not there.
MISSING = [
    ["embed", "nowhere", "-o", "out", "--model", "model"],
    ["embed", "in", "-o", "out", "--model", "nowhere"],
    ["merge", "merged", "nowhere"],
    ["tag", "nowhere.wav", "--model", "model"],
    ["tag", "in/1.wav", "nowhere.wav", "--model", "model"],
    ["tag", "nowhere/*.wav", "--model", "model"],
    ["detect", "nowhere.wav", "--model", "model"],
    ["detect", "in/1.wav", "--model", "nowhere"],
    ["plot", "nowhere.wav", "-o", "a.html", "--model", "model"],
    ["search", "nowhere", "1.wav"],
    ["search", "store", "nowhere.wav"],
    ["map", "nowhere", "-o", "map.html"],
    ["map", "store", "-o", "map.html", "--labels", "nowhere.csv"],
    ["probe", "fit", "nowhere", "--labels", "labels.csv", "-o", "new"],
    ["probe", "fit", "store", "--labels", "nowhere.csv", "-o", "new"],
    ["probe", "predict", "nowhere", "store"],
    ["probe", "predict", "probe", "nowhere"],
    ["evaluate", "nowhere", "--data", "in"],
    ["evaluate", "esc50", "--data", "nowhere"],
    ["evaluate", "--labels", "nowhere.csv", "--data", "in", "--model", "model"],
    ["evaluate", "--labels", "labels.csv", "--data", "nowhere", "--model", "model"],
    ["analyze", "nowhere", "-o", "report"],
    ["finetune", "nowhere", "--labels", "folder", "-o", "tuned"],
    ["finetune", "in", "--labels", "nowhere.csv", "-o", "tuned"],
    ["train", "weanet", "--data", "nowhere", "--out", "run"],
    ["export", "nowhere", "-o", "m.onnx"],
    ["convert", "nowhere.pt", "-o", "converted"],
    ["labels", "nowhere"],
]


@pytest.mark.parametrize("arguments", MISSING, ids=" ".join)
def test_what_is_not_there(run, arguments: list[str]):
    code, printed, told = run(*arguments)
    assert (code, printed) == (2, "")
    assert told.startswith("sedembed: ")
    assert "nowhere" in told
    assert len(re.findall("^(sedembed|WARNING|ERROR)", told, re.M)) == 1  # a data set's layout takes more lines


BROKEN = [
    ["embed", "in", "-o", "embedded", "--model", "model"],
    ["tag", "in", "--model", "model"],
    ["tag", "in/broken.wav", "--model", "model"],
    ["detect", "in/broken.wav", "--model", "model"],
    ["detect", "in", "-o", "events.csv", "--model", "model"],
    ["plot", "in/broken.wav", "-o", "a.html", "--model", "model"],
    ["search", "store", "in/broken.wav", "--model", "model"],
    ["probe", "predict", "probe", "in/broken.wav", "--model", "model"],
    ["probe", "predict", "probe", "in", "--model", "model"],
]


@pytest.mark.parametrize("arguments", BROKEN, ids=" ".join)
def test_a_recording_that_cannot_be_read(run, arguments: list[str]):
    code, _, told = run(*arguments)
    assert code == 1
    assert len([line for line in told.splitlines() if "broken.wav" in line]) == 1


def test_a_labelled_recording_that_cannot_be_read(run, work: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sedembed.probe.probe.DEFAULT_CS", (1.0,))
    (work / "more.csv").write_text((work / "labels.csv").read_text() + "broken.wav,cat\n")
    evaluate = ["evaluate", "--labels", "more.csv", "--data", "in", "--model", "model", "--folds", "2", "-o", "results"]
    for arguments in (evaluate, ["probe", "fit", "store", "--labels", "more.csv", "-o", "new", "--folds", "2"]):
        code, printed, told = run(*arguments)
        assert code == 1
        assert (told.startswith("sedembed: broken.wav"), told.count("\n")) == (True, 1)
        assert "accuracy" in printed


EMPTY = [
    ["embed", "empty", "-o", "out", "--model", "model"],
    ["tag", "empty", "--model", "model"],
    ["detect", "empty", "--model", "model"],
    ["probe", "predict", "probe", "empty", "--model", "model"],
    ["evaluate", "--labels", "labels.csv", "--data", "empty", "--model", "model"],
    ["finetune", "empty", "--labels", "folder", "-o", "tuned", "--model", "model"],
]


@pytest.mark.parametrize("arguments", EMPTY, ids=" ".join)
def test_an_empty_folder(run, arguments: list[str]):
    code, printed, told = run(*arguments)
    assert (code, printed) == (2, "")
    assert told.startswith("sedembed: Expected sound files in empty, found none among 0 files. Supported are .3ga ")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["models"],
        ["labels", "dog"],
        ["evaluate", "--list"],
        ["search", "store", "1.wav", "-k", "2"],
        ["probe", "predict", "probe", "store"],
        ["map", "store", "-o", "map.csv", "--method", "pca", "--color", "folder"],
        ["tag", "in/1.wav", "--model", "model"],
        ["probe", "predict", "probe", "in/2.wav", "--model", "model"],
    ],
    ids=" ".join,
)
def test_all_good(run, arguments: list[str]):
    code, _, told = run(*arguments)
    assert (code, told) == (0, "")
