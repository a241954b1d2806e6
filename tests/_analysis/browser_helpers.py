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


def find_browser() -> str | None:
    names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge"]
    return os.environ.get("SEDEMBED_BROWSER") or next(filter(None, map(shutil.which, names)), None)


def run_in_browser(page: Path, text: str, script: str, size: str = "1200,800") -> dict[str, Any]:
    """What a script saw on a page, which is written to the path; skips where there is no browser."""
    browser = find_browser()
    if browser is None:
        pytest.skip("no Chromium, Chrome or Edge is installed; SEDEMBED_BROWSER may name one")
    text = text.replace("<style>", f"<script>{FRAMES}</script><style>")
    script = f"{START}(async () => {{ await wait(); {script}; document.body.dataset.seen = JSON.stringify(seen); }})();"
    page.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'profile'}"]
    command += [f"--window-size={size}", "--virtual-time-budget=20000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=180)
    dom = parse(done.stdout.decode())
    body = next((attributes for tag, attributes in dom.tags if tag == "body"), {})
    assert body.get("data-seen"), f"the page did not get to its end: {done.stderr.decode()[-2000:]}"
    return dict(json.loads(str(body["data-seen"])))
