"""The command line: output, exit status, one sentence on stderr and never a traceback."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import sedembed
from sedembed.cli.main import main

SOUNDS = Path(__file__).parents[2] / "examples" / "sounds"


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.wav", "sub/b.flac"):
        soundfile.write(tmp_path / "in" / name, rng.normal(0, 0.1, 8_000), 16_000)
    return tmp_path / "in"


class TestEmbed:
    def test_all_good(self, folder, untrained_model_dir, untrained_embedder, tmp_path, capsys):
        out = tmp_path / "out"
        assert main(["embed", str(folder), "-o", str(out), "--model", str(untrained_model_dir)]) == 0
        assert "2 embedded, 0 failed" in capsys.readouterr().out
        store = sedembed.open_store(out)
        assert store.paths == ["a.wav", "sub/b.flac"]
        expected = untrained_embedder.embed(folder / "sub" / "b.flac")
        np.testing.assert_allclose(store.vectors[1], expected, atol=1e-5 * np.linalg.norm(expected))

    def test_files_and_globs(self, folder, untrained_model_dir, tmp_path, capsys):
        def paths(*arguments: object) -> list[str]:
            out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
            assert main(["embed", *map(str, arguments), "-o", str(out), "--model", str(untrained_model_dir)]) == 0
            return sedembed.open_store(out).paths

        assert paths(folder / "a.wav") == ["a.wav"]
        assert paths(folder / "sub", folder / "a.wav") == ["a.wav", "sub/b.flac"]
        assert paths(folder / "**" / "*.flac") == ["b.flac"]
        capsys.readouterr()
        model = ["-o", str(tmp_path / "no"), "--model", str(untrained_model_dir)]
        assert main(["embed", str(folder / "*.mp3"), *model]) == 2
        assert "match" in capsys.readouterr().err
        assert main(["embed", str(folder / "a.wav"), "--shard", "0/2", *model]) == 2
        assert "one folder with --shard" in capsys.readouterr().err
        assert main(["embed", "s3://bucket/sounds", *model]) == 2
        assert "s3://bucket/sounds; add --ray" in capsys.readouterr().err

    def test_some_failed(self, folder, untrained_model_dir, tmp_path, capsys):
        (folder / "broken.wav").write_text("no sound")
        arguments = ["embed", str(folder), "-o", str(tmp_path / "out"), "--model", str(untrained_model_dir), "--json"]
        assert main(arguments) == 1
        printed = capsys.readouterr()
        assert json.loads(printed.out) == {"embedded": 2, "failed": 1, "store": str(tmp_path / "out")}
        assert "broken.wav: AudioDecodeError" in printed.err

    def test_missing_folder(self, untrained_model_dir, tmp_path, capsys):
        arguments = ["embed", str(tmp_path / "none"), "-o", str(tmp_path / "o"), "--model", str(untrained_model_dir)]
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "none" in error

    def test_other_settings_are_refused(self, folder, untrained_model_dir, tmp_path, capsys):
        arguments = ["embed", str(folder), "-o", str(tmp_path / "out"), "--model", str(untrained_model_dir)]
        assert main(arguments) == 0
        assert main([*arguments, "--frames"]) == 2
        assert "frames" in capsys.readouterr().err


class TestTag:
    def test_folder(self, folder, untrained_model_dir, capsys):
        assert main(["tag", str(folder), "-k", "2", "--model", str(untrained_model_dir), "--json"]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row["path"] for row in rows] == ["a.wav", "sub/b.flac"]
        assert all(len(row["events"]) == 2 for row in rows)
        assert all(row["events"][0]["probability"] >= row["events"][1]["probability"] for row in rows)

    def test_file(self, folder, untrained_model_dir, capsys):
        assert main(["tag", str(folder / "a.wav"), "--model", str(untrained_model_dir)]) == 0
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith("a.wav\t")

    def test_failures_do_not_stop_it(self, folder, untrained_model_dir, capsys):
        (folder / "aa.wav").write_text("no sound")
        assert main(["tag", str(folder), "--model", str(untrained_model_dir)]) == 1
        printed = capsys.readouterr()
        assert len(printed.out.splitlines()) == 2
        assert "aa.wav" in printed.err

    @pytest.mark.parametrize("arguments", [["-k", "0"], ["--device", "toaster"]])
    def test_bad_values(self, folder, untrained_model_dir, arguments, capsys):
        assert main(["tag", str(folder), "--model", str(untrained_model_dir), *arguments]) == 2
        assert capsys.readouterr().err.count("\n") == 1

    def test_missing_file_and_model(self, folder, untrained_model_dir, capsys):
        assert main(["tag", str(folder / "none.wav"), "--model", str(untrained_model_dir)]) == 2
        assert main(["tag", str(folder), "--model", "tallnet"]) == 2
        assert "talnet" in capsys.readouterr().err


def test_models(capsys):
    assert main(["models"]) == 0
    assert capsys.readouterr().out.startswith("talnet")
    assert main(["models", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    sizes = {record["name"]: record["embedding_size"] for record in records}
    assert sizes == {"talnet": 1024, "weanet": 2048}


def test_convert(tmp_path, untrained_model_dir, untrained_embedder, capsys):
    from safetensors.torch import load_file

    state = load_file(untrained_model_dir / "model.safetensors")
    torch.save({"model": state}, tmp_path / "TALNet.pt")
    assert main(["convert", str(tmp_path / "TALNet.pt"), "-o", str(tmp_path / "model")]) == 0
    assert "load_model" in capsys.readouterr().out
    wave = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    ours, theirs = untrained_embedder.embed(wave), sedembed.load_model(tmp_path / "model").embed(wave)
    np.testing.assert_allclose(theirs, ours, atol=1e-6)
    assert main(["convert", str(tmp_path / "none.pt"), "-o", str(tmp_path / "model2")]) == 2


@pytest.mark.parametrize("arguments", [[], ["fly"], ["embed"], ["embed", "x", "-o", "y", "--precision", "int3"]])
def test_bad_usage_is_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_as_a_program(folder, untrained_model_dir, tmp_path):
    command = [sys.executable, "-m", "sedembed", "embed", str(folder), "-o", str(tmp_path / "out")]
    done = subprocess.run([*command, "--model", str(untrained_model_dir)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run([*command, "--model", str(tmp_path / "none")], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    script = shutil.which("sedembed", path=str(Path(sys.executable).parent))
    if script is None:
        pytest.skip("the package is not installed in this environment, so there is no `sedembed` script")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == sedembed.__version__


@pytest.mark.parametrize(("typed", "meant"), [("detct", "detect"), ("serach", "search"), ("Embed", "embed")])
def test_a_command_that_is_not_there(typed: str, meant: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main([typed, "FILE"])
    assert ended.value.code == 2
    assert f"no command is called {typed!r}. Did you mean {meant!r}?" in capsys.readouterr().err
