"""`sedembed map`: points, colours, the picture, and the page in a real browser where there is one."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sedembed._analysis import projection
from sedembed._analysis.map_page import map_page
from sedembed._analysis.map_points import COLOURS, GREY, Grouping, MapPoints, by_folder, by_label, by_tag
from sedembed._analysis.projection import Projection, choose_rows, project
from sedembed.cli.main import main
from sedembed.embedder import Embedder
from sedembed.errors import ProbeError, StoreError
from sedembed.probe.label_table import read_labels
from sedembed.store.layout import FORMAT_VERSION
from sedembed.store.store import EmbeddingStore, open_store
from sedembed.store.writer import StoreWriter

# Names that break pages which take them for markup, and pictures which take them for formulas.
HOSTILE = [
    "</script><script>document.title='broken'</script>.wav",
    "<img src=x onerror=alert(1)>.wav",
    "\"quotes\" & 'more' &amp;.wav",
    "@DATA@ @TITLE@ ${x}.wav",
    "line\nbreak\u2028\ttab.wav",
    "𝄞 日本語 ö.wav",
    "$5 $bill$ \\frac.wav",
    "_hidden.wav",
]


def make_store(out: Path, names: list[str], vectors: np.ndarray, per_shard: int = 32, **run: Any) -> EmbeddingStore:
    settings = {"embedding_size": vectors.shape[1], "frames": False, "precision": "float32", **run.pop("settings", {})}
    described = {"format_version": FORMAT_VERSION, "fingerprint": "x", "settings": settings, "folder": "/sounds", **run}
    with StoreWriter(out, described) as writer:
        for number, (name, vector) in enumerate(zip(names, vectors, strict=True)):
            writer.add(name, 0.5 + number, 16_000, 1, vector.astype(np.float32))
            if number % per_shard == per_shard - 1:
                writer.commit()
        writer.commit()
    return open_store(out)


def clusters(count: int = 90, size: int = 16, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Three clouds, named so that sorted names do not follow them."""
    rng = np.random.default_rng(seed)
    centres = 3 * rng.standard_normal((3, size))
    names = [f"{['cat', 'dog', 'rain'][i % 3]}/{i * 37 % 1009:04d}.wav" for i in range(count)]
    scale = rng.uniform(0.1, 10, size)
    return names, (centres[np.arange(count) % 3] + 0.5 * rng.standard_normal((count, size))) * scale + 5


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    return make_store(tmp_path / "out", *clusters())


def map_of(points: np.ndarray, groups: list[str | None], paths: list[str] | None = None, title: str = "t") -> MapPoints:
    paths = paths or [f"{number}.wav" for number in range(len(points))]
    names = sorted({name for name in groups if name is not None}, key=lambda name: (-groups.count(name), name))
    codes = np.array([-1 if name is None else names.index(name) for name in groups])
    grouping = Grouping("label", names, codes, [name or "" for name in groups])
    found = Projection(np.arange(len(points)), np.asarray(points, float), "by hand")
    return MapPoints(title, "subtitle", found, paths, np.arange(len(points)) + 0.25, grouping)


