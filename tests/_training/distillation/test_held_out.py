"""Tests of held out."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import average_precision_score

from sedembed._training.distillation.held_out import compare


class TestHeldOut:
    def test_figures_against_scipy_and_scikit_learn(self):
        rng = np.random.default_rng(0)
        ours, theirs = rng.random((12, 7)), rng.random((12, 7))
        figures = compare(ours, theirs, 0.5)
        correlation = np.mean([scipy.stats.pearsonr(a, b).statistic for a, b in zip(ours, theirs, strict=True)])
        assert figures["correlation"] == pytest.approx(correlation)
        divergence = np.mean(
            [
                sum(scipy.stats.entropy([b, 1 - b], [a, 1 - a]) for a, b in zip(p, q, strict=True))
                for p, q in zip(ours, theirs, strict=True)
            ]
        )
        assert figures["kl"] == pytest.approx(divergence)
        assert figures["map"] == pytest.approx(average_precision_score(theirs >= 0.5, ours, average="macro"))
        assert figures["top1_agreement"] == (ours.argmax(1) == theirs.argmax(1)).mean()
        assert compare(theirs, theirs, 0.5)["kl"] == pytest.approx(0.0, abs=1e-12)
