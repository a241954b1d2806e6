"""Recordings as coloured points: what a map shows, whether as a picture or as a page."""

from __future__ import annotations

import csv
import io
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sedembed._analysis.projection import Projection, sampled_blocks
from sedembed.store.store import EmbeddingStore

if TYPE_CHECKING:
    from sedembed.embedder import Embedder
    from sedembed.probe.label_table import LabelTable

__all__ = ["COLOURS", "GREY", "Grouping", "MapPoints", "by_folder", "by_label", "by_stored_tag", "by_tag"]

logger = logging.getLogger(__name__)

# Told apart on white and on near-black; those beyond are grey.
COLOURS = (
    "#3d7ddb",
    "#e8702a",
    "#22a06b",
    "#d63a4a",
    "#9a5ae0",
    "#1ba8c4",
    "#e667b0",
    "#a3851a",
    "#7fb51a",
    "#a5673f",
    "#f0a818",
    "#6f7fd6",
)
GREY = "#94989f"
NOTHING = -1


@dataclass(frozen=True)
class Grouping:
    """Which points have one colour.

    Attributes
    ----------
    by : str
        What the groups are, such as "label".
    names : list of str
        Name of each group, the largest first, equal ones by name.
    codes : ndarray of int64, shape (n,)
        Group of each point, -1 for none.
    texts : list of str
        All that is to be said of each point under this heading; it may be in several groups.
    """

    by: str
    names: list[str]
    codes: NDArray[np.int64]
    texts: list[str]

    @property
    def counts(self) -> list[int]:
        """Points of each group."""
        return [int(count) for count in np.bincount(self.codes[self.codes >= 0], minlength=len(self.names))]


