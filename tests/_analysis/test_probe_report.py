"""Tests of probe report."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest

from sedembed import load_model
from sedembed._analysis.probe_report import analyze, write
from sedembed._analysis.weight_vectors import LARGE
from sedembed.batch.embed_folder import embed_folder
from sedembed.errors import ProbeError
from sedembed.models.talnet import TALNet, TALNetConfig
from sedembed.models.weights import save_pretrained
from sedembed.probe.probe import LinearProbe
from tests._analysis.browser_helpers import check_look

PICTURES = ("dendrogram", "tsne", "correlation", "strongest")


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
        assert sorted(file.name for file in out.iterdir()) == sorted(
            [*expected, "analysis.json", "correlation.html", "report.html"]
        )
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
            "linkage": "average", "distance": "cosine", "clusters": "auto", "seed": 1, "perplexity": None,
            "store": None, "correlation": "scaled",
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
        pictures = [reference for reference in parsed.found if reference.startswith("data:image/svg+xml;base64,")]
        assert len(pictures) == 4
        assert [reference for reference in parsed.found if reference not in pictures] == ["correlation.html"]
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
        with pytest.raises(ValueError, match=r"Expected a folder at .*, got a file"):
            write(written[0], tmp_path / "file")


@pytest.mark.parametrize("dark", [False, True])
def test_it_can_be_read_when_narrow(dark, written, tmp_path):
    _, out = written
    check_look(tmp_path / "report.html", (out / "report.html").read_text(encoding="utf-8"), dark=dark)