class TestProjection:
    @pytest.mark.parametrize("kept", [2**28, 0])
    def test_components_are_those_of_scikit_learn(
        self, store: EmbeddingStore, kept: int, monkeypatch: pytest.MonkeyPatch
    ):
        from sklearn.decomposition import PCA

        monkeypatch.setattr(projection, "_KEPT", kept)
        vectors = store.vectors.astype(np.float64)
        unit = (vectors - vectors.mean(0)) / vectors.std(0)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        pca = PCA(2, svd_solver="full")
        expected = pca.fit_transform(unit)
        found = project(store, choose_rows(store, 1000), "pca")
        np.testing.assert_allclose(np.abs(found.points), np.abs(expected), atol=1e-10)
        first, second = pca.explained_variance_ratio_
        assert found.method == f"PCA, {first:.0%} and {second:.0%} of the variance"

    def test_tsne_keeps_neighbours_together(self, store: EmbeddingStore):
        rows = choose_rows(store, 1000)
        found = project(store, rows, "tsne", perplexity=10)
        assert found.method == "t-SNE, perplexity 10"
        assert found.points.shape == (90, 2)
        distances = np.linalg.norm(found.points[:, None] - found.points[None], axis=2)
        np.fill_diagonal(distances, np.inf)
        labels = np.array([path.split("/")[0] for path in store.paths])
        assert np.mean(labels[distances.argmin(1)] == labels) > 0.97
        np.testing.assert_array_equal(project(store, rows, "tsne", perplexity=10).points, found.points)

    def test_a_sample(self, store: EmbeddingStore):
        rows = choose_rows(store, 30, seed=3)
        assert len(set(rows.tolist())) == 30
        assert np.all(np.diff(rows) > 0)
        np.testing.assert_array_equal(rows, choose_rows(store, 30, seed=3))
        assert set(rows) != set(choose_rows(store, 30, seed=4))
        np.testing.assert_array_equal(choose_rows(store, 90), np.arange(90))
        whole = make_store(store.directory / "part", [store.paths[row] for row in rows], store.vectors[rows])
        expected = project(whole, choose_rows(whole, 30), "pca").points
        np.testing.assert_allclose(project(store, rows, "pca").points, expected, atol=1e-10)
        shown = MapPoints.of(store, project(store, rows, "pca"), by_folder([store.paths[row] for row in rows]))
        assert shown.title == "out: 30 recordings of 90, chosen at random"
        assert shown.durations.tolist() == [store.index["duration"][int(row)].as_py() for row in rows]

    @pytest.mark.parametrize("count", [1, 2, 4, 5, 12])
    @pytest.mark.parametrize("method", ["tsne", "pca"])
    def test_few_points(self, tmp_path: Path, count: int, method: Any):
        store = make_store(tmp_path / "out", *clusters(count))
        found = project(store, choose_rows(store, 100), method)
        assert found.points.shape == (count, 2)
        assert np.isfinite(found.points).all()
        assert found.method.startswith("t-SNE" if method == "tsne" and count >= 5 else "PCA")

    @pytest.mark.parametrize("method", ["tsne", "pca"])
    def test_all_the_same(self, tmp_path: Path, method: Any):
        vectors = np.tile(np.random.default_rng(0).standard_normal(16), (40, 1))
        store = make_store(tmp_path / "out", [f"{n}.wav" for n in range(40)], vectors)
        np.testing.assert_array_equal(project(store, choose_rows(store, 100), method).points, np.zeros((40, 2)))

    def test_two_kinds_and_constant_dimensions(self, tmp_path: Path):
        vectors = np.zeros((40, 16))
        vectors[::2, 3] = 1
        store = make_store(tmp_path / "out", [f"{n:02d}.wav" for n in range(40)], vectors)
        points = project(store, choose_rows(store, 100), "tsne").points
        assert np.isfinite(points).all()
        gap = np.linalg.norm(points[::2].mean(0) - points[1::2].mean(0))
        assert gap > 2 * np.linalg.norm(points[::2] - points[::2].mean(0), axis=1).mean()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"method": "umap"}, "one of tsne, pca, got 'umap'"),
            ({"perplexity": 90}, "below the number of points, which is 90, got 90"),
            ({"perplexity": 0.5}, "at least 1"),
            ({"perplexity": float("nan")}, "at least 1"),
            ({"seed": -1}, "seed must be from 0"),
        ],
    )
    def test_refused(self, store: EmbeddingStore, options: dict[str, Any], message: str):
        with pytest.raises(ValueError, match=message):
            project(store, np.arange(90), **options)

    def test_nothing_to_draw(self, store: EmbeddingStore, tmp_path: Path):
        with pytest.raises(ValueError, match="at least 1, got 0"):
            choose_rows(store, 0)
        with pytest.raises(StoreError, match="holds no vectors"):
            choose_rows(make_store(tmp_path / "empty", [], np.zeros((0, 4))), 10)


