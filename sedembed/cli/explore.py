"""The commands search, map."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sedembed.cli.common import GOOD, AddCommand, complain, print_json
from sedembed.errors import InvalidArgumentError, MissingFileError, MissingVectorError, SedembedError, StoreError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sedembed._analysis.map_points import Grouping, MapPoints
    from sedembed.embedder import Embedder
    from sedembed.store.store import EmbeddingStore

__all__ = ["register"]

_SOME_MINUTES = 5000  # recordings
_ENDINGS = (".html", ".png", ".csv")


def register(add: AddCommand) -> None:
    """Add the commands of this module."""
    sub = add("search", _search, "find the recordings of a store that are most similar to one")
    sub.add_argument("store", metavar="STORE", type=Path, help="what `sedembed embed` wrote")
    sub.add_argument("query", metavar="QUERY", help="a sound file, or the path of a recording as the store has it")
    sub.add_argument("-k", type=int, default=10, help="recordings or windows to print (default: 10)")
    sub.add_argument(
        "--at", metavar="S", type=float, help="of a recording with windows in the store: that of this second"
    )
    _add_store_model(sub)
    sub.add_argument("--json", action="store_true", help="print the recordings as JSON")

    sub = add("map", _map, "draw the recordings of a store as points, similar ones near each other")
    sub.add_argument("store", metavar="STORE", type=Path, help="what `sedembed embed` wrote")
    sub.add_argument(
        "-o",
        "--out",
        metavar="OUT",
        required=True,
        action="append",
        type=Path,
        help="page (.html), picture (.png) or table (.csv); several may be given: -o a.html -o a.png",
    )
    sub.add_argument(
        "--method", default="tsne", choices=["tsne", "pca"], help="default: tsne; pca is faster and shows the whole"
    )
    sub.add_argument(
        "--labels", metavar="CSV|folder", help="colour by this table of path,label, or by the first folder of the path"
    )
    sub.add_argument("--column", metavar="NAME", help="colour by another column of that table")
    sub.add_argument(
        "--color",
        choices=["tag", "folder"],
        help="without --labels: by the strongest sound event, estimated from the stored vectors (default), or by the "
        "first folder of the path",
    )
    sub.add_argument("--perplexity", type=float, help="of t-SNE: how many neighbours matter (default: 30)")
    sub.add_argument(
        "--seed", type=int, default=0, help="chooses which recordings of a larger store are drawn (default: 0)"
    )
    sub.add_argument(
        "--max-points", type=int, metavar="N", help="draw at most so many recordings (default: 10000; pca: 50000)"
    )
    sub.add_argument(
        "--dark", action="store_true", help="dark background for the picture; the page follows the reader's setting"
    )
    _add_store_model(sub)


def _add_store_model(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--model", help="where the model of the store is, if it came from a directory or file")
    sub.add_argument("--device", help="such as cpu or cuda:0 (default: the first GPU, else the CPU)")
    sub.add_argument("--local-files-only", action="store_true", help="never open a connection")


def _search(options: argparse.Namespace) -> int:
    from sedembed.store.store import open_store

    if options.k < 1:
        raise InvalidArgumentError(f"-k needs a number of recordings of at least 1, got {options.k}")
    store = open_store(options.store)
    query, own = _query(store, options), _own_rows(store, Path(options.query))
    hits = store.search(query, options.k + len(own))
    found = [hit for hit in hits if not own or hit.path != store.paths[own[0]]][: options.k]
    durations = [store.index["duration"][store.rows_of(hit.path).start].as_py() for hit in found]
    rows = [
        {"path": hit.path, "cosine": hit.score, "duration": duration}
        | ({} if hit.start is None else {"start": hit.start, "end": hit.end})
        for hit, duration in zip(found, durations, strict=True)
    ]
    if options.json:
        print_json({"query": options.query, "store": str(options.store), "results": rows})
        return GOOD
    for row in rows:
        place = f"{row['start']:.2f}-{row['end']:.2f}" if "start" in row else f"{row['duration']:.2f}"
        print(f"{row['cosine']:.4f}\t{place} s\t{row['path']}")
    return GOOD


def _own_rows(store: EmbeddingStore, query: Path) -> range:
    """Rows of a sound file that is one of the recordings of the store; it is not to be found by itself."""
    try:
        path = query.resolve(strict=True).relative_to(Path(store.run["folder"]).resolve()).as_posix()
        rows = store.rows_of(path)
    except (OSError, ValueError, KeyError):  # no file, one of elsewhere, or one that has no vector
        return range(0)
    return range(rows.start, rows.stop)


def _query(store: EmbeddingStore, options: argparse.Namespace) -> int | NDArray[np.float32]:
    """Vector of a sound file or, if there is no such file, number of a row."""
    if Path(options.query).exists():
        if options.at is not None:
            raise InvalidArgumentError(
                f"--at chooses a window of a recording in the store, and {options.query} is a file; leave it out."
            )
        return _load(store, options).embed(options.query)
    try:
        rows = store.rows_of(options.query)
    except MissingVectorError:
        raise MissingFileError(
            f"{options.query} is neither a sound file nor the path of a recording in {options.store}; paths there "
            "are relative to the embedded folder"
        ) from None
    if options.model or options.device:
        raise InvalidArgumentError(
            f"{options.query} is the path of a stored recording, whose vector is there already; leave out --model "
            "and --device"
        )
    if options.at is None:
        if rows.stop - rows.start > 1:
            raise InvalidArgumentError(
                f"{options.query} has {rows.stop - rows.start} windows in {options.store}; choose one with "
                "--at SECONDS."
            )
        return int(rows.start)
    if not store.windows:
        raise InvalidArgumentError(f"--at chooses a window, and {options.store} has none; leave it out.")
    starts = store.index["start"][rows.start : rows.stop].to_numpy()
    return int(rows.start) + max(0, int((starts <= options.at).sum()) - 1)


def _load(store: EmbeddingStore, options: argparse.Namespace) -> Embedder:
    from sedembed.batch.store_model import load_store_model

    return load_store_model(store, options.model, device=options.device, local_files_only=options.local_files_only)


def _map(options: argparse.Namespace) -> int:
    from sedembed._analysis.map_points import MapPoints
    from sedembed._analysis.projection import MAX_POINTS, choose_rows, project
    from sedembed._utils.files import write_atomic
    from sedembed.store.store import open_store

    _check_outputs(options)
    store = open_store(options.store)
    most = MAX_POINTS[options.method] if options.max_points is None else options.max_points
    rows = choose_rows(store, most, options.seed)
    # Check labels and model before the projection, which takes minutes.
    grouping = _grouping(store, rows, options)
    if len(rows) > _SOME_MINUTES and options.method == "tsne" and sys.stderr.isatty():
        complain(f"t-SNE of {len(rows)} recordings takes some minutes; --method pca or --max-points less")
    projection = project(store, rows, options.method, perplexity=options.perplexity, seed=options.seed)
    shown = MapPoints.of(store, projection, grouping)
    for out in options.out:
        write_atomic(out, _render(shown, out, options.dark, Path(store.run["folder"])))
    print(f"{len(rows)} of {len(store)} recordings in {', '.join(map(str, options.out))}")
    return GOOD


def _check_outputs(options: argparse.Namespace) -> None:
    for out in options.out:
        if out.suffix.lower() not in _ENDINGS:
            raise InvalidArgumentError(f"expected an output that ends in {', '.join(_ENDINGS)}, got {str(out)!r}")
        if not out.parent.is_dir():
            raise MissingFileError(f"there is no folder {out.parent} for {out.name}; make it first")
        if out.suffix.lower() == ".png":
            from sedembed._utils.plotting import require_matplotlib

            require_matplotlib()
    if options.column is not None and options.labels is None:
        raise InvalidArgumentError("--column names a column of the table of labels; give the table with --labels")


def _grouping(store: EmbeddingStore, rows: NDArray[np.int64], options: argparse.Namespace) -> Grouping:
    import pyarrow as pa

    from sedembed._analysis.map_points import by_folder, by_label, by_stored_tag, by_tag

    paths = store.index["path"].take(pa.array(rows)).to_pylist()
    if options.labels is not None:
        from sedembed.probe.inputs import places_of
        from sedembed.probe.label_table import table_of

        places = places_of(store)
        places = None if places is None else (places[0][rows], places[1][rows])
        return by_label(paths, table_of(options.labels, store.paths), options.column or "label", places)
    if options.color == "folder":
        return by_folder(paths)
    try:
        model = _load(store, options)
        if store.tags is not None:
            return by_stored_tag(store.tags[rows], model.labels)
        tagged = by_tag(store, rows, model)
        if tagged is not None:
            return tagged
        reason = "the embedding of its model does not feed the layer that names sound events"
    except (SedembedError, OSError) as error:
        reason = str(error)
    if options.color == "tag":
        raise StoreError(f"{store.directory} cannot be coloured by sound events: {reason}")
    complain(f"coloured by folder, not by sound events: {reason}")
    return by_folder(paths)


def _render(shown: MapPoints, out: Path, dark: bool, recordings: Path) -> bytes:
    ending = out.suffix.lower()
    if ending == ".png":
        from sedembed._analysis.map_picture import draw_map, to_png

        return to_png(draw_map(shown, dark=dark))
    if ending == ".html":
        from sedembed._analysis.map_page import map_page
        from sedembed._analysis.page import link_to

        return map_page(shown, link_to(recordings, out)).encode()
    return shown.to_csv().encode()
