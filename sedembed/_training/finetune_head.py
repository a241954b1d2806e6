"""The classifier that a fine-tuning begins with, and its loss whatever the scale of its scores."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from sklearn.base import clone
from torch import nn

from sedembed.probe.probe import LinearProbe

__all__ = ["calibrated_loss", "fit_starting_probe", "loss_of_scores", "pick_smaller_c"]

_LARGEST = math.log(100.0)  # of a temperature


def pick_smaller_c(scores: dict[float, float], rows: int) -> float:
    """Pick the smallest C whose validation score is within one standard error of the best.

    Parameters
    ----------
    scores : dict of float to float
        Validation score of each C, in [0, 1].
    rows : int
        Recordings that were scored.
    """
    best = max(scores.values())
    error = math.sqrt(max(0.0, best * (1.0 - best)) / rows)
    return min(c for c, score in scores.items() if score >= best - error)


def fit_starting_probe(probe: LinearProbe, embeddings: NDArray[np.float32], y: NDArray[Any]) -> LinearProbe:
    """Fit the classifier that training starts with: as good as a probe to the error of its score, and less certain.

    A probe classifies its training recordings almost without loss, and a network learns nothing from them. With a
    smaller C, enough loss is left.

    Parameters
    ----------
    probe : LinearProbe
        Fitted to these rows with C="auto".
    embeddings : ndarray of float32, shape (N, D)
        Training recordings.
    y : ndarray
        Their classes, as they were given to the probe.
    """
    c = pick_smaller_c(probe.scores_, len(embeddings)) if probe.scores_ else probe.C_
    if c == probe.C_:
        return probe
    smaller: LinearProbe = clone(probe).set_params(C=c)
    return smaller.fit(embeddings, y)


def loss_of_scores(
    scores: torch.Tensor, targets: torch.Tensor, *, multilabel: bool, smoothing: float = 0.0
) -> torch.Tensor:
    """Compute the mean loss: cross-entropy of classes, or binary cross-entropy where recordings have several labels.

    Parameters
    ----------
    scores, targets : torch.Tensor, shape (N, K)
        Before softmax or sigmoid; and probabilities.
    multilabel : bool
        Whether recordings have several labels.
    smoothing : float
        Share of each target that all classes get alike; not with several labels.
    """
    targets = targets.to(scores.device)
    if multilabel:
        return nn.functional.binary_cross_entropy_with_logits(scores, targets)
    return nn.functional.cross_entropy(scores, targets, label_smoothing=smoothing)


def calibrated_loss(scores: torch.Tensor, targets: torch.Tensor, *, multilabel: bool) -> float:
    """Compute `loss_of_scores` of the scores divided by the temperature for which it is least.

    Classifiers that differ in how certain they are can be compared by it.
    """
    scores = scores.double()

    def at(log_temperature: float) -> float:
        return float(loss_of_scores(scores / math.exp(log_temperature), targets.double(), multilabel=multilabel))

    return float(minimize_scalar(at, bounds=(-_LARGEST, _LARGEST), method="bounded").fun)
