"""Tests of dendrogram."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.cluster import hierarchy
from scipy.spatial.distance import pdist, squareform

from sedembed._analysis.dendrogram import check_options, cluster_rows
from tests._analysis.weight_vectors_helpers import grouped_rows


class TestTree:
    @pytest.mark.parametrize(
        ("linkage", "distance"),
        [("average", "cosine"), ("complete", "correlation"), ("single", "euclidean"), ("ward", "euclidean")],
    )
    def test_merges_against_scipy(self, linkage, distance):
        rows = grouped_rows(4, 5)
        tree = cluster_rows(rows, check_options(linkage, distance))
        expected = hierarchy.linkage(pdist(rows, distance), linkage)
        np.testing.assert_allclose(np.sort(tree.merges[:, 2]), np.sort(expected[:, 2]), rtol=1e-9)
        np.testing.assert_allclose(hierarchy.cophenet(tree.merges), hierarchy.cophenet(expected), rtol=1e-9)
        correlation = hierarchy.cophenet(expected, pdist(rows, distance))[0]
        assert tree.cophenetic == pytest.approx(correlation, abs=1e-9)

    @pytest.mark.parametrize("linkage", ["average", "complete", "single"])
    def test_order_of_the_leaves_against_all_orders(self, linkage):
        for seed in range(20):
            rows = np.random.default_rng(seed).standard_normal((8, 5))
            tree = cluster_rows(rows, check_options(linkage, "cosine"))
            square = squareform(pdist(rows, "cosine"))

            def length(order, square=square):
                return sum(square[a, b] for a, b in itertools.pairwise(order))

            orders = [[[leaf]] for leaf in range(8)]
            for a, b in tree.merges[:, :2].astype(int):
                orders.append([x + y for A, B in ((a, b), (b, a)) for x in orders[A] for y in orders[B]])
            assert tree.order.tolist() in orders[-1], "branches stay together"
            assert length(tree.order) == pytest.approx(min(map(length, orders[-1])), abs=1e-12)

    def test_known_groups_are_found_and_numbered_along_the_leaves(self):
        tree = cluster_rows(grouped_rows(4, 6), check_options())
        assert tree.count == 4
        assert [len(set(tree.clusters[group::4])) for group in range(4)] == [1] * 4
        along = tree.clusters[tree.order]
        assert along[0] == 1
        assert set(np.diff(along)) == {0, 1}

    def test_silhouette_against_a_plain_loop(self):
        rows = grouped_rows(3, 4, noise=1.5)
        tree = cluster_rows(rows, check_options(), 3)
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        distance = 1 - unit @ unit.T
        values = []
        for i, own in enumerate(tree.clusters):
            mates = [j for j in range(12) if tree.clusters[j] == own and j != i]
            if not mates:
                values.append(0.0)
                continue
            inside = np.mean([distance[i, j] for j in mates])
            outside = min(
                np.mean([distance[i, j] for j in range(12) if tree.clusters[j] == other])
                for other in set(tree.clusters) - {own}
            )
            values.append((outside - inside) / max(inside, outside))
        assert tree.silhouettes[3] == pytest.approx(np.mean(values), abs=1e-9)

    def test_nodes_know_their_cluster(self):
        tree = cluster_rows(grouped_rows(2, 5), check_options(), 2)
        nodes = tree.node_clusters()
        np.testing.assert_array_equal(nodes[:10], tree.clusters)
        leaves = [{int(c)} for c in tree.clusters]
        for a, b in tree.merges[:, :2].astype(int):
            leaves.append(leaves[a] | leaves[b])
        assert [node or None for node in nodes.tolist()] == [c.pop() if len(c) == 1 else None for c in leaves]

    @pytest.mark.parametrize("number", [1, 2, 7, 20])
    def test_number_of_clusters(self, number):
        assert cluster_rows(grouped_rows(4, 5), check_options(), number).count == number

    @pytest.mark.parametrize("number", [0, 21])
    def test_number_of_clusters_out_of_range(self, number):
        with pytest.raises(ValueError, match=f"from 1 to 20, the number of classes, got {number}"):
            cluster_rows(grouped_rows(4, 5), check_options(), number)

    def test_two_rows(self):
        tree = cluster_rows(np.eye(2, 5), check_options())
        assert tree.count == 1
        assert tree.merges.shape == (1, 4)

    def test_equal_rows(self):
        tree = cluster_rows(np.ones((5, 3)) * [1, 2, 3], check_options(), 3)
        assert tree.count == 1
        assert np.isnan(tree.cophenetic)

    def test_defaults(self):
        assert check_options() == check_options("average", "cosine")
        assert check_options("ward") == check_options("ward", "euclidean")
        assert check_options(None, "correlation") == check_options("average", "correlation")

    def test_ward_needs_euclidean(self):
        with pytest.raises(ValueError, match=r"ward joins by squared Euclidean.*use distance euclidean, or linkage av"):
            check_options("ward", "cosine")

    def test_unknown_names(self):
        with pytest.raises(ValueError, match="linkage must be one of average, complete, single, ward, got 'median'"):
            check_options("median")
        with pytest.raises(ValueError, match="distance must be one of cosine, euclidean, correlation, got 'L1'"):
            check_options("single", "L1")
