"""Tests of the classifier that a fine-tuning begins with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

import sedembed
from sedembed._training.finetune_head import calibrated_loss, fit_starting_probe, loss_of_scores, pick_smaller_c


@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
def test_the_loss_at_the_best_temperature(scale: float) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(4, size=80)
    scores = torch.from_numpy(scale * (rng.normal(size=(80, 4)) + 1.5 * np.eye(4)[y]))
    found = calibrated_loss(scores, torch.eye(4)[y], multilabel=False)
    temperatures = np.geomspace(0.02, 90, 4000)
    logs = log_softmax(scores.numpy() / temperatures[:, None, None], axis=2)
    expected = -logs[:, np.arange(80), y].mean(1).max()
    assert found == pytest.approx(expected, rel=1e-5)
    assert found <= float(loss_of_scores(scores, torch.eye(4)[y], multilabel=False))


def test_the_loss_of_several_labels_is_that_of_a_logistic_regression() -> None:
    rng = np.random.default_rng(1)
    y = rng.random((60, 3)) < 0.5
    scores = 5.0 * (rng.normal(size=(60, 3)) + 1.2 * (y - 0.5))
    found = calibrated_loss(torch.from_numpy(scores), torch.from_numpy(y.astype(np.float32)), multilabel=True)
    # One factor for all scores, without an intercept or a penalty.
    reference = LogisticRegression(C=1e8, fit_intercept=False, tol=1e-8).fit(scores.reshape(-1, 1), y.ravel())
    expected = log_loss(y.ravel(), reference.predict_proba(scores.reshape(-1, 1)))
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_loss_without_a_best_temperature_is_finite() -> None:
    scores, targets = torch.eye(3) * 2, torch.eye(3)
    assert 0.0 <= calibrated_loss(scores, targets, multilabel=False) < 1e-6
    assert calibrated_loss(scores, targets.roll(1, 0), multilabel=False) == pytest.approx(np.log(3), abs=0.02)


def test_the_smallest_c_within_a_standard_error() -> None:
    scores = {0.1: 0.70, 1.0: 0.87, 10.0: 0.88, 100.0: 0.90, 1000.0: 0.89}
    assert pick_smaller_c(scores, 100) == 1.0  # the error is 0.03
    assert pick_smaller_c(scores, 400) == 100.0  # 0.015
    assert pick_smaller_c(scores, 10_000) == 100.0
    assert pick_smaller_c({1.0: 1.0, 10.0: 1.0}, 4) == 1.0


def test_the_start_leaves_more_loss_than_the_probe() -> None:
    rng = np.random.default_rng(2)
    y = np.repeat([0, 1, 2, 3], 15)
    vectors = (rng.normal(size=(60, 32)) + 1.2 * np.eye(4, 32)[y]).astype(np.float32)
    probe = sedembed.LinearProbe(Cs=[0.1, 1, 10, 100, 1000], progress=False).fit(vectors, y)
    probe.scores_, probe.C_ = {1.0: 0.8, 10.0: 0.81, 1000.0: 0.82}, 1000.0
    start = fit_starting_probe(probe, vectors, y)
    assert start is not probe
    assert start.C_ == 1.0
    assert start.get_params() == {**probe.get_params(), "C": 1.0}
    same = sedembed.LinearProbe(1.0, progress=False).fit(vectors, y)
    np.testing.assert_array_equal(start.coef_, same.coef_)
    probe.C_ = 1.0  # already the smaller one: not fitted again
    assert fit_starting_probe(probe, vectors, y) is probe
    probe.scores_ = {}
    assert fit_starting_probe(probe, vectors, y) is probe
