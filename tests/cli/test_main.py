"""Odd terminals, full disks and wrong command lines end in a sentence and an exit status, never in a traceback."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

import sedembed
from sedembed.cli.common import explain
from sedembed.cli.main import main

NAME = "été ☃ 🎵.wav"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, small_weanet_dir: Path) -> Path:
    """Recordings, a store, labels, a probe and other things to name on a command line."""
    work = tmp_path_factory.mktemp("work")
    (work / "in").mkdir()
    for number in range(6):
        rng = np.random.default_rng(number)
        name = NAME if number == 0 else f"{number}.wav"
        soundfile.write(work / "in" / name, rng.normal(0, 0.1, 16_000), 16_000)
    store = sedembed.embed_folder(work / "in", work / "store", small_weanet_dir, progress=False)
    (work / "labels.csv").write_text(
        "path,label\n" + "".join(f"{p},{'ab'[i % 2]}\n" for i, p in enumerate(store.paths))
    )
    sedembed.LinearProbe(1.0, progress=False).fit(store, work / "labels.csv").save(work / "probe")
    (work / "text.txt").write_text("no sound")
    (work / "empty").mkdir()
    return work


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-W", "ignore", "-m", "sedembed", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, **{"timeout": 120, **options})  # type: ignore[call-overload]


class TestOutput:
    @pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
    def test_encodings(self, work: Path, small_weanet_dir: Path, monkeypatch: pytest.MonkeyPatch, encoding: str):
        """All names are printed, and JSON can be read back."""
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        assert main(["tag", str(work / "in"), "--model", str(small_weanet_dir), "-k", "1", "--json"]) == 0
        lines = raw.getvalue().decode(encoding).splitlines()
        assert sorted(json.loads(line)["path"] for line in lines) == sorted(
            path.name for path in (work / "in").iterdir()
        )

    def test_names_that_are_no_unicode(self, monkeypatch: pytest.MonkeyPatch):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="utf-8"))
        main(["models", "--json"])
        sys.stdout.write(json.dumps("caf\udce9", ensure_ascii=False))
        sys.stdout.flush()
        assert json.loads(raw.getvalue().decode().splitlines()[-1]) == "caf\udce9"

    @pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
    def test_closed(self):
        command = f"{sys.executable} -m sedembed models >&-"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
        assert done.stderr == "sedembed: standard output is closed; send it to a file, or to /dev/null\n"
        assert done.returncode == 2

    @pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
    def test_stderr_closed(self, work: Path):
        """What belongs on stderr does not come out on stdout instead."""
        command = f"{sys.executable} -m sedembed search {work / 'store'} nowhere.wav 2>&-"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
        assert (done.stdout, done.returncode) == ("", 2)

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full")
    def test_full(self):
        with Path("/dev/full").open("w") as full:
            command = [sys.executable, "-m", "sedembed", "models"]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 2
        assert "No space left on device; make room" in done.stderr
        assert done.stderr.count("\n") == 1


class TestSentences:
    @pytest.mark.parametrize("device", ["xla", "mps", "meta", "cuda", "toaster"])
    def test_devices(self, work: Path, small_weanet_dir: Path, capsys: pytest.CaptureFixture[str], device: str):
        import torch

        if getattr(torch, device, None) is not None and hasattr(torch, device) and device == "cuda":
            available = torch.cuda.is_available()
        else:
            available = device == "mps" and torch.backends.mps.is_available()
        if available:
            pytest.skip(f"this machine has the device {device}")
        file, probe = str(work / "in" / "1.wav"), str(work / "new probe")
        for command in (
            ["tag", file, "--model", str(small_weanet_dir)],
            ["probe", "fit", str(work / "store"), "--labels", str(work / "labels.csv"), "-o", probe],
        ):
            assert main([*command, "--device", device]) == 2
            told = capsys.readouterr().err
            assert f"'{device}'" in told
            assert told.count("\n") == 1

    @pytest.mark.parametrize(
        "arguments",
        [["embed", "", "-o", "x"], ["tag", ""], ["detect", "a.wav", "-o", ""], ["embed", "in", "--out="]],
        ids=" ".join,
    )
    def test_an_empty_text_is_not_the_current_folder(self, arguments: list[str], capsys: pytest.CaptureFixture[str]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        assert "got an empty text; write . for the current folder" in capsys.readouterr().err

    def test_a_stored_recording_needs_no_model(self, work: Path, capsys: pytest.CaptureFixture[str]):
        search = ["search", str(work / "store"), "1.wav", "-k", "1"]
        assert main(search) == 0
        for option in (["--device", "cpu"], ["--model", "talnet"]):
            assert main([*search, *option]) == 2
            assert "leave out --model and --device" in capsys.readouterr().err

    @pytest.mark.parametrize("command", ["tag", "detect"])
    def test_a_url(self, command: str, capsys: pytest.CaptureFixture[str]):
        assert main([command, "https://example.org/a.wav"]) == 2
        assert "got a URL" in capsys.readouterr().err

    def test_an_output_that_is_a_file(self, work: Path, small_weanet_dir: Path, capsys: pytest.CaptureFixture[str]):
        file, model, sound = str(work / "text.txt"), ["--model", str(small_weanet_dir)], str(work / "in" / "1.wav")
        commands = [
            ["embed", str(work / "in"), "-o", file, *model],
            ["tag", sound, "-o", f"{file}/a.csv", *model],
            ["detect", sound, "-o", f"{file}/a.csv", *model],
            ["convert", sound, "-o", file],
            ["analyze", str(work / "probe"), "-o", file, *model],
            ["probe", "fit", str(work / "store"), "--labels", str(work / "labels.csv"), "-o", file],
        ]
        for command in commands:
            assert main(command) == 2, command
            told = capsys.readouterr().err.splitlines()[-1]
            assert file in told
            assert "choose another" in told
        assert Path(file).read_text() == "no sound"

    @pytest.mark.parametrize("number", ["EACCES", "ENOSPC", "EROFS", "EIO", "EBADF"])
    def test_errors_of_the_system(self, number: str):
        import errno

        code = getattr(errno, number)
        told = explain(OSError(code, os.strerror(code), "/a/b.csv"))
        assert told.startswith(f"/a/b.csv: {os.strerror(code)}; ")
        assert "Errno" not in explain(OSError(code, os.strerror(code)))
        assert "Errno" not in explain(OSError("socket closed"))


def test_plot_needs_no_home(work: Path, small_weanet_dir: Path, tmp_path: Path):
    """And nothing beside the package: no compiler's cache."""
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    code = (
        "import sys; sys.modules['numba'] = sys.modules['librosa'] = None; from sedembed.cli.main import main;"
        "sys.exit(main(sys.argv[1:]))"
    )
    variables = {name: value for name, value in os.environ.items() if name not in ("HOME", "USERPROFILE")}
    arguments = ["plot", work / "in" / "1.wav", "-o", tmp_path / "a.png", "--model", small_weanet_dir]
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.png").stat().st_size > 1000


