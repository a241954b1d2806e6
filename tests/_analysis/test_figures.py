"""Pictures, tables and report of an analysis: what is in them, not their pixels."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from sedembed import load_model
from sedembed._analysis import figures
from sedembed._analysis.dendrogram import choose, grow
from sedembed._analysis.label_placement import Box, arrange
from sedembed._analysis.probe_report import analyze, write
from sedembed._analysis.weight_vectors import LARGE, Plane, place
from sedembed.batch.embed_folder import embed_folder
from sedembed.errors import ProbeError
from sedembed.models.talnet import TALNet, TALNetConfig
from sedembed.models.weights import save_pretrained
from sedembed.probe.probe import LinearProbe

PICTURES = ("dendrogram", "tsne", "correlation", "strongest")


def overlapping_share(boxes: np.ndarray) -> float:
    """Share of boxes (n, 4) that overlap some other one."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    overlap = (high - low > 1e-6).all(2)
    np.fill_diagonal(overlap, False)
    return float(overlap.any(1).mean())


def text_boxes(figure, names) -> np.ndarray:
    """Bounding boxes of the texts that are one of the names, after checking that each is there once."""
    from matplotlib.text import Text

    texts = [text for text in figure.findobj(Text) if text.get_text() in set(names)]
    assert sorted(text.get_text() for text in texts) == sorted(names)
    renderer = figure.canvas.get_renderer()
    return np.array([text.get_window_extent(renderer).extents for text in texts])


class TestLabelling:
    def test_none_overlap_and_all_are_inside(self):
        rng = np.random.default_rng(0)
        points = rng.normal(300, 60, (120, 2))
        sizes = np.stack([rng.uniform(20, 90, 120), np.full(120, 9.0)], 1)
        frame = Box(0, 0, 600, 600)
        boxes = np.array(arrange(points, sizes, 4.0, frame))
        assert overlapping_share(boxes) == 0
        np.testing.assert_allclose(boxes[:, 2:] - boxes[:, :2], sizes)
        assert boxes.min() >= 0
        assert boxes.max() <= 600
        # Nor does any cover a point.
        dots = (points[None, :, :] > boxes[:, None, :2]) & (points[None, :, :] < boxes[:, None, 2:])
        assert not dots.all(2).any()

    def test_a_lonely_point_has_its_label_at_its_right(self):
        (box,) = arrange(np.array([[100.0, 50.0]]), np.array([[30.0, 8.0]]), 4.0, Box(0, 0, 200, 100))
        assert box == pytest.approx((107, 46, 137, 54))

    def test_points_at_one_place(self):
        boxes = np.array(arrange(np.full((30, 2), 200.0), np.full((30, 2), [60.0, 9.0]), 4.0, Box(0, 0, 400, 400)))
        assert overlapping_share(boxes) == 0

    def test_no_room_at_all(self):
        boxes = arrange(np.full((9, 2), 20.0), np.full((9, 2), [30.0, 30.0]), 1.0, Box(0, 0, 40, 40))
        assert len(boxes) == 9
        assert np.min(boxes) >= 0
        assert np.max(boxes) <= 40


def grown(count: int):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((10, 40))[np.arange(count) % 10] + 0.5 * rng.standard_normal((count, 40))
    names = [f"class number {i:03d}" for i in range(count)]
    return grow(rows, choose()), names


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
        figure = figures.dendrogram(tree, names, choose())
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
        (lines,) = figures.dendrogram(tree, names, choose()).axes[0].findobj(LineCollection)
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
        figure = figures.plane(place(np.eye(3, 5), "cosine"), tree, names)
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
        tree = grow(rows, choose())
        figure = figures.dendrogram(tree, names, choose())
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


class References(HTMLParser):
    """All that a page refers to, and its texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.found += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data):
        self.texts.append(data.strip())


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A network of 20 events, so that pictures are small."""
    network = TALNet(TALNetConfig(mean=(0.0,) * 64, std=(1.0,) * 64, classes=20))
    directory = save_pretrained(network.eval(), tmp_path_factory.mktemp("small") / "model")
    return load_model(directory, device="cpu")


