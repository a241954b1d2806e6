"""Pictures, tables and report of an analysis: what is in them, not their pixels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from sedembed._analysis import figures
from sedembed._analysis.dendrogram import check_options, cluster_rows
from sedembed._analysis.weight_vectors import LARGE, Plane, project_2d
from tests._analysis.figures_helpers import overlapping_share


def text_boxes(figure, names) -> np.ndarray:
    """Bounding boxes of the texts that are one of the names, after checking that each is there once."""
    from matplotlib.text import Text

    texts = [text for text in figure.findobj(Text) if text.get_text() in set(names)]
    assert sorted(text.get_text() for text in texts) == sorted(names)
    renderer = figure.canvas.get_renderer()
    return np.array([text.get_window_extent(renderer).extents for text in texts])


def grown(count: int):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((10, 40))[np.arange(count) % 10] + 0.5 * rng.standard_normal((count, 40))
    names = [f"class number {i:03d}" for i in range(count)]
    return cluster_rows(rows, check_options()), names


@pytest.fixture(scope="module")
def heat():
    rng = np.random.default_rng(0)
    values = rng.uniform(-0.3, 0.3, (50, 90))
    tree, names = grown(50)
    return values, tree, names, [f"event {i:03d}" for i in range(90)], rng.permutation(90)


class TestFigures:
    @pytest.mark.parametrize("count", [2, 10, 50, 700])
    def test_dendrogram(self, count):
        from matplotlib.collections import LineCollection

        tree, names = grown(count)
        figure = figures.dendrogram(tree, names, check_options())
        boxes = text_boxes(figure, names)
        assert overlapping_share(boxes) == 0
        order = np.argsort([text.get_text() for text in figure.axes[1].texts if text.get_text() in set(names)])
        in_picture = boxes[order][tree.order, 1]
        assert (np.diff(in_picture) < 0).all(), "names follow the leaves from top to bottom"
        (lines,) = figure.axes[0].findobj(LineCollection)
        assert len(lines.get_paths()) == count - 1
        ends = [point for path in lines.get_paths() for point in path.vertices[[0, 3]]]
        right = figure.axes[0].get_xlim()[1]
        assert sum(x <= max(right, 0) + 1e-9 for x, _ in ends) == count, "each leaf is drawn once"
        sizes = {text.get_fontsize() for text in figure.axes[1].texts if text.get_text() in set(names)}
        assert min(sizes) >= 6, "points"
        extent = figure.bbox.extents
        assert boxes[:, 2].max() < extent[2]

    def test_colours_of_the_tree_are_those_of_the_clusters(self):
        from matplotlib.collections import LineCollection
        from matplotlib.colors import to_hex

        tree, names = grown(50)
        (lines,) = figures.dendrogram(tree, names, check_options()).axes[0].findobj(LineCollection)
        got = [to_hex(colour) for colour in lines.get_colors()]
        expected = [figures.PALETTE[c - 1] if c else "#777777" for c in tree.node_clusters()[50:]]
        assert got == expected
        assert tree.count == 10

    @pytest.mark.parametrize(("count", "share"), [(2, 0), (10, 0), (50, 0), (700, 0.02)])
    def test_plane(self, count, share):
        from matplotlib.collections import PathCollection

        tree, names = grown(count)
        points = np.random.default_rng(0).standard_normal((10, 2))[np.arange(count) % 10] * 9
        points = points + np.random.default_rng(1).standard_normal((count, 2))
        figure = figures.plane(Plane(points, "t-SNE", 5.0), tree, names)
        boxes = text_boxes(figure, names)
        assert overlapping_share(boxes) <= share
        frame = figure.axes[0].bbox.extents
        assert (boxes[:, :2] >= frame[:2] - 1).all()
        assert (boxes[:, 2:] <= frame[2:] + 1).all()
        dots = figure.axes[0].findobj(PathCollection)
        drawn = sum(len(collection.get_offsets()) for collection in dots)
        assert drawn == count

    def test_plane_says_that_it_is_pca(self):
        tree, names = grown(3)
        figure = figures.plane(project_2d(np.eye(3, 5), "cosine"), tree, names)
        assert any("by PCA" in text.get_text() for text in figure.texts)

    def test_full_matrix(self, heat):
        values, tree, names, events, order = heat
        figure = figures.matrix(*heat)
        (image,) = figure.axes[1].images
        np.testing.assert_array_equal(image.get_array(), values[tree.order][:, order])
        low, high = image.get_clim()
        assert low == -high, "the map is centred at 0"
        assert overlapping_share(text_boxes(figure, names)) == 0
        shown = [text.get_text() for text in figure.axes[1].texts]
        assert shown == [events[i] for i in order]
        boxes = text_boxes(figure, events)
        assert overlapping_share(boxes) == 0
        (dots,) = figure.axes[1].collections
        y, x = np.nonzero(values[tree.order][:, order] >= LARGE)
        np.testing.assert_array_equal(dots.get_offsets(), np.stack([x, y], 1))

    def test_tall_matrix_has_its_events_at_both_ends(self):
        tree, names = grown(80)
        figure = figures.matrix(np.zeros((80, 3)), tree, names, ["x", "y", "z"], np.arange(3))
        assert sorted(text.get_text() for text in figure.axes[1].texts) == ["x", "x", "y", "y", "z", "z"]

    def test_strongest_events(self, heat):
        values, tree, names, events, order = heat
        figure = figures.strongest(*heat)
        shown = [text.get_text() for text in figure.axes[1].texts if text.get_text().startswith("event")]
        assert {events[i] for i in values.argmax(1)} <= set(shown)
        assert shown == [events[i] for i in order if events[i] in shown], "in the order of the tree"
        (image,) = figure.axes[1].images
        columns = [events.index(event) for event in shown]
        np.testing.assert_array_equal(image.get_array(), values[tree.order][:, columns])
        numbers = [text.get_text() for text in figure.axes[1].texts if text.get_text().startswith(".")]
        expected = values[tree.order][:, columns]
        assert numbers == [f"{value:.2f}"[1:] for value in expected[expected >= LARGE]]
        assert overlapping_share(text_boxes(figure, [*names, *shown])) == 0

    def test_names_of_all_kinds(self, tmp_path):
        names = ["cash $5$ and $x", "<b>&amp;</b>", "鳥のさえずり", "x" * 300, "", "two\nlines"]
        rows = np.random.default_rng(0).standard_normal((6, 8))
        tree = cluster_rows(rows, check_options())
        figure = figures.dendrogram(tree, names, check_options())
        shown = [text.get_text() for text in figure.axes[1].texts]
        assert {"cash $5$ and $x", "<b>&amp;</b>", "\ufffd" * 6, "x" * 47 + "…", "", "two lines"} <= set(shown)
        figures.save(figure, tmp_path / "names")  # warnings are errors here

    def test_colours_differ_for_the_colour_blind(self):
        # Machado, Oliveira & Fernandes (2009), severity 1: protanopia, deuteranopia, tritanopia; on linear RGB.
        kinds = [
            np.eye(3),
            [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
            [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
            [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
        ]
        to_xyz = [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
        colours = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in figures.PALETTE])
        linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
        contrast_with_white = 1.05 / (linear @ to_xyz[1] + 0.05)
        assert contrast_with_white.min() >= 2
        for kind in kinds:
            xyz = (linear @ np.transpose(kind)).clip(0, 1) @ np.transpose(to_xyz) / [0.95047, 1, 1.08883]
            f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
            lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)
            assert pdist(lab).min() >= 25  # 2.3 is just noticeable

    def test_no_two_clusters_look_the_same(self):
        looks = {(figures.PALETTE[i % 12], figures.MARKERS[i % len(figures.MARKERS)]) for i in range(84)}
        assert len(looks) == 84
