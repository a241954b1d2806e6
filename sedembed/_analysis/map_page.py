"""A map as one page of HTML that needs nothing else: no network, no server, no other file."""

from __future__ import annotations

import html
import json
from importlib.resources import files

import numpy as np

from sedembed._analysis.map_points import COLOURS, GREY, MapPoints

__all__ = ["map_page"]

_DIGITS = 5


def map_page(shown: MapPoints) -> str:
    """Write the page: hovering names the file, with zoom, a legend that highlights, and a search for names.

    Parameters
    ----------
    shown : MapPoints
        What it shows. Names of files may hold anything: they reach the page as JSON, and its elements as text.

    Returns
    -------
    str
        To be saved as UTF-8.
    """
    points = shown.projection.points - shown.projection.points.min(0)
    extent = points.max(0)
    scale = float(extent.max()) or 1.0
    x, y = (points / scale).round(_DIGITS).T.tolist()
    data = {
        "title": shown.title,
        "subtitle": shown.subtitle,
        "by": shown.grouping.by,
        "names": shown.grouping.names,
        "counts": shown.grouping.counts,
        "anchors": shown.anchors.tolist(),
        "colours": COLOURS,
        "grey": GREY,
        "extent": (extent / scale).round(_DIGITS).tolist(),
        "paths": shown.names,
        "texts": shown.grouping.texts,
        "codes": shown.grouping.codes.tolist(),
        "durations": np.round(shown.durations, 2).tolist(),
        "x": x,
        "y": y,
    }
    template = (files("sedembed") / "_analysis" / "map_page.html").read_text(encoding="utf-8")
    before, after = template.split("@DATA@")
    return before.replace("@TITLE@", html.escape(shown.title)) + _script_safe(data) + after


def _script_safe(value: object) -> str:
    """JSON that no parser of HTML takes for markup; `<` occurs in it within strings only."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text
