"""Losses of a distillation: probabilities of clips, embeddings of clips, embeddings at each moment."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sedembed._training.distillation.teacher import TEACHER_CELL_SECONDS

__all__ = ["align_frames", "clip_bce", "embedding_error", "even_out", "local_error"]

# Of the mean variance, added to that of each direction: the least ones are noise.
_LEAST_VARIANCE = 0.01


def clip_bce(probabilities: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of (clips, classes), summed over the classes and averaged over the clips."""
    return nn.functional.binary_cross_entropy(probabilities, targets, reduction="sum") / len(targets)


def even_out(rows: NDArray[np.floating], power: float) -> NDArray[np.float64]:
    """Make the symmetric matrix that brings directions of small variance nearer to those of large variance.

    Parameters
    ----------
    rows : ndarray, shape (rows, numbers)
        Of the teacher.
    power : float
        0 for the identity, 1 for whitening: a direction of variance v gets a variance proportional to v ** (1 - power).

    Returns
    -------
    ndarray of float64, shape (numbers, numbers)
        The mean variance stays what it is.
    """
    covariance = np.cov(rows.astype(np.float64), rowvar=False, bias=True)
    variances, directions = np.linalg.eigh(covariance)
    factors = (variances.clip(0) + _LEAST_VARIANCE * variances.mean()) ** (-power / 2)
    factors *= np.sqrt(variances.sum() / (variances * factors**2).sum())
    even: NDArray[np.float64] = (directions * factors) @ directions.T
    return even


def embedding_error(
    difference: torch.Tensor, embedding_size: int, inner_weight: float, even: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean squared error over the last axis: of the embedding, and of the inner features times their weight.

    Parameters
    ----------
    difference : Tensor, shape (..., embedding size) or (..., embedding size + inner features)
        Student minus teacher, standardised.
    embedding_size : int
        How many numbers are the embedding.
    inner_weight : float
        Of the inner features; 0 where there are none.
    even : Tensor, shape (numbers, numbers), optional
        Applied to the difference, see `even_out`.

    Returns
    -------
    Tensor, shape (...)
    """
    if even is not None:
        difference = difference @ even
    squares = difference.square()
    error = squares[..., :embedding_size].mean(-1)
    if inner_weight:
        error = error + inner_weight * squares[..., embedding_size:].mean(-1)
    return error


def local_error(
    guesses: torch.Tensor,
    local: torch.Tensor,
    times: NDArray[np.float64],
    embedding_size: int,
    inner_weight: float,
    even: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean error at each moment, over the teacher's cells that have a frame of the student near them.

    Parameters
    ----------
    guesses : Tensor, shape (batch, frames, numbers)
        Of the student.
    local : Tensor, shape (batch, cells, numbers)
        Of the teacher.
    times : ndarray, shape (frames,)
        Centres of the frames in seconds.
    embedding_size, inner_weight, even
        As for `embedding_error`.
    """
    matrix = align_frames(times, local.shape[1]).to(guesses.device)
    error = embedding_error(matrix @ guesses - local, embedding_size, inner_weight, even).mean(0)
    return error[matrix.sum(1) > 0].mean()


def align_frames(times: NDArray[np.float64], cells: int) -> torch.Tensor:
    """Matrix (cells, frames) that interpolates frames at `times` in seconds to the teacher's cells.

    Rows of cells without a frame near them are zero.
    """
    distance = np.abs(TEACHER_CELL_SECONDS * np.arange(cells)[:, None] - times)
    weight = np.maximum(0.0, 1.0 - distance / TEACHER_CELL_SECONDS)
    total = weight.sum(1, keepdims=True)
    return torch.from_numpy(np.where(total > 0.5, weight / np.maximum(total, 0.5), 0.0)).float()