class TestGroups:
    def test_tags_are_the_highest_mean_logits(self, tmp_path: Path, untrained_embedder: Embedder):
        rng = np.random.default_rng(0)
        vectors = rng.uniform(-1, 1, (50, 1024)).astype(np.float32)
        store = make_store(tmp_path / "out", [f"{n:02d}.wav" for n in range(50)], vectors, per_shard=7)
        rows = np.arange(1, 50, 2)
        layer = untrained_embedder.runner.network.fc_prob
        weight, bias = layer.weight.detach().numpy().astype(float), layer.bias.detach().numpy().astype(float)
        expected = [untrained_embedder.labels[int(np.argmax(weight @ vectors[row] + bias))] for row in rows]
        found = by_tag(store, rows, untrained_embedder)
        assert found is not None
        assert found.texts == expected
        assert [found.names[code] for code in found.codes] == expected

    def test_tags_of_a_steady_sound_are_those_of_the_network(self, tmp_path: Path, untrained_embedder: Embedder):
        # Where all frames are alike, the mean of the logits is the logit of any frame.
        wave = np.zeros(16_000, np.float32)
        frames = untrained_embedder.embed_frames(wave).embeddings
        middle = np.repeat(frames[5:6], 3, axis=0)
        store = make_store(tmp_path / "out", ["a.wav", "b.wav", "c.wav"], middle)
        found = by_tag(store, np.arange(3), untrained_embedder)
        tagged = untrained_embedder.tag(wave)
        assert found is not None
        assert untrained_embedder.labels.index(found.names[0]) in np.argsort(-tagged)[:5]

    def test_no_tags_from_vectors_of_another_kind(self, store: EmbeddingStore, untrained_embedder: Embedder):
        assert by_tag(store, np.arange(3), untrained_embedder) is None

    def test_labels(self, tmp_path: Path, caplog: pytest.LogCaptureFixture):
        (tmp_path / "labels.csv").write_text(
            "path,label,fold\na.wav,Dog;Cat,1\nb.wav,Cat,2\nc.wav,Cat;Dog,1\nd.wav,;,1\nf.wav,Owl,1\n"
        )
        table = read_labels(tmp_path / "labels.csv")
        paths = ["a.wav", "b.wav", "c.wav", "d.wav", "e.wav", "f.wav"]
        found = by_label(paths, table)
        assert found.names == ["Cat", "Dog", "Owl"]
        assert found.counts == [2, 1, 1]
        assert found.codes.tolist() == [1, 0, 0, -1, -1, 2]
        assert sorted(found.texts[0].split("; ")) == ["Cat", "Dog"]
        assert found.texts[3:] == ["", "", "Owl"]
        assert "1 of 6 recordings have no label" in caplog.text
        folds = by_label(paths, table, "fold")
        assert (folds.by, folds.names, folds.codes.tolist()) == ("fold", ["1", "2"], [0, 1, 0, 0, -1, 0])
        with pytest.raises(ProbeError, match="no column 'take'"):
            by_label(paths, table, "take")

    def test_folders(self):
        found = by_folder(["b/x/1.wav", "a/2.wav", "b/3.wav", "4.wav"])
        assert (found.names, found.codes.tolist(), found.texts) == (["b", "a"], [0, 1, 0, -1], ["b", "a", "b", ""])

    def test_a_name_is_written_at_the_larger_part(self):
        rng = np.random.default_rng(0)
        points = np.concatenate([rng.normal(0, 0.3, (70, 2)), rng.normal(10, 0.3, (30, 2)), [[5.0, 5.0]]])
        shown = map_of(points, ["torn"] * 101)
        assert np.linalg.norm(points[shown.anchors[0]]) < 1