# --- wrong command lines, from seeds -------------------------------------------------------------------------------


def good_commands(work: Path, model: Path) -> list[list[str]]:
    file, store, labels = work / "in" / "1.wav", work / "store", work / "labels.csv"
    commands = [
        ["tag", file, "-k", "2", "--model", model, "--json"],
        ["tag", work / "in", "-o", work / "tags.csv", "--model", model],
        ["detect", file, "--threshold", "0.4", "--median", "0.5", "--model", model],
        ["detect", file, "-o", work / "events.rttm", "--labels", "Speech;Dog", "--model", model],
        ["embed", work / "in", "-o", work / "store", "--batch-size", "2", "--workers", "1", "--model", model],
        ["search", store, "1.wav", "-k", "2", "--json"],
        ["search", store, file, "--model", model, "--device", "cpu"],
        ["map", store, "-o", work / "map.html", "--method", "pca", "--color", "folder", "--max-points", "5"],
        [
            "probe",
            "fit",
            store,
            "--labels",
            labels,
            "-o",
            work / "new",
            "--C",
            "1.0",
            "--cv",
            "3",
            "--metric",
            "accuracy",
        ],
        ["probe", "predict", work / "probe", store, "-o", work / "p.csv"],
        ["models", "--json"],
        ["convert", work / "text.txt", "--pooling", "linear", "-o", work / "converted"],
        ["evaluate", "esc50", "--data", work / "in", "--partial", "-o", work / "results", "--repeats", "1"],
        ["evaluate", "--list"],
        ["train", "weanet", "--data", work / "in", "--out", work / "run", "--workers", "1"],
    ]
    return [[str(part) for part in command] for command in commands]


WRONG = ["", "-1", "0", "1e99", "nan", "inf", "abc", "☃", "\udce9", "a\x00b", "a\nb", "9" * 40, "x" * 5000, "--", "-o"]


def mutate(command: list[str], places: list[str], dice: random.Random) -> list[str]:
    command = list(command)
    at = dice.randrange(len(command))
    match dice.randrange(6):
        case 0:
            command[at] = dice.choice(WRONG)
        case 1:
            command[at] = dice.choice(places)
        case 2:
            del command[at]
        case 3:
            command.insert(at, dice.choice([*WRONG, *places, "--json", "--device", "--frames", "--unknown"]))
        case 4:
            other = dice.randrange(len(command))
            command[at], command[other] = command[other], command[at]
        case 5 if command[at]:
            cut = dice.randrange(len(command[at]))
            command[at] = command[at][:cut] + dice.choice("/.;=\\☃") + command[at][cut + 1 :]
    return command


def try_command_lines(work: Path, model: Path, seeds: range, capsys: pytest.CaptureFixture[str]) -> Counter[object]:
    good, counts = good_commands(work, model), Counter[object]()
    places = [
        str(work / name) for name in ("in", "store", "probe", "labels.csv", "text.txt", "empty", "nowhere", "in/1.wav")
    ]
    for seed in seeds:
        dice = random.Random(seed)
        command = mutate(dice.choice(good), places, dice)
        try:
            code: object = main(command)
        except SystemExit as caught:
            code = caught.code
        except Exception as error:
            raise AssertionError(f"seed {seed}: {command} ends in {type(error).__name__}: {error}") from error
        told = capsys.readouterr().err
        assert code in (0, 1, 2), f"seed {seed}: {command}"
        assert code == 0 or told.strip(), f"seed {seed}: {command} fails in silence"
        assert "Traceback" not in told, f"seed {seed}: {command}"
        assert "[Errno" not in told, f"seed {seed}: {command}: {told}"
        counts[code] += 1
    return counts


@pytest.fixture
def inside(work: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """In a folder of its own, for paths that mutations have cut to pieces; without a connection."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEDEMBED_OFFLINE", "1")
    monkeypatch.setattr("sedembed.models.registry._RECORDS", {})
    return lambda: None


@pytest.mark.usefixtures("inside")
def test_a_hundred_wrong_command_lines(work: Path, small_weanet_dir: Path, capsys: pytest.CaptureFixture[str]):
    counts = try_command_lines(work, small_weanet_dir, range(100), capsys)
    assert counts[2] > 40


@pytest.mark.slow
@pytest.mark.usefixtures("inside")
def test_thousands_of_wrong_command_lines(work: Path, small_weanet_dir: Path, capsys: pytest.CaptureFixture[str]):
    counts = try_command_lines(work, small_weanet_dir, range(1000, 3000), capsys)
    assert counts[2] > 800
