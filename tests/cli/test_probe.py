"""The commands probe fit and probe predict: what they print and write, what they refuse, and with which exit status."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile

import sedembed
from sedembed.cli.main import main
from sedembed.store.writer import StoreWriter

LABELLED = {"noise": "abcdef", "tone": "ghijkl"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Noise and tones of half a second, in folders; one file is no sound."""
    folder = tmp_path_factory.mktemp("recordings")
    for kind, names in LABELLED.items():
        (folder / kind).mkdir()
        for name in names:
            rng = np.random.default_rng(ord(name))
            wave = rng.normal(0, 0.1, 8_000)
            if kind == "tone":
                wave = 0.3 * np.sin(2 * np.pi * rng.uniform(300, 900) * np.arange(8_000) / 16_000) + wave / 50
            soundfile.write(folder / kind / f"{name}.wav", wave, 16_000)
    (folder / "broken.wav").write_text("no sound")
    return folder


@pytest.fixture(scope="module")
def store(folder, untrained_embedder, tmp_path_factory) -> sedembed.EmbeddingStore:
    out = tmp_path_factory.mktemp("stores") / "vectors"
    # In two runs, so that the rows on disk are not in the order of their paths.
    (folder / "noise").rename(folder / ".later")
    sedembed.embed_folder(folder, out, untrained_embedder, progress=False)
    (folder / ".later").rename(folder / "noise")
    return sedembed.embed_folder(folder, out, untrained_embedder, progress=False)


PATHS = [f"{kind}/{name}.wav" for kind, names in LABELLED.items() for name in names]


def write_labels(file: Path, rows: list[tuple[str, ...]], header: str = "path,label") -> Path:
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([tuple(header.split(",")), *rows])
    return file


@pytest.fixture(scope="module")
def labels(tmp_path_factory) -> Path:
    rows = [(path, path.split("/")[0]) for path in PATHS]
    return write_labels(tmp_path_factory.mktemp("labels") / "labels.csv", rows)


