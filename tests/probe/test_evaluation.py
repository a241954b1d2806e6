"""Cross-validation of a probe: against a loop of one's own, with groups, folds and windows; its report."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import StratifiedKFold

from sedembed.errors import InvalidArgumentError, InvalidTypeError, ProbeError
from sedembed.probe.evaluation import Evaluation
from sedembed.probe.label_table import read_labels
from sedembed.probe.probe import LinearProbe
from sedembed.probe.resampling import difference_interval
from sedembed.store.store import EmbeddingStore, open_store
from sedembed.store.writer import StoreWriter
from tests.store.store_helpers import describe

CS = (0.1, 10.0)


def problem(rows: int = 90) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(rows, 6)), np.repeat(["cat", "dog", "rain"], rows // 3)
    X[y == "cat", 0] += 2
    X[y == "dog", 1] += 2
    return X.astype(np.float32), y


def probe(**options: Any) -> LinearProbe:
    return LinearProbe(Cs=CS, cv=3, progress=False, **options)


def windowed(out: Path, recordings: int = 6, windows: int = 8) -> EmbeddingStore:
    """Vectors that tell recordings apart by far more than they tell classes apart."""
    rng = np.random.default_rng(1)
    settings = {"embedding_size": 16, "window": 2.0, "hop": 1.0, "model_sha256": "0", "front_end_version": 1}
    with StoreWriter(out, {**describe(**settings), "model": {"name": "m"}}) as writer:
        for number in range(recordings):
            own = 5 * rng.normal(size=16)
            for k in range(windows):
                vector = (own + rng.normal(size=16)).astype(np.float32)
                writer.add_window(f"{'ab'[number % 2]}/{number}.wav", (k, k + 2.0, k == windows - 1), 16_000, 1, vector)
        writer.commit()
    return open_store(out)


class TestCrossValidation:
    def test_is_an_outer_cross_validation(self):
        X, y = problem()
        found = probe().evaluate(X, y, folds=5)
        expected = np.zeros((len(y), 3))
        for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(X, y):
            expected[test] = probe().fit(X[train], y[train]).predict_proba(X[test])
        np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
        names = np.array(["cat", "dog", "rain"])
        assert found.score == found.accuracy == np.mean(names[expected.argmax(1)] == y)
        assert (found.confusion == confusion_matrix(y, names[expected.argmax(1)])).all()
        assert set(found.C) <= set(CS)
        assert found.interval[0] < found.score < found.interval[1]

    def test_leaves_the_probe_as_it_is(self):
        fitted = probe().fit(*problem())
        before = fitted.coef_.copy()
        fitted.evaluate(*problem(), folds=2)
        assert (fitted.coef_ == before).all()

    def test_groups_stay_together(self):
        X, y = problem()
        groups = np.arange(90) // 5
        found = probe().evaluate(X, y, folds=3, groups=groups)
        assert all(len(np.unique(found.folds[groups == group])) == 1 for group in range(18))

    def test_folds_of_ones_own(self):
        X, y = problem()
        folds = np.arange(90) % 3
        found = probe().evaluate(X, y, folds=folds)
        train = folds != 1
        alone = probe().fit(X[train], y[train], folds=folds[train])
        np.testing.assert_allclose(found.probabilities[~train], alone.predict_proba(X[~train]), atol=1e-6)

    def test_several_labels_a_row(self):
        X, _ = problem()
        found = probe().evaluate(X, np.column_stack([X[:, 0] > 1, X[:, 1] > 1]).astype(int), folds=3)
        assert (found.metric, found.multilabel) == ("map", True)
        assert found.per_class[0]["average_precision"] > 0.9
        with pytest.raises(InvalidArgumentError, match="confusion matrix needs one label"):
            _ = found.confusion

    def test_windows_of_a_recording_stay_together(self, tmp_path: Path):
        # A probe that saw other windows of a recording would be right on nearly all; an honest one knows little.
        store = windowed(tmp_path)
        honest = probe().evaluate(store, "folder", folds=3)
        assert all(len(np.unique(honest.folds[store.rows_of(path)])) == 1 for path in set(store.paths))
        parted = probe().evaluate(np.array(store.vectors), np.array([path[0] for path in store.paths]), folds=3)
        assert parted.score > 0.95
        assert honest.score < parted.score
        assert honest.places is not None

    @pytest.mark.parametrize(("y", "folds"), [(["a"], 5), (["a", "b"] * 45, 1), (["a", "b"] * 45, np.zeros(90))])
    def test_what_cannot_be_split(self, y: list[str], folds: Any):
        with pytest.raises(ValueError, match=r"as many labels|at least 2|at least two"):
            probe().evaluate(problem()[0], y, folds=folds)


class TestComparison:
    def evaluations(self, **second: Any) -> tuple[Evaluation, Evaluation]:
        X, y = problem()
        options = {"folds": 3, "groups": np.arange(90) // 2}
        return probe().evaluate(X, y, **options), probe().evaluate(X[:, :1], y, **{**options, **second})

    def test_is_paired(self):
        full, part = self.evaluations()
        found = full.compare(part)
        assert found.score == full.score - part.score > 0
        assert found.interval == difference_interval(
            "accuracy", full.truth, full.probabilities, part.probabilities, full.units
        )
        assert found.interval[0] < found.score < found.interval[1]
        back = part.compare(full)
        assert back.score == -found.score
        assert back.interval == pytest.approx((-found.interval[1], -found.interval[0]))
        assert full.compare(full) == (0.0, (0.0, 0.0))
        assert str(found).startswith(f"+{found.score:.4f} (paired 95 % interval ")

    @pytest.mark.parametrize(
        ("second", "named"), [({"folds": 4}, "folds"), ({"groups": np.arange(90)}, "folds|groups")]
    )
    def test_needs_the_same_rows(self, second: dict[str, Any], named: str):
        full, part = self.evaluations(**second)
        with pytest.raises(InvalidArgumentError, match=f"with other ({named})"):
            full.compare(part)

    def test_needs_the_same_labels_and_metric(self):
        X, y = problem()
        found = probe().evaluate(X, y, folds=3)
        with pytest.raises(InvalidArgumentError, match="other labels"):
            found.compare(probe().evaluate(X, np.where(y == "cat", "cow", y), folds=3))
        with pytest.raises(InvalidArgumentError, match="other metrics"):
            found.compare(probe(metric="mauc").evaluate(X, y, folds=3))
        with pytest.raises(InvalidTypeError, match="Expected an Evaluation"):
            found.compare(0.5)  # type: ignore[arg-type]


class TestReport:
    @pytest.fixture
    def found(self) -> Evaluation:
        return probe().evaluate(*problem(), folds=3)

    def test_files(self, found: Evaluation, tmp_path: Path):
        pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
        found.save(tmp_path / "report")
        files = sorted(file.name for file in (tmp_path / "report").iterdir())
        assert files == ["confused.csv", "confusion.csv", "confusion.png", "evaluation.json", "per_class.csv"]
        rows = list(csv.reader((tmp_path / "report" / "confusion.csv").read_text().splitlines()))
        assert rows[0] == ["label", "cat", "dog", "rain"]
        assert [[int(n) for n in row[1:]] for row in rows[1:]] == found.confusion.tolist()
        assert json.loads((tmp_path / "report" / "evaluation.json").read_text())["score"] == found.score

    def test_the_most_confused_come_first(self, found: Evaluation):
        wrong = found.confused(100)
        assert len(wrong) == np.sum(found.predicted != found.truth)
        values = [row["probability_of_label"] for row in wrong]
        assert values == sorted(values)
        assert all(row["label"] != row["predicted"] for row in wrong)

    def test_in_words(self, found: Evaluation):
        assert str(found).startswith(f"cross-validated accuracy {found.score:.4f} (95 % interval ")
        assert "<table>" in found._repr_html_()


class TestPartsOfRecordings:
    def labels(self, tmp_path: Path, text: str) -> Path:
        (tmp_path / "labels.csv").write_text(f"path,start,end,label\n{text}")
        return tmp_path / "labels.csv"

    def test_a_window_has_the_label_that_it_shares_half_of(self, tmp_path: Path):
        store = windowed(tmp_path / "out")
        file = self.labels(tmp_path, "a/0.wav,0,3,x\na/0.wav,5.0,5.4,y\nb/1.wav,7,9,z\n")
        aligned = read_labels(file).align(store.paths, (store.index["start"].to_numpy(), store.index["end"].to_numpy()))
        first = store.rows_of("a/0.wav").start
        found = {int(row) - first: names for row, names in zip(aligned.rows, aligned.labels, strict=True)}
        # Windows of 2 s at 0, 1, ... 7: x shares at least a second with 0, 1, 2; y lies within 4 and 5.
        other = store.rows_of("b/1.wav").start - first
        expected = {0: ("x",), 1: ("x",), 2: ("x",), 4: ("y",), 5: ("y",)}
        assert found == expected | {other + 6: ("z",), other + 7: ("z",)}

    def test_any_number_of_labels(self, tmp_path: Path):
        store = windowed(tmp_path / "out")
        file = self.labels(tmp_path, "a/0.wav,0,2,x;\na/0.wav,0,2.5,y;\n")
        places = store.index["start"].to_numpy(), store.index["end"].to_numpy()
        aligned = read_labels(file).align(store.paths, places)
        assert aligned.labels == [("x", "y"), ("x", "y"), *[()] * 6]

    @pytest.mark.parametrize("part", ["2,1", "-1,2", "a,2", "nan,2", "0,inf"])
    def test_wrong_seconds(self, tmp_path: Path, part: str):
        with pytest.raises(ProbeError, match="line 2: expected start and end in seconds"):
            read_labels(self.labels(tmp_path, f"a/0.wav,{part},x\n"))

    def test_need_windows(self, tmp_path: Path):
        with pytest.raises(ProbeError, match="one vector for each recording"):
            read_labels(self.labels(tmp_path, "a.wav,0,1,x\n")).align(["a.wav"])
