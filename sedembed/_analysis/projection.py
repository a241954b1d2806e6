"""Vectors of a store as points of a plane: principal components and t-SNE, in bounded memory, by a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sedembed.errors import InvalidArgumentError, StoreError
from sedembed.store.store import EmbeddingStore

__all__ = ["MAX_POINTS", "Method", "Projection", "choose_rows", "project", "sampled_blocks"]

Method = Literal["tsne", "pca"]

MAX_POINTS = {"tsne": 10_000, "pca": 50_000}
PERPLEXITY = 30.0
_COMPONENTS = 50  # that t-SNE sees
_FEWEST = 5  # points of a t-SNE
_KEPT = 2**28  # bytes of chosen vectors that are kept between passes


@dataclass(frozen=True)
class Projection:
    """Points of a plane.

    Attributes
    ----------
    rows : ndarray of int64, shape (n,)
        Which rows of the store they are, ascending.
    points : ndarray of float64, shape (n, 2)
        Where they are. Only distances mean something, and in t-SNE only small ones.
    method : str
        How they were found, for people.
    """

    rows: NDArray[np.int64]
    points: NDArray[np.float64]
    method: str


def choose_rows(store: EmbeddingStore, most: int, seed: int = 0) -> NDArray[np.int64]:
    """Choose which recordings to draw: all, or as many as may be, at random.

    Parameters
    ----------
    store : EmbeddingStore
        At least one vector.
    most : int
        How many there may be.
    seed : int
        The same seed chooses the same ones.

    Returns
    -------
    ndarray of int64, shape (n,)
        Rows of the store, ascending.

    Raises
    ------
    StoreError
        If the store holds no vectors.
    ValueError
        For numbers out of range.
    """
    if most < 1:
        raise InvalidArgumentError(f"the number of points must be at least 1, got {most}")
    _check_seed(seed)
    if not len(store):
        raise StoreError(f"{store.directory} holds no vectors; embed a folder into it first")
    if len(store) <= most:
        return np.arange(len(store))
    return np.sort(np.random.default_rng(seed).choice(len(store), most, replace=False))


def project(
    store: EmbeddingStore,
    rows: NDArray[np.int64],
    method: Method = "tsne",
    *,
    perplexity: float | None = None,
    seed: int = 0,
) -> Projection:
    """Lay out vectors of a store in a plane, similar ones near each other.

    Each dimension is standardised and each vector scaled to unit length, as the paper does before a linear classifier;
    then follow principal components: two for "pca", fifty for "tsne", which starts from the first two of them.

    Parameters
    ----------
    store : EmbeddingStore
        Its vectors are read shard by shard.
    rows : ndarray of int64, shape (n,)
        What `choose_rows` gave.
    method : {"tsne", "pca"}
        How. Fewer than five points are too few for t-SNE and get principal components.
    perplexity : float, optional
        Of t-SNE: about how many neighbours of a point matter; by default 30, or less for fewer than 91 points.
    seed : int
        The same seed gives the same points, whatever the number of processors: one thread is used.

    Returns
    -------
    Projection
        One point for each row.

    Raises
    ------
    ValueError
        For a method, perplexity or seed out of range.
    """
    from threadpoolctl import threadpool_limits

    if method not in get_args(Method):
        raise InvalidArgumentError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}")
    _check_seed(seed)
    count = len(rows)
    if perplexity is not None and not 1 <= perplexity < max(count, _FEWEST):
        raise InvalidArgumentError(
            f"perplexity must be at least 1 and below the number of points, which is {count}, got {perplexity:g}"
        )
    with threadpool_limits(1):
        if method == "pca" or count < _FEWEST:
            scores, shares = _components(store, rows, 2)
            return Projection(rows, scores, f"PCA, {shares[0]:.0%} and {shares[1]:.0%} of the variance")
        if perplexity is None:
            perplexity = min(PERPLEXITY, (count - 1) / 3)
        scores, _ = _components(store, rows, _COMPONENTS)
        return Projection(rows, _tsne(scores, perplexity, seed), f"t-SNE, perplexity {perplexity:.3g}")


def sampled_blocks(
    store: EmbeddingStore, rows: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Read some rows of a store, shard by shard: for each part, where in `rows` they are, and their vectors."""
    where = np.full(len(store), -1)
    where[rows] = np.arange(len(rows))
    for numbers, block in store.blocks():
        wanted = where[numbers] >= 0
        if wanted.any():
            yield where[numbers[wanted]], block[wanted]


def _components(
    store: EmbeddingStore, rows: NDArray[np.int64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores (n, count) on the principal components and the share of variance of each; missing ones are zero."""
    from scipy.linalg import eigh
    from sklearn.preprocessing import StandardScaler, normalize

    size = store.embedding_size
    kept = list(sampled_blocks(store, rows)) if 4 * size * len(rows) <= _KEPT else None
    scaler = StandardScaler()
    for _, block in kept or sampled_blocks(store, rows):
        scaler.partial_fit(block.astype(np.float64))

    def normalised() -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        for places, block in kept or sampled_blocks(store, rows):
            yield places, normalize(scaler.transform(block.astype(np.float64)))

    total: NDArray[np.float64] = np.zeros(size)
    products: NDArray[np.float64] = np.zeros((size, size))
    for _, part in normalised():
        total += part.sum(0)
        products += part.T @ part
    mean = total / len(rows)
    covariance = products / len(rows) - np.outer(mean, mean)
    found = min(count, size)
    variances, axes = eigh(covariance, subset_by_index=(size - found, size - 1))
    variances, axes = variances[::-1].clip(0), axes[:, ::-1]
    # Either direction of an axis is right; this picks one.
    axes = axes * np.where(axes[np.abs(axes).argmax(0), np.arange(found)] < 0, -1.0, 1.0)
    # What only rounding made vary would otherwise be blown up to the size of the map.
    axes[:, variances <= 1e-12 * size] = 0.0
    scores = np.zeros((len(rows), count))
    for places, part in normalised():
        scores[places, :found] = (part - mean) @ axes
    shares = np.zeros(count)
    shares[:found] = variances / max(float(np.trace(covariance)), 1e-300)
    return scores, shares


def _tsne(scores: NDArray[np.float64], perplexity: float, seed: int) -> NDArray[np.float64]:
    from sklearn.manifold import TSNE

    spread = scores[:, 0].std()
    if spread == 0:
        return np.zeros((len(scores), 2))
    start = (scores[:, :2] / spread * 1e-4).astype(np.float32)
    tsne = TSNE(perplexity=perplexity, init=start, random_state=seed, n_jobs=1)
    return np.asarray(tsne.fit_transform(scores.astype(np.float32)), np.float64)


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise InvalidArgumentError(f"the seed must be from 0 to 4294967295, got {seed}")
