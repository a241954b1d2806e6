"""The command analyze: output, exit status, one sentence on stderr and never a traceback."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from sedembed import load_model
from sedembed.cli.main import main
from sedembed.errors import ProbeError
from sedembed.models.talnet import TALNet, TALNetConfig
from sedembed.models.weights import save_pretrained
from sedembed.probe.probe import LinearProbe

CLASSES = np.array(["bell", "cat", "dog", "rain", "siren", "wind"])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A network of 12 events, so that pictures are small."""
    network = TALNet(TALNetConfig(mean=(0.0,) * 64, std=(1.0,) * 64, classes=12))
    return save_pretrained(network.eval(), tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def probe(tmp_path_factory, model):
    rng = np.random.default_rng(0)
    y = np.arange(120) % 6
    centres = np.repeat(rng.standard_normal((3, 1024)), 2, axis=0) + 0.5 * rng.standard_normal((6, 1024))
    X = (rng.standard_normal((120, 1024)) + centres[y]).astype(np.float32)
    fitted = LinearProbe(1.0, progress=False).fit(X, CLASSES[y], model=load_model(model, device="cpu"))
    return fitted.save(tmp_path_factory.mktemp("probes") / "weather")


@pytest.fixture
def run(probe, model, tmp_path, capsys):
    def run(*options, probe=probe, model=model, out=tmp_path / "out"):
        code = main(["analyze", str(probe), "--model", str(model), "-o", str(out), *options])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def refused(result, text):
    code, out, error = result
    assert code == 2
    assert not out
    assert error.count("\n") == 1
    assert text in error


def test_pictures_tables_and_report(run, tmp_path):
    code, out, _ = run("--clusters", "3")
    assert code == 0
    lines = out.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["cluster 1", "cluster 2", "cluster 3"]
    clusters = {frozenset(line.split(": ")[1].split(", ")) for line in lines[:3]}
    assert clusters == {frozenset(pair) for pair in (("bell", "cat"), ("dog", "rain"), ("siren", "wind"))}
    assert len(lines) == 3 + 10 + 2
    assert lines[-1] == f"report in {tmp_path / 'out' / 'report.html'}"
    assert len(list((tmp_path / "out").iterdir())) == 15
    assert "What weather listens to" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_json(run, tmp_path):
    code, out, _ = run("--json", "--linkage", "ward", "--seed", "3", "--perplexity", "2", "--clusters", "auto")
    assert code == 0
    printed = json.loads(out)
    assert printed == json.loads((tmp_path / "out" / "analysis.json").read_text(encoding="utf-8"))
    assert printed["settings"]["linkage"] == "ward"
    assert printed["settings"]["distance"] == "euclidean"
    assert printed["settings"]["seed"] == 3
    assert printed["plane"] == {"method": "t-SNE", "perplexity": 2.0}
    assert printed["probe"]["model"]["name"] == "small"


def test_weak_clusters_are_told(tmp_path, run):
    rng = np.random.default_rng(0)
    fitted = LinearProbe(100.0, progress=False).fit(rng.standard_normal((40, 1024)), np.arange(40) % 8)
    code, _, error = run(probe=fitted.save(tmp_path / "noise"))
    assert code == 0
    assert error.startswith("sedembed: the clusters are weak (mean silhouette ")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--linkage", "ward", "--distance", "cosine"], "use distance euclidean, or linkage average"),
        (["--clusters", "7"], "from 1 to 6, the number of classes, got 7"),
        (["--perplexity", "6"], "below the number of classes, 6, got 6"),
        (["--seed", "-1"], "seed must be from 0"),
        (["--store", "nowhere"], "Expected a store at nowhere"),
    ],
)
def test_settings_that_mean_nothing(run, tmp_path, options, text):
    refused(run(*options), text)
    assert not (tmp_path / "out").exists(), "nothing is written"


@pytest.mark.parametrize("option", [["--linkage", "median"], ["--distance", "L1"], ["--clusters", "many"]])
def test_bad_usage(run, option):
    with pytest.raises(SystemExit, match="2"):
        run(*option)


def test_no_probe(run, tmp_path):
    refused(run(probe=tmp_path / "nothing"), "nothing")


def test_probe_of_another_model(run, untrained_model_dir):
    refused(run(model=untrained_model_dir), "sha256")


def test_the_probe_knows_its_model(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    asked = []

    def load(name, *options, **more):
        asked.append(name)
        raise ProbeError("enough")

    monkeypatch.setattr("sedembed.loading.load_model", load)
    fitted = LinearProbe(1.0, progress=False).fit(rng.standard_normal((40, 1024)), np.arange(40) % 4)
    known = {"name": "weanet", "version": "4", "sha256": "", "front_end_version": 1, "precision": "float32"}
    for version in ("4", "hub-1", "local-1"):
        fitted.model_ = {**known, "version": version}
        assert main(["analyze", str(fitted.save(tmp_path / version)), "-o", str(tmp_path / "out")]) == 2
    assert asked == ["weanet", "hf://weanet"]
    assert "give its directory by --model" in capsys.readouterr().err
    fitted.model_ = None
    assert main(["analyze", str(fitted.save(tmp_path / "none")), "-o", str(tmp_path / "out")]) == 2
    assert "unknown model" in capsys.readouterr().err


def test_probe_of_other_vectors(run, tmp_path):
    rng = np.random.default_rng(0)
    fitted = LinearProbe(1.0, progress=False).fit(rng.standard_normal((40, 16)), np.arange(40) % 8)
    refused(run(probe=fitted.save(tmp_path / "short")), "vectors of 16 numbers, and")


def test_out_is_a_file(run, tmp_path):
    (tmp_path / "taken").write_text("here")
    refused(run(out=tmp_path / "taken"), "got a file; choose another place")


def test_without_matplotlib(run, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    refused(run(), 'pip install "sedembed[plots]"')


def test_help_waits_for_nothing_heavy():
    program = (
        "import argparse, sys; from sedembed.cli.analyze import register; register(lambda *_: "
        "argparse.ArgumentParser()); print(sorted({'torch', 'sklearn', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_literal_correlation(run, tmp_path):
    code, printed, _ = run("--correlation", "literal", "--json")
    assert code == 0
    summary = json.loads(printed)
    assert summary["settings"]["correlation"] == "literal"
    assert "in the paper's words" in summary["notes"][0]
    assert "of the rows as they are" in (tmp_path / "out" / "report.html").read_text()
