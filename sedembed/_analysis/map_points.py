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

__all__ = ["COLOURS", "GREY", "Grouping", "MapPoints", "by_folder", "by_label", "by_tag"]

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
    """

    title: str
    subtitle: str
    projection: Projection
    paths: list[str]
    durations: NDArray[np.float64]
    grouping: Grouping

    @classmethod
    def of(cls, store: EmbeddingStore, projection: Projection, grouping: Grouping) -> MapPoints:
        """Bring together what belongs to each point."""
        table = store.index.take(pa.array(projection.rows))
        title = f"{store.directory.resolve().name}: {len(table)} recordings"
        if len(table) < len(store):
            title += f" of {len(store)}, chosen at random"
        return cls(
            title,
            f"{projection.method}; coloured by {grouping.by}",
            projection,
            table["path"].to_pylist(),
            table["duration"].to_numpy(),
            grouping,
        )

    def to_csv(self) -> str:
        """Return a table of path, x, y, group and duration in seconds, a line for each point."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["path", "x", "y", "group", "duration"])
        for path, point, text, duration in zip(
            self.paths, self.projection.points.tolist(), self.grouping.texts, self.durations.tolist(), strict=True
        ):
            writer.writerow([path, *(f"{value:.6g}" for value in point), text, f"{duration:.3f}"])
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


def by_label(paths: Sequence[str], table: LabelTable, column: str = "label") -> Grouping:
    """Group by a column of a table of labels; of several labels of a path, the first one colours it.

    Parameters
    ----------
    paths : sequence of str
        Of the points.
    table : LabelTable
        What `read_labels` gave.
    column : str
        Name of the column.

    Returns
    -------
    Grouping
        Paths that the table does not name are in no group.

    Raises
    ------
    ProbeError
        If there is no such column, or no path has a label.
    """
    labels = table.labels if column == "label" else [(value,) for value in table.column(column)]
    aligned = table.align(paths)
    if aligned.unlabelled:
        logger.warning("%d of %d recordings have no label in %s", len(aligned.unlabelled), len(paths), table.file)
    names: list[tuple[str, ...]] = [()] * len(paths)
    for row, entry in zip(aligned.rows, aligned.entries, strict=True):
        names[row] = tuple(filter(None, labels[entry]))
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