class TestPicture:
    @pytest.fixture(autouse=True)
    def _matplotlib(self) -> None:
        pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")

    @staticmethod
    def many(groups: int = 20, each: int = 12, names: list[str] | None = None) -> MapPoints:
        rng = np.random.default_rng(1)
        centres = rng.uniform(0, 30, (groups, 2))
        labels: list[str | None] = [
            (names or [f"class number {i}" for i in range(groups)])[i % groups] for i in range(groups * each)
        ]
        labels += [None] * 5
        points = centres[np.arange(len(labels)) % groups] + rng.normal(0, 0.5, (len(labels), 2))
        return map_of(points, labels, title="a $title$ of recordings")

    @pytest.mark.parametrize("dark", [False, True])
    def test_holds_every_point_and_says_what_colours_mean(self, dark: bool):
        from matplotlib.colors import to_hex

        from sedembed._analysis.map_picture import draw_map

        shown = self.many()
        figure = draw_map(shown, dark=dark)
        assert sum(figure.get_facecolor()[:3]) == pytest.approx(0.25 if dark else 3.0, abs=0.2)
        (axes,) = figure.axes
        drawn = np.concatenate([np.asarray(part.get_offsets()) for part in axes.collections])
        np.testing.assert_allclose(sorted(map(tuple, drawn)), sorted(map(tuple, shown.projection.points)))
        for code, part in enumerate(axes.collections[1:]):
            mine = shown.projection.points[shown.grouping.codes == code]
            np.testing.assert_allclose(np.asarray(part.get_offsets()), mine)
            assert to_hex(part.get_facecolor()[0]) == COLOURS[code]
        texts = [text.get_text() for text in figure.legends[0].get_texts()]
        assert texts[0] == f"{shown.grouping.names[0]} (12)"
        assert texts[12:] == ["8 more (96)", "no label (5)"]
        keys = [to_hex(handle.get_color()) for handle in figure.legends[0].legend_handles]
        assert keys == [*COLOURS, GREY, GREY]
        assert {text.get_text() for text in figure.texts} == {shown.title, shown.subtitle}

    def test_names_cover_no_names_and_nothing_is_cut_off(self):
        from sedembed._analysis.map_picture import draw_map

        figure = draw_map(self.many(40))
        figure.canvas.draw()  # type: ignore[attr-defined]
        boxes = [text.get_window_extent() for text in figure.axes[0].texts]
        assert len(boxes) > 15
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
        for box in [
            *boxes,
            figure.legends[0].get_window_extent(),
            *(text.get_window_extent() for text in figure.texts),
        ]:
            assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1
            assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1

    def test_names_are_no_formulas_and_none_is_lost(self, caplog: pytest.LogCaptureFixture):
        from sedembed._analysis.map_picture import draw_map, to_png

        figure = draw_map(self.many(len(HOSTILE), names=HOSTILE))
        data = to_png(figure)
        assert data.startswith(b"\x89PNG")
        texts = [text.get_text() for text in figure.legends[0].get_texts()]
        assert len(texts) == len(HOSTILE) + 1
        assert "_hidden.wav (12)" in texts
        assert "$5 $bill$ \\frac.wav (12)" in texts
        assert [record.getMessage()[:8] for record in caplog.records] == ["the font"] * 2

    @pytest.mark.parametrize("groups", [["a"], [None], ["a", None], ["a"] * 40])
    def test_few_points_and_groups(self, groups: list[str | None]):
        from sedembed._analysis.map_picture import draw_map, to_png

        figure = draw_map(map_of(np.zeros((len(groups), 2)), groups))
        assert to_png(figure) == to_png(draw_map(map_of(np.zeros((len(groups), 2)), groups)))


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.tags[-1] if self.tags else ("", {})
        key = attributes.get("id") or tag
        self.text[key] = self.text.get(key, "") + data


def parse(page: str) -> _Tags:
    parser = _Tags()
    parser.feed(page)
    return parser


