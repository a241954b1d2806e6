"""The pictures of an analysis, each a `Figure` with sizes in inches, drawn without global state of matplotlib."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
from numpy.typing import NDArray

from sedembed._analysis.dendrogram import Choice, Tree
from sedembed._analysis.label_placement import Box, arrange
from sedembed._analysis.weight_vectors import LARGE, Matrix, Plane
from sedembed._utils.files import write_atomic
from sedembed._utils.plotting import require_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "MARKERS",
    "PALETTE",
    "dendrogram",
    "drawable",
    "matrix",
    "plane",
    "save",
    "strongest",
]

P = ParamSpec("P")

# Twelve colours as far apart as possible, also for the three dichromacies, and dark enough for lines on white.
PALETTE = (
    "#2e74a2",
    "#ff8b00",
    "#460074",
    "#a2b974",
    "#d12e00",
    "#74b9ff",
    "#8b5d5d",
    "#5d00ff",
    "#e8a2b9",
    "#172e46",
    "#a25dff",
    "#5d1700",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # 7 and 12 have no common divisor: 84 different pairs
_GREY = "#777777"
_DIVERGING = "RdBu_r"  # blue to red through white: told apart in every common colour blindness
_LONGEST_NAME = 48  # characters
_TALL = 60  # more classes than a screen shows at once
_MOST_PIXELS, _MOST_SIDE, _DPI = 60e6, 30_000, 150
_LAYOUT_DPI = 72  # pixels are points


@contextmanager
def _own_style() -> Iterator[None]:
    """Matplotlib's defaults, whatever the user's settings, so that pictures are the same everywhere."""
    require_matplotlib()
    import matplotlib as mpl

    own = {"svg.hashsalt": "sedembed", "svg.fonttype": "path", "text.parse_math": False, "figure.dpi": _LAYOUT_DPI}
    with mpl.style.context(["default", own]):
        yield


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with _own_style():
            return draw(*args, **kwargs)

    return styled


@_styled
def dendrogram(tree: Tree, names: Sequence[str], choice: Choice) -> Figure:
    """Draw the tree of the classes, its root at the left, a leaf a line, clusters coloured and numbered."""
    from matplotlib.collections import LineCollection

    count = len(names)
    pitch, size = _pitch(count), _font(count)
    shown = [_shortened(names[i]) for i in tree.order]
    figure = _figure()
    left, tree_width, strip, right = 0.3, 6.0, 0.24, _widest(figure, shown, size) + 0.25
    top, bottom = 0.8, 0.6
    figure.set_size_inches(left + tree_width + strip + right, top + count * pitch + bottom)
    axes = _panel(figure, left, bottom, tree_width, count * pitch)

    place = np.empty(2 * count - 1)
    place[tree.order] = np.arange(count)
    level = np.concatenate([np.zeros(count), tree.merges[:, 2]])
    low, high = _span(tree.merges[:, 2])
    lines, colours, clusters = [], [], tree.node_clusters()
    for node, (a, b) in enumerate(tree.merges[:, :2].astype(int), count):
        place[node] = (place[a] + place[b]) / 2
        x, xa, xb = level[node], max(level[a], low), max(level[b], low)
        lines.append([(xa, place[a]), (x, place[a]), (x, place[b]), (xb, place[b])])
        colours.append(_colour(int(clusters[node])))
    axes.add_collection(LineCollection(lines, colors=colours, linewidths=1.3 if count <= 200 else 0.9))
    axes.set_xlim(high, low)
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_yticks([])
    axes.tick_params(labelsize=8, top=count > _TALL, labeltop=count > _TALL)
    axes.spines[["left", "right", "top"]].set_visible(False)
    cut_off = " (the axis does not start at 0)" if low > 0 else ""
    axes.set_xlabel(f"{choice.distance} distance at which classes join{cut_off}", fontsize=8)

    side = _panel(figure, left + tree_width, bottom, strip, count * pitch)
    _cluster_strip(side, tree, size)
    for i, name in enumerate(shown):
        side.text(1.15, i, name, fontsize=size, va="center", ha="left", clip_on=False)
    text = f"{count} classes, {choice.linkage} linkage of {choice.distance} distances, {_clusters(tree)}"
    _title(figure, "What the probe's classes have in common", text, left)
    return figure


@_styled
def plane(found: Plane, tree: Tree, names: Sequence[str]) -> Figure:
    """Draw the classes as points, coloured by cluster, each with its name beside it."""
    from matplotlib.collections import LineCollection

    count = len(names)
    edge = max(5.0, 1.05 * np.sqrt(count))
    size = 8.0 if count <= 120 else 6.5
    figure = _figure()
    rows = -(-tree.count // max(1, int(edge // 1.05)))
    left, top, bottom = 0.3, 0.85, 0.45 + 0.22 * rows
    figure.set_size_inches(edge + 2 * left, edge + top + bottom)
    axes = _panel(figure, left, bottom, edge, edge)
    axes.set_xticks([])
    axes.set_yticks([])
    low, high = found.points.min(0), found.points.max(0)
    margin = 0.1 * np.where(high > low, high - low, 1.0)
    axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
    axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
    radius = 4.0 if count <= 120 else 3.0  # points
    for cluster in range(1, tree.count + 1):
        x, y = found.points[tree.clusters == cluster].T
        colour, marker = _colour(cluster), MARKERS[(cluster - 1) % len(MARKERS)]
        axes.scatter(x, y, s=(2 * radius) ** 2, c=colour, marker=marker, linewidths=0, label=f"cluster {cluster}")
    if tree.count > 1:
        columns = max(1, int(edge // 1.05))
        figure.legend(loc="lower left", bbox_to_anchor=(0.01, 0.005), ncols=columns, fontsize=8, frameon=False)

    shown = [_shortened(name) for name in names]
    pixels = axes.transData.transform(found.points)
    sizes = _extents(figure, shown, size)
    boxes, frame = arrange(pixels, sizes, radius, Box(*axes.bbox.padded(-4).extents)), axes.transData.inverted()
    leaders = []
    for name, box, point in zip(shown, boxes, pixels, strict=True):
        near = np.clip(point, (box.left, box.bottom), (box.right, box.top))
        if np.linalg.norm(near - point) > 2 * radius + 3:
            leaders.append(frame.transform([point, near]))
        x, y = frame.transform(((box.left + box.right) / 2, (box.bottom + box.top) / 2))
        axes.text(x, y, name, fontsize=size, ha="center", va="center")
    axes.add_collection(LineCollection(leaders, colors=_GREY, linewidths=0.5, zorder=0.5))
    if found.method == "PCA":
        text = f"{count} classes by PCA of their rows: t-SNE of fewer than five points says nothing"
    else:
        text = f"{count} classes by t-SNE of their rows, perplexity {found.perplexity:.3g}, {_clusters(tree)}"
    text += "\nNeighbours are alike; directions and long distances mean nothing"
    _title(figure, "The probe's classes on a plane", text, left)
    return figure


@_styled
def matrix(
    values: Matrix, tree: Tree, names: Sequence[str], events: Sequence[str], event_order: NDArray[np.int64]
) -> Figure:
    """Draw cosines of all classes with all events, both in the order of their trees; large ones have a dot."""
    return _heat(
        values[np.ix_(tree.order, event_order)],
        tree,
        [names[i] for i in tree.order],
        [events[i] for i in event_order],
        cell=0.08,
        title="Class rows and sound-event rows",
        numbers=False,
    )


@_styled
def strongest(
    values: Matrix, tree: Tree, names: Sequence[str], events: Sequence[str], event_order: NDArray[np.int64]
) -> Figure:
    """Draw the columns that are among the strongest of some class, with the large values written in."""
    best = np.argsort(-values, axis=1, kind="stable")
    kept = [set(best[:, :each].ravel().tolist()) for each in (1, 2, 3)]
    chosen = next((columns for columns in reversed(kept) if len(columns) <= 80), kept[0])
    shown = [i for i in event_order if i in chosen]
    return _heat(
        values[np.ix_(tree.order, shown)],
        tree,
        [names[i] for i in tree.order],
        [events[i] for i in shown],
        cell=0.21,
        title="The strongest sound events of each class",
        numbers=True,
    )


def save(figure: Figure, stem: Path) -> dict[str, bytes]:
    """Write a figure as PNG and SVG, the same bytes for the same figure; return them by ending."""
    width, height = figure.get_size_inches()
    dpi = min(_DPI, np.sqrt(_MOST_PIXELS / (width * height)), _MOST_SIDE / max(width, height))
    written = {}
    with _own_style():
        for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            stream = io.BytesIO()
            figure.savefig(stream, format=ending, dpi=dpi if ending == "png" else _LAYOUT_DPI, metadata=metadata)
            written[ending] = stream.getvalue()
            write_atomic(stem.with_suffix(f".{ending}"), written[ending])
    return written


# --- parts ---------------------------------------------------------------------------------------------------------


def _heat(
    values: Matrix, tree: Tree, names: list[str], events: list[str], *, cell: float, title: str, numbers: bool
) -> Figure:
    """Matrix of coloured cells with a name at each row and column; `cell` is the width of one in inches."""
    count, columns = values.shape
    pitch, size = _pitch(count), _font(count)
    event_size = min(8.0, cell * 72 * 0.86)
    names, events = [_shortened(name) for name in names], [_shortened(event) for event in events]
    figure = _figure()
    strip = 0.24
    left = _widest(figure, names, size) + 0.3 + strip
    room = _widest(figure, events, event_size) + 0.1
    # Too tall for one screen: names at both ends.
    top, bottom = 1.0 + (room if count > _TALL else 0.0), room + 0.2
    width, height = columns * cell, count * pitch
    figure.set_size_inches(max(left + width + 0.3, 7.0), top + height + bottom)
    side = _panel(figure, left - strip, bottom, strip, height)
    _cluster_strip(side, tree, size)
    for i, name in enumerate(names):
        side.text(-0.15, i, name, fontsize=size, va="center", ha="right", clip_on=False)

    axes = _panel(figure, left, bottom, width, height)
    limit = max(LARGE, np.ceil(np.abs(values).max() * 20) / 20)
    image = axes.imshow(values, cmap=_DIVERGING, vmin=-limit, vmax=limit, aspect="auto", interpolation="none")
    axes.set_yticks([])
    axes.set_xticks([])
    # Texts, not ticks, which take several times as long to draw.
    away = 0.05 / pitch
    ends = [(count - 0.5 + away, "top")] + ([(-0.5 - away, "bottom")] if count > _TALL else [])
    for where, side_of_text in ends:
        for j, event in enumerate(events):
            axes.text(j, where, event, fontsize=event_size, rotation=90, ha="center", va=side_of_text, clip_on=False)
    y, x = np.nonzero(values >= LARGE)
    if numbers:
        for up, across in zip(y.tolist(), x.tolist(), strict=True):
            value = values[up, across]
            ink = "white" if value > 0.65 * limit else "black"
            text = f"{value:.2f}".lstrip("0")
            axes.text(across, up, text, fontsize=min(6.5, size), ha="center", va="center", color=ink)
    else:
        axes.scatter(x, y, s=2.0, c="black", linewidths=0)
    bar = _panel(figure, 4.6, top + height + bottom - 0.62, 2.0, 0.12)
    figure.colorbar(image, cax=bar, orientation="horizontal", ticks=[-LARGE, 0.0, LARGE])
    bar.tick_params(labelsize=7, length=2)
    mark = "written" if numbers else "with a dot"
    _title(figure, title, f"cosine of mean-variance-normalised rows;\nvalues of {LARGE} and more {mark}", 0.3)
    return figure


def _cluster_strip(axes: Axes, tree: Tree, size: float) -> None:
    """Colour the place of each cluster along the leaves and write its number."""
    in_order = tree.clusters[tree.order]
    for cluster in range(1, tree.count + 1):
        rows = np.flatnonzero(in_order == cluster)
        colour = _colour(cluster)
        axes.barh(rows.mean(), 0.8, height=len(rows) - 0.1, left=0.1, color=colour, linewidth=0)
        ink = "white" if _luminance(colour) < 0.3 else "black"
        axes.text(0.5, rows.mean(), str(cluster), fontsize=min(7.5, size), ha="center", va="center", color=ink)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(in_order) - 0.5, -0.5)
    axes.set_axis_off()


def _figure() -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure()
    FigureCanvasAgg(figure)
    return figure


def _panel(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place given in inches."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def _title(figure: Figure, title: str, text: str, left: float) -> None:
    across, up = figure.get_size_inches()
    figure.text(left / across, 1 - 0.28 / up, title, fontsize=11, weight="bold", va="center")
    figure.text(left / across, 1 - 0.4 / up, text, fontsize=8, va="top", color="#333333")


def _pitch(count: int) -> float:
    """Inches from one class to the next."""
    return float(np.interp(count, [30, 60, 200], [0.24, 0.2, 0.115]))


def _font(count: int) -> float:
    """Points of a class name."""
    return min(9.0, _pitch(count) * 72 * 0.74)


def _span(levels: NDArray[np.float64]) -> tuple[float, float]:
    """Find the ends of the axis of a tree, without zero where that would leave most of the picture empty."""
    low, high = float(levels.min()), float(levels.max())
    if high == low:
        return (0.0, high * 1.05) if high > 0 else (0.0, 1.0)
    room = high - low
    return (low - 0.25 * room if low > 0.4 * high else 0.0), high + 0.03 * room


def _clusters(tree: Tree) -> str:
    return "1 cluster" if tree.count == 1 else f"{tree.count} clusters"


def _colour(cluster: int) -> str:
    return PALETTE[(cluster - 1) % len(PALETTE)] if cluster else _GREY


def _luminance(colour: str) -> float:
    """Relative luminance of a colour, in [0, 1]."""
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def drawable(name: str) -> str:
    """Name with what the font of the pictures lacks replaced by its sign for that."""
    known = _letters()
    return "".join(sign if ord(sign) in known else "\ufffd" for sign in " ".join(name.split()))


@cache
def _letters() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def _shortened(name: str) -> str:
    name = drawable(name)
    return name if len(name) <= _LONGEST_NAME else textwrap.wrap(name, _LONGEST_NAME - 1)[0] + "…"


def _extents(figure: Any, texts: Sequence[str], size: float) -> NDArray[np.float64]:
    """Width of each text and height of a line in points, shape (texts, 2)."""
    from matplotlib.font_manager import FontProperties

    measure, font = figure.canvas.get_renderer().get_text_width_height_descent, FontProperties(size=size)
    sizes = np.array([measure(text, font, ismath=False)[:2] for text in (*texts, "lp")], float)
    sizes[:, 1] = sizes[:, 1].max()
    return sizes[:-1]


def _widest(figure: Figure, texts: Sequence[str], size: float) -> float:
    """Width of the widest text in inches."""
    return float(_extents(figure, texts, size)[:, 0].max()) / _LAYOUT_DPI
