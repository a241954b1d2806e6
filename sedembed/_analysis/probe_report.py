"""The analysis of a probe from end to end: numbers, pictures and one page that can be sent to a colleague."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from sedembed._analysis import figures
from sedembed._analysis.dendrogram import Choice, Tree, check_options, cluster_rows
from sedembed._analysis.matrix_page import matrix_page
from sedembed._analysis.report_page import PAGE
from sedembed._analysis.weight_vectors import (
    LARGE,
    ClassRows,
    Correlation,
    EventRows,
    Matrix,
    Plane,
    class_rows,
    comparable_rows,
    correlate,
    estimate_event_rows,
    event_rows,
    project_2d,
    standardise_rows,
)
from sedembed._utils.files import make_folder, write_atomic
from sedembed._utils.versions import list_versions

if TYPE_CHECKING:
    from sedembed.embedder import Embedder
    from sedembed.probe.probe import LinearProbe
    from sedembed.store.store import EmbeddingStore

__all__ = ["Analysis", "analyze", "write"]

logger = logging.getLogger(__name__)

EVENTS_A_CLASS = 5
PAIRS = 10
WEAK_SILHOUETTE = 0.1
_PICTURES = ("dendrogram", "tsne", "correlation", "strongest")


@dataclass(frozen=True)
class Analysis:
    """Everything that is known about a probe before it is drawn and written.

    Attributes
    ----------
    classes, events : ClassRows, EventRows
        What is compared.
    choice : Choice
        Linkage and distance of both trees.
    tree : Tree
        Of the classes.
    event_order : ndarray of int64, shape (E,)
        Events in the order of their tree, which has the same linkage and distance.
    cosines : ndarray of float64, shape (C, E)
        From `correlate`.
    plane : Plane
        The classes as points.
    summary : dict
        Contents of `analysis.json`.
    """

    classes: ClassRows
    events: EventRows
    choice: Choice
    tree: Tree
    event_order: NDArray[np.int64]
    cosines: Matrix
    plane: Plane
    summary: dict[str, Any]


def analyze(
    probe: LinearProbe,
    model: Embedder,
    *,
    name: str = "probe",
    linkage: str | None = None,
    distance: str | None = None,
    clusters: int | Literal["auto"] = "auto",
    seed: int = 0,
    perplexity: float | None = None,
    store: EmbeddingStore | None = None,
    correlation: Correlation = "scaled",
) -> Analysis:
    """Analyse what a probe learned about its classes and how that relates to the network's sound events.

    Parameters
    ----------
    probe : LinearProbe
        Fitted.
    model : Embedder
        The network whose embeddings it was fitted on.
    name : str
        What the report calls the probe.
    linkage, distance : str, optional
        As for `check_options`.
    clusters : int or "auto"
        As for `cluster_rows`.
    seed : int
        Of everything random.
    perplexity : float, optional
        As for `place`.
    store : EmbeddingStore, optional
        Estimate the event rows from its recordings instead of reading the network's last layer.
    correlation : {"scaled", "literal"}
        As for `correlate`.

    Raises
    ------
    ProbeError
        If the probe is of another network, or has nothing to compare.
    StoreError
        If the store cannot serve.
    ValueError
        For settings that mean nothing.
    """
    choice = check_options(linkage, distance)
    probe.check_model(model)
    classes = class_rows(probe)
    tree = cluster_rows(classes.rows, choice, clusters)
    plane = project_2d(classes.rows, choice.distance, perplexity=perplexity, seed=seed)
    events = event_rows(model) if store is None else estimate_event_rows(model, store, seed=seed)
    cosines = correlate(classes, events, correlation)
    # Standardised, so that rows of equal numbers cannot stop it; order is all that is taken from this tree.
    event_order = cluster_rows(
        standardise_rows(comparable_rows(classes, events, correlation)), choice, clusters=1
    ).order
    settings = {
        "linkage": choice.linkage,
        "distance": choice.distance,
        "clusters": clusters,
        "seed": seed,
        "perplexity": perplexity,
        "store": None if store is None else store.directory.name,
        "correlation": correlation,
    }
    summary = _summary(probe, model, name, settings, classes, events, tree, plane, cosines)
    return Analysis(classes, events, choice, tree, event_order, cosines, plane, summary)


def write(analysis: Analysis, out: Path) -> None:
    """Write pictures, tables, `analysis.json`, `correlation.html` and `report.html`, each whole or not at all."""
    names, events, tree = analysis.classes.names, analysis.events.names, analysis.tree
    if any("\ufffd" in figures.drawable(name) for name in names):
        logger.warning("the font of the pictures lacks characters of some class names; the tables have them")
    make_folder(out)
    for stem, rows in _tables(analysis).items():
        _put(out / f"{stem}.csv", _csv(rows))
    heat = (analysis.cosines, tree, names, events, analysis.event_order)
    drawn = {
        "dendrogram": figures.save(figures.dendrogram(tree, names, analysis.choice), out / "dendrogram"),
        "tsne": figures.save(figures.plane(analysis.plane, tree, names), out / "tsne"),
        "correlation": figures.save(figures.matrix(*heat), out / "correlation"),
        "strongest": figures.save(figures.strongest(*heat), out / "strongest"),
    }
    order = tree.order
    page = matrix_page(
        f"What {analysis.summary['probe']['name']} listens to",
        analysis.cosines[order][:, analysis.event_order],
        [names[i] for i in order],
        [events[j] for j in analysis.event_order],
        [tree.clusters[i] for i in order],
    )
    _put(out / "correlation.html", page)
    _put(out / "analysis.json", json.dumps(analysis.summary, ensure_ascii=False, indent=1, allow_nan=False) + "\n")
    _put(out / "report.html", _page(analysis.summary, {stem: written["svg"] for stem, written in drawn.items()}))


# --- numbers -------------------------------------------------------------------------------------------------------


def _summary(
    probe: LinearProbe,
    model: Embedder,
    name: str,
    settings: dict[str, Any],
    classes: ClassRows,
    events: EventRows,
    tree: Tree,
    plane: Plane,
    cosines: Matrix,
) -> dict[str, Any]:
    record = model.record
    best = np.argsort(-cosines, axis=1, kind="stable")[:, :EVENTS_A_CLASS]
    per_class = [
        {
            "class": classes.names[i],
            "cluster": int(tree.clusters[i]),
            "events": [_event(events.names[j], cosines[i, j]) for j in best[i]],
        }
        for i in tree.order
    ]
    flat = np.argsort(-cosines, axis=None, kind="stable")[:PAIRS]
    pairs = [
        {"class": classes.names[i], **_event(events.names[j], cosines[i, j])}
        for i, j in zip(*np.unravel_index(flat, cosines.shape), strict=True)
    ]
    return {
        "probe": {
            "name": name,
            "classes": len(classes.names),
            "left_out": list(classes.left_out),
            "multilabel": bool(probe.multilabel_),
            "C": _rounded(float(probe.C_)),
            "normalize": probe.normalize,
            "model": probe.model_,
        },
        "model": {"name": record.name, "version": record.version, "sha256": record.sha256},
        "events": {
            "count": len(events.names),
            "rows": "estimated" if events.recordings else "last layer",
            "recordings": events.recordings,
            "explained": _rounded(events.explained),
        },
        "settings": settings,
        "clusters": [
            [classes.names[i] for i in tree.order if tree.clusters[i] == cluster]
            for cluster in range(1, tree.count + 1)
        ],
        "mean_silhouette": _rounded(tree.silhouettes.get(tree.count, math.nan)),
        "silhouettes": {str(number): _rounded(value) for number, value in tree.silhouettes.items()},
        "cophenetic_correlation": _rounded(tree.cophenetic),
        "plane": {"method": plane.method, "perplexity": plane.perplexity and _rounded(plane.perplexity)},
        "large": LARGE,
        "classes_with_large": int((cosines.max(1) >= LARGE).sum()),
        "strongest_pairs": pairs,
        "classes": per_class,
        "notes": _notes(probe, classes, events, tree, plane, settings["correlation"]),
        "versions": list_versions("numpy", "scipy", "scikit-learn", "matplotlib", "torch"),
    }


def _event(name: str, cosine: float) -> dict[str, Any]:
    return {"event": name, "cosine": _rounded(cosine), "large": bool(cosine >= LARGE)}


def _notes(
    probe: LinearProbe, classes: ClassRows, events: EventRows, tree: Tree, plane: Plane, correlation: str
) -> list[str]:
    """Write what a reader must know before believing the pictures."""
    notes = []
    if "standardize" in probe.normalize and correlation == "literal":
        notes.append(
            "The rows are compared as they are, in the paper's words, although the probe weighs standardised vectors "
            "and the network's event layer raw ones: the cosines say which rows look alike, not which are alike as "
            "functions of one embedding."
        )
    elif "standardize" in probe.normalize:
        notes.append(
            "The probe weighs standardised vectors and the network's event layer raw ones. Each event row was "
            "multiplied by the probe's deviations before the comparison, which makes it the same function of the "
            "standardised vector. Unit length and offsets (means, biases) change no direction and are left out."
        )
    else:
        notes.append(
            "The probe does not standardise: its rows and the event rows are weights on the same raw vector. Unit "
            "length and biases change no direction and are left out."
        )
    notes.append(
        "A cosine compares what two rows listen to in the embedding, not how often they agree on recordings: the "
        "numbers of an embedding depend on each other, so rows with a small cosine can still rise and fall together. "
        "The event layer works on each frame before a sigmoid and pooling; the probe sees the mean over the clip."
    )
    notes.append(
        "A classifier's row says what sets a class apart from the others it was fitted with, so classes that are alike "
        "may be pushed apart. The smaller the probe's C, the more rows show what classes have in common; with a large "
        "C they come out nearly at right angles."
    )
    silhouette = tree.silhouettes.get(tree.count)
    if silhouette is not None and silhouette < WEAK_SILHOUETTE:
        notes.append(
            f"The clusters are weak: their mean silhouette is {silhouette:.2f}, where 0 means that classes are no "
            "nearer to their own cluster than to the next and 1 that clusters stand apart. This probe's C is "
            f"{probe.C_:g}; one fitted with `sedembed probe fit --C 1` may lose some accuracy and often shows a "
            "clearer tree."
        )
    if not math.isnan(tree.cophenetic):
        notes.append(
            f"The tree keeps the distances between the rows with a correlation of {tree.cophenetic:.2f} (1 would be "
            "all of them)."
        )
    if plane.method == "t-SNE":
        notes.append(
            "t-SNE keeps neighbours: sizes of groups, gaps between them and directions mean nothing, and another "
            "perplexity gives another picture."
        )
    if events.recordings:
        notes.append(
            f"The event rows are not the network's weights but were estimated by ridge regression from "
            f"{events.recordings} recordings; in recordings left out they predict {events.explained:.0%} of the "
            "variance of the median event's logit. Events that do not occur there have no reliable row."
        )
    if not probe.model_:
        notes.append(
            "The probe does not say which model its vectors came from. Only their length was checked; if they came "
            "from another model, the comparison with sound events means nothing."
        )
    if classes.left_out:
        notes.append(
            f"Left out, because the probe learned nothing about them (were there examples?): "
            f"{', '.join(classes.left_out)}."
        )
    if len(classes.names) == 2 and not probe.multilabel_:
        notes.append("With two classes the two rows say the same thing with opposite signs.")
    return notes


def _rounded(value: float) -> float | None:
    """Six digits: more would differ between machines. None where there is no number."""
    return None if math.isnan(value) else float(f"{value:.6g}")


# --- files ---------------------------------------------------------------------------------------------------------


def _tables(analysis: Analysis) -> dict[str, Iterable[Sequence[Any]]]:
    """Rows of the CSV file of each picture, the header first."""
    names, tree = analysis.classes.names, analysis.tree
    count = len(names)
    position = np.empty(count, int)
    position[tree.order] = np.arange(1, count + 1)
    clusters = tree.node_clusters()
    leaves = [[i, names[i], position[i], tree.clusters[i], "", "", 0, 1] for i in range(count)]
    merges = [
        [node, "", "", clusters[node] or "", int(a), int(b), _rounded(distance), int(size)]
        for node, (a, b, distance, size) in enumerate(tree.merges, count)
    ]
    points = ([names[i], *map(_rounded, analysis.plane.points[i]), tree.clusters[i]] for i in tree.order)
    cosines = ([names[i], *map(_rounded, analysis.cosines[i, analysis.event_order])] for i in tree.order)
    strongest = (
        [row["class"], row["cluster"], rank, event["event"], event["cosine"], "yes" if event["large"] else "no"]
        for row in analysis.summary["classes"]
        for rank, event in enumerate(row["events"], 1)
    )
    header = ["node", "class", "position", "cluster", "left", "right", "distance", "leaves"]
    return {
        "dendrogram": [header, *leaves, *merges],
        "tsne": [["class", "x", "y", "cluster"], *points],
        "correlation": [["class", *(analysis.events.names[j] for j in analysis.event_order)], *cosines],
        "strongest": [["class", "cluster", "rank", "event", "cosine", "large"], *strongest],
    }


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def _put(file: Path, text: str) -> None:
    write_atomic(file, text)


def _page(summary: dict[str, Any], pictures: dict[str, bytes]) -> str:
    """Fill the page: everything is inside, so that it opens anywhere and without a connection."""
    probe, model, events, plane = (summary[key] for key in ("probe", "model", "events", "plane"))
    settings = {
        "Probe": f"{probe['name']}: {probe['classes']} classes, {'multi-label' if probe['multilabel'] else 'one label'}"
        f", C = {probe['C']:g}, vectors: {probe['normalize']}",
        "Network": f"{model['name']}, version {model['version']}, sha256 {model['sha256']}",
        "Event rows": f"{events['count']}, "
        + (f"estimated from {events['recordings']} recordings" if events["recordings"] else "the network's last layer"),
        "Correlation": "of the rows as they are"
        if summary["settings"]["correlation"] == "literal"
        else "with event rows times the probe's deviations",
        "Tree": f"{summary['settings']['linkage']} linkage of {summary['settings']['distance']} distances, optimal "
        f"leaf order, {len(summary['clusters'])} clusters"
        + (" (most distinct by silhouette)" if summary["settings"]["clusters"] == "auto" else ""),
        "Plane": plane["method"] + (f", perplexity {plane['perplexity']:.3g}" if plane["perplexity"] else ""),
        "Seed": summary["settings"]["seed"],
        "Versions": ", ".join(f"{package} {version}" for package, version in summary["versions"].items()),
    }
    pairs = [(row["class"], row["event"], _value(row)) for row in summary["strongest_pairs"]]
    table = [
        (row["class"], row["cluster"], *(f"{event['event']} {_value(event)}" for event in row["events"]))
        for row in summary["classes"]
    ]
    explained, count = summary["classes_with_large"], probe["classes"]
    return Template(PAGE).substitute(
        title=html.escape(f"What {probe['name']} listens to"),
        lead=f"{explained} of {count} classes have a sound event whose row reaches a cosine of {summary['large']}.",
        settings=_html_rows(settings.items(), marked=False),
        pairs=_html_rows(pairs, marked=True),
        classes=_html_rows(table, marked=True),
        notes="\n".join(f"<li>{html.escape(note)}</li>" for note in summary["notes"]),
        **{stem: base64.b64encode(pictures[stem]).decode() for stem in _PICTURES},
    )


def _value(event: dict[str, Any]) -> str:
    # Three digits, so that 0.198 does not read as large; the space does not break.
    mark = "\u00a0●" if event["large"] else ""
    return f"{event['cosine']:.3f}{mark}"


def _html_rows(rows: Iterable[Sequence[Any]], *, marked: bool) -> str:
    def cell(value: Any) -> str:
        text = html.escape(str(value))
        return f'<td class="large">{text}</td>' if marked and text.endswith("●") else f"<td>{text}</td>"

    return "\n".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
