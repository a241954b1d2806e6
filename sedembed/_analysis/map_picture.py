"""A map as a picture."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from sedembed._analysis.map_points import COLOURS, GREY, NOTHING, MapPoints

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_map", "to_png"]

logger = logging.getLogger(__name__)

_LONGEST = 34  # characters of a name
_NAMED = 60  # groups that may have their name in the picture
_DPI = 150


def draw_map(shown: MapPoints, *, dark: bool = False) -> Figure:
    """Draw a map: the twelve largest groups in colours with a legend, names where there is room for them.

    Parameters
    ----------
    shown : MapPoints
        What to draw.
    dark : bool
        On a dark ground.

    Returns
    -------
    matplotlib.figure.Figure
        With an Agg canvas; no global state of matplotlib is used.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    ground, ink, faint = ("#15171a", "#eceef1", "#a9aeb6") if dark else ("#ffffff", "#1c1e21", "#5c6068")
    points, grouping = shown.projection.points, shown.grouping
    with _own_style():
        figure = Figure(figsize=(11, 8), dpi=_DPI, facecolor=ground)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.02, 0.06, 0.72, 0.85))
        axes.set_axis_off()
        axes.set_aspect("equal", adjustable="datalim")
        size = float(np.clip(30_000 / len(points), 3.0, 40.0))
        other = (grouping.codes == NOTHING) | (grouping.codes >= len(COLOURS))
        x, y = points.T
        axes.scatter(x[other], y[other], s=size, c=GREY, linewidths=0, alpha=0.5)
        for code in range(min(len(grouping.names), len(COLOURS))):
            mine = grouping.codes == code
            axes.scatter(x[mine], y[mine], s=size, c=COLOURS[code], linewidths=0, alpha=0.85)
        axes.margins(0.04)

        def key(colour: str, text: str) -> tuple[Line2D, str]:
            return Line2D([], [], marker="o", linestyle="", color=colour, markersize=6), text

        keys = [
            key(COLOURS[code], f"{_shortened(name)} ({count})")
            for code, (name, count) in enumerate(zip(grouping.names, grouping.counts, strict=True))
            if code < len(COLOURS)
        ]
        more, without = len(grouping.names) - len(COLOURS), int(np.count_nonzero(grouping.codes == NOTHING))
        if more > 0:
            keys.append(key(GREY, f"{more} more ({np.count_nonzero(other) - without})"))
        if without:
            keys.append(key(GREY, f"no {grouping.by} ({without})"))
        legend = figure.legend(
            *zip(*keys, strict=True),
            title=grouping.by,
            loc="upper left",
            bbox_to_anchor=(0.745, 0.91),
            frameon=False,
            fontsize=9,
            labelcolor=ink,
            handletextpad=0.3,
            alignment="left",
        )
        legend.get_title().set(color=faint, fontsize=9)
        figure.text(0.025, 0.945, _shortened(shown.title, 80), fontsize=14, color=ink, weight="bold")
        figure.text(0.025, 0.025, shown.subtitle, fontsize=8.5, color=faint)
        _write_names(figure, shown, ink, ground)
    return figure


def to_png(figure: Figure) -> bytes:
    """Return the bytes of a PNG file: the same for the same figure."""
    stream = io.BytesIO()
    with _own_style():
        figure.savefig(stream, format="png", dpi=_DPI, metadata={"Software": None})
    return stream.getvalue()


def _write_names(figure: Figure, shown: MapPoints, ink: str, ground: str) -> None:
    """Write the names of groups at their places, large groups first, none over another one."""
    from matplotlib.patheffects import withStroke

    axes = figure.axes[0]
    axes.apply_aspect()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    taken: list[Any] = []
    fewest = max(2, len(shown.paths) // 400)
    anchors = shown.anchors[:_NAMED]
    for code, (name, count) in enumerate(zip(shown.grouping.names[:_NAMED], shown.grouping.counts, strict=False)):
        if count < fewest:
            break
        x, y = shown.projection.points[anchors[code]]
        text = axes.text(
            x,
            y,
            _shortened(name),
            fontsize=8,
            color=ink,
            ha="center",
            va="center",
            path_effects=[withStroke(linewidth=2.5, foreground=ground)],
        )
        box = text.get_window_extent(renderer).padded(1.5)
        if any(box.overlaps(other) for other in taken) or not axes.bbox.contains(box.x0, box.y0):
            text.remove()
        else:
            taken.append(box)


def _shortened(name: str, longest: int = _LONGEST) -> str:
    name = "".join(letter if letter.isprintable() else " " for letter in name)
    return name if len(name) <= longest else f"{name[: longest - 11]}…{name[-10:]}"


@contextmanager
def _own_style() -> Iterator[None]:
    """Matplotlib's defaults whatever the user's settings, `$` as it is, one warning for all missing letters."""
    import matplotlib as mpl
    import matplotlib.style

    with mpl.style.context(["default", {"text.parse_math": False}]), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    missing = [warning for warning in caught if "missing from font" in str(warning.message)]
    for warning in caught:
        if warning not in missing:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if missing:
        logger.warning("the font of the picture lacks some letters of the names; the page (.html) shows them all")
