"""LinearProbe against scikit-learn, by the checks of scikit-learn, and in a user's hands."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import sedembed
from sedembed import LinearProbe
from sedembed.errors import ProbeError, SedembedError
from sedembed.probe.features import Rows
from sedembed.probe.fitting import Labels, Settings, _problem


@parametrize_with_checks([LinearProbe(progress=False)])
def test_scikit_learn_checks(estimator, check):
    with warnings.catch_warnings():
        # The checks fit rows of noise, of one row a class, and of labels in a column.
        warnings.simplefilter("ignore")
        check(estimator)


def blobs(n: int, size: int, classes: int, seed: int = 0, spread: float = 1.0):
    """Rows of overlapping classes in dimensions of very different scales, and their classes."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, size))
    y = rng.integers(0, classes, n)
    y[:classes] = np.arange(classes)
    x = centres[y] * spread + 2.0 * rng.normal(size=(n, size))
    scales = 10.0 ** np.linspace(-2, 2, size)
    return (x * scales + 3.0 * scales).astype(np.float32), y


def multilabel(n: int, size: int, classes: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    w = np.random.default_rng(7).normal(size=(size, classes))
    x = rng.normal(size=(n, size)).astype(np.float32)
    return x, (x @ w + rng.normal(size=(n, classes)) > 1.0).astype(int)


def objective(probe: LinearProbe, x, y, weights=None) -> float:
    """What a probe minimises, in float64 and term by term."""
    x = x.astype(np.float64)
    if probe.normalize == "standardize+l2":
        x = (x - probe.mean_) / probe.scale_
    if probe.normalize != "none":
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return linear_objective(probe.coef_, probe.intercept_, x, y, probe.C_, weights)


def linear_objective(coef, intercept, x, y, c, weights=None) -> float:
    scores = x @ coef.astype(np.float64).T + intercept
    weights = np.ones(len(x)) if weights is None else weights
    if y.ndim == 2:
        losses = (np.logaddexp(0, scores) - y * scores).sum(1)
    else:
        losses = np.logaddexp.reduce(scores, axis=1) - scores[np.arange(len(y)), y]
    return float(c * (weights * losses).sum() + 0.5 * (coef.astype(np.float64) ** 2).sum())


class TestOptimum:
    @pytest.mark.parametrize("shape", [(300, 40, 5), (60, 120, 7)], ids=["tall", "wide"])
    @pytest.mark.parametrize("c", [0.05, 3.0, 300.0])
    def test_softmax_is_that_of_scikit_learn(self, shape, c):
        x, y = blobs(*shape)
        probe = LinearProbe(C=c, progress=False).fit(x, y)
        z = Normalizer().fit_transform(StandardScaler().fit_transform(x.astype(np.float64)))
        reference = LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(z, y)
        best = linear_objective(reference.coef_, reference.intercept_, z, y, c)
        assert objective(probe, x, y) == pytest.approx(best, rel=1e-4)
        new = blobs(5000, *shape[1:], seed=1)[0]
        z = Normalizer().transform(StandardScaler().fit(x.astype(np.float64)).transform(new))
        assert (probe.predict(new) == reference.predict(z)).mean() >= 0.999
        np.testing.assert_allclose(probe.predict_proba(new), reference.predict_proba(z), atol=5e-3)

    @pytest.mark.parametrize("shape", [(300, 40, 5), (60, 120, 7)], ids=["tall", "wide"])
    @pytest.mark.parametrize("c", [0.05, 3.0, 100.0])
    def test_independent_sigmoids_are_those_of_scikit_learn(self, shape, c):
        x, y = multilabel(*shape)
        probe = LinearProbe(C=c, normalize="l2", progress=False).fit(x, y)
        z = Normalizer().fit_transform(x.astype(np.float64))
        reference = OneVsRestClassifier(LogisticRegression(C=c, tol=1e-10, max_iter=10_000)).fit(z, y)
        coef = np.concatenate([one.coef_ for one in reference.estimators_])
        intercept = np.concatenate([one.intercept_ for one in reference.estimators_])
        assert objective(probe, x, y) == pytest.approx(linear_objective(coef, intercept, z, y, c), rel=1e-4)
        assert (probe.predict(x) == reference.predict(z)).mean() >= 0.999

    def test_float64_goes_to_the_last_digits(self):
        x, y = blobs(120, 10, 3)
        x = x.astype(np.float64)
        probe = LinearProbe(C=10.0, progress=False).fit(x, y)
        z = Normalizer().fit_transform(StandardScaler().fit_transform(x))
        reference = LogisticRegression(C=10.0, tol=1e-11, max_iter=10_000, solver="newton-cg").fit(z, y)
        np.testing.assert_allclose(probe.predict_proba(x), reference.predict_proba(z), atol=1e-7)

    def test_gradient_vanishes_with_all_kinds_of_weights(self):
        x, y = multilabel(150, 12, 4)
        rng = np.random.default_rng(1)
        weights = rng.uniform(0, 3, len(x))
        factor = {0: 2.0, 3: 0.5}
        probe = LinearProbe(C=2.0, normalize="none", class_weight=factor, progress=False)
        probe.fit(x.astype(np.float64), y, weights)
        p = probe.predict_proba(x.astype(np.float64))
        positive = np.array([2.0, 1.0, 1.0, 0.5])
        residual = (p - y) * weights[:, None] * np.where(y, positive, 1.0)
        np.testing.assert_allclose(2.0 * residual.T @ x + probe.coef_, 0, atol=1e-6)
        np.testing.assert_allclose(residual.sum(0), 0, atol=1e-6)

    @pytest.mark.parametrize("several", [False, True])
    def test_balanced_classes(self, several):
        x, y = multilabel(200, 10, 3) if several else blobs(200, 10, 3)
        probe = LinearProbe(C=1.0, class_weight="balanced", progress=False).fit(x, y)
        if several:
            factors = [[len(y) / (2 * (y[:, k] == v).sum()) for v in (0, 1)] for k in range(3)]
            # Rows weigh differently for each class, so the statistics must not: compare without standardisation.
            probe = LinearProbe(C=1.0, normalize="none", class_weight="balanced", progress=False).fit(x, y)
            by_hand = [
                LinearProbe(C=1.0, normalize="none", progress=False).fit(
                    x, np.stack([y[:, k], y[:, k]], 1), sample_weight=np.array(factors[k])[y[:, k]]
                )
                for k in range(3)
            ]
            for k, one in enumerate(by_hand):
                np.testing.assert_allclose(probe.coef_[k], one.coef_[0], atol=2e-3)
        else:
            z = Normalizer().fit_transform(StandardScaler().fit_transform(x.astype(np.float64)))
            reference = LogisticRegression(C=1.0, class_weight="balanced", tol=1e-10, max_iter=5000).fit(z, y)
            np.testing.assert_allclose(probe.predict_proba(x), reference.predict_proba(z), atol=2e-3)

    @pytest.mark.parametrize("several", [False, True])
    def test_problems_solved_together_are_those_solved_alone(self, several):
        """Parts of unequal size in one batch, as on a GPU, one of them without any row of a class."""
        x, y = multilabel(200, 10, 3) if several else blobs(200, 10, 4)
        rows, labels = Rows(x), Labels(y.astype(bool) if several else y, 3 if several else 4, np.ones(200))
        has = y[:, 0] == 1 if several else y == 0
        parts = [np.arange(150), np.arange(60, 200), np.flatnonzero(~has)]
        settings = Settings("standardize+l2", several, 1e-9, 300, 1 << 30, torch.device("cpu"), False)
        basis = _problem(rows, labels, settings).basis
        together = _problem(rows, labels, settings, parts, basis)
        solution = together.solve(3.0, torch.zeros(together.dense.shape), None)
        for i, part in enumerate(parts):
            alone = _problem(rows, labels, settings, [part])
            expected = alone.finish(alone.solve(3.0, torch.zeros(alone.dense.shape), None))
            found = together.finish(solution, index=i)
            np.testing.assert_allclose(found.weights, expected.weights, atol=2e-3)
            np.testing.assert_allclose(found.intercept, expected.intercept, atol=2e-3)

    def test_two_classes_have_a_row_each(self):
        x, y = blobs(80, 6, 2)
        probe = LinearProbe(C=1.0, progress=False).fit(x, y)
        assert probe.coef_.shape == (2, 6)
        assert probe.decision_function(x).shape == (80,)
        np.testing.assert_allclose(probe.coef_.sum(0), 0, atol=1e-4)

    def test_constant_dimensions_are_harmless(self):
        x, y = blobs(100, 6, 3)
        wide = np.concatenate([x, np.full((100, 1), 0.1, np.float32), np.zeros((100, 1), np.float32)], 1)
        with_them = LinearProbe(C=1.0, progress=False).fit(wide, y)
        without = LinearProbe(C=1.0, progress=False).fit(x, y)
        np.testing.assert_allclose(with_them.predict_proba(wide), without.predict_proba(x), atol=1e-4)
        assert with_them.scale_[-1] == with_them.scale_[-2] == 1.0

    def test_a_class_without_positives(self):
        x, y = multilabel(100, 8, 3)
        y[:, 1] = 0
        probe = LinearProbe(C=1.0, progress=False).fit(x, y)
        assert not probe.coef_[1].any()
        np.testing.assert_allclose(probe.predict_proba(x)[:, 1], 1 / 202, rtol=0.01)

    def test_unfinished_fit_warns(self):
        x, y = blobs(200, 30, 5)
        with pytest.warns(UserWarning, match="max_iter"):
            LinearProbe(C=1000.0, max_iter=1, progress=False).fit(x, y)


class TestChoiceOfC:
    def test_equals_grid_search(self):
        x, y = blobs(200, 20, 4, spread=0.6)
        folds = np.arange(200) % 4
        cs = (0.1, 1.0, 10.0, 100.0)
        probe = LinearProbe(Cs=cs, progress=False).fit(x, y, folds=folds)
        pairs = [(np.flatnonzero(folds != k), np.flatnonzero(folds == k)) for k in range(4)]
        model = make_pipeline(StandardScaler(), Normalizer(), LogisticRegression(tol=1e-8, max_iter=5000))
        grid = GridSearchCV(model, {"logisticregression__C": cs}, cv=pairs).fit(x.astype(np.float64), y)
        np.testing.assert_allclose(list(probe.scores_.values()), grid.cv_results_["mean_test_score"], atol=0.006)
        assert grid.best_params_["logisticregression__C"] == probe.C_
        assert (probe.predict(x) == grid.predict(x)).mean() >= 0.995

    def test_splits_given_as_for_scikit_learn(self):
        x, y = blobs(120, 10, 3)
        folds = np.arange(120) % 3
        pairs = [(np.flatnonzero(folds != k), np.flatnonzero(folds == k)) for k in range(3)]
        assert LinearProbe(cv=pairs, progress=False).fit(x, y).scores_ == pytest.approx(
            LinearProbe(progress=False).fit(x, y, folds=folds).scores_
        )

    def test_validation_data_choose_and_are_not_fitted(self):
        x, y = blobs(150, 10, 3)
        held, labels = blobs(100, 10, 3, seed=5)
        probe = LinearProbe(progress=False).fit(x, y, validation=(held, labels))
        assert objective(probe, x, y) == pytest.approx(
            objective(LinearProbe(C=probe.C_, progress=False).fit(x, y), x, y), rel=1e-4
        )
        best = max(probe.scores_.values())
        assert probe.score(held, labels) == pytest.approx(best, abs=0.011)
        assert min(c for c, score in probe.scores_.items() if score == best) == probe.C_

    @pytest.mark.parametrize("several", [False, True])
    def test_groups_stay_together(self, several):
        # Each group is one sound heard ten times: only rows of other groups say whether a C generalises.
        rng = np.random.default_rng(0)
        groups = np.repeat(np.arange(30), 10)
        sounds = rng.normal(size=(30, 12))
        x = (sounds[groups] + 0.01 * rng.normal(size=(300, 12))).astype(np.float32)
        y = rng.integers(0, 2, 30)[groups]
        if several:
            y = np.stack([y, 1 - y], 1)
        metric = "mauc"
        together = LinearProbe(metric=metric, progress=False).fit(x, y, groups=groups)
        apart = LinearProbe(metric=metric, progress=False).fit(x, y)
        assert max(apart.scores_.values()) > 0.9
        assert max(together.scores_.values()) < 0.8

    @pytest.mark.parametrize("metric", ["accuracy", "macro_accuracy", "top2", "map", "mauc", "d_prime", "lwlrap"])
    def test_metrics(self, metric):
        x, y = blobs(150, 10, 3)
        probe = LinearProbe(metric=metric, Cs=(0.1, 10.0), progress=False).fit(x, y)
        assert set(probe.scores_) == {0.1, 10.0}
        assert all(score > 0.3 for score in probe.scores_.values())

    def test_weightless_rows_do_not_vote(self):
        x, y = blobs(150, 10, 3)
        weights = np.ones(150)
        weights[100:] = 0
        wrong = y.copy()
        wrong[100:] = (wrong[100:] + 1) % 3
        folds = np.arange(150) % 5
        a = LinearProbe(progress=False).fit(x, wrong, weights, folds=folds)
        b = LinearProbe(progress=False).fit(x[:100], y[:100], folds=folds[:100])
        assert a.scores_ == pytest.approx(b.scores_)
        np.testing.assert_allclose(a.predict_proba(x), b.predict_proba(x), atol=1e-3)

    @pytest.mark.parametrize("several", [False, True])
    def test_a_class_that_most_parts_lack(self, several):
        x, y = multilabel(100, 8, 3) if several else blobs(100, 8, 3)
        if several:
            y[:, 0] = np.arange(100) < 4
        else:
            y = np.where(np.arange(100) < 4, 0, 1 + np.arange(100) % 2)
        folds = np.arange(100) // 4  # the rows of that class are one of 25 folds
        probe = LinearProbe(progress=False).fit(x, y, folds=folds)
        alone = LinearProbe(C=probe.C_, progress=False).fit(x, y)
        np.testing.assert_allclose(probe.predict_proba(x), alone.predict_proba(x), atol=5e-3)

    def test_same_rows_same_probe(self):
        x, y = blobs(150, 10, 3)
        a, b = (LinearProbe(progress=False).fit(x, y) for _ in range(2))
        assert np.array_equal(a.coef_, b.coef_)
        assert a.scores_ == b.scores_


class TestScikitLearn:
    def test_clone_pipeline_grid_and_cross_validation(self):
        x, y = blobs(120, 8, 3)
        names = np.array(["bark", "meow", "rain"])[y]
        probe = clone(LinearProbe(C=3.0, normalize="l2", progress=False)).set_params(C=2.0)
        assert probe.get_params()["C"] == 2.0
        pipeline = make_pipeline(StandardScaler(), probe).fit(x, names)
        assert set(pipeline.predict(x)) == {"bark", "meow", "rain"}
        grid = GridSearchCV(LinearProbe(progress=False), {"C": [0.1, 10.0], "normalize": ["l2", "none"]}, cv=2)
        assert grid.fit(x, names).best_score_ > 0.4
        assert cross_val_score(LinearProbe(C=1.0, progress=False), x, names, cv=3).mean() > 0.5

    def test_several_labels_in_cross_validation(self):
        x, y = multilabel(120, 8, 3)
        assert cross_val_score(LinearProbe(C=1.0, progress=False), x, y, cv=3, scoring="f1_macro").mean() > 0.5


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    x, y = blobs(6000, 24, 6, spread=0.5)
    x = (x / np.abs(x).max(0)).astype(np.float16)
    order = np.argsort(y, kind="stable")  # as in a folder for each class: blocks are not alike
    file = tmp_path_factory.mktemp("large") / "x.npy"
    np.save(file, x[order])
    return np.load(file, mmap_mode="r"), y[order]


class TestStreamed:
    # float32 rows take 576 kB in all
    @pytest.mark.parametrize("memory", [100_000, 1])
    def test_same_optimum_as_in_memory(self, on_disk, memory):
        x, y = on_disk
        inside = LinearProbe(C=10.0, progress=False).fit(np.array(x), y)
        streamed = LinearProbe(C=10.0, max_memory=memory, progress=False).fit(x, y)
        rows = np.array(x, np.float32)
        assert objective(streamed, rows, y) == pytest.approx(objective(inside, rows, y), rel=1e-4)
        assert (streamed.predict(x) == inside.predict(rows)).mean() >= 0.999
        np.testing.assert_allclose(streamed.mean_, rows.mean(0, dtype=np.float64), rtol=1e-6, atol=1e-9)

    def test_several_labels(self, tmp_path):
        x, y = multilabel(3000, 16, 4)
        np.save(tmp_path / "x.npy", x)
        y[:, 2] = 0
        y[17, 2] = 1  # a class of one row, which a sample could miss
        inside = LinearProbe(C=1.0, progress=False).fit(x, y)
        streamed = LinearProbe(C=1.0, max_memory=50_000, progress=False)
        streamed.fit(np.load(tmp_path / "x.npy", mmap_mode="r"), y)
        assert objective(streamed, x, y) == pytest.approx(objective(inside, x, y), rel=1e-4)

    def test_choice_of_c(self, on_disk):
        x, y = on_disk
        probe = LinearProbe(max_memory=100_000, progress=False).fit(x, y)
        assert 2 <= len(probe.scores_) <= 11
        assert probe.scores_[probe.C_] == max(probe.scores_.values())
        held, labels = np.array(x[::7], np.float32), y[::7]
        given = LinearProbe(max_memory=100_000, progress=False).fit(x, y, validation=(held, labels))
        assert given.score(held, labels) == pytest.approx(max(given.scores_.values()), abs=0.01)

    def test_nan_is_found_and_named(self, on_disk, tmp_path):
        x, y = on_disk
        x = np.array(x)
        x[4321, 3] = np.nan
        np.save(tmp_path / "x.npy", x)
        with pytest.raises(ValueError, match="row 4321"):
            LinearProbe(progress=False).fit(np.load(tmp_path / "x.npy", mmap_mode="r"), y)


@pytest.fixture(scope="module")
def store(untrained_embedder, write_sounds, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    write_sounds(folder, {f"{k}/{i}.wav": 0.3 for k in "abc" for i in range(6)})
    return sedembed.embed_folder(folder, folder / "store", untrained_embedder, progress=False)


class TestStore:
    def test_labels_by_path(self, store, tmp_path, untrained_embedder):
        labelled = store.paths[1:]
        (tmp_path / "labels.csv").write_text("path,label\n" + "".join(f"{p},{p[0]}\n" for p in reversed(labelled)))
        probe = LinearProbe(C=10.0, progress=False).fit(store, tmp_path / "labels.csv")
        by_hand = LinearProbe(C=10.0, progress=False).fit(store.vectors[1:], np.array([p[0] for p in labelled]))
        np.testing.assert_allclose(probe.predict_proba(store), by_hand.predict_proba(store.vectors), atol=1e-5)
        assert probe.model_["name"] == untrained_embedder.record.name
        assert by_hand.model_ is None

    def test_several_labels_by_path(self, store, tmp_path):
        lines = [f"{p},{p[0]};x" if i % 2 else f"{p},{p[0]}" for i, p in enumerate(store.paths)]
        (tmp_path / "labels.csv").write_text("path,label\n" + "\n".join(lines))
        probe = LinearProbe(C=10.0, progress=False).fit(store, tmp_path / "labels.csv")
        assert probe.multilabel_
        assert probe.classes_.tolist() == ["a", "b", "c", "x"]
        assert probe.predict(store).shape == (18, 4)

    def test_streamed_from_the_shards(self, store):
        y = np.array([p[0] for p in store.paths])
        inside = LinearProbe(C=1.0, progress=False).fit(store, y)
        streamed = LinearProbe(C=1.0, max_memory=1, progress=False).fit(store, y)
        np.testing.assert_allclose(streamed.predict_proba(store), inside.predict_proba(store.vectors), atol=1e-3)
        validated = LinearProbe(max_memory=1, progress=False).fit(store, y, validation=(store, y))
        assert max(validated.scores_.values()) > 0.5

    def test_labels_without_a_vector_are_told(self, store, tmp_path):
        lines = "".join(f"{p},{p[0]}\n" for p in store.paths)
        (tmp_path / "labels.csv").write_text(f"path,label\n{lines}gone.wav,a\n")
        with pytest.warns(UserWarning, match="gone.wav"):
            LinearProbe(C=1.0, progress=False).fit(store, tmp_path / "labels.csv")

    def test_vectors_of_another_model_are_refused(self, store, tmp_path, untrained_embedder):
        y = np.array([p[0] for p in store.paths])
        probe = LinearProbe(C=1.0, progress=False).fit(store, y)
        probe.check_model(untrained_embedder)
        other = sedembed.open_store(store.directory)
        other.run["settings"]["model_sha256"] = "0" * 64
        with pytest.raises(ProbeError, match=r"sha256.*fit a new probe"):
            probe.predict(other)
        with pytest.raises(ProbeError, match="00000000"):
            LinearProbe(progress=False).fit(store, y, validation=(other, y))
        with pytest.raises(ProbeError):
            probe.check_model(sedembed.load_model("talnet"))

    def test_arrays_can_carry_their_model(self, store, untrained_embedder):
        y = np.array([p[0] for p in store.paths])
        probe = LinearProbe(C=1.0, progress=False).fit(store.vectors, y, model=untrained_embedder)
        assert probe.model_ == LinearProbe(C=1.0, progress=False).fit(store, y).model_


class TestFiles:
    @pytest.mark.parametrize(
        "names", [np.array([3, 5, 9]), np.array(["a", "é;x", "ü"]), np.array(["a", "b", "c"], object)]
    )
    def test_round_trip(self, tmp_path, names):
        x, y = blobs(60, 5, 3)
        probe = LinearProbe(class_weight={names[0]: 2.0}, Cs=[1.0, 2.0], progress=False).fit(x, names[y])
        again = LinearProbe.load(probe.save(tmp_path / "probe"))
        assert np.array_equal(again.predict_proba(x), probe.predict_proba(x))
        assert again.predict(x).tolist() == probe.predict(x).tolist()
        assert again.scores_ == probe.scores_
        assert again.C_ == probe.C_
        assert again.get_params()["Cs"] == [1.0, 2.0]
        assert clone(again).get_params()["class_weight"] == {names[0]: 2.0}
        assert sorted(p.name for p in (tmp_path / "probe").iterdir()) == ["probe.json", "probe.safetensors"]

    def test_several_labels_and_replacement(self, tmp_path):
        x, y = multilabel(60, 5, 3)
        LinearProbe(C=1.0, progress=False).fit(*blobs(60, 5, 4)).save(tmp_path / "probe")
        probe = LinearProbe(C=1.0, progress=False).fit(x, y)
        probe.save(tmp_path / "probe")
        assert np.array_equal(LinearProbe.load(tmp_path / "probe").predict(x), probe.predict(x))
        assert [p.name for p in tmp_path.iterdir()] == ["probe"]

    def test_a_probe_is_replaced_only_by_a_whole_one(self, tmp_path, monkeypatch):
        x, y = blobs(60, 5, 3)
        probe = LinearProbe(C=1.0, progress=False).fit(x, y)
        probe.save(tmp_path / "probe")
        before = (tmp_path / "probe" / "probe.json").read_bytes()

        def full(self, *_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_text", full)
        with pytest.raises(ProbeError, match="No space left"):
            probe.save(tmp_path / "probe")
        assert (tmp_path / "probe" / "probe.json").read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["probe"]

    def test_damage_is_named(self, tmp_path):
        x, y = blobs(60, 5, 3)
        probe = LinearProbe(C=1.0, progress=False).fit(x, y)
        with pytest.raises(ProbeError, match=r"no probe\.json"):
            LinearProbe.load(tmp_path)
        path = probe.save(tmp_path / "probe")
        data = (path / "probe.safetensors").read_bytes()
        (path / "probe.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(ProbeError, match="does not belong"):
            LinearProbe.load(path)
        (path / "probe.safetensors").write_bytes(data)
        description = json.loads((path / "probe.json").read_text())
        for change, message in (
            ({"format_version": 2}, "format 2"),
            ({"classes": [1]}, "1 classes"),
            ({"parameters": {}}, "damaged"),
            ({"C": None}, "damaged"),
        ):
            (path / "probe.json").write_text(json.dumps({**description, **change}))
            with pytest.raises(ProbeError, match=message):
                LinearProbe.load(path)
        (path / "probe.json").write_text("{")
        with pytest.raises(SedembedError, match="damaged"):
            LinearProbe.load(path)

    def test_other_things_are_not_overwritten(self, tmp_path):
        x, y = blobs(60, 5, 3)
        probe = LinearProbe(C=1.0, progress=False).fit(x, y)
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(ProbeError, match="is not a probe"):
            probe.save(tmp_path)
        with pytest.raises(ProbeError, match="is not a probe"):
            probe.save(tmp_path / "notes.txt")

    def test_classes_that_json_cannot_hold(self, tmp_path):
        x, y = blobs(60, 5, 2)
        probe = LinearProbe(C=1.0, progress=False).fit(x, np.array(["2020-01-01", "2020-01-02"], "datetime64[D]")[y])
        with pytest.raises(ProbeError, match="numbers or strings"):
            probe.save(tmp_path / "probe")


class TestTorch:
    @pytest.mark.parametrize("normalize", ["standardize+l2", "l2", "none"])
    def test_head_gives_the_same_scores_and_learns(self, normalize):
        x, y = blobs(80, 6, 3)
        x /= np.abs(x).max(0)
        probe = LinearProbe(C=3.0, normalize=normalize, progress=False).fit(x, y)
        head = probe.to_torch()
        inputs = torch.from_numpy(x).requires_grad_()
        scores = head(inputs)
        np.testing.assert_allclose(scores.detach(), probe.decision_function(x), atol=1e-4)
        torch.nn.functional.cross_entropy(scores, torch.from_numpy(y)).backward()
        assert inputs.grad.abs().sum() > 0
        assert {name for name, _ in head.named_parameters()} == {"linear.weight", "linear.bias"}


class TestRefusals:
    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"C": 0}, "positive number"),
            ({"C": "best"}, "positive number"),
            ({"Cs": []}, "positive"),
            ({"Cs": [1.0, 0.1]}, "ascend"),
            ({"normalize": "standardise"}, r"standardize\+l2, l2, none"),
            ({"metric": "f1"}, "lwlrap"),
            ({"tol": 0.0}, "tol"),
            ({"cv": 1}, "at least 2 parts"),
            ({"class_weight": "even"}, "balanced"),
        ],
    )
    def test_parameters(self, parameters, message):
        x, y = blobs(30, 4, 3)
        with pytest.raises(ValueError, match=message):
            LinearProbe(progress=False, **parameters).fit(x, y)

    def test_labels(self, store):
        x, y = blobs(30, 4, 3)
        probe = LinearProbe(progress=False)
        with pytest.raises(ValueError, match="one class"):
            probe.fit(x, np.zeros(30))
        with pytest.raises(ValueError, match="indicator"):
            probe.fit(x, np.stack([y, y], 1))
        with pytest.raises(ValueError, match="same for every row"):
            probe.fit(x, np.zeros((30, 3), int))
        with pytest.raises(ValueError, match="needs one class a row"):
            LinearProbe(metric="accuracy", progress=False).fit(x, np.eye(3, dtype=int)[y])
        with pytest.raises(ValueError, match="CSV need a store"):
            probe.fit(x, "labels.csv")
        with pytest.raises(ValueError, match=r"store\.paths"):
            probe.fit(store, y[:5])
        with pytest.raises(ValueError, match="give one of"):
            probe.fit(x, y, groups=y, folds=y)
        with pytest.raises(ValueError, match="one value a row"):
            probe.fit(x, y, folds=y[:4])
        with pytest.raises(ValueError, match="at least 2 values"):
            probe.fit(x, y, folds=np.zeros(30))
        with pytest.raises(ValueError, match=r"pair"):
            probe.fit(x, y, validation=x)
        with pytest.raises(ValueError, match="class 7"):
            probe.fit(x, y, validation=(x, np.full(30, 7)))
        with pytest.raises(ValueError, match="4 numbers and these have 3"):
            probe.fit(x, y, validation=(x[:, :3], y))
        with pytest.raises(ValueError, match="zero"):
            probe.fit(x, y, np.zeros(30))

    def test_sparse_labels_are_refused_clearly(self):
        sparse = pytest.importorskip("scipy.sparse")
        x, y = multilabel(30, 4, 3)
        with pytest.raises((TypeError, ValueError), match=r"sparse.*toarray"):
            LinearProbe(C=1.0, progress=False).fit(x, sparse.csr_matrix(y))

    def test_too_few_rows_to_choose_by(self):
        with pytest.warns(UserWarning, match="C = 1 is taken"):
            assert LinearProbe(progress=False).fit(np.eye(2), [0, 1]).C_ == 1.0
