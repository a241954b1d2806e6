"""Nearest rows by cosine: fast in float32, decided in float64, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sedembed.errors import InvalidArgumentError

__all__ = ["Block", "nearest", "row_norms", "unit_vectors"]

_QUERIES = 64  # of one pass over the vectors
_ROWS = 1024  # in float64 at a time
# Lengths for which no product leaves the range of float32; other rows are always decided in float64.
_SHORTEST, _LONGEST = 1e-18, 1e18


class Block(NamedTuple):
    """Some rows of a store.

    Attributes
    ----------
    rows : ndarray of int64, shape (n,)
        Their numbers.
    vectors : ndarray of float32, shape (n, D)
        Their vectors.
    norms : ndarray of float64, shape (n,)
        Euclidean lengths of these, as `row_norms` gives them.
    """

    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]
    norms: NDArray[np.float64]


def row_norms(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Euclidean length of each row, in float64; equal rows have equal lengths wherever they are."""
    norms = np.empty(len(vectors))
    for start in range(0, len(vectors), _ROWS):
        part = vectors[start : start + _ROWS].astype(np.float64)
        norms[start : start + _ROWS] = np.sqrt(np.einsum("ij,ij->i", part, part))
    return norms


def nearest(
    blocks: Callable[[], Iterator[Block]], queries: NDArray[np.float64], k: int
) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Rows with the highest cosine to each query: exactly those that float64 throughout would give.

    Parameters
    ----------
    blocks : function
        Starts a pass over all rows, in any order.
    queries : ndarray of float64, shape (Q, D)
        Vectors of length one.
    k : int
        Rows wanted for each.

    Returns
    -------
    list of (rows, cosines)
        For each query at most k rows, best first, equal ones by row. A row of zeros has the cosine 0.

    Notes
    -----
    Float32 rounds the cosine of D numbers by less than (D + 8)·2⁻²⁴ in whatever order it adds them, so only rows that
    come within that of the k-th best so far are computed again in float64.
    """
    found: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
    for start in range(0, len(queries), _QUERIES):
        found += _one_pass(blocks(), queries[start : start + _QUERIES], k)
    return found


def unit_vectors(vectors: NDArray[Any], embedding_size: int) -> NDArray[np.float64]:
    """Check queries of shape (D,) or (Q, D), and divide each by its length: shape (Q, D).

    Raises
    ------
    InvalidArgumentError
        For another shape, or numbers that are not finite or all zeros.
    """
    vectors = vectors.astype(np.float64)
    if vectors.ndim not in (1, 2) or vectors.shape[-1] != embedding_size or not len(vectors):
        raise InvalidArgumentError(
            f"Expected one vector of shape ({embedding_size},) or several of shape (queries, {embedding_size}), got "
            f"shape {vectors.shape}; embed the query with the model of the store."
        )
    # Divided by the largest number first: squares of numbers beyond 1e154 would overflow.
    largest = np.abs(vectors).max(-1, keepdims=True)
    if not np.all((largest > 0) & (largest < np.inf)):
        raise InvalidArgumentError(
            "Expected a query of finite numbers that are not all zero; its cosine is not defined."
        )
    scaled = vectors / largest
    return np.atleast_2d(scaled / np.linalg.norm(scaled, axis=-1, keepdims=True))


def _one_pass(
    blocks: Iterator[Block], queries: NDArray[np.float64], k: int
) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    rounding = (queries.shape[1] + 8) * 2.0**-24
    columns = np.ascontiguousarray(queries.T, np.float32)
    best = [(np.empty(0, np.int64), np.empty(0)) for _ in queries]
    for rows, vectors, norms in blocks:
        lengths = np.where(norms > 0, norms, 1.0)
        unsafe = ~((norms == 0) | ((norms > _SHORTEST) & (norms < _LONGEST)))
        with np.errstate(over="ignore", invalid="ignore"):
            rough = (vectors @ columns) / lengths[:, None].astype(np.float32)
        rough[unsafe] = np.nan
        for number, query in enumerate(queries):
            known_rows, known = best[number]
            limit = known[k - 1] - rounding if len(known) == k else -np.inf
            candidates = np.flatnonzero(~(rough[:, number] < limit))  # NaN is one
            scores = rough[candidates, number]
            if np.count_nonzero(scores == scores) > k:
                limit = np.partition(scores[scores == scores], -k)[-k] - 2 * rounding
                candidates = candidates[~(scores < limit)]
            if not len(candidates):
                continue
            exact = np.concatenate([known, _cosines(vectors, lengths, candidates, query)])
            numbers = np.concatenate([known_rows, rows[candidates]])
            order = np.lexsort((numbers, -exact))[:k]
            best[number] = numbers[order], exact[order]
    return best


def _cosines(
    vectors: NDArray[np.float32],
    lengths: NDArray[np.float64],
    candidates: NDArray[np.intp],
    query: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Cosines in float64, each row added up by itself: equal vectors score the same wherever they are."""
    cosines = np.empty(len(candidates))
    for start in range(0, len(candidates), _ROWS):
        chosen = candidates[start : start + _ROWS]
        part = vectors[chosen].astype(np.float64)
        cosines[start : start + _ROWS] = np.einsum("ij,j->i", part, query) / lengths[chosen]
    return cosines.clip(-1.0, 1.0)