@pytest.fixture(scope="module")
def probe(store, labels, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("probes") / "probe"
    assert main(["probe", "fit", str(store.directory), "--labels", str(labels), "-o", str(out), "--C", "10"]) == 0
    return out


@pytest.fixture
def fit(store, tmp_path, capsys):
    """Function that runs `probe fit --json`; its exit status, what it printed, its stderr, and where the probe is."""

    def run(labels: Path, *options: str):
        out = tmp_path / "probe"
        status = main(
            ["probe", "fit", str(store.directory), "--labels", str(labels), "-o", str(out), "--json", *options]
        )
        printed = capsys.readouterr()
        return types.SimpleNamespace(
            status=status, result=json.loads(printed.out) if printed.out else None, error=printed.err, out=out
        )

    return run


def read_csv(text: str) -> tuple[list[str], list[str], np.ndarray]:
    """Header, paths and probabilities; what is predicted must be what these say."""
    header, *rows = csv.reader(text.splitlines())
    assert header[1:3] == ["predicted", "probability"]
    values = np.array([row[3:] for row in rows], float)
    for row, probabilities in zip(rows, values, strict=True):
        assert float(row[2]) == probabilities.max()
        likely = {name for name, p in zip(header[3:], probabilities, strict=True) if p > 0.5}
        assert row[1] == header[3:][probabilities.argmax()] or set(filter(None, row[1].split(";"))) == likely
    return [header[0], *header[3:]], [row[0] for row in rows], values


class TestFit:
    def test_result_is_that_of_the_library(self, fit, store, labels):
        done = fit(labels)
        y = [path.split("/")[0] for path in store.paths]
        expected = sedembed.LinearProbe(progress=False).fit(store, y)
        assert (done.status, done.error) == (0, "")
        probe = sedembed.LinearProbe.load(done.out)
        np.testing.assert_allclose(probe.predict_proba(store), expected.predict_proba(store), atol=1e-6)
        assert probe.classes_.tolist() == ["noise", "tone"]
        assert probe.model_["sha256"] == store.run["settings"]["model_sha256"]
        assert done.result["C"] == expected.C_
        assert done.result["validation_score"] == expected.scores_[expected.C_]
        assert done.result["rows"] == {"train": 12}
        assert (done.result["metric"], done.result["multilabel"], done.result["classes"]) == ("accuracy", False, 2)

    def test_plain_summary(self, store, labels, tmp_path, capsys):
        arguments = ["probe", "fit", str(store.directory), "--labels", str(labels), "-o", str(tmp_path / "p")]
        assert main([*arguments, "--C", "3"]) == 0
        printed = capsys.readouterr().out
        assert "fitted on 12 rows, 2 classes, one label a row" in printed
        assert "C = 3, given" in printed
        assert "cross-validated accuracy 1.0000 (95 % interval" in printed
        assert "0 labels without a vector, 0 vectors without a label" in printed
        assert str(tmp_path / "p") in printed

    def test_options_reach_the_probe(self, fit, store, labels):
        options = ["--normalize", "l2", "--C", "2.5", "--class-weight", "balanced", "--device", "cpu"]
        probe = sedembed.LinearProbe.load(fit(labels, *options).out)
        y = [path.split("/")[0] for path in store.paths]
        expected = sedembed.LinearProbe(2.5, normalize="l2", class_weight="balanced", progress=False).fit(store, y)
        np.testing.assert_array_equal(probe.coef_, expected.coef_)
        assert probe.C_ == 2.5
        assert (probe.mean_ == 0).all()

    def test_multilabel(self, fit, store, tmp_path):
        rows = [(path, {"noise": "hiss;sound", "tone": "sound"}[path.split("/")[0]]) for path in PATHS]
        rows[0], rows[-1] = (rows[0][0], ""), (rows[-1][0], "")
        done = fit(write_labels(tmp_path / "l.csv", rows), "--cv", "3", "--metric", "lwlrap")
        probe = sedembed.LinearProbe.load(done.out)
        assert probe.multilabel_
        assert probe.classes_.tolist() == ["hiss", "sound"]
        assert (done.result["metric"], done.result["multilabel"]) == ("lwlrap", True)
        of = dict(rows)
        y = np.array([["hiss" in of[path], "sound" in of[path]] for path in store.paths])
        expected = sedembed.LinearProbe(cv=3, metric="lwlrap", progress=False).fit(store, y)
        assert probe.C_ == expected.C_
        np.testing.assert_allclose(probe.predict_proba(store), expected.predict_proba(store), atol=1e-6)

    def test_labels_without_vectors_are_listed(self, fit, store, tmp_path):
        rows = [(path, path[0]) for path in PATHS[1:]] + [("broken.wav", "n"), ("gone.wav", "t")]
        done = fit(write_labels(tmp_path / "l.csv", rows), "--C", "1")
        assert done.status == 1
        broken, gone = done.error.splitlines()
        assert "broken.wav has a label and no vector: AudioDecodeError: " in broken
        assert "gone.wav has a label and no vector: it is not in the store" in gone
        assert (done.result["labels_without_vector"], done.result["vectors_without_label"]) == (2, 1)
        assert done.result["rows"] == {"train": 11}
        used = [path for path in store.paths if path != PATHS[0]]
        X = store.vectors[[store.paths.index(path) for path in used]]
        expected = sedembed.LinearProbe(1.0, progress=False).fit(X, [path[0] for path in used])
        got = sedembed.LinearProbe.load(done.out)
        np.testing.assert_allclose(got.decision_function(X), expected.decision_function(X), atol=1e-4)

    @pytest.mark.parametrize("option", ["--fold-column", "--group-column"])
    def test_folds_and_groups(self, fit, store, tmp_path, option):
        part = {path: "xyz"[index % 3] for index, path in enumerate(PATHS)}
        # An unlabelled row, so that rows of the table and of the store differ.
        rows = [(path, path[0], part[path]) for path in PATHS[:3] + PATHS[4:]]
        done = fit(write_labels(tmp_path / "l.csv", rows, "path,label,part"), option, "part")
        used = [path for path in store.paths if path != PATHS[3]]
        X, y = store.vectors[[store.paths.index(path) for path in used]], [path[0] for path in used]
        values = ["xyz".index(part[path]) for path in used]
        name = {"--fold-column": "folds", "--group-column": "groups"}[option]
        expected = sedembed.LinearProbe(progress=False).fit(X, y, **{name: values})
        assert sedembed.LinearProbe.load(done.out).scores_ == pytest.approx(expected.scores_)
        assert done.result["C"] == expected.C_

    def test_validation_column(self, fit, store, tmp_path):
        splits = dict(zip(PATHS, ["train", "TRAIN", "val", "Training", "test", "Eval"] * 2, strict=True))
        # A label that is wrong on purpose: it must be seen in the test score, and only there.
        truth = {path: path[0] for path in PATHS}
        wrong = next(path for path in PATHS if splits[path] == "test")
        truth[wrong] = "t"
        rows = [(path, truth[path], splits[path]) for path in PATHS]
        done = fit(write_labels(tmp_path / "l.csv", rows, "path,label,split"), "--validation-column", "split")
        assert done.status == 0
        assert done.result["rows"] == {"train": 6, "validation": 2, "test": 4}
        chosen = {
            part: [i for i, path in enumerate(store.paths) if splits[path].casefold() in names]
            for part, names in {"train": ("train", "training"), "validation": ("val",)}.items()
        }
        (X, y), (X_, y_) = ((store.vectors[i], [store.paths[j][0] for j in i]) for i in chosen.values())
        expected = sedembed.LinearProbe(progress=False).fit(X, y, validation=(X_, y_))
        probe = sedembed.LinearProbe.load(done.out)
        assert probe.scores_ == expected.scores_
        np.testing.assert_allclose(probe.coef_, expected.coef_, atol=1e-5)
        assert done.result["validation_score"] == expected.scores_[expected.C_]
        predicted = dict(zip(store.paths, expected.predict(store.vectors), strict=True))
        tested = [path for path in PATHS if splits[path] in ("test", "Eval")]
        assert done.result["test_score"] == np.mean([predicted[path] == truth[path] for path in tested])
        assert done.result["test_score"] == 0.75

    def test_validation_of_a_given_c(self, fit, store, tmp_path):
        rows = [(path, f"{path[0]};{path[0]}x", "val" if i % 3 == 2 else "train") for i, path in enumerate(PATHS)]
        file = write_labels(tmp_path / "l.csv", rows, "path,label,split")
        done = fit(file, "--validation-column", "split", "--C", "1", "--metric", "map")
        assert done.result["C"] == 1
        assert done.result["validation_score"] == 1.0
        assert done.result["test_score"] is None

    def test_warnings_are_sentences(self, fit, tmp_path):
        done = fit(write_labels(tmp_path / "l.csv", [(PATHS[0], "x"), (PATHS[-1], "y")]))
        assert (done.status, done.result["C"], done.result["validation_score"]) == (0, 1, None)
        first, second = done.error.splitlines()
        assert first.startswith(
            "sedembed: the probe is fitted, but not cross-validated: Expected rows for at least two"
        )
        assert second.startswith("sedembed: C = 1 is taken: the rows to choose it by are too few")

    def test_no_value_for_the_test_rows(self, fit, tmp_path):
        splits = ["train", "train", "val", "val", "test", "test"] * 2
        # Every test row has the same label, so there is no area under a curve.
        rows = [(path, path[0] + ";", split) for path, split in zip(PATHS, splits, strict=True)]
        rows = [(path, "n;t" if split == "test" else label, split) for path, label, split in rows]
        file = write_labels(tmp_path / "l.csv", rows, "path,label,split")
        done = fit(file, "--validation-column", "split", "--metric", "mauc")
        assert (done.status, done.result["test_score"]) == (0, None)
        assert "the probe is saved, but mauc has no value on 4 rows" in done.error
        assert sedembed.LinearProbe.load(done.out).classes_.tolist() == ["n", "t"]

    def test_a_probe_is_replaced_and_nothing_else(self, fit, labels, probe, store):
        assert fit(labels, "--C", "1").status == 0
        assert fit(labels, "--C", "2").result["C"] == 2
        arguments = ["probe", "fit", str(store.directory), "--labels", str(labels), "-o", str(store.directory)]
        assert main([*arguments, "--C", "1"]) == 2
        assert sedembed.open_store(store.directory).paths == store.paths


class TestFitRefuses:
    @pytest.mark.parametrize(
        ("rows", "options", "said"),
        [
            ([("a.wav", "x", "train")], [], "'a.wav' where the store has 'noise/a.wav'"),
            ([(PATHS[0], "x", "train")], [], "2 classes"),
            ([(PATHS[0], "", "train")], [], "line 2: 'noise/a.wav' has no label"),
            ([(p, p[0], "") for p in PATHS], ["--fold-column", "split"], "'split' is empty for 'noise/a.wav'"),
            ([(p, p[0], "x") for p in PATHS], ["--fold-column", "nix"], "no column 'nix'"),
            ([(p, p[0], "x") for p in PATHS], ["--validation-column", "split"], "'split' is 'x' for"),
            ([(p, p[0], "train") for p in PATHS], ["--validation-column", "split"], "has 'validation' in the column"),
            (
                [(p, p, "train" if p[0] == "n" else "val") for p in PATHS],
                ["--validation-column", "split"],
                "6 labels of the validation rows are in no training row, such as 'tone/g.wav'",
            ),
            ([(p, p[0], "x") for p in PATHS], ["--metric", "acuracy"], "unknown metric 'acuracy'"),
            ([(p, p[0], "x") for p in PATHS], ["--cv", "3", "--fold-column", "split"], "--cv"),
            (
                [(p, p[0] + ";", "x") for p in PATHS],
                ["--metric", "accuracy"],
                "metric 'accuracy' needs one class a row",
            ),
        ],
    )
    def test_unusable(self, fit, tmp_path, rows, options, said):
        done = fit(write_labels(tmp_path / "l.csv", rows, "path,label,split"), *options)
        assert done.status == 2
        assert said in done.error
        assert done.error.count("\n") == 1
        assert done.result is None
        assert not done.out.exists()

    def test_missing_things(self, store, labels, tmp_path, capsys):
        for where, csv_, said in [
            (tmp_path / "none", labels, "Expected a store at"),
            (store.directory, tmp_path / "none.csv", "Expected a CSV of labels"),
            (store.directory, tmp_path, "got a directory"),
        ]:
            assert main(["probe", "fit", str(where), "--labels", str(csv_), "-o", str(tmp_path / "p")]) == 2
            error = capsys.readouterr().err
            assert said in error
            assert error.count("\n") == 1

    def test_a_place_that_is_taken(self, store, labels, tmp_path, capsys):
        (tmp_path / "file").write_text("mine")
        assert main(["probe", "fit", str(store.directory), "--labels", str(labels), "-o", str(tmp_path / "file")]) == 2
        assert "is there and is not a probe" in capsys.readouterr().err
        assert (tmp_path / "file").read_text() == "mine"

    @pytest.mark.parametrize(
        "options", [["--C", "0"], ["--C", "nan"], ["--C", "x"], ["--normalize", "l1"], ["--fold-column", "a"]]
    )
    def test_bad_usage(self, options, capsys):
        with pytest.raises(SystemExit) as exit_:
            main(["probe", "fit", "s", "--labels", "l", "-o", "p", "--group-column", "b", *options])
        assert exit_.value.code == 2
        assert "usage: sedembed probe fit" in capsys.readouterr().err

    @pytest.mark.parametrize("arguments", [["probe"], ["probe", "fly"], ["probe", "fit"], ["probe", "predict", "p"]])
    def test_bad_commands(self, arguments, capsys):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == 2
        assert "usage: sedembed probe" in capsys.readouterr().err


class TestPredict:
    @pytest.fixture
    def expected(self, probe, store) -> np.ndarray:
        return sedembed.LinearProbe.load(probe).predict_proba(store.vectors)

    def test_store(self, probe, store, expected, capsys):
        assert main(["probe", "predict", str(probe), str(store.directory)]) == 1
        printed = capsys.readouterr()
        header, paths, values = read_csv(printed.out)
        assert header == ["path", "noise", "tone"]
        assert paths == sorted(PATHS)
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
        assert "broken.wav: AudioDecodeError: " in printed.err

    def test_folder_and_file(self, probe, folder, expected, untrained_model_dir, tmp_path, capsys):
        model = ["--model", str(untrained_model_dir), "--device", "cpu"]
        assert main(["probe", "predict", str(probe), str(folder), "-o", str(tmp_path / "out.csv"), *model]) == 1
        printed = capsys.readouterr()
        assert "12 predicted, 1 failed; probabilities in" in printed.out
        assert "broken.wav: AudioDecodeError: " in printed.err
        _, paths, values = read_csv((tmp_path / "out.csv").read_text())
        assert paths == sorted(PATHS)
        np.testing.assert_allclose(values, expected, atol=1e-4)
        assert [file.name for file in tmp_path.iterdir()] == ["out.csv"]

        assert main(["probe", "predict", str(probe), str(folder / "tone" / "h.wav"), "--json", *model]) == 0
        row = json.loads(capsys.readouterr().out)
        assert row["path"] == "h.wav"
        assert list(row["probabilities"]) == ["noise", "tone"]
        np.testing.assert_allclose(list(row["probabilities"].values()), expected[paths.index("tone/h.wav")], atol=1e-4)

        assert main(["probe", "predict", str(probe), str(folder / "broken.wav"), *model]) == 1
        printed = capsys.readouterr()
        assert printed.out == "path,predicted,probability,noise,tone\n"
        assert "broken.wav: AudioDecodeError: " in printed.err

    def test_kept_store(self, probe, folder, untrained_model_dir, tmp_path, capsys):
        few = tmp_path / "few"
        few.mkdir()
        for name in ("a", "b"):
            (few / f"{name}.wav").write_bytes((folder / "noise" / f"{name}.wav").read_bytes())
        arguments = ["probe", "predict", str(probe), str(few), "--store", str(tmp_path / "kept")]
        arguments += ["--model", str(untrained_model_dir), "--device", "cpu"]
        assert main(arguments) == 0
        first = capsys.readouterr().out
        assert sedembed.open_store(tmp_path / "kept").paths == ["a.wav", "b.wav"]
        # What has left the folder stays in the store and is not predicted.
        (few / "a.wav").unlink()
        assert main(arguments) == 0
        header, _, b = first.splitlines()
        assert capsys.readouterr().out.splitlines() == [header, b]
        assert sedembed.open_store(tmp_path / "kept").paths == ["a.wav", "b.wav"]

    def test_multilabel_probabilities_are_independent(self, fit, store, tmp_path, capsys):
        rows = [(path, {"noise": "hiss;sound", "tone": "sound"}[path.split("/")[0]]) for path in PATHS]
        rows[0] = (PATHS[0], ";")
        out = fit(write_labels(tmp_path / "l.csv", rows), "--C", "10").out
        assert main(["probe", "predict", str(out), str(store.directory)]) == 1
        _, _, values = read_csv(capsys.readouterr().out)
        expected = 1 / (1 + np.exp(-sedembed.LinearProbe.load(out).decision_function(store.vectors).astype(float)))
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
        assert (values.sum(1) > 1.2).any()

    def test_empty_store(self, probe, store, tmp_path, capsys):
        with StoreWriter(tmp_path / "empty", store.run):
            pass
        assert main(["probe", "predict", str(probe), str(tmp_path / "empty")]) == 0
        assert capsys.readouterr().out == "path,predicted,probability,noise,tone\n"

    def test_names_that_need_quotes(self, store, tmp_path, capsys):
        y = [f'a "{path[0]}", é' for path in store.paths]
        sedembed.LinearProbe(1.0, progress=False).fit(store, y).save(tmp_path / "p")
        main(["probe", "predict", str(tmp_path / "p"), str(store.directory), "-o", str(tmp_path / "o.csv")])
        header, paths, _ = read_csv((tmp_path / "o.csv").read_text(encoding="utf-8"))
        assert header == ["path", 'a "n", é', 'a "t", é']
        assert paths == store.paths


def test_folder_names_and_a_report(store, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="the report has a picture")
    report = ["--report", str(tmp_path / "report"), "--folds", "2", "--json"]
    done = main(["probe", "fit", str(store.directory), "--labels", "folder", "-o", str(tmp_path / "p"), *report])
    result = json.loads(capsys.readouterr().out)["cross_validation"]
    assert done == 0
    y = np.array([path.split("/")[0] for path in store.paths])
    own = sedembed.LinearProbe(progress=False).evaluate(store, y, folds=2)
    assert (result["score"], len(result["folds"])) == (own.score, 2)
    assert (tmp_path / "report" / "confusion.png").stat().st_size > 1000


class TestPredictWindows:
    def test_windows_and_events(self, probe, folder, untrained_model_dir, tmp_path, capsys):
        model = ["--model", str(untrained_model_dir), "--device", "cpu"]
        tone, noise = (
            soundfile.read(next((folder / name).iterdir()), dtype="float32")[0] for name in ("tone", "noise")
        )
        tone, noise = (np.resize(sound, 32_000) for sound in (tone, noise))
        soundfile.write(tmp_path / "long.wav", np.concatenate([tone, noise, tone]), 16_000)
        command = ["probe", "predict", str(probe), str(tmp_path / "long.wav"), *model, "--window", "1"]
        assert main(command) == 0
        rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
        assert [(float(row["start"]), float(row["end"])) for row in rows] == [(k, k + 1) for k in range(6)]
        assert [row["predicted"] for row in rows] == ["tone"] * 2 + ["noise"] * 2 + ["tone"] * 2
        assert main([*command, "--events"]) == 0
        events = list(csv.DictReader(capsys.readouterr().out.splitlines()))
        found = [(float(row["start"]), float(row["end"]), row["label"]) for row in events]
        assert found == [(0, 2, "tone"), (2, 4, "noise"), (4, 6, "tone")]
        assert float(events[0]["probability"]) == max(float(row["probability"]) for row in rows[:2])

    def test_need_windows(self, probe, store, capsys):
        for options in (["--events"], ["--window", "1"], ["--hop", "1"]):
            assert main(["probe", "predict", str(probe), str(store.directory), *options]) == 2
            assert "window" in capsys.readouterr().err


class TestPredictRefuses:
    def refused(self, capsys, *arguments: object) -> str:
        assert main(["probe", "predict", *map(str, arguments)]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.count("\n") == 1
        return printed.err

    def test_another_model(self, probe, folder, store, tmp_path, capsys):
        file = folder / "tone" / "h.wav"
        said = self.refused(capsys, probe, file, "--model", "talnet", "--device", "cpu")
        assert "fitted on vectors of untrained" in said
        assert "talnet version " + sedembed.describe_model("talnet").version in said
        # The same in a store: nothing is written for vectors that the probe does not know.
        run = json.loads(json.dumps(store.run))
        run["settings"]["model_sha256"] = "0" * 64
        run["fingerprint"] = hashlib.sha256(json.dumps(run["settings"], sort_keys=True).encode()).hexdigest()
        with StoreWriter(tmp_path / "other", run):
            pass
        assert "They differ in sha256" in self.refused(capsys, probe, tmp_path / "other", "-o", tmp_path / "o.csv")
        assert not (tmp_path / "o.csv").exists()

    def test_a_local_model_has_to_be_named(self, probe, folder, capsys):
        assert "give its directory by --model" in self.refused(capsys, probe, folder)

    def test_a_probe_of_plain_arrays(self, store, folder, untrained_model_dir, tmp_path, capsys):
        y = [path[0] for path in store.paths]
        sedembed.LinearProbe(1.0, progress=False).fit(store.vectors, y).save(tmp_path / "p")
        sedembed.LinearProbe(1.0, progress=False).fit(store.vectors[:, :7], y).save(tmp_path / "q")
        file = folder / "tone" / "h.wav"
        assert "of an unknown model; name the model by --model" in self.refused(capsys, tmp_path / "p", file)
        model = ["--model", str(untrained_model_dir), "--device", "cpu"]
        assert "takes vectors of 7 numbers" in self.refused(capsys, tmp_path / "q", file, *model)
        assert main(["probe", "predict", str(tmp_path / "p"), str(file), *model]) == 0

    def test_places(self, probe, folder, store, tmp_path, capsys):
        assert "Expected a recording, a folder or a store" in self.refused(capsys, probe, tmp_path / "none")
        assert "Expected a probe at" in self.refused(capsys, tmp_path, folder)
        assert "-o needs the name of a file" in self.refused(capsys, probe, store.directory, "-o", tmp_path)
        assert "-o needs" in self.refused(capsys, probe, store.directory, "-o", tmp_path / "none" / "o.csv")
        assert "is a store" in self.refused(capsys, probe, store.directory, "--store", tmp_path / "s")
        said = self.refused(capsys, probe, folder / "tone" / "h.wav", "--store", tmp_path / "s")
        assert "--store keeps the vectors of a folder" in said
        assert not (tmp_path / "s").exists()

    def test_folder_without_sound(self, probe, untrained_model_dir, tmp_path, capsys):
        said = self.refused(capsys, probe, tmp_path, "--model", untrained_model_dir, "-o", tmp_path / "o.csv")
        assert "Expected sound files" in said
        assert not (tmp_path / "o.csv").exists()

    def test_interrupted(self, probe, folder, untrained_model_dir, tmp_path, monkeypatch, capsys):
        def interrupt(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr("sedembed.batch.embed_folder.embed_folder", interrupt)
        model = ["--model", str(untrained_model_dir)]
        assert main(["probe", "predict", str(probe), str(folder), "-o", str(tmp_path / "o.csv"), *model]) == 130
        assert "--store DIR" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    def test_a_file_is_replaced_whole_or_not(self, probe, store, tmp_path, monkeypatch, capsys):
        (tmp_path / "o.csv").write_text("before")

        def fail(*_):
            yield {"path": "a.wav"}, np.array([0.5, 0.5])
            raise OSError("disk on fire")

        monkeypatch.setattr("sedembed.cli.probe._predict_store", fail)
        assert "disk on fire" in self.refused(capsys, probe, store.directory, "-o", tmp_path / "o.csv")
        assert (tmp_path / "o.csv").read_text() == "before"
        assert [file.name for file in tmp_path.iterdir()] == ["o.csv"]


def test_help_loads_nothing_heavy():
    program = (
        "import sys, sedembed.cli.main\n"
        "try: sedembed.cli.main.main(['probe', 'predict', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'sklearn', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "FILE|FOLDER|STORE" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