def hostile_map() -> MapPoints:
    rng = np.random.default_rng(2)
    count = 3 * len(HOSTILE)
    groups: list[str | None] = [HOSTILE[i % len(HOSTILE)] for i in range(count - 2)]
    # Apart from each other: what a pointer is nearest to is then beyond doubt.
    points = np.stack([np.arange(count) % 6 * 3.0, np.arange(count) // 6 * 2.0], 1) + rng.uniform(0, 0.3, (count, 2))
    return map_of(
        points, [*groups, None, None], [f"{i:02d} {HOSTILE[i % len(HOSTILE)]}" for i in range(count)], HOSTILE[0]
    )


class TestPage:
    def test_data_arrive_as_they_are(self):
        shown = hostile_map()
        page = map_page(shown)
        parsed = parse(page)
        assert [tag for tag, _ in parsed.tags].count("script") == 2
        assert "img" not in {tag for tag, _ in parsed.tags}
        data = json.loads(parsed.text["data"])
        assert data["paths"] == shown.paths
        assert data["texts"] == shown.grouping.texts
        assert data["names"] == shown.grouping.names
        assert data["counts"] == [3, 3, 3, 3, 3, 3, 2, 2]
        assert data["codes"] == shown.grouping.codes.tolist()
        assert data["durations"] == shown.durations.tolist()
        points = shown.projection.points - shown.projection.points.min(0)
        found = np.stack([data["x"], data["y"]], 1)
        np.testing.assert_allclose(found, points / points.max(), atol=1e-5)  # one scale for both axes
        np.testing.assert_allclose(data["extent"], found.max(0))
        assert parsed.text["title"].strip() == HOSTILE[0]

    def test_nothing_comes_from_elsewhere(self):
        page = map_page(map_of(np.eye(2), ["a", "b"]))
        for _, attributes in parse(page).tags:
            assert attributes.get("src") is None
            assert attributes.get("href", "data:,") == "data:,"
        assert not re.search(r"https?://|url\(|@import|fetch\(|XMLHttp|innerHTML|eval\(", page)
        assert "default-src 'none'" in page

    @pytest.mark.parametrize("points", [np.zeros((1, 2)), np.zeros((5, 2)), np.array([[0.0, 1.0], [0.0, 3.0]])])
    def test_points_without_width(self, points: np.ndarray):
        data = json.loads(parse(map_page(map_of(points, ["a"] * len(points)))).text["data"])
        assert np.isfinite([*data["x"], *data["y"], *data["extent"]]).all()


# With its own clock a headless browser paints few frames.
FRAMES = "window.requestAnimationFrame = draw => setTimeout(draw, 0);"
# What a person does, one thing after the other; what the page then shows is kept for the test.
SCRIPT = """
const seen = {errors: []};
window.addEventListener("error", event => seen.errors.push(event.message));
const wait = () => new Promise(done => setTimeout(done, 60));
const point = (type, x, y, more) => canvas.dispatchEvent(
  new PointerEvent(type, {clientX: x, clientY: y, pointerId: 1, bubbles: true, ...more}));
const shown = () => tip.hidden ? null : [...tip.children].map(child => child.textContent);
const pixel = (x, y) => {
  const box = canvas.getBoundingClientRect(), ratio = canvas.width / box.width;
  return [...context.getImageData(Math.round((x - box.left) * ratio), Math.round((y - box.top) * ratio), 1, 1).data];
};
const legend = text => [...document.querySelectorAll("#legend button")].find(
  button => button.querySelector(".name").textContent === text);
(async () => {
  await wait();
  const count = soundMap.data.paths.length;
  get("names").click(); await wait();
  seen.inside = [...Array(count).keys()].every(i => {
    const [x, y] = soundMap.position(i), box = canvas.getBoundingClientRect();
    return x > box.left && x < box.right && y > box.top && y < box.bottom;
  });
  seen.colours = [...Array(count).keys()].map(i => pixel(...soundMap.position(i)));
  seen.hover = [];
  for (let i = 0; i < count; i++) {
    point("pointermove", ...soundMap.position(i)); await wait();
    seen.hover.push(shown());
  }
  const corner = canvas.getBoundingClientRect();
  point("pointermove", corner.left + 1, corner.top + 1); await wait();
  seen.away = shown();

  legend(soundMap.data.names[1]).click(); await wait();
  seen.pressed = [...document.querySelectorAll('#legend [aria-pressed="true"] .name')].map(name => name.textContent);
  seen.faded = [...Array(count).keys()].map(i => pixel(...soundMap.position(i))[3]);
  point("pointermove", ...soundMap.position(soundMap.data.codes.indexOf(0))); await wait();
  seen.hoverFaded = shown();
  legend(soundMap.data.names[1]).click(); await wait();

  search.value = "QUOTES 10"; search.dispatchEvent(new Event("input")); await wait();
  seen.found = [...document.querySelectorAll("#found .name")].map(name => name.textContent);
  seen.heading = document.querySelector("#found h2").textContent;
  document.querySelector("#found li button").click(); await wait();
  seen.pinned = shown();
  const middle = canvas.getBoundingClientRect(), at = soundMap.position(10);
  seen.centred = [at[0] - middle.left - middle.width / 2, at[1] - middle.top - middle.height / 2];
  get("reset").click(); await wait();
  seen.reset = [shown(), get("found").hidden, search.value];

  const [a, b] = [soundMap.position(0), soundMap.position(7)];
  canvas.dispatchEvent(new WheelEvent("wheel", {deltaY: -200, clientX: a[0], clientY: a[1], cancelable: true}));
  await wait();
  const [c, d] = [soundMap.position(0), soundMap.position(7)];
  const apart = (p, q) => Math.hypot(q[0] - p[0], q[1] - p[1]);
  seen.zoom = [apart(a, c), apart(c, d) / apart(a, b)];
  point("pointerdown", 300, 300); point("pointermove", 340, 310);
  point("pointermove", 350, 320); point("pointerup", 350, 320);
  await wait();
  const e = soundMap.position(0);
  seen.drag = [e[0] - c[0], e[1] - c[1], shown()];
  point("pointerdown", ...e); point("pointerup", ...e); point("pointerleave", 0, 0); await wait();
  seen.clicked = shown();
  const ground = getComputedStyle(document.body).backgroundColor;
  get("theme").click(); await wait();
  seen.grounds = [ground, getComputedStyle(document.body).backgroundColor];
  seen.texts = [document.title, document.querySelector("h1").textContent, get("subtitle").textContent];
  seen.legend = [...document.querySelectorAll("#legend button")].map(
    button => [...button.children].map(part => part.textContent).slice(1));
  seen.images = document.images.length;
  document.body.dataset.seen = JSON.stringify(seen);
})();
"""


def find_browser() -> str | None:
    names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge"]
    return os.environ.get("SEDEMBED_BROWSER") or next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="module")
def shown() -> MapPoints:
    return hostile_map()


@pytest.fixture(scope="module")
def seen(shown: MapPoints, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    browser = find_browser()
    if browser is None:
        pytest.skip("no Chromium, Chrome or Edge is installed; SEDEMBED_BROWSER may name one")
    folder = tmp_path_factory.mktemp("browser")
    page = folder / "map.html"
    text = map_page(shown).replace("<style>", f"<script>{FRAMES}</script><style>")
    page.write_text(text.replace("</body>", f"<script>{SCRIPT}</script></body>"), encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--window-size=1200,800", "--virtual-time-budget=20000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=180)
    dom = parse(done.stdout.decode())
    body = next((attributes for tag, attributes in dom.tags if tag == "body"), {})
    assert body.get("data-seen"), f"the page did not get to its end: {done.stderr.decode()[-2000:]}"
    return dict(json.loads(str(body["data-seen"])))


class TestBrowser:
    """The page as a person meets it."""

    def test_no_errors_and_no_markup_from_names(self, seen: dict[str, Any], shown: MapPoints):
        assert seen["errors"] == []
        assert seen["images"] == 0
        assert seen["texts"] == [shown.title, shown.title, "subtitle"]

    def test_every_point_has_its_colour(self, seen: dict[str, Any], shown: MapPoints):
        assert seen["inside"]
        for code, pixel in zip(shown.grouping.codes, seen["colours"], strict=True):
            expected = [int((COLOURS[code] if code >= 0 else GREY)[i : i + 2], 16) for i in (1, 3, 5)]
            np.testing.assert_allclose(pixel[:3], expected, atol=4)

    def test_hovering_names_the_file(self, seen: dict[str, Any], shown: MapPoints):
        assert [file for file, _ in seen["hover"]] == shown.paths
        for (_, more), text, duration in zip(seen["hover"], shown.grouping.texts, shown.durations, strict=True):
            length = f"{duration:.2f} s" if duration < 10 else f"{duration + 1e-9:.1f} s"
            assert more == (f"{text} · {length}" if text else length)
        assert seen["away"] is None

    def test_the_legend_highlights(self, seen: dict[str, Any], shown: MapPoints):
        assert seen["legend"] == [
            *([name, str(count)] for name, count in zip(shown.grouping.names, shown.grouping.counts, strict=True)),
            ["no label", "2"],
        ]
        assert seen["pressed"] == [shown.grouping.names[1]]
        bright = np.array(seen["faded"]) > 128
        np.testing.assert_array_equal(bright, shown.grouping.codes == 1)
        assert seen["hoverFaded"] is None

    def test_the_search_finds_and_centres(self, seen: dict[str, Any], shown: MapPoints):
        assert seen["found"] == [shown.paths[10]]
        assert seen["heading"] == "1 found"
        assert seen["pinned"][0] == shown.paths[10]
        np.testing.assert_allclose(seen["centred"], 0, atol=1)
        assert seen["reset"] == [None, True, ""]

    def test_zoom_and_drag(self, seen: dict[str, Any], shown: MapPoints):
        fixed, ratio = seen["zoom"]
        assert fixed < 1
        assert ratio == pytest.approx(np.exp(0.5), rel=1e-3)
        assert seen["drag"] == [pytest.approx(50), pytest.approx(20), None]
        assert seen["clicked"][0] == shown.paths[0]

    def test_light_and_dark(self, seen: dict[str, Any]):
        levels = [sum(map(int, re.findall(r"\d+", ground)[:3])) for ground in seen["grounds"]]
        assert max(levels) > 700
        assert min(levels) < 100


class TestCommand:
    def test_page_picture_and_table(self, store: EmbeddingStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")
        lines = [f"{path},{path.split('/')[0]}" for path in store.paths]
        (tmp_path / "labels.csv").write_text("path,label\n" + "\n".join(lines))
        outputs = [tmp_path / name for name in ("map.html", "map.PNG", "map.csv")]
        options = [part for out in outputs for part in ("-o", str(out))]
        command = ["map", str(store.directory), *options, "--labels", str(tmp_path / "labels.csv"), "--method", "pca"]
        assert main(command) == 0
        assert capsys.readouterr().out.startswith("90 of 90 recordings in ")
        data = json.loads(parse(outputs[0].read_text(encoding="utf-8")).text["data"])
        assert data["paths"] == store.paths
        assert (data["by"], data["names"], data["counts"]) == ("label", ["cat", "dog", "rain"], [30, 30, 30])
        assert outputs[1].read_bytes().startswith(b"\x89PNG")
        with outputs[2].open(encoding="utf-8", newline="") as opened:
            rows = list(csv.DictReader(opened))
        assert [row["path"] for row in rows] == store.paths
        assert [row["group"] for row in rows] == [path.split("/")[0] for path in store.paths]
        expected = project(store, np.arange(90), "pca").points
        np.testing.assert_allclose([[float(row["x"]), float(row["y"])] for row in rows], expected, rtol=1e-4, atol=1e-6)
        before = [out.read_bytes() for out in outputs]
        assert main(command) == 0
        assert [out.read_bytes() for out in outputs] == before

    def test_by_sound_event(
        self,
        tmp_path: Path,
        untrained_model_dir: Path,
        untrained_embedder: Embedder,
        capsys: pytest.CaptureFixture[str],
    ):
        record = untrained_embedder.record
        settings = {"model_version": record.version, "model_sha256": record.sha256}
        vectors = np.random.default_rng(0).uniform(-1, 1, (12, 1024))
        names = [f"{'ab'[n % 2]}/{n:02d}.wav" for n in range(12)]
        model = {"name": record.name, "source": record.source}
        store = make_store(tmp_path / "out", names, vectors, settings=settings, model=model)
        out = tmp_path / "map.csv"
        command = ["map", str(store.directory), "-o", str(out), "--method", "pca"]
        groups = lambda: [line.rsplit(",", 2)[1] for line in out.read_text().splitlines()[1:]]  # noqa: E731

        assert main([*command, "--model", str(untrained_model_dir)]) == 0
        assert capsys.readouterr().err == ""
        expected = by_tag(store, np.arange(12), untrained_embedder)
        assert expected is not None
        with out.open(newline="") as opened:
            assert [row["group"] for row in csv.DictReader(opened)] == expected.texts

        assert main(command) == 0  # the model came from a directory, and nobody says which
        assert "coloured by folder, not by sound events" in capsys.readouterr().err
        assert groups() == [path.split("/")[0] for path in store.paths]

        assert main([*command, "--color", "tag"]) == 2
        assert "cannot be coloured by sound events" in capsys.readouterr().err
        assert main([*command, "--color", "folder"]) == 0
        assert capsys.readouterr().err == ""

    def test_a_sample(self, store: EmbeddingStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        out = tmp_path / "map.html"
        command = ["map", str(store.directory), "-o", str(out), "--color", "folder", "--max-points", "20"]
        assert main([*command, "--seed", "5"]) == 0
        assert "20 of 90 recordings" in capsys.readouterr().out
        data = json.loads(parse(out.read_text(encoding="utf-8")).text["data"])
        assert data["paths"] == [store.paths[row] for row in choose_rows(store, 20, 5)]
        assert "20 recordings of 90, chosen at random" in data["title"]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["-o", "map.gif"], "ends in .html, .png, .csv, got 'map.gif'"),
            (["-o", "none/map.html"], "there is no folder none"),
            (["-o", "map.csv", "--perplexity", "90"], "which is 90"),
            (["-o", "map.csv", "--max-points", "0"], "at least 1, got 0"),
            (["-o", "map.csv", "--seed", "-3"], "seed must be"),
            (["-o", "map.csv", "--column", "fold"], "--labels"),
            (["-o", "map.csv", "--labels", "none.csv"], "none.csv"),
        ],
    )
    def test_refused(
        self,
        store: EmbeddingStore,
        tmp_path: Path,
        options: list[str],
        message: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ):
        monkeypatch.chdir(tmp_path)
        before = sorted(tmp_path.iterdir())
        assert main(["map", str(store.directory), "--color", "folder", *options]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert sorted(tmp_path.iterdir()) == before

    def test_without_matplotlib(
        self, store: EmbeddingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ):
        monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
        monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
        command = ["map", str(store.directory), "--method", "pca", "--color", "folder"]
        assert main([*command, "-o", str(tmp_path / "map.png")]) == 2
        assert 'pip install "sedembed[plots]"' in capsys.readouterr().err
        assert main([*command, "-o", str(tmp_path / "map.html")]) == 0
