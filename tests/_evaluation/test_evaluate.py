"""sedembed evaluate from outside, on small tasks that are complete: what it fits, scores, refuses and writes."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, label_ranking_average_precision_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from sedembed._evaluation import evaluate as engine
from sedembed._evaluation.evaluate import find_task
from sedembed._evaluation.tasks.base import Clip, Round, Task
from sedembed.cli.main import main
from sedembed.embedder import Embedder
from sedembed.errors import StoreError
from sedembed.loading import load_model
from sedembed.models.labels import load_labels
from sedembed.store.store import open_store
from tests._evaluation.evaluate_helpers import (  # noqa: F401
    CLASSES,
    TASKS,
    Folds,
    Split,
    Tags,
    copied,
    finished,
    fitted,
    opened,
    plain,
    run,
    run_embedded,
    sound,
    write_data,
    written,
)

SHARED = Path(__file__).parents[3] / "shared" / "data"


EVENTS = load_labels()[10:13]


# What docs and scripts rely on, in this order; further fields may follow.
FIELDS = [
    "task", "model", "model_version", "metric", "score", "std", "folds", "other_metrics", "per_class", "split_sizes",
    "missing", "partial", "paper", "versions", "seconds",
]  # fmt: skip


FURTHER = [
    "model_sha256", "precision", "normalize", "repeats", "command", "seed", "clips_sha256", "hardware",
    "paper_other_metrics", "missing_paths", "failures",
    "excluded", "extra", "notes",
]  # fmt: skip


def read_rows(data: Path) -> list[dict[str, str]]:
    with (data / "labels.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "events"
    return write_data(folder, lambda kind, number: EVENTS[CLASSES.index(kind)])


@pytest.fixture(autouse=True)
def _tiny_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_TASKS", TASKS)


class TestResult:
    def test_fields(self, finished: Path, untrained_embedder: Embedder):
        result = written(finished, "folds")
        assert list(result) == FIELDS + FURTHER
        record = untrained_embedder.record
        assert (result["task"], result["model"], result["model_version"]) == ("folds", "untrained", record.version)
        assert (result["metric"], result["missing"], result["partial"]) == ("accuracy", 0, False)
        assert result["split_sizes"] == {"a": 6, "b": 6, "c": 6}
        assert result["paper"] == 0.5
        assert {"python", "sedembed", "torch", "numpy", "scikit-learn"} <= result["versions"].keys()
        assert 0 < result["seconds"] < 600
        assert (result["model_sha256"], result["precision"]) == (record.sha256, "float32")
        assert (result["normalize"], result["repeats"]) == ("standardize+l2", 1)
        assert (result["missing_paths"], result["failures"], result["excluded"]) == ([], {}, {})
        assert (result["extra"], result["notes"]) == (0, [])

    def test_it_says_how_to_repeat_it(self, finished: Path, untrained_embedder: Embedder):
        result = written(finished, "folds")
        assert shlex.split(result["command"]) == [
            "sedembed", "evaluate", "folds", "--data", "plain", "--model", untrained_embedder.record.name,
        ]  # fmt: skip
        assert result["seed"] == 0
        assert {"system", "processor", "cores", "threads", "gpus", "device"} <= result["hardware"].keys()
        assert result["hardware"]["device"] == "cpu"

    def test_digest_of_the_clips(self, finished: Path, plain: Path):
        rows = sorted(read_rows(plain), key=lambda row: row["path"])
        sizes = [(plain / row["path"]).stat().st_size for row in rows]
        listed = [
            f"{row['path']}\t{size}\t{row['part']}\t{row['labels']}\n" for row, size in zip(rows, sizes, strict=True)
        ]
        expected = hashlib.sha256("".join(listed).encode()).hexdigest()
        assert written(finished, "folds")["clips_sha256"] == expected
        clips = find_task("folds").read(plain).clips
        assert engine.digest_clips(plain, clips[::-1]) == expected
        assert engine.digest_clips(plain, clips[1:]) != expected
        assert engine.digest_clips(plain, [dataclasses.replace(clips[0], part="z"), *clips[1:]]) != expected

    def test_options_are_part_of_the_command(self, untrained_embedder: Embedder):
        options = (find_task("folds"), Path("/some/my data"), untrained_embedder, True, 3, "l2")
        assert shlex.split(engine._command(*options))[3:] == [
            "--data", "my data", "--model", untrained_embedder.record.name, "--repeats", "3", "--normalize", "l2",
            "--partial",
        ]  # fmt: skip

    def test_scores_are_those_of_scikit_learn(self, finished: Path, plain: Path):
        result, store = written(finished, "folds"), open_store(finished / "results" / "stores" / "folds-untrained")
        rows = {row["path"]: row for row in read_rows(plain)}
        labels = np.array([rows[path]["labels"] for path in store.paths])
        parts = np.array([rows[path]["part"] for path in store.paths])
        assert [fold["name"] for fold in result["folds"]] == ["a", "b", "c"]
        recalls = {label: [] for label in CLASSES}
        for fold in result["folds"]:
            test = parts == fold["name"]
            model = make_pipeline(StandardScaler(), Normalizer(), LogisticRegression(C=fold["C"], max_iter=1000))
            predicted = model.fit(store.vectors[~test], labels[~test]).predict(store.vectors[test])
            assert fold["score"] == pytest.approx(np.mean(predicted == labels[test]))
            assert (fold["repeat"], fold["train"], fold["validation"], fold["test"]) == (0, 12, None, 6)
            assert set(fold["other_metrics"]) == {"macro_accuracy", "top2"}
            for label in CLASSES:
                recalls[label].append(np.mean(predicted[labels[test] == label] == label))
        scores = [fold["score"] for fold in result["folds"]]
        assert result["score"] == pytest.approx(np.mean(scores))
        assert result["score"] > 0.6
        assert result["std"] == pytest.approx(np.sqrt(np.sum((scores - np.mean(scores)) ** 2) / 2))
        assert result["per_class"] == pytest.approx({label: np.mean(recalls[label]) for label in CLASSES})
        assert result["other_metrics"]["macro_accuracy"] == pytest.approx(result["score"])  # classes of equal size
        assert result["other_metrics"]["top2"] >= result["score"]

    def test_test_clips_are_never_fitted_on(
        self, run_embedded: Callable, plain: Path, tmp_path: Path, fitted: list[dict]
    ):
        assert run_embedded("folds", "--data", plain) == 0
        store = open_store(tmp_path / "results" / "stores" / "folds-untrained")
        for call, part in zip(fitted, "abc", strict=True):
            rows = [row for row, path in enumerate(store.paths) if not path.startswith(f"audio/{part}")]
            np.testing.assert_array_equal(call["X"], store.vectors[rows])
            assert call["folds"].tolist() == [0] * 6 + [1] * 6
            assert (call["C"], call["metric"], call["normalize"]) == ("auto", "accuracy", "standardize+l2")
            assert not {"validation", "groups"} & call.keys()

    def test_printed(self, run_embedded: Callable, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        assert run_embedded("folds", "--data", plain) == 0
        header, row, *rest = capsys.readouterr().out.splitlines()
        assert header.split()[:6] == ["task", "model", "metric", "score", "paper", "clips"]
        result = written(tmp_path, "folds")
        cells = f"folds untrained {result['model_version']} accuracy {100 * result['score']:.2f} ± "
        assert " ".join(row.split()).startswith(f"{cells}{100 * result['std']:.2f} 50.00 18 macro_accuracy ")
        assert rest == [f"everything is in {tmp_path / 'results'}"]
        assert run_embedded("folds", "--data", plain, "--json") == 0
        assert list(json.loads(capsys.readouterr().out)) == FIELDS + FURTHER

    def test_table_beside_it(self, finished: Path):
        table = json.loads((finished / "results" / "table.json").read_text())
        result = written(finished, "folds")
        (model,) = table["models"]
        assert model == f"untrained {result['model_version']}"
        row = table["tasks"][0]
        assert (row["task"], row["title"], row["paper"]) == ("folds", "Tiny Folds", {"talnet": 0.5})
        assert row["results"][model]["score"] == result["score"]
        assert [other["results"] for other in table["tasks"][1:]] == [{}] * (len(TASKS) - 1)
        lines = (finished / "results" / "table.md").read_text().splitlines()
        assert f"| task | metric | paper: talnet | {model} |" in lines
        cell = f"{100 * result['score']:.2f} ± {100 * result['std']:.2f}"
        assert f"| folds | accuracy | 50.00 | {cell} |" in lines
        assert "| tags | lwlrap | 50.00 | – |" in lines

    def test_normalisation_option(self, run_embedded: Callable, plain: Path, tmp_path: Path, fitted: list[dict]):
        assert run_embedded("split", "--data", plain, "--normalize", "l2") == 0
        assert [call["normalize"] for call in fitted] == ["l2"]
        assert written(tmp_path, "split")["normalize"] == "l2"


class TestIncomplete:
    def test_refused_before_anything_is_embedded(
        self, run: Callable, copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        for number in (0, 1, 2, 3, 4, 5):
            (copied / f"audio/a-{number:02}.wav").unlink()
        shutil.copy(copied / "audio/b-06.wav", copied / "audio/stranger.wav")
        assert run("folds", "--data", copied) == 2
        error = capsys.readouterr().err
        assert "6 of 18 recordings are missing (audio/a-00.wav, " in error
        assert "audio/a-04.wav, and 1 more)" in error
        assert "1 sound files are extra (audio/stranger.wav)" in error
        assert "https://example.org/tiny (CC0)" in error
        assert "--partial" in error
        assert error.count("\n") == 1
        assert not (tmp_path / "results").exists()

    def test_partial(self, run: Callable, copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        (copied / "audio/a-00.wav").unlink()
        (copied / "audio/b-07.wav").unlink()
        assert run("folds", "--data", copied, "--partial") == 0
        result = written(tmp_path, "folds")
        assert (result["missing"], result["partial"]) == (2, True)
        assert result["missing_paths"] == ["audio/a-00.wav", "audio/b-07.wav"]
        assert result["split_sizes"] == {"a": 5, "b": 5, "c": 6}
        assert "folds (partial: 2 clips missing)" in capsys.readouterr().out
        assert "(partial: 2 clips missing)" in (tmp_path / "results" / "table.md").read_text()

    def test_metadata_that_are_cut_short(
        self, run: Callable, copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        (copied / "cut").touch()
        assert run("folds", "--data", copied) == 2
        assert "incomplete copy of Tiny Folds: labels.csv names 18 clips. Get the rest" in capsys.readouterr().err
        assert run("folds", "--data", copied, "--partial") == 0
        result = written(tmp_path, "folds")
        assert (result["missing"], result["partial"]) == (0, True)
        assert result["notes"] == ["incomplete: labels.csv names 18 clips"]

    def test_complete_in_spite_of_the_option(self, run_embedded: Callable, plain: Path, tmp_path: Path):
        assert run_embedded("split", "--data", plain, "--partial") == 0
        assert not written(tmp_path, "split")["partial"]

    def test_strangers_are_only_reported(
        self, run: Callable, copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        shutil.copy(copied / "audio/b-06.wav", copied / "audio/stranger.wav")
        assert run("split", "--data", copied) == 0
        assert "note: 1 sound files are not used: audio/stranger.wav" in capsys.readouterr().out
        assert written(tmp_path, "split")["extra"] == 1
        assert len(open_store(tmp_path / "results" / "stores" / "split-untrained")) == 18

    def test_known_to_be_broken(self, run: Callable, copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        with (copied / "labels.csv").open("a") as stream:
            stream.write("audio/bad.wav,buzz,broken,\n")
        (copied / "audio/bad.wav").write_bytes(b"silence")
        assert run("split", "--data", copied) == 0
        assert "left out: audio/bad.wav (known to be broken)" in capsys.readouterr().out
        result = written(tmp_path, "split")
        assert result["excluded"] == {"audio/bad.wav": "known to be broken"}
        assert "broken" not in result["split_sizes"]

    def test_class_without_training_clips(self, run: Callable, copied: Path, tmp_path: Path):
        for part, numbers in {"a": (0, 3), "c": (12, 15)}.items():
            for number in numbers:  # all that is buzz
                (copied / f"audio/{part}-{number:02}.wav").unlink()
        for task in ("split", "validated"):
            assert run(task, "--data", copied, "--partial") == 0
            result = written(tmp_path, task)
            assert result["per_class"]["buzz"] == 0
            assert result["score"] <= 4 / 6
            assert any("no training clips of buzz" in note for note in result["notes"])

    def test_training_clips_of_one_group_or_too_few(self, run: Callable, copied: Path, tmp_path: Path):
        for file in [*copied.glob("audio/a-0[345]*"), *copied.glob("audio/c-*")]:
            file.unlink()
        assert run("split", "--data", copied, "--partial") == 0
        result = written(tmp_path, "split")
        assert result["folds"][0]["C"] == 1.0
        assert any("C is tuned within one group" in note for note in result["notes"])
        assert any("C = 1 is taken: the rows to choose it by are too few" in note for note in result["notes"])

    def test_round_without_enough(self, run: Callable, copied: Path, capsys: pytest.CaptureFixture[str]):
        for file in copied.glob("audio/b-*"):
            file.unlink()
        assert run("split", "--data", copied, "--partial") == 2
        assert "too little to fit and test on (round split is left out: there are no test clips" in (
            capsys.readouterr().err
        )

    def test_nothing_there(self, run: Callable, copied: Path, capsys: pytest.CaptureFixture[str]):
        for file in copied.glob("audio/*"):
            file.unlink()
        assert run("split", "--data", copied, "--partial") == 2
        assert "none of its recordings" in capsys.readouterr().err


class TestUnreadable:
    def test_refused_once_all_others_are_embedded(
        self, run: Callable, copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], opened: list[str]
    ):
        (copied / "audio/a-00.wav").write_bytes(b"no sound at all")
        assert run("folds", "--data", copied) == 2
        error = capsys.readouterr().err
        assert "1 recordings of Tiny Folds cannot be read: audio/a-00.wav (AudioDecodeError: " in error
        assert "https://example.org/tiny" in error
        assert "Traceback" not in error
        assert len(open_store(tmp_path / "results" / "stores" / "folds-untrained")) == 17
        assert not (tmp_path / "results" / "folds-untrained.json").exists()
        soundfile.write(copied / "audio/a-00.wav", sound("buzz", 0), 16_000)
        opened.clear()
        assert run("folds", "--data", copied) == 0
        assert opened == ["a-00.wav"]

    def test_partial(self, run: Callable, copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        (copied / "audio/a-00.wav").write_bytes(b"no sound at all")
        (copied / "audio/c-12.wav").unlink()
        assert run("folds", "--data", copied, "--partial") == 1
        result = written(tmp_path, "folds")
        assert (result["missing"], result["partial"]) == (2, True)
        assert result["missing_paths"] == ["audio/c-12.wav"]
        assert list(result["failures"]) == ["audio/a-00.wav"]
        assert result["failures"]["audio/a-00.wav"].startswith("AudioDecodeError: ")
        assert result["split_sizes"] == {"a": 5, "b": 6, "c": 5}
        assert "sedembed: audio/a-00.wav: AudioDecodeError" in capsys.readouterr().err


class TestAgain:
    def test_embeds_nothing(self, run: Callable, plain: Path, tmp_path: Path, opened: list[str]):
        assert run("split", "--data", plain) == 0
        assert len(opened) == 18
        first = written(tmp_path, "split")
        opened.clear()
        assert run("split", "--data", plain) == 0
        assert opened == []
        second = written(tmp_path, "split")
        assert {**second, "seconds": 0} == {**first, "seconds": 0}

    def test_another_copy_or_precision_is_refused(
        self, run: Callable, plain: Path, copied: Path, tmp_path: Path, untrained_model_dir: Path
    ):
        assert run("split", "--data", plain) == 0
        before = written(tmp_path, "split")
        with pytest.raises(StoreError, match="this run is about"):
            engine.evaluate(Split(), copied, untrained_model_dir, tmp_path / "results")
        other = load_model(untrained_model_dir, device="cpu", precision="bfloat16")
        with pytest.raises(StoreError, match="precision is"):
            engine.evaluate(Split(), plain, other, tmp_path / "results")
        assert written(tmp_path, "split") == before


class TestSeveralLabels:
    @staticmethod
    def labels(kind: str, number: int) -> str:
        return {"buzz": "low;steady", "hiss": "steady", "whistle": ""}[kind] if number != 17 else "low"

    def test_scores(self, run: Callable, tmp_path: Path, fitted: list[dict]):
        data = write_data(tmp_path / "tags", self.labels)
        assert run("tags", "--data", data) == 0
        result = written(tmp_path, "tags")
        truth = {row["path"]: row["labels"].split(";") for row in read_rows(data)}
        store = open_store(tmp_path / "results" / "stores" / "tags-untrained")
        y = np.array([[label in truth[path] for label in ("low", "steady")] for path in store.paths], int)
        (call,) = fitted
        np.testing.assert_array_equal(call["y"], y[:6])
        assert call["y"].shape == (6, 2)
        np.testing.assert_array_equal(call["validation"][1], y[12:])
        assert call["metric"] == "lwlrap"
        scores = np.column_stack(
            [
                make_pipeline(StandardScaler(), Normalizer(), LogisticRegression(C=result["folds"][0]["C"], tol=1e-8))
                .fit(store.vectors[:6], y[:6, column])
                .decision_function(store.vectors[6:12])
                for column in range(2)
            ]
        )
        test = y[6:12]
        expected = label_ranking_average_precision_score(test, scores, sample_weight=test.sum(1))
        assert result["score"] == pytest.approx(expected)
        assert result["other_metrics"]["map"] == pytest.approx(average_precision_score(test, scores, average="macro"))
        assert list(result["per_class"]) == ["low", "steady"]
        area = np.mean([roc_auc_score(test[:, column], scores[:, column]) for column in range(2)])
        assert (result["other_metrics"]["d_prime"] is None) == (area == 1)  # infinity is no number of JSON

    def test_label_without_training_clips(self, run: Callable, tmp_path: Path, fitted: list[dict]):
        data = write_data(tmp_path / "tags", lambda kind, number: kind if number != 6 else "rare")
        assert run("tags", "--data", data) == 0
        assert not fitted[0]["y"][:, 2].any()
        result = written(tmp_path, "tags")
        assert list(result["per_class"]) == ["buzz", "hiss", "rare", "whistle"]
        assert result["per_class"]["rare"] == pytest.approx(1 / 4)  # the last of four
        assert any("no training clips of rare" in note for note in result["notes"])


class TestOwnOutputs:
    def test_scores(self, run: Callable, events: Path, tmp_path: Path, untrained_embedder: Embedder, opened: list[str]):
        assert run("own", "--data", events, "--repeats", 2) == 0
        result = written(tmp_path, "own")
        paths = sorted(events.glob("audio/b-*"))
        columns = [untrained_embedder.labels.index(event) for event in EVENTS]
        scores = untrained_embedder.tag(paths)[:, columns]
        y = np.tile(np.eye(3, dtype=int), (2, 1))
        assert result["score"] == pytest.approx(average_precision_score(y, scores, average="macro"), abs=1e-6)
        assert result["other_metrics"]["mauc"] == pytest.approx(roc_auc_score(y, scores), abs=1e-6)
        assert set(result["other_metrics"]) == {"mauc", "probe_map", "probe_mauc"}
        assert 0.5 < result["other_metrics"]["probe_mauc"] <= 1
        assert result["std"] is None  # of the network, whose outputs do not change
        assert len(result["folds"]) == 2
        assert (result["paper"], result["paper_other_metrics"]) == (0.5, {"mauc": 0.75})
        assert len(result["per_class"]) == 527
        assert {label for label, value in result["per_class"].items() if value is not None} == {*EVENTS}
        opened.clear()
        assert run("own", "--data", events) == 0
        assert opened == []

    def test_without_training_clips(self, run: Callable, events: Path, tmp_path: Path):
        folder = shutil.copytree(events, tmp_path / "data")
        for file in [*folder.glob("audio/a-*"), *folder.glob("audio/c-*")]:
            file.unlink()
        assert run("own", "--data", folder, "--partial") == 0
        result = written(tmp_path, "own")
        assert set(result["other_metrics"]) == {"mauc"}
        assert result["folds"][0]["C"] is None
        assert any("only the network's own outputs" in note for note in result["notes"])

    def test_failures_in_tagging(self, run: Callable, events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """A recording that can be embedded, and then no longer read."""
        from sedembed.batch import tag_files as tags

        folder = shutil.copytree(events, tmp_path / "data")
        whole = tags.tag_files

        def spoil(*arguments: object, **options: object) -> object:
            (folder / "audio/b-06.wav").write_bytes(b"gone")
            return whole(*arguments, **options)

        monkeypatch.setattr(tags, "tag_files", spoil)
        assert run("own", "--data", folder, "--partial") == 1
        result = written(tmp_path, "own")
        assert list(result["failures"]) == ["audio/b-06.wav"]
        assert result["split_sizes"] == {"a": 6, "b": 5, "c": 6}

    def test_network_of_other_events(self, run: Callable, plain: Path, capsys: pytest.CaptureFixture[str]):
        assert run("own", "--data", plain) == 2
        assert "tags 527 events without buzz, hiss, whistle" in capsys.readouterr().err


class TestAll:
    def test_one_failing_task_does_not_stop_the_others(
        self, run: Callable, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        root = tmp_path / "root"
        shutil.copytree(plain, root / "Folds")
        shutil.copytree(plain, root / "split")
        (root / "split" / "labels.csv").unlink()
        shutil.copytree(plain, root / "validated")
        assert run("all", "--data-root", root) == 1
        printed = capsys.readouterr()
        assert "split: DatasetError: " in printed.err
        assert "labels.csv is not there" in printed.err
        assert "tags: not in " in printed.err
        assert "own: not in " in printed.err
        assert "Traceback" not in printed.err
        assert printed.out.startswith("folds untrained ")
        table = json.loads((tmp_path / "results" / "table.json").read_text())
        rows = {row["task"]: len(row["results"]) for row in table["tasks"]}
        assert rows == {"folds": 1, "split": 0, "validated": 1, "tags": 0, "own": 0}
        assert "task       metric    paper: talnet" in printed.out
        assert str(tmp_path / "results" / "table.md") in printed.out

    def test_json_and_earlier_results(
        self, run: Callable, plain: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        (tmp_path / "results").mkdir()
        earlier = {**written(finished, "folds"), "model": "weanet", "model_version": "9", "score": 0.25}
        (tmp_path / "results" / "folds-weanet.json").write_text(json.dumps(earlier))
        (tmp_path / "results" / "notes.json").write_text("[1]")
        (tmp_path / "results" / "half.json").write_text("{")
        shutil.copytree(plain, tmp_path / "root" / "split")
        assert run("all", "--data-root", tmp_path / "root", "--json") == 0
        printed = json.loads(capsys.readouterr().out)
        assert [result["task"] for result in printed["results"]] == ["split"]
        assert (printed["failed"], printed["not_found"]) == ({}, ["folds", "validated", "tags", "own"])
        assert [model.split()[0] for model in printed["table"]["models"]] == ["untrained", "weanet"]
        row = printed["table"]["tasks"][0]
        assert row["results"]["weanet 9"]["score"] == 0.25

    def test_unexpected_errors_stop_nothing_either(
        self,
        run: Callable,
        plain: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ):
        for name in ("folds", "split"):
            shutil.copytree(plain, tmp_path / "root" / name)

        def fail(self: Task, clips: Sequence[Clip]) -> list[Round]:
            raise RuntimeError("out of memory")

        monkeypatch.setattr(Folds, "rounds", fail)
        assert run("all", "--data-root", tmp_path / "root") == 1
        assert "folds: RuntimeError: out of memory" in capsys.readouterr().err
        assert written(tmp_path, "split")["task"] == "split"

    def test_nothing_there(self, run: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        (tmp_path / "root").mkdir()
        assert run("all", "--data-root", tmp_path / "root") == 2
        assert "holds the data of no task" in capsys.readouterr().err
        assert run("all", "--data-root", tmp_path / "none") == 2
        assert run("all") == 2
        error = capsys.readouterr().err
        assert "Expected a folder of data sets" in error
        assert "--data-root is needed" in error

    @pytest.mark.parametrize(
        ("task", "folder"),
        [
            ("esc50", "ESC-50-master"),
            ("esc50", "esc50"),
            ("urbansound8k", "UrbanSound8K"),
            ("fsdkaggle2019-curated", "FSDKaggle2019"),
            ("fsdkaggle2019-noisy", "FSDKaggle2019"),
            ("dcase2019-1a", "TAU-urban-acoustic-scenes-2019-development"),
            ("magnatagatune", "MagnaTagATune"),
            ("kinetics700", "kinetics-700"),
            ("audioset", "AudioSet"),
        ],
    )
    def test_names_of_folders(self, task: str, folder: str, tmp_path: Path):
        class Named(Folds):
            name = task

        assert engine.find_data(Named(), tmp_path)[0] is None
        (tmp_path / folder).mkdir()
        (tmp_path / "zzz").mkdir()
        assert engine.find_data(Named(), tmp_path)[0] == tmp_path / folder


class TestList:
    def test_text(self, run: Callable, capsys: pytest.CaptureFixture[str]):
        assert run("--list") == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[:2] == [
            "folds  Tiny Folds: 3 classes, one label a clip, 18 clips, accuracy",
            "    https://example.org/tiny  (CC0)",
        ]
        assert len(lines) == 2 * len(TASKS)
        assert run("tags", "--list", "-v") == 0
        assert capsys.readouterr().out.splitlines() == [
            "tags  Tiny Tags: 3 classes, several labels a clip, 18 clips, lwlrap",
            "    https://example.org/tiny  (CC0)",
            "        labels.csv",
            "        audio/*.wav",
        ]

    def test_real_tasks(self, run: Callable, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
        monkeypatch.undo()
        assert main(["evaluate", "--list", "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert [(row["name"], row["classes"], row["metric"]) for row in rows] == [
            ("esc50", 50, "accuracy"),
            ("urbansound8k", 10, "accuracy"),
            ("fsdkaggle2019-curated", 80, "lwlrap"),
            ("fsdkaggle2019-noisy", 80, "lwlrap"),
            ("dcase2019-1a", 10, "macro_accuracy"),
            ("magnatagatune", 50, "mauc"),
            ("kinetics700", 700, "accuracy"),
            ("audioset", 527, "map"),
        ]
        assert all(row["paper"].keys() == {"talnet", "weanet"} and row["layout"] for row in rows)
        assert all(engine.find_task(row["name"]).name == row["name"] for row in rows)


@pytest.mark.slow
@pytest.mark.shared
class TestESC50:
    """The whole of it by the shipped weights; some minutes on one core."""

    def test_talnet(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        if not (SHARED / "esc50").is_dir():
            pytest.skip(f"no recordings in {SHARED / 'esc50'}")
        monkeypatch.undo()
        arguments = ["esc50", "--data", SHARED / "esc50", "--model", "talnet", "-o", tmp_path / "results"]
        assert main(["evaluate", *map(str, arguments)]) == 0
        result = json.loads((tmp_path / "results" / "esc50-talnet.json").read_text())
        assert result["split_sizes"] == {f"fold{fold}": 400 for fold in range(1, 6)}
        assert (result["missing"], result["paper"], len(result["per_class"])) == (0, 0.91, 50)
        assert 0.83 < result["score"] < 0.95


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "name a task"),
            (["fold", "--data", "."], "No task is called 'fold'. Did you mean 'folds'? There are: folds, split"),
            (["folds"], "--data is needed: the folder of Tiny Folds, from https://example.org/tiny (CC0)"),
            (["folds", "--data", ".", "--repeats", "0"], "--repeats needs a whole number of at least 1, got 0"),
            (["folds", "--data", "none"], "none is not a usable copy of Tiny Folds: labels.csv is not there"),
        ],
    )
    def test_one_sentence(self, run: Callable, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
        assert run(*arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error

    def test_model_that_is_not_there(self, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        arguments = ["--data", str(plain), "--model", "tallnet", "-o", str(tmp_path / "results")]
        assert main(["evaluate", "folds", *arguments]) == 2
        assert "Did you mean 'talnet'?" in capsys.readouterr().err

    def test_results_that_cannot_be_written(
        self, run: Callable, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        (tmp_path / "results").write_text("a file")
        assert run("folds", "--data", plain) == 2
        assert "got a file there or above it" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("options", "message"),
        [({"repeats": 0}, "repeats must be"), ({"repeats": 1.5}, "repeats must be"), ({"normalize": "l1"}, "one of")],
    )
    def test_from_python(self, plain: Path, tmp_path: Path, options: dict, message: str):
        with pytest.raises(ValueError, match=message):
            engine.evaluate(Folds(), plain, "talnet", tmp_path / "results", **options)
        assert not (tmp_path / "results").exists()

    def test_help_waits_for_nothing_heavy(self):
        program = (
            "import sys; from sedembed.cli.main import main\n"
            "try: main(['evaluate', '--help'])\n"
            "except SystemExit: print([m for m in ('torch', 'numpy', 'sklearn', 'pyarrow') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert "--partial" in done.stdout
        assert done.stdout.splitlines()[-1] == "[]"
