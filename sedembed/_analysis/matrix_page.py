"""The cosines of classes with sound events as one page of HTML: hovering names a cell, with zoom and search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sedembed._analysis.page import fill_page

__all__ = ["matrix_page"]


def matrix_page(
    title: str,
    cosines: NDArray[np.float64],
    classes: Sequence[str],
    events: Sequence[str],
    clusters: Sequence[int],
) -> str:
    """Write the page.

    Parameters
    ----------
    title : str
        Above it.
    cosines : ndarray of float64, shape (C, E)
        Rows and columns in the order in which they are shown.
    classes, events : sequence of str, lengths C and E
        Their names; may hold anything.
    clusters : sequence of int, length C
        Cluster of each class.

    Returns
    -------
    str
        To be saved as UTF-8; it needs nothing else.
    """
    data = {
        "title": title,
        "subtitle": f"cosines of {len(classes)} classes (rows) with {len(events)} sound events (columns), in the order "
        "of their trees",
        "classes": list(classes),
        "events": list(events),
        "clusters": [int(cluster) for cluster in clusters],
        "cosines": np.round(cosines, 4).tolist(),
        "most": float(np.abs(cosines).max()) or 1.0,
    }
    return fill_page("matrix_page.html", title, data)
