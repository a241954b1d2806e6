"""What the pages share: data that is safe within HTML, links to recordings, and the player."""

from __future__ import annotations

import html
import json
import os
from importlib.resources import files
from pathlib import Path

__all__ = ["fill_page", "link_to"]


def fill_page(template: str, title: str, data: object) -> str:
    """Fill a page of this folder: its style, title, data and player.

    Parameters
    ----------
    template : str
        Name of the page.
    title : str
        Of the window; may hold anything.
    data : object
        Of JSON. Texts in it may hold anything: they reach the page as JSON, and its elements as text.
    """
    folder = files("sedembed") / "_analysis"
    page = (folder / template).read_text(encoding="utf-8")
    for mark, shared in (("@STYLE@\n", "page.css"), ("@PLAYER@", "player.js")):
        if mark in page:
            page = page.replace(mark, (folder / shared).read_text(encoding="utf-8"))
    before, after = page.split("@DATA@")
    return before.replace("@TITLE@", html.escape(title)) + _script_safe(data) + after


def link_to(path: Path, page: Path) -> str:
    """Relative link from a page to a file or folder, with forward slashes and not yet escaped.

    On Windows, where two drives have no common folder, an absolute one.
    """
    try:
        return Path(os.path.relpath(path.resolve(), page.resolve().parent)).as_posix()
    except ValueError:
        return path.resolve().as_posix()


def _script_safe(value: object) -> str:
    """JSON that no parser of HTML takes for markup; `<` occurs in it within strings only."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text
