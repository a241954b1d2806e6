"""The command analyze."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

from sedembed.cli.common import GOOD, AddCommand, add_model, complain, load_probe_model, print_json

__all__ = ["register"]


def register(add: AddCommand) -> None:
    """Add the commands of this module."""
    sub = add(
        "analyze", _analyze, "show what a probe learned: which classes are alike, which sound events explain them"
    )
    sub.add_argument("probe", metavar="PROBE", type=Path, help="what `sedembed probe fit` wrote")
    sub.add_argument("-o", "--out", metavar="DIR", required=True, type=Path, help="directory for pictures and report")
    add_model(sub)
    sub.set_defaults(model=None, precision=None)
    sub.add_argument(
        "--linkage",
        choices=["ward", "average", "complete", "single"],
        help="how clusters of classes join (default: average; ward needs distance euclidean)",
    )
    sub.add_argument(
        "--distance",
        choices=["cosine", "euclidean", "correlation"],
        help="between the rows of two classes (default: cosine; euclidean with ward)",
    )
    sub.add_argument(
        "--clusters",
        metavar="N|auto",
        type=_clusters,
        default="auto",
        help="clusters to colour (default: auto, the most distinct of 2 to 12)",
    )
    sub.add_argument("--seed", type=int, default=0, help="of t-SNE and of the draw from --store (default: 0)")
    sub.add_argument("--perplexity", type=float, help="of t-SNE (default: 30, less for fewer than 91 classes)")
    sub.add_argument(
        "--store",
        metavar="STORE",
        type=Path,
        help="estimate the rows of the sound events from the recordings of this store, by ridge regression, instead of "
        "reading the network's last layer",
    )
    sub.add_argument(
        "--correlation",
        choices=["scaled", "literal"],
        default="scaled",
        help="of classes with sound events: scaled compares them as functions of one vector (default), literal "
        "compares the rows as they are, in the paper's words",
    )
    sub.add_argument("--json", action="store_true", help="print the contents of analysis.json")


def _clusters(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected auto or a whole number, got {text!r}") from None


def _analyze(options: argparse.Namespace) -> int:
    from sedembed._analysis.probe_report import WEAK_SILHOUETTE, analyze, write
    from sedembed._utils.files import refuse_file
    from sedembed._utils.plotting import require_matplotlib
    from sedembed.probe.probe import LinearProbe
    from sedembed.store.store import open_store

    require_matplotlib()
    refuse_file(options.out)
    probe = LinearProbe.load(options.probe)
    analysis = analyze(
        probe,
        load_probe_model(probe, options),
        name=options.probe.resolve().name,
        linkage=options.linkage,
        distance=options.distance,
        clusters=options.clusters,
        seed=options.seed,
        perplexity=options.perplexity,
        store=None if options.store is None else open_store(options.store),
        correlation=options.correlation,
    )
    write(analysis, options.out)
    summary = analysis.summary
    silhouette = summary["mean_silhouette"]
    if silhouette is not None and silhouette < WEAK_SILHOUETTE:
        complain(f"the clusters are weak (mean silhouette {silhouette:.2f}); the report says why and what may help")
    if options.json:
        print_json(summary)
        return GOOD
    for number, names in enumerate(summary["clusters"], 1):
        print(f"cluster {number}: {', '.join(names)}")
    for pair in summary["strongest_pairs"]:
        print(f"{pair['class']} — {pair['event']}: {pair['cosine']:.2f}")
    print(f"{summary['classes_with_large']} of {len(summary['classes'])} classes have an event of 0.2 or more")
    print(f"report in {options.out / 'report.html'}")
    return GOOD