@dataclass(frozen=True)
class MapPoints:
    """All that a map shows.

    Attributes
    ----------
    title, subtitle : str
        The store, and how its points were found.
    projection : Projection
        Where they are.
    paths : list of str, length n
        Their files.
    durations : ndarray of float64, shape (n,)
        Their lengths in seconds.
    grouping : Grouping
        Their colours.
    places : pair of ndarray of float64 or None
        Start and end in seconds of each, if they are windows.
    """

    title: str
    subtitle: str
    projection: Projection
    paths: list[str]
    durations: NDArray[np.float64]
    grouping: Grouping
    places: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    @classmethod
    def of(cls, store: EmbeddingStore, projection: Projection, grouping: Grouping) -> MapPoints:
        """Bring together what belongs to each point."""
        table = store.index.take(pa.array(projection.rows))
        what = "windows" if store.windows else "recordings"
        title = f"{store.directory.resolve().name}: {len(table)} {what}"
        if len(table) < len(store):
            title += f" of {len(store)}, chosen at random"
        return cls(
            title,
            f"{projection.method}; coloured by {grouping.by}",
            projection,
            table["path"].to_pylist(),
            table["duration"].to_numpy(),
            grouping,
            (table["start"].to_numpy(), table["end"].to_numpy()) if store.windows else None,
        )

    @property
    def names(self) -> list[str]:
        """Name of each point: its path, and for a window where it is."""
        if self.places is None:
            return self.paths
        return [f"{path} {a:g}-{b:g} s" for path, a, b in zip(self.paths, *self.places, strict=True)]

    def to_csv(self) -> str:
        """Return a table of path (start, end), x, y, group and duration in seconds, a line for each point."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        places = [] if self.places is None else [values.tolist() for values in self.places]
        writer.writerow(["path", *["start", "end"][: len(places)], "x", "y", "group", "duration"])
        for path, point, text, duration, *place in zip(
            self.paths,
            self.projection.points.tolist(),
            self.grouping.texts,
            self.durations.tolist(),
            *places,
            strict=True,
        ):
            shown = [f"{value:.3f}" for value in place]
            writer.writerow([path, *shown, *(f"{value:.6g}" for value in point), text, f"{duration:.3f}"])
        return stream.getvalue()

    @property
    def anchors(self) -> NDArray[np.int64]:
        """For each group the point to write its name at: where its points are densest."""
        from scipy.spatial import cKDTree

        found = np.empty(len(self.grouping.names), np.int64)
        for code in range(len(found)):
            members = np.flatnonzero(self.grouping.codes == code)
            points = self.projection.points[members]
            # A good share of the group, so that its name is at its largest part.
            neighbours = min(len(members), max(3, min(len(members) // 4, 200)))
            distances = np.reshape(cKDTree(points).query(points, neighbours)[0], (len(members), -1))
            found[code] = members[distances.sum(1).argmin()]
        return found


def by_label(
    paths: Sequence[str],
    table: LabelTable,
    column: str = "label",
    places: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> Grouping:
    """Group by a column of a table of labels; of several labels of a path, the first one colours it.

    Parameters
    ----------
    paths : sequence of str
        Of the points.
    table : LabelTable
        What `read_labels` gave.
    column : str
        Name of the column.
    places : pair of ndarray of float64, optional
        Start and end of each point in seconds, if it is a window.

    Returns
    -------
    Grouping
        Paths that the table does not name are in no group.

    Raises
    ------
    ProbeError
        If there is no such column, or no path has a label.
    """
    aligned = table.align(paths, places)
    if aligned.unlabelled:
        logger.warning("%d of %d recordings have no label in %s", len(aligned.unlabelled), len(paths), table.file)
    names: list[tuple[str, ...]] = [()] * len(paths)
    values: list[tuple[str, ...]] = aligned.labels
    values = values if column == "label" else [(table.column(column)[entry],) for entry in aligned.entries]
    for row, value in zip(aligned.rows, values, strict=True):
        names[row] = tuple(filter(None, value))
    return _grouping(column, [found[0] if found else None for found in names], ["; ".join(found) for found in names])


def by_tag(store: EmbeddingStore, rows: NDArray[np.int64], model: Embedder) -> Grouping | None:
    """Group by the strongest sound event, without reading the recordings again.

    The network's last layer, a linear one, applied to the stored mean of the frame embeddings gives the mean of the
    frame logits; the event with the highest is taken. That is near to the first of `Embedder.tag`, which pools
    probabilities over frames, and differs from it where the strongest event is a short one.

    Parameters
    ----------
    store : EmbeddingStore
        Made with the model.
    rows : ndarray of int64, shape (n,)
        Of the points.
    model : Embedder
        Whose labels are wanted.

    Returns
    -------
    Grouping or None
        None if the embeddings do not feed the last layer of the network.
    """
    network = model.runner.network
    if not network.embedding_feeds_events or network.embedding_size != store.embedding_size:
        return None
    layer = network.event_layer
    weight, bias = (value.detach().cpu().double().numpy() for value in (layer.weight, layer.bias))
    best = np.empty(len(rows), np.int64)
    for places, block in sampled_blocks(store, rows):
        best[places] = (block.astype(np.float64) @ weight.T + bias).argmax(1)
    names = [model.labels[event] for event in best]
    return _grouping("strongest sound event", list(names), names)


def by_stored_tag(tags: NDArray[np.float16], labels: Sequence[str]) -> Grouping:
    """Group by the most likely sound event of each recording or window.

    Parameters
    ----------
    tags : ndarray of float16, shape (n, classes)
        Probabilities that the store keeps, of the points.
    labels : sequence of str
        Names of the events.

    Returns
    -------
    Grouping
        Of equal probabilities the first event counts, as in `Embedder.top_tags`.
    """
    names = [labels[event] for event in tags.argmax(1)]
    return _grouping("strongest sound event", list(names), names)


def by_folder(paths: Sequence[str]) -> Grouping:
    """Group by the first folder of each path."""
    folders = [path.split("/", 1)[0] if "/" in path else None for path in paths]
    return _grouping("folder", folders, [folder or "" for folder in folders])


def _grouping(by: str, groups: list[str | None], texts: list[str]) -> Grouping:
    counts = Counter(group for group in groups if group is not None)
    names = sorted(counts, key=lambda name: (-counts[name], name))
    codes = {name: code for code, name in enumerate(names)}
    found = np.array([NOTHING if group is None else codes[group] for group in groups], np.int64)
    return Grouping(by, names, found, texts)
