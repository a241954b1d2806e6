"""Tests of the page of cosines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sedembed._analysis.matrix_page import matrix_page
from tests._analysis.browser_helpers import check_look, run_in_browser

SCRIPT = """
  const [x, y] = matrix.position(2, 5);
  point("pointermove", x, y); await wait();
  seen.tip = [...tip.children].map(part => part.textContent);
  const before = matrix.view();
  canvas.dispatchEvent(new WheelEvent("wheel", {deltaY: -200, clientX: x, clientY: y, cancelable: true})); await wait();
  const after = matrix.view(), moved = matrix.position(2, 5);
  seen.zoom = [after.x / before.x, after.y / before.y, moved[0] - x, moved[1] - y];
  get("all").click(); await wait();
  seen.back = JSON.stringify(matrix.view()) === JSON.stringify(before);
  search.value = "<i>CLASS 33"; search.dispatchEvent(new Event("input")); await wait();
  seen.found = [[...matrix.found().rows], [...matrix.found().columns], get("subtitle").textContent];
  seen.italic = document.querySelectorAll("i").length;
  const box = canvas.getBoundingClientRect(), last = matrix.position(39, 199);
  seen.used = [last[0] / box.right, last[1] / box.bottom];
"""


def test_a_person_reads_searches_and_zooms(tmp_path: Path) -> None:
    cosines = np.random.default_rng(0).uniform(-1, 1, (40, 200)).round(3)
    page = matrix_page(
        "What <b>it</b> hears",
        cosines,
        [f"<i>class {i}" for i in range(40)],
        [f"event {j}" for j in range(200)],
        range(40),
    )
    seen = run_in_browser(tmp_path / "page.html", page, SCRIPT)
    assert seen["errors"] == []
    assert seen["tip"] == ["<i>class 2 — event 5", f"cosine {cosines[2, 5]:.3f}, cluster 2"]
    assert seen["zoom"] == [pytest.approx(np.exp(2 / 3))] * 2 + [pytest.approx(0, abs=1)] * 2
    assert seen["back"]
    assert seen["found"] == [[33], [], "1 classes and 0 events found"]
    assert seen["italic"] == 0
    assert min(seen["used"]) > 0.85


@pytest.mark.parametrize("dark", [False, True])
def test_it_can_be_read_when_narrow(dark: bool, tmp_path: Path) -> None:
    names = [f"a class of a long name, number {i}" for i in range(20)]
    page = matrix_page("What it hears", np.eye(20), names, names, range(20))
    check_look(tmp_path / "page.html", page, dark=dark)
