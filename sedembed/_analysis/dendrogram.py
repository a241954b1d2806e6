"""Hierarchical clustering of rows: a tree, the order of its leaves, and the clusters that a cut gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sedembed._analysis.weight_vectors import Distance, Matrix, to_points
from sedembed.errors import InvalidArgumentError

__all__ = ["Choice", "Linkage", "Tree", "check_options", "cluster_rows", "optimal_order"]

Linkage = Literal["average", "complete", "single", "ward"]

MOST_AUTO = 12  # clusters whose colours the eye still tells apart


@dataclass(frozen=True)
class Choice:
    """A linkage and a distance that go together."""

    linkage: Linkage
    distance: Distance


@dataclass(frozen=True)
class Tree:
    """A dendrogram of n rows.

    Attributes
    ----------
    merges : ndarray of float64, shape (n - 1, 4)
        As `scipy.cluster.hierarchy.linkage` gives them: two nodes, the distance at which they join, leaves below.
    order : ndarray of int64, shape (n,)
        Rows in the order of the leaves; neighbours are as close as the tree allows.
    clusters : ndarray of int64, shape (n,)
        Cluster of each row, numbered from 1 along `order`.
    silhouettes : dict of int to float
        Mean silhouette of each number of clusters that was tried.
    cophenetic : float
        Correlation of the distances in the tree with those between the rows; nan where either are all equal.
    """

    merges: Matrix
    order: NDArray[np.int64]
    clusters: NDArray[np.int64]
    silhouettes: Mapping[int, float]
    cophenetic: float

    @property
    def count(self) -> int:
        """Number of clusters."""
        return int(self.clusters.max())

    def node_clusters(self) -> NDArray[np.int64]:
        """Cluster that each leaf and then each merge lies in, 0 for merges of several; shape (2n - 1,)."""
        found = np.concatenate([self.clusters, np.zeros(len(self.merges), np.int64)])
        for i, (left, right) in enumerate(self.merges[:, :2].astype(int), len(self.clusters)):
            found[i] = found[left] if found[left] == found[right] else 0
        return found


def check_options(linkage: str | None = None, distance: str | None = None) -> Choice:
    """Check a linkage and a distance; by default average and cosine, and Euclidean for ward.

    Raises
    ------
    ValueError
        For an unknown name, or ward with another distance than Euclidean.
    """
    linkage = linkage or "average"
    distance = distance or ("euclidean" if linkage == "ward" else "cosine")
    for what, value, names in (("linkage", linkage, get_args(Linkage)), ("distance", distance, get_args(Distance))):
        if value not in names:
            raise InvalidArgumentError(f"{what} must be one of {', '.join(names)}, got {value!r}")
    if linkage == "ward" and distance != "euclidean":
        raise InvalidArgumentError(
            f"ward joins by squared Euclidean distances and means nothing with distance {distance!r}; "
            f"use distance euclidean, or linkage average with {distance}"
        )
    return Choice(linkage, distance)  # type: ignore[arg-type]


def cluster_rows(rows: Matrix, choice: Choice, clusters: int | Literal["auto"] = "auto") -> Tree:
    """Cluster rows hierarchically and cut the tree.

    Parameters
    ----------
    rows : ndarray of float64, shape (n, D)
        At least two.
    choice : Choice
        From `check_options`.
    clusters : int or "auto"
        How many the cut should give; "auto" takes the number with the highest mean silhouette among 2 to 12, at most
        half of the rows. Ties in the tree can make fewer.

    Raises
    ------
    ValueError
        For a number of clusters below 1 or above n.
    """
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform
    from sklearn.metrics import silhouette_score

    count = len(rows)
    if clusters != "auto" and not 1 <= clusters <= count:
        raise InvalidArgumentError(
            f"clusters must be auto or a number from 1 to {count}, the number of classes, got {clusters}"
        )
    distances = pairwise(rows, choice.distance)
    # scipy's ward takes Euclidean distances, the other linkages any.
    merges = hierarchy.linkage(distances, choice.linkage)
    square = squareform(distances)
    tried = range(2, min(MOST_AUTO, count // 2) + 1) if clusters == "auto" else [clusters]
    cuts = {number: hierarchy.fcluster(merges, number, "maxclust").astype(np.int64) for number in tried}
    silhouettes = {
        number: float(silhouette_score(square, cut, metric="precomputed"))
        for number, cut in cuts.items()
        if 1 < cut.max() < count
    }
    best = max(silhouettes, key=lambda number: silhouettes[number], default=1) if clusters == "auto" else clusters
    order = optimal_order(merges, square)
    in_tree = hierarchy.cophenet(merges)
    even = np.ptp(in_tree) == 0 or np.ptp(distances) == 0
    return Tree(
        merges,
        order,
        _numbered(cuts.get(best, np.ones(count, np.int64)), order),
        silhouettes,
        float("nan") if even else float(np.corrcoef(in_tree, distances)[0, 1]),
    )


def pairwise(rows: Matrix, distance: Distance) -> NDArray[np.float64]:
    """Distances between all pairs of rows, condensed, shape (n·(n - 1) / 2,)."""
    from scipy.spatial.distance import pdist

    points = to_points(rows, distance)
    distances: NDArray[np.float64] = pdist(points) if distance == "euclidean" else pdist(points, "sqeuclidean") / 2
    return distances


def optimal_order(merges: Matrix, distances: Matrix) -> NDArray[np.int64]:
    """Order the leaves of a tree so that the distances between neighbours add up to the least possible.

    Parameters
    ----------
    merges : ndarray, shape (n - 1, 4)
        The tree.
    distances : ndarray, shape (n, n)
        Between leaves.

    Returns
    -------
    ndarray of int64, shape (n,)
        The leaves.

    Notes
    -----
    Dynamic programming over the leaves at both ends of a branch (Bar-Joseph, Gifford, Jaakkola 2001), in n³ steps. Not
    scipy's `optimal_leaf_ordering`, which up to 1.17 often returns an order that is not optimal (its issue 11227).
    """
    count = len(distances)
    leaves = [np.array([leaf]) for leaf in range(count)]
    # Of a branch: the least length with one given leaf of its first and one of its second half at the ends.
    lengths: dict[int, Matrix] = {}
    halves = {node: (int(a), int(b)) for node, (a, b) in enumerate(merges[:, :2], count)}
    for node, (a, b) in halves.items():
        leaves.append(np.concatenate([leaves[a], leaves[b]]))
        across = distances[np.ix_(leaves[a], leaves[b])]
        onward = _through(halves.get(a), lengths.get(a), leaves, across)
        lengths[node] = _through(halves.get(b), lengths.get(b), leaves, onward.T).T

    def other_ends(node: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Leaves that can be at the other end of a branch, and its length with each."""
        if node < count:
            return leaves[node], np.zeros(1)
        a, b = halves[node]
        if end in leaves[a]:
            return leaves[b], lengths[node][np.flatnonzero(leaves[a] == end)[0]]
        return leaves[a], lengths[node][:, np.flatnonzero(leaves[b] == end)[0]]

    root = 2 * count - 2
    i, j = divmod(int(lengths[root].argmin()), lengths[root].shape[1])
    order, waiting = [], [(root, int(leaves[halves[root][0]][i]), int(leaves[halves[root][1]][j]))]
    while waiting:
        node, first, last = waiting.pop()
        if node < count:
            order.append(node)
            continue
        a, b = halves[node] if first in leaves[halves[node][0]] else halves[node][::-1]
        (inner, before), (outer, after) = other_ends(a, first), other_ends(b, last)
        total = before[:, None] + distances[np.ix_(inner, outer)] + after
        i, j = divmod(int(total.argmin()), len(outer))
        waiting += [(b, int(outer[j]), last), (a, first, int(inner[i]))]
    return np.array(order, np.int64)


def _through(
    halves: tuple[int, int] | None, lengths: Matrix | None, leaves: list[NDArray[np.int64]], onward: Matrix
) -> Matrix:
    """Least length from each end of a branch (row) through it and onward to each place beyond (column)."""
    if halves is None or lengths is None:
        return onward
    first = len(leaves[halves[0]])
    return np.concatenate([_min_plus(lengths, onward[first:]), _min_plus(lengths.T, onward[:first])])


def _min_plus(a: Matrix, b: Matrix) -> Matrix:
    """Product of matrices with the sum for the product and the least for the sum."""
    return np.stack([(row[:, None] + b).min(0) for row in a])


def _numbered(cut: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Clusters of a cut, renumbered from 1 along the leaves."""
    first = list(dict.fromkeys(cut[order].tolist()))
    return np.array([first.index(cluster) + 1 for cluster in cut], np.int64)
