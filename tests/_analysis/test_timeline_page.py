"""Tests of the page of a recording."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sedembed._analysis.page import link_to
from sedembed._analysis.timeline import Timeline
from sedembed._analysis.timeline_page import timeline_page
from sedembed.detection.events import Event
from tests._analysis.browser_helpers import check_look, run_in_browser
from tests._analysis.map_helpers import parse

HOURS = 2 * 3600.0
NAME = "dawn <b>&'\" #1?.wav"


@pytest.fixture(scope="module")
def timeline() -> Timeline:
    rng = np.random.default_rng(0)
    return Timeline(
        name=NAME,
        duration=HOURS,
        spectrogram=rng.uniform(-80, -10, (5000, 64)),
        spectrogram_step=HOURS / 5000,
        labels=("Dog", "</script>", "Rain"),
        thresholds=np.float32([0.3, 0.3, 0.3]),
        probabilities=rng.uniform(0, 0.2, (7200, 3)),
        probability_step=1.0,
        probability_start=0.0,
        events=[Event("Dog", 10.0, 12.0, 0.9), Event("Dog", 5000.0, 5001.0, 0.8), Event("</script>", 3.0, 4.0, 0.5)],
    )


def test_numbers_reach_the_page(timeline: Timeline) -> None:
    data = json.loads(parse(timeline_page(timeline, "a.wav")).text["data"])
    assert data["name"] == NAME
    assert [row["label"] for row in data["rows"]] == ["</script>", "Dog", "Rain"]
    assert data["rows"][1]["events"] == [[10.0, 12.0, 0.9], [5000.0, 5001.0, 0.8]]
    values = np.frombuffer(base64.b64decode(data["rows"][1]["values"]), np.uint8)
    np.testing.assert_allclose(values / 255, timeline.probabilities[:, 0], atol=0.5 / 255 + 1e-9)
    assert len(base64.b64decode(data["spectrogram"])) == 5000 * 64


def test_links_are_relative(tmp_path: Path) -> None:
    assert link_to(tmp_path / "sounds" / "a.wav", tmp_path / "out" / "page.html") == "../sounds/a.wav"
    assert link_to(tmp_path / "a.wav", tmp_path / "page.html") == "a.wav"


SCRIPT = """
  seen.title = document.querySelector("h1").textContent;
  seen.subtitle = get("subtitle").textContent;
  seen.whole = timeline.span();
  seen.clock = [timeline.clock(3661), timeline.clock(59.96, 0.1), timeline.clock(3.25, 0.01)];
  const box = timeline.layout();
  seen.layout = [box.bottom, stage.clientHeight, box.split];
  click(...timeline.position(5000.5, 1)); await wait();
  const said = () => get("player").querySelector(".said").textContent;
  seen.event = [decodeURIComponent(player.audio.src), said()];
  // As if the file were there and its beginning had been read.
  player.audio.dispatchEvent(new Event("loadedmetadata"));
  seen.event.push(player.audio.currentTime);
  player.audio.dispatchEvent(new Event("error"));
  seen.event.push(said());
  const at = timeline.position(5000);
  canvas.dispatchEvent(new WheelEvent("wheel", {deltaY: -240, clientX: at[0], clientY: at[1], cancelable: true}));
  await wait();
  seen.zoomed = timeline.span();
  seen.stays = timeline.position(5000)[0] - at[0];
  const [x, y] = timeline.position(5000.5, 1);
  point("pointermove", x, y); await wait();
  seen.tip = [...tip.children].map(part => part.textContent);
  get("all").click(); await wait();
  seen.all = timeline.span();
  for (let i = 0; i < 30; i++) get("in").click();
  seen.nearest = timeline.span();
  const ground = getComputedStyle(document.body).backgroundColor;
  get("theme").click(); await wait();
  seen.grounds = [ground, getComputedStyle(document.body).backgroundColor];
  seen.bold = document.querySelectorAll("b").length;
"""


@pytest.fixture(scope="module")
def seen(timeline: Timeline, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("browser")
    return run_in_browser(folder / "page.html", timeline_page(timeline, NAME), SCRIPT)


class TestBrowser:
    def test_it_shows_the_recording(self, seen: dict[str, Any]) -> None:
        assert seen["errors"] == []
        assert (seen["title"], seen["bold"]) == (NAME, 0)
        assert seen["subtitle"] == "2:00:00; 3 sound events at probability 0.3"
        assert seen["whole"] == seen["all"] == [0, HOURS]
        assert seen["clock"] == ["1:01:01", "0:01:00.0", "0:00:03.25"]
        bottom, height, split = seen["layout"]
        assert height - bottom < 40
        assert split > height / 2
        assert seen["grounds"][0] != seen["grounds"][1]

    def test_it_zooms_around_the_pointer(self, seen: dict[str, Any]) -> None:
        assert np.diff(seen["zoomed"])[0] == pytest.approx(HOURS * np.exp(-0.8))
        assert abs(seen["stays"]) < 1
        assert np.diff(seen["nearest"])[0] == pytest.approx(0.5)
        assert seen["tip"] == ["Dog", "1:23:20.0 to 1:23:21.0 (h:min:s), 0.80"]

    def test_it_plays_or_says_that_the_recording_is_not_there(self, seen: dict[str, Any]) -> None:
        source, name, second, said = seen["event"]
        assert source.endswith(f"/{NAME}")
        assert name == NAME
        assert second == 5000.0  # a click on an event plays from its beginning
        assert said.startswith(f"No sound that the browser can play is at {NAME}. ")


@pytest.mark.parametrize("dark", [False, True])
def test_it_can_be_read_when_narrow(dark: bool, timeline: Timeline, tmp_path: Path) -> None:
    check_look(tmp_path / "page.html", timeline_page(timeline, "a.wav"), dark=dark)
