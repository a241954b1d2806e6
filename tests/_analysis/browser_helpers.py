"""Run a page in a browser without a window, where one is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests._analysis.map_helpers import parse

# Time that does not pass by itself draws no frame.
FRAMES = "window.requestAnimationFrame = draw => setTimeout(draw, 0);"

# What every script begins with; `seen` is what the test gets.
START = """
const seen = {errors: []};
window.addEventListener("error", event => seen.errors.push(event.message));
const wait = (time = 60) => new Promise(done => setTimeout(done, time));
const point = (type, x, y, more) => canvas.dispatchEvent(
  new PointerEvent(type, {clientX: x, clientY: y, pointerId: 1, bubbles: true, ...more}));
const click = (x, y) => { point("pointerdown", x, y); point("pointerup", x, y); };
"""

# How a page looks: what is wider than the window, what of the header cannot be seen, and the contrast of its texts.
LOOK = """
  const luminance = text => {
    const [r, g, b] = text.match(/[\\d.]+/g).map(c => c / 255).map(
      c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$/.test(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const contrast = element => {
    const [a, b] = [getComputedStyle(element).color, ground(element)].map(luminance).sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  const texts = [...document.querySelectorAll("body *:not(script):not(style):not(noscript)")].filter(
    element => element.offsetWidth && [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim()));
  seen.contrast = Math.min(...texts.map(contrast));
  seen.texts = texts.length;
  seen.dark = matchMedia("(prefers-color-scheme: dark)").matches;
  seen.ground = luminance(ground(document.body));
  seen.width = [document.documentElement.scrollWidth, innerWidth];
  seen.outside = [...document.querySelectorAll("header *")].filter(element => element.offsetWidth).map(
    element => element.getBoundingClientRect()).filter(r => r.left < 0 || r.right > innerWidth).length;
  const middles = [...document.querySelectorAll("#tools > *")].map(tool => tool.offsetTop + tool.offsetHeight / 2);
  seen.toolsSpread = middles.length ? Math.max(...middles) - Math.min(...middles) : 0;
"""


def check_look(page: Path, text: str, *, dark: bool) -> dict[str, Any]:
    """Hold how a page looks on a narrow window, 500 pixels, against what every page owes its reader."""
    seen = run_in_browser(page, text, LOOK, "500,800", dark=dark)
    assert seen["errors"] == []
    assert seen["dark"] == dark
    assert (seen["ground"] < 0.1) == dark
    assert seen["texts"] > 1
    assert seen["contrast"] >= 4.5  # WCAG 2, level AA
    assert seen["width"][0] <= seen["width"][1]
    assert seen["outside"] == 0
    assert seen["toolsSpread"] < 10  # all buttons are in one row
    return seen


def find_browser() -> str | None:
    names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge"]
    return os.environ.get("SEDEMBED_BROWSER") or next(filter(None, map(shutil.which, names)), None)


def run_in_browser(page: Path, text: str, script: str, size: str = "1200,800", *, dark: bool = False) -> dict[str, Any]:
    """What a script saw on a page, which is written to the path; skips where there is no browser."""
    browser = find_browser()
    if browser is None:
        pytest.skip("no Chromium, Chrome or Edge is installed; SEDEMBED_BROWSER may name one")
    text = text.replace("<style>", f"<script>{FRAMES}</script><style>")
    script = f"{START}(async () => {{ await wait(); {script}; document.body.dataset.seen = JSON.stringify(seen); }})();"
    page.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'profile'}"]
    command += ["--blink-settings=preferredColorScheme=0"] if dark else []
    command += [f"--window-size={size}", "--virtual-time-budget=20000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=180)
    dom = parse(done.stdout.decode())
    body = next((attributes for tag, attributes in dom.tags if tag == "body"), {})
    assert body.get("data-seen"), f"the page did not get to its end: {done.stderr.decode()[-2000:]}"
    return dict(json.loads(str(body["data-seen"])))
