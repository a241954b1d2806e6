"""The picture of a recording: its log-mel spectrogram over a timeline of its strongest sound events."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sedembed._utils.files import atomic_file, make_folder
from sedembed._utils.plotting import require_matplotlib
from sedembed.detection.detect import run_windows
from sedembed.detection.events import Event, EventDetector, EventRules, sort_events
from sedembed.engine.inputs import clip_blocks
from sedembed.errors import InvalidArgumentError
from sedembed.models.frontend import FRAME_RATE, SAMPLE_RATE, hz_to_mel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sedembed.embedder import Embedder

__all__ = ["PAGE", "Timeline", "check_picture", "draw_timeline", "read_timeline", "save_picture"]

PAGE = ".html"
_FORMATS = (".png", ".svg", ".pdf")
_COLUMNS = 2048  # most columns of a picture; a screen shows no more
_FEWEST_ROWS = 3
TICK_HZ = (250, 500, 1000, 2000, 4000, 8000)
_TICK_SECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)
_MOST_TICKS = 13
_DARK, _GREY, _RED = "#222222", "#808080", "#d1495b"


class Columns:
    """Rows of numbers that arrive in time order, kept as at most `limit` columns of equally many each.

    Parameters
    ----------
    size : int
        Numbers in a row.
    limit : int
        Even.
    maximum : bool
        Keep the maximum of the rows of a column rather than their mean.
    """

    def __init__(self, size: int, limit: int, *, maximum: bool = False) -> None:
        self._values = np.full((limit, size), -np.inf if maximum else 0.0)
        self._counts = np.zeros(limit, np.int64)
        self._maximum = maximum
        self._rows = 0
        self.rows_each = 1

    def add(self, block: NDArray[np.float32]) -> None:
        """Take the next rows in, shape (rows, size)."""
        limit = len(self._values)
        while self._rows + len(block) > limit * self.rows_each:
            pairs = self._values.reshape(limit // 2, 2, -1)
            self._values[: limit // 2] = pairs.max(1) if self._maximum else pairs.sum(1)
            self._values[limit // 2 :] = -np.inf if self._maximum else 0.0
            self._counts[: limit // 2] = self._counts.reshape(-1, 2).sum(1)
            self._counts[limit // 2 :] = 0
            self.rows_each *= 2
        columns = (self._rows + np.arange(len(block))) // self.rows_each
        first, starts, counts = np.unique(columns, return_index=True, return_counts=True)
        if self._maximum:
            self._values[first] = np.maximum(self._values[first], np.maximum.reduceat(block, starts))
        else:
            self._values[first] += np.add.reduceat(block.astype(np.float64), starts)
        self._counts[first] += counts
        self._rows += len(block)

    @property
    def values(self) -> NDArray[np.float64]:
        """What was kept, shape (columns, size)."""
        columns = -(-self._rows // self.rows_each)
        values = self._values[:columns]
        return values.copy() if self._maximum else values / self._counts[:columns, None]


@dataclass(frozen=True)
class Timeline:
    """What is drawn of a recording; of bounded size whatever its length.

    Attributes
    ----------
    name : str
        Name of the file.
    duration : float
        In seconds.
    spectrogram : ndarray of float64, shape (columns, bins)
        Log-mel features in dB: of the mean, over each column's frames, of what the front end takes the logarithm of.
    spectrogram_step : float
        Seconds that a column of it stands for; the first is centred half a feature frame early, on 0 s.
    labels : tuple of str
        Sounds looked for.
    thresholds : ndarray of float32, shape (labels,)
        From which probability on they count as events.
    probabilities : ndarray of float64, shape (columns, labels)
        Highest frame probability of each column.
    probability_step, probability_start : float
        Seconds that a column of it stands for, and when the first begins.
    events : list of Event
        Events detected.
    feature_step : float
        Seconds from one feature frame to the next.
    """

    name: str
    duration: float
    spectrogram: NDArray[np.float64]
    spectrogram_step: float
    labels: tuple[str, ...]
    thresholds: NDArray[np.float32]
    probabilities: NDArray[np.float64]
    probability_step: float
    probability_start: float
    events: list[Event]
    feature_step: float = 1 / FRAME_RATE


def read_timeline(
    model: Embedder, path: str | os.PathLike[str], rules: EventRules, columns: int | None = None
) -> Timeline:
    """Run a file through the network in bounded memory, and keep what its picture needs, in so many columns at most.

    Raises
    ------
    AudioDecodeError, FileNotFoundError
        As for `Embedder.embed`.
    """
    detector = EventDetector(rules)
    feature_step = 1 / model.runner.network.feature_rate
    spectrogram = Columns(model.runner.network.n_mels, columns or _COLUMNS)
    probabilities = Columns(len(rules.labels), columns or _COLUMNS, maximum=True)
    events: list[Event] = []
    start: float | None = None
    duration = 0.0
    for output in run_windows(model.runner, clip_blocks(path, None, model.sample_rate)):
        start = output.start if start is None else start
        spectrogram.add(10.0 ** (output.features / 10.0))
        probabilities.add(output.probabilities[:, rules.classes])
        events += detector.push(output.probabilities, output.start)
        duration = output.end
    events += detector.finish(duration)
    return Timeline(
        name=Path(path).name,
        duration=duration,
        spectrogram=10.0 * np.log10(spectrogram.values),
        spectrogram_step=spectrogram.rows_each * feature_step,
        labels=rules.labels,
        thresholds=rules.thresholds,
        probabilities=probabilities.values,
        probability_step=probabilities.rows_each / rules.frame_rate,
        probability_start=start or 0.0,
        events=sort_events(events),
        feature_step=feature_step,
    )


@dataclass(frozen=True)
class Row:
    """One strip of the timeline: a sound, its events, its strongest probability."""

    column: int
    label: str
    events: list[Event]
    probability: float


def choose_rows(timeline: Timeline, most: int) -> list[Row]:
    """Strongest sounds that have events, by the onset of the first; below them, to make three, the next strongest."""
    of_label: dict[str, list[Event]] = {}
    for event in timeline.events:
        of_label.setdefault(event.label, []).append(event)
    column = {label: i for i, label in enumerate(timeline.labels)}
    detected = [
        Row(column[label], label, events, max(event.probability for event in events))
        for label, events in of_label.items()
    ]
    detected = sorted(detected, key=lambda row: -row.probability)[:most]
    detected.sort(key=lambda row: (row.events[0].onset, -row.probability))
    peaks = timeline.probabilities.max(0)
    others = [i for i in np.argsort(-peaks, kind="stable").tolist() if timeline.labels[i] not in of_label]
    missing = max(0, min(_FEWEST_ROWS, most) - len(detected))
    return detected + [Row(i, timeline.labels[i], [], float(peaks[i])) for i in others[:missing]]


def draw_timeline(timeline: Timeline, most: int = 12) -> Figure:
    """Draw a recording.

    Parameters
    ----------
    timeline : Timeline
        From `read_timeline`.
    most : int
        Most sound events to show.

    Returns
    -------
    matplotlib.figure.Figure
        Two axes with one time axis, spectrogram and events, and a colour bar beside each.
    """
    rows = choose_rows(timeline, most)
    heights = (2.6, 0.27 * len(rows) + 0.1)
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, sum(heights) + 1.1), dpi=150, layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=heights, width_ratios=(60, 1))
    top = figure.add_subplot(grid[0, 0])
    below = figure.add_subplot(grid[1, 0], sharex=top)
    _draw_spectrogram(top, figure.add_subplot(grid[0, 1]), timeline)
    _draw_rows(below, figure.add_subplot(grid[1, 1]), timeline, rows)
    _label_time(below, timeline.duration)
    top.tick_params(labelbottom=False)
    top.set_xlim(0.0, timeline.duration)
    top.set_title(
        f"{_shorten_name(timeline.name)}   ({clock(timeline.duration, exact=True)})",
        loc="left",
        fontsize=12,
        fontweight="bold",
        color=_DARK,
        parse_math=False,
    )
    _explain(top, timeline)
    return figure


def _explain(axes: Any, timeline: Timeline) -> None:
    from matplotlib.lines import Line2D

    thresholds = np.unique(timeline.thresholds)
    above = f"{thresholds[0]:.2g}" if len(thresholds) == 1 else "its threshold"
    text = f"sound event: probability ≥ {above}" if timeline.events else f"no sound reaches {above}; the strongest:"
    line = Line2D([], [], color=_RED if timeline.events else "none", linewidth=2.2)
    axes.legend(
        [line],
        [text],
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        borderaxespad=0.0,
        borderpad=0.3,
        fontsize=10,
        labelcolor=_DARK,
    )


def _draw_spectrogram(axes: Any, bar: Any, timeline: Timeline) -> None:
    image = timeline.spectrogram.T
    quietest, loudest = loudness_range(timeline)
    half = 0.5 * timeline.feature_step
    bins = len(image)
    drawn = axes.imshow(
        image,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        cmap="magma",
        vmin=quietest,
        vmax=loudest,
        extent=(-half, timeline.spectrogram_step * image.shape[1] - half, -0.5, bins - 0.5),
    )
    axes.set_yticks([mel_bin(hz, bins) for hz in TICK_HZ], [f"{hz / 1000:g}" for hz in TICK_HZ], fontsize=9)
    axes.set_ylim(-1.0, bins)  # the outer edges of the filters, 0 and 8 kHz
    axes.set_facecolor(drawn.get_cmap()(0.0))
    axes.set_ylabel("frequency (kHz)", fontsize=10)
    axes.figure.colorbar(drawn, cax=bar).set_label("log-mel (dB)", fontsize=10)
    bar.tick_params(labelsize=9)


def loudness_range(timeline: Timeline) -> tuple[float, float]:
    """Decibels that are drawn darkest and brightest."""
    loudest = float(timeline.spectrogram.max())
    # The front end keeps 80 dB; noise at its bottom would only dim the picture.
    quietest = max(float(np.percentile(timeline.spectrogram, 2)), loudest - 50.0)
    return min(quietest, loudest - 10.0), loudest


def mel_bin(hz: float, bins: int) -> float:
    """Place of a frequency among so many mel filters, 0 being the centre of the first."""
    mel, highest = hz_to_mel(np.array([hz, SAMPLE_RATE / 2]))
    return float(mel / highest * (bins + 1) - 1)


def _draw_rows(axes: Any, bar: Any, timeline: Timeline, rows: list[Row]) -> None:
    strips = timeline.probabilities[:, [row.column for row in rows]].T
    begin = timeline.probability_start
    thinnest = timeline.duration / 500  # what one still sees
    drawn = axes.imshow(
        strips,
        aspect="auto",
        interpolation="nearest",
        cmap="Blues",
        vmin=0.0,
        vmax=1.0,
        extent=(begin, begin + timeline.probability_step * strips.shape[1], len(rows) - 0.5, -0.5),
    )
    for y in range(1, len(rows)):
        axes.axhline(y - 0.5, color="white", linewidth=3)
    for y, row in enumerate(rows):
        axes.hlines(
            [y + 0.36] * len(row.events),
            [event.onset for event in row.events],
            [max(event.offset, event.onset + thinnest) for event in row.events],
            color=_RED,
            linewidth=2.2,
            capstyle="butt",
        )
        axes.text(
            1.006,
            y,
            f"{row.probability:.2f}",
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=9,
            color=_DARK if row.events else _GREY,
        )
    axes.set_yticks(range(len(rows)), [_shorten(row.label, 44) for row in rows], fontsize=10)
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_color(_DARK if row.events else _GREY)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.figure.colorbar(drawn, cax=bar, ticks=[0, 0.5, 1]).set_label("probability", fontsize=10)
    bar.tick_params(labelsize=9)


def _label_time(axes: Any, duration: float) -> None:
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    step = next((step for step in _TICK_SECONDS if duration / step <= _MOST_TICKS), _TICK_SECONDS[-1])
    axes.xaxis.set_major_locator(MultipleLocator(step))
    plain = duration < 100
    write: Callable[[float], str] = (lambda seconds: f"{seconds:g}") if plain else clock
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: write(round(seconds, 6))))
    axes.tick_params(axis="x", labelsize=9)
    unit = "s" if plain else "min:s" if duration < 3600 else "h:min:s"
    axes.set_xlabel(f"time ({unit})", fontsize=10)


def clock(seconds: float, exact: bool = False) -> str:
    """Write a time as min:s or h:min:s; with `exact`, a short one as seconds with a decimal."""
    if exact and seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip(" ,") + "…"


def _shorten_name(name: str, most: int = 36) -> str:
    """Name of a file without what cannot be printed and, where it is long, without its middle."""
    text = "".join(c if c.isprintable() else "\ufffd" for c in name)
    return text if len(text) <= most else f"{text[: most - 13]}…{text[-12:]}"


def check_picture(path: Path) -> None:
    """Refuse what cannot be drawn before any sound is read.

    Raises
    ------
    ValueError
        For a suffix that stands for no picture, or without matplotlib.
    """
    if path.suffix.lower() == PAGE:
        return
    if path.suffix.lower() not in _FORMATS:
        raise InvalidArgumentError(
            f"expected a page ({PAGE}) or a picture with the suffix {', '.join(_FORMATS)}, got {str(path)!r}"
        )
    require_matplotlib()


def save_picture(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, SVG or PDF, by the suffix; whole or not at all."""
    make_folder(path.parent)
    with atomic_file(path) as opened:
        figure.savefig(opened, format=path.suffix.lower()[1:])
