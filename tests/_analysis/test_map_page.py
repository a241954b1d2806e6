"""Tests of map page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sedembed._analysis.map_page import map_page
from sedembed._analysis.map_points import COLOURS, GREY, MapPoints
from tests._analysis.browser_helpers import check_look, run_in_browser
from tests._analysis.map_helpers import HOSTILE, hostile_map, map_of, parse, shown  # noqa: F401


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
# What a person does, one thing after the other; what the page then shows is kept for the test.
SCRIPT = """
const shown = () => tip.hidden ? null : [...tip.children].map(child => child.textContent);
const pixel = (x, y) => {
  const box = canvas.getBoundingClientRect(), ratio = canvas.width / box.width;
  return [...context.getImageData(Math.round((x - box.left) * ratio), Math.round((y - box.top) * ratio), 1, 1).data];
};
const legend = text => [...document.querySelectorAll("#legend button")].find(
  button => button.querySelector(".name").textContent === text);
  const count = soundMap.data.paths.length;
  seen.names = soundMap.names();
  seen.points = [...Array(count).keys()].map(i => soundMap.position(i));
  seen.radius = soundMap.radius();
  seen.stage = [stage.clientWidth, stage.clientHeight];
  get("names").click(); await wait();
  seen.inside = [...Array(count).keys()].every(i => {
    const [x, y] = soundMap.position(i), box = canvas.getBoundingClientRect();
    return x > box.left && x < box.right && y > box.top && y < box.bottom;
  });
  seen.colours = [...Array(count).keys()].map(i => pixel(...soundMap.position(i)));
  seen.hover = [], seen.tipCovers = [];
  for (let i = 0; i < count; i++) {
    point("pointermove", ...soundMap.position(i)); await wait();
    seen.hover.push(shown());
    const over = tip.getBoundingClientRect(), [x, y] = soundMap.position(i);
    seen.tipCovers.push(x >= over.left && x <= over.right && y >= over.top && y <= over.bottom);
  }
  const corner = canvas.getBoundingClientRect();
  point("pointermove", corner.left + 1, corner.top + 1); await wait();
  seen.away = shown();

  // Before anything plays: the player takes room from the stage, at a time of the browser's choice.
  const [a, b] = [soundMap.position(0), soundMap.position(7)];
  canvas.dispatchEvent(new WheelEvent("wheel", {deltaY: -200, clientX: a[0], clientY: a[1], cancelable: true}));
  await wait();
  const [c, d] = [soundMap.position(0), soundMap.position(7)];
  const apart = (p, q) => Math.hypot(q[0] - p[0], q[1] - p[1]);
  seen.zoom = [apart(a, c), apart(c, d) / apart(a, b)];
  point("pointerdown", 300, 300); point("pointermove", 340, 310);
  point("pointermove", 350, 320); point("pointerup", 350, 320);
  await wait();
  const moved = soundMap.position(0);
  seen.drag = [moved[0] - c[0], moved[1] - c[1], shown()];
  get("reset").click(); await wait();

  legend(soundMap.data.names[1]).click(); await wait();
  seen.pressed = [...document.querySelectorAll('#legend [aria-pressed="true"] .name')].map(name => name.textContent);
  seen.faded = [...Array(count).keys()].map(i => pixel(...soundMap.position(i))[3]);
  point("pointermove", ...soundMap.position(soundMap.data.codes.indexOf(0))); await wait();
  seen.hoverFaded = shown();
  legend(soundMap.data.names[1]).click(); await wait();

  search.value = "QUOTES 10"; search.dispatchEvent(new Event("input")); await wait();
  seen.found = [...document.querySelectorAll("#found .name")].map(name => name.textContent);
  seen.heading = document.querySelector("#found h2").textContent;
  const ten = soundMap.data.codes[10], other = [...document.querySelectorAll("#legend button")][
    soundMap.data.names.findIndex((name, code) => code !== ten)];
  other.click(); await wait();
  seen.foundElsewhere = document.querySelectorAll("#found .name").length;
  seen.counts = [...document.querySelectorAll("#legend .count")].map(part => part.textContent);
  other.click(); await wait();
  document.querySelector("#found li button").click(); await wait();
  const said = () => get("player").querySelector(".said").textContent;
  seen.player = [get("player").hidden, decodeURIComponent(player.audio.src), said()];
  seen.pinned = shown();
  // On a busy machine the page learns late that the player has taken room.
  const settled = () => canvas.height === Math.round(stage.clientHeight * (window.devicePixelRatio || 1));
  for (let i = 0; i < 50 && !settled(); i++) await wait();
  const middle = canvas.getBoundingClientRect(), at = soundMap.position(10);
  seen.centred = [at[0] - middle.left - middle.width / 2, at[1] - middle.top - middle.height / 2];
  player.audio.dispatchEvent(new Event("error")); seen.player.push(said());
  get("reset").click(); await wait();
  seen.reset = [shown(), get("found").hidden, search.value];

  const e = soundMap.position(0);
  point("pointerdown", ...e); point("pointerup", ...e); point("pointerleave", 0, 0); await wait();
  seen.clicked = shown();
  const ground = getComputedStyle(document.body).backgroundColor;
  get("theme").click(); await wait();
  seen.grounds = [ground, getComputedStyle(document.body).backgroundColor];
  seen.texts = [document.title, document.querySelector("h1").textContent, get("subtitle").textContent];
  seen.legend = [...document.querySelectorAll("#legend button")].map(
    button => [...button.children].map(part => part.textContent).slice(1));
  seen.images = document.images.length;
"""


@pytest.fixture(scope="module")
def seen(shown: MapPoints, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_in_browser(tmp_path_factory.mktemp("browser") / "map.html", map_page(shown, "../sounds #1"), SCRIPT)


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
        assert seen["tipCovers"] == [False] * len(shown.paths)

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

    def test_search_and_legend_together(self, seen: dict[str, Any], shown: MapPoints):
        assert seen["foundElsewhere"] == 0
        code = int(shown.grouping.codes[10])
        counts = [f"{int(c == code)} of {n}" for c, n in enumerate(shown.grouping.counts)]
        assert seen["counts"] == [*counts, f"{int(code < 0)} of 2"]

    def test_names_cover_no_point_and_the_page_is_used(self, seen: dict[str, Any]):
        assert seen["names"]
        for left, top, right, bottom in seen["names"]:
            for x, y in seen["points"]:
                beside = np.hypot(x - np.clip(x, left, right), y - np.clip(y, top, bottom))
                assert beside >= seen["radius"]
        for spread, room in zip(np.ptp(seen["points"], axis=0), seen["stage"], strict=True):
            assert spread > 0.5 * room

    def test_a_click_plays_or_says_what_is_missing(self, seen: dict[str, Any], shown: MapPoints):
        hidden, source, name, said = seen["player"]
        assert not hidden
        assert source.endswith(f"/sounds #1/{shown.paths[10]}")
        assert name == shown.paths[10]
        assert said.startswith(f"No sound that the browser can play is at ../sounds #1/{shown.paths[10]}. ")

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


@pytest.mark.parametrize("dark", [False, True])
def test_it_can_be_read_when_narrow(dark: bool, shown: MapPoints, tmp_path: Path) -> None:
    check_look(tmp_path / "map.html", map_page(shown, "sounds"), dark=dark)