@pytest.fixture(scope="module")
def probe(small):
    rng = np.random.default_rng(0)
    names = np.array(["<b>dog</b>", "cat", "rain, heavy", "wind", "siren", "鳥", "bell"])
    y = np.repeat(np.arange(7), 20)
    X = rng.normal(0, 1, (140, 1024)) + 2 * rng.normal(0, 1, (7, 1024))[y]
    return LinearProbe(1.0, progress=False).fit(X.astype(np.float32), names[y])


@pytest.fixture(scope="module")
def written(probe, small, tmp_path_factory):
    analysis = analyze(probe, small, name="my <probe>", seed=1)
    out = tmp_path_factory.mktemp("analysis") / "a" / "b"
    write(analysis, out)
    return analysis, out


class TestWrite:
    def test_files(self, written):
        _, out = written
        expected = [f"{stem}.{ending}" for stem in PICTURES for ending in ("png", "svg", "csv")]
        assert sorted(file.name for file in out.iterdir()) == sorted([*expected, "analysis.json", "report.html"])
        for stem in PICTURES:
            assert (out / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
            assert ElementTree.fromstring((out / f"{stem}.svg").read_bytes()).tag.endswith("svg")

    def test_same_seed_same_bytes(self, written, probe, small, tmp_path, caplog):
        _, out = written
        write(analyze(probe, small, name="my <probe>", seed=1), tmp_path)
        for file in out.iterdir():
            assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name
        assert [record.message for record in caplog.records] == [
            "the font of the pictures lacks characters of some class names; the tables have them"
        ]

    def test_tables(self, written):
        analysis, out = written

        def read(name):
            with (out / name).open(encoding="utf-8", newline="") as stream:
                return list(csv.reader(stream))

        names, order = analysis.classes.names, analysis.tree.order
        header, *rows = read("correlation.csv")
        assert header == ["class", *(analysis.events.names[i] for i in analysis.event_order)]
        assert [row[0] for row in rows] == [names[i] for i in order]
        values = np.array([row[1:] for row in rows], float)
        np.testing.assert_allclose(values, analysis.cosines[order][:, analysis.event_order], rtol=1e-5)

        header, *rows = read("tsne.csv")
        assert header == ["class", "x", "y", "cluster"]
        points = {row[0]: [float(row[1]), float(row[2])] for row in rows}
        np.testing.assert_allclose([points[name] for name in names], analysis.plane.points, rtol=1e-5)

        header, *rows = read("dendrogram.csv")
        assert header == ["node", "class", "position", "cluster", "left", "right", "distance", "leaves"]
        assert len(rows) == 13
        assert [row[1] for row in sorted(rows[:7], key=lambda row: int(row[2]))] == [names[i] for i in order]
        merges = np.array([row[4:] for row in rows[7:]], float)
        np.testing.assert_allclose(merges, analysis.tree.merges, rtol=1e-5)

        header, *rows = read("strongest.csv")
        assert header == ["class", "cluster", "rank", "event", "cosine", "large"]
        assert len(rows) == 7 * 5
        for name, _, rank, event, cosine, large in rows:
            of_class = analysis.cosines[names.index(name)]
            assert float(cosine) == pytest.approx(np.sort(of_class)[-int(rank)], rel=1e-5)
            assert of_class[analysis.events.names.index(event)] == pytest.approx(float(cosine), rel=1e-5)
            assert large == ("yes" if of_class[analysis.events.names.index(event)] >= LARGE else "no")

    def test_json(self, written):
        analysis, out = written
        summary = json.loads((out / "analysis.json").read_text(encoding="utf-8"))
        assert summary == analysis.summary
        assert summary["settings"] == {
            "linkage": "average", "distance": "cosine", "clusters": "auto", "seed": 1, "perplexity": None, "store": None
        }  # fmt: skip
        assert sorted(name for cluster in summary["clusters"] for name in cluster) == sorted(analysis.classes.names)
        pairs = [(pair["class"], pair["event"], pair["cosine"]) for pair in summary["strongest_pairs"]]
        assert len(pairs) == 10
        flat = np.sort(analysis.cosines, axis=None)[::-1][:10]
        np.testing.assert_allclose([cosine for *_, cosine in pairs], flat, rtol=1e-5)
        assert summary["classes_with_large"] == (analysis.cosines.max(1) >= LARGE).sum()
        assert {"sedembed", "matplotlib", "scikit-learn"} <= set(summary["versions"])

    def test_page_is_self_contained(self, written):
        _, out = written
        page = (out / "report.html").read_text(encoding="utf-8")
        parsed = References(page)
        assert len(parsed.found) == 4
        assert all(reference.startswith("data:image/svg+xml;base64,") for reference in parsed.found)
        assert not parsed.tags & {"script", "link", "iframe", "object"}
        assert "url(" not in page
        assert "@import" not in page

    def test_page_names_classes_and_marks_large_values(self, written):
        analysis, out = written
        page = References((out / "report.html").read_text(encoding="utf-8"))
        assert set(analysis.classes.names) <= set(page.texts)
        assert "What my <probe> listens to" in page.texts
        assert "b" not in page.tags, "names are escaped"
        shown = [event for row in analysis.summary["classes"] for event in row["events"]]
        shown += analysis.summary["strongest_pairs"]
        assert sum(text.endswith("●") for text in page.texts) == sum(event["large"] for event in shown)

    def test_notes_say_what_applies(self, written, probe, small):
        analysis, _ = written
        notes = " ".join(analysis.summary["notes"])
        assert "multiplied by the probe's deviations" in notes
        assert "does not say which model" in notes, "it was fitted on an array"
        assert "estimated by ridge regression" not in notes
        rng = np.random.default_rng(0)
        named = LinearProbe(1e4, normalize="l2", progress=False).fit(
            rng.standard_normal((40, 1024)), np.arange(40) % 8, model=small
        )
        notes = " ".join(analyze(named, small).summary["notes"])
        assert "does not standardise" in notes
        assert "does not say which model" not in notes
        assert "clusters are weak" in notes
        assert "C is 10000" in notes

    def test_event_rows_from_a_store(self, probe, small, write_sounds, tmp_path):
        folder = write_sounds(tmp_path / "in", {f"{i}.wav": 0.2 for i in range(20)})
        store = embed_folder(folder, tmp_path / "store", small, progress=False)
        analysis = analyze(probe, small, store=store)
        assert analysis.events.recordings == 20
        assert analysis.summary["events"]["rows"] == "estimated"
        assert analysis.summary["settings"]["store"] == "store"
        assert "estimated by ridge regression from 20 recordings" in " ".join(analysis.summary["notes"])

    def test_probe_of_another_model_is_refused(self, small, untrained_embedder):
        rng = np.random.default_rng(0)
        X, y = rng.standard_normal((20, 1024)), np.arange(20) % 2
        named = LinearProbe(1.0, progress=False).fit(X, y, model=untrained_embedder)
        with pytest.raises(ProbeError, match="sha256"):
            analyze(named, small)

    def test_two_classes(self, small, tmp_path):
        rng = np.random.default_rng(0)
        X, y = rng.standard_normal((20, 1024)), np.arange(20) % 2
        analysis = analyze(LinearProbe(1.0, progress=False).fit(X, y), small)
        write(analysis, tmp_path)
        assert analysis.plane.method == "PCA"
        assert "two rows say the same thing" in " ".join(analysis.summary["notes"])
        assert analysis.summary["mean_silhouette"] is None

    def test_out_is_a_file(self, written, tmp_path):
        (tmp_path / "file").write_text("here")
        with pytest.raises(ValueError, match="expected a directory for the analysis, got the file"):
            write(written[0], tmp_path / "file")
