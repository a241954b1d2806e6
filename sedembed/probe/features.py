"""Rows of features: where they come from, in memory or in blocks, and how they are normalised."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sedembed.store.store import EmbeddingStore

__all__ = ["NORMALIZATIONS", "Normalization", "Normalizer", "Rows"]

Normalization = Literal["standardize+l2", "l2", "none"]
NORMALIZATIONS = ("standardize+l2", "l2", "none")

_BLOCK_ROWS = 8192
# Rows read in one go when few are wanted of an array on disk.
_RUN_ROWS = 1024


@dataclass(frozen=True)
class Rows:
    """Some rows of an array or a store, read block by block.

    Parameters
    ----------
    source : ndarray (N, D) or EmbeddingStore
        Where they are.
    chosen : ndarray of int64, optional
        Which of them, in any order; by default all.
    block_rows : int
        Most rows of a block.
    """

    source: NDArray[Any] | EmbeddingStore
    chosen: NDArray[np.int64] | None = None
    block_rows: int = _BLOCK_ROWS

    def __len__(self) -> int:
        return len(self.source) if self.chosen is None else len(self.chosen)

    @property
    def size(self) -> int:
        """Length of a row."""
        return self.source.embedding_size if isinstance(self.source, EmbeddingStore) else int(self.source.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """float64 for rows of float64, else float32."""
        wide = not isinstance(self.source, EmbeddingStore) and self.source.dtype == np.float64
        return np.dtype(np.float64 if wide else np.float32)

    def take(self, which: NDArray[np.int64]) -> Rows:
        """Rows of these rows."""
        return Rows(self.source, which if self.chosen is None else self.chosen[which], self.block_rows)

    def blocks(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.floating]]]:
        """Blocks of rows, in the order in which they lie on disk.

        Yields
        ------
        places : ndarray of int64, shape (n,)
            Which of these rows they are.
        rows : ndarray of float32 or float64, shape (n, D)
            New arrays, to be written to.
        """
        size = self.block_rows
        if isinstance(self.source, EmbeddingStore):
            yield from self._blocks_of_store(self.source)
            return
        if self.chosen is None:
            for start in range(0, len(self.source), size):
                block = np.array(self.source[start : start + size], self.dtype)
                yield np.arange(start, start + len(block)), block
            return
        order = np.argsort(self.chosen, kind="stable")
        for start in range(0, len(order), size):
            places = order[start : start + size]
            wanted = self.chosen[places]
            block = np.empty((len(wanted), self.size), self.dtype)
            # Runs of neighbours are read as slices: picking rows from a file one by one is slow.
            for piece in np.split(np.arange(len(wanted)), np.flatnonzero(np.diff(wanted) > _RUN_ROWS) + 1):
                if len(piece):
                    low = int(wanted[piece[0]])
                    block[piece] = self.source[low : int(wanted[piece[-1]]) + 1][wanted[piece] - low]
            yield places, block

    def _blocks_of_store(self, store: EmbeddingStore) -> Iterator[tuple[NDArray[np.int64], NDArray[np.floating]]]:
        size, places = self.block_rows, None
        if self.chosen is not None:
            order = np.argsort(self.chosen, kind="stable")
            places = order, self.chosen[order]
        for numbers, vectors in store.blocks():
            for start in range(0, len(numbers), size):
                rows, block = numbers[start : start + size], vectors[start : start + size]
                if places is None:
                    yield rows, np.array(block)
                    continue
                first, last = np.searchsorted(places[1], rows, "left"), np.searchsorted(places[1], rows, "right")
                repeats = last - first
                if repeats.any():
                    offsets = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
                    yield (
                        places[0][np.repeat(first, repeats) + offsets],
                        block[np.repeat(np.arange(len(rows)), repeats)],
                    )

    def read(self) -> NDArray[np.floating]:
        """All rows, shape (n, D)."""
        if isinstance(self.source, np.ndarray) and not isinstance(self.source, np.memmap):
            return np.array(self.source if self.chosen is None else self.source[self.chosen], self.dtype)
        rows = np.empty((len(self), self.size), self.dtype)
        for places, block in self.blocks():
            rows[places] = block
        return rows


@dataclass(frozen=True)
class Normalizer:
    """The normalisation before a linear classifier (Kumar et al. 2021).

    Parameters
    ----------
    kind : {"standardize+l2", "l2", "none"}
        What is done.
    mean, scale : ndarray of float64, shape (D,)
        What is taken off and divided by; zeros and ones unless `kind` standardises. The scale of a constant dimension
        is one.
    """

    kind: Normalization
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def fit(cls, rows: Rows, kind: Normalization, weights: NDArray[np.floating] | None = None) -> Normalizer:
        """Take the statistics of rows, weighted."""
        mean, scale = np.zeros(rows.size), np.ones(rows.size)
        if kind != "standardize+l2":
            return cls(kind, mean, scale)
        total, squares, seen = 0.0, np.zeros(rows.size), False
        for places, block in rows.blocks():
            w = np.ones(len(places)) if weights is None else np.asarray(weights, np.float64)[places]
            if not w.any():
                continue
            # Each block about its own mean, then joined: sums of squares alone would cancel (Chan et al. 1983).
            wide = block.astype(np.float64)
            part = w.sum()
            centre = w @ wide / part
            wide -= centre
            squares += w @ np.square(wide, out=wide)
            if seen:
                squares += np.square(centre - mean) * (total * part / (total + part))
            mean = mean + (centre - mean) * (part / (total + part))
            total, seen = total + part, True
        scale = np.sqrt(squares / max(total, np.finfo(float).tiny))
        # What is left of a constant after rounding is not a scale.
        scale[scale <= 10 * np.finfo(rows.dtype).eps * np.abs(mean)] = 1.0
        scale[scale == 0] = 1.0
        return cls(kind, mean, scale)

    def __call__(self, rows: NDArray[np.floating]) -> NDArray[np.floating]:
        """Normalise rows (n, D) in place, and return them."""
        if self.kind == "standardize+l2":
            rows -= self.mean.astype(rows.dtype)
            rows /= self.scale.astype(rows.dtype)
        if self.kind != "none":
            norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
            rows /= np.where(norms > 0, norms, 1.0).astype(rows.dtype)[:, None]
        return rows
