"""Fixtures and helpers that several test files share."""

from __future__ import annotations

import numpy as np

from sedembed import LinearProbe


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
