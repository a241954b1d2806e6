"""Tests of fitting."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from sedembed import LinearProbe
from tests.probe.probe_helpers import blobs, multilabel, objective


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
