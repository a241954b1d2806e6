"""A map as one page of HTML that needs nothing else but, to play them, the recordings."""

from __future__ import annotations

import numpy as np

from sedembed._analysis.map_points import COLOURS, GREY, MapPoints
from sedembed._analysis.page import fill_page

__all__ = ["map_page"]

_DIGITS = 5


def map_page(shown: MapPoints, sounds: str = "") -> str:
    """Write the page: hovering names the file, a click plays it, with zoom, a legend and a search for names.

    Parameters
    ----------
    shown : MapPoints
        What it shows. Names of files may hold anything: they reach the page as JSON, and its elements as text.
    sounds : str
        Folder of the recordings, as a link from the page; by default that of the page.

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
        "sounds": f"{sounds.rstrip('/')}/" if sounds else "",
        "paths": shown.names,
        # Of windows: the recording that a point is in, and from when on it plays.
        "files": None if shown.places is None else shown.paths,
        "starts": None if shown.places is None else shown.places[0].tolist(),
        "texts": shown.grouping.texts,
        "codes": shown.grouping.codes.tolist(),
        "durations": np.round(shown.durations, 2).tolist(),
        "x": x,
        "y": y,
    }
    return fill_page("map_page.html", shown.title, data)
