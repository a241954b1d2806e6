"""Tests of solver."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import Normalizer, StandardScaler

from sedembed import LinearProbe
from sedembed.probe.features import Rows
from sedembed.probe.fitting import Labels, Settings, _problem
from tests.probe.probe_helpers import blobs, linear_objective, multilabel, objective


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
