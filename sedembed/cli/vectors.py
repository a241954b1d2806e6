"""The commands embed, merge, tag, models, export, convert."""

from __future__ import annotations

import argparse
import csv
import glob
import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sedembed.cli.common import GOOD, SOME_FAILED, AddCommand, add_model, complain, load, print_json
from sedembed.cli.recordings import find_recordings, is_url
from sedembed.errors import InvalidArgumentError

if TYPE_CHECKING:
    from sedembed.store.store import EmbeddingStore

__all__ = ["register"]


def register(add: AddCommand) -> None:
    """Add the commands of this module."""
    sub = add("embed", _embed, "embed every recording of a folder, or the files named, into a store of vectors")
    sub.add_argument(
        "paths", metavar="FOLDER|FILE|GLOB", nargs="+", help="with --ray also URLs, such as s3://bucket/*.flac"
    )
    sub.add_argument("-o", "--out", required=True, type=Path, help="directory of the store; run again to continue")
    add_model(sub)
    sub.add_argument(
        "--window", metavar="S", type=float, help="a vector for each window of S seconds (default: one a recording)"
    )
    sub.add_argument("--hop", metavar="S", type=float, help="from one window to the next (default: the window)")
    sub.add_argument("--tags", action="store_true", help="keep the probabilities of the sound events too")
    sub.add_argument("--frames", action="store_true", help="keep the frame embeddings too")
    sub.add_argument("--workers", type=int, help="threads, or actors with --ray (default: by the number of cores)")
    sub.add_argument("--batch-size", type=int, help="most windows of one batch (default: 16)")
    sub.add_argument(
        "--shard",
        metavar="I/N",
        type=_shard,
        help="only every N-th recording, beginning with the I-th (from 0), into a store of its own; see merge",
    )
    sub.add_argument(
        "--ray", action="store_true", help="share the work among the machines of a Ray cluster (needs sedembed[ray])"
    )
    sub.add_argument("--json", action="store_true", help="print the summary as JSON")

    sub = add("merge", _merge, "make one store of the shards of a job")
    sub.add_argument("out", metavar="OUT", type=Path, help="directory of the merged store")
    sub.add_argument("stores", metavar="STORE", nargs="+", type=Path)
    sub.add_argument("--json", action="store_true", help="print the summary as JSON")

    sub = add("tag", _tag, "print the strongest sound events of a recording or of each one of a folder")
    sub.add_argument("paths", metavar="FILE|FOLDER|GLOB", type=Path, nargs="+")
    sub.add_argument("-k", type=int, default=5, help="events to print (default: 5)")
    sub.add_argument("-o", "--out", type=Path, help="CSV to write; run again to continue (default: standard output)")
    add_model(sub)
    sub.add_argument("--json", action="store_true", help="one JSON object on each line")

    sub = add("models", _models, "list the models and where their weights come from")
    sub.add_argument("--json", action="store_true", help="print the full records as JSON")

    sub = add("export", _export, "write a model as ONNX, for programs without PyTorch (needs sedembed[onnx])")
    sub.add_argument("model", metavar="MODEL", help='name, directory or "hf://org/repo"')
    sub.add_argument("-o", "--out", metavar="FILE.onnx", required=True, type=Path)
    sub.add_argument("--local-files-only", action="store_true", help="never open a connection")

    sub = add("convert", _convert, "turn the authors' TALNet.pt into a model directory, running no code of its pickles")
    sub.add_argument("checkpoint", metavar="CHECKPOINT", type=Path)
    sub.add_argument("--normalizer", metavar="PKL", type=Path, help="the normalizer.pkl beside it")
    sub.add_argument(
        "--pooling",
        choices=["linear", "max", "average", "exponential", "attention"],
        help="that the network was trained with; a checkpoint does not say it (default: attention if it has the layer "
        "fc_att, else linear)",
    )
    sub.add_argument("-o", "--out", metavar="DIR", required=True, type=Path)


def _embed(options: argparse.Namespace) -> int:
    from sedembed.batch.embed_folder import embed_files, embed_folder

    if options.ray:
        return _embed_by_ray(options)
    windows = {"window": options.window, "hop": options.hop, "tags": options.tags}
    run = {"frames": options.frames, "workers": options.workers, "batch_size": options.batch_size}
    if urls := [path for path in options.paths if is_url(path)]:
        raise InvalidArgumentError(f"Expected files or folders on this machine, got the URL {urls[0]}; add --ray.")
    first = Path(options.paths[0])
    if len(options.paths) == 1 and not first.is_file() and not glob.has_magic(str(first)):
        store = embed_folder(first, options.out, load(options), shard=options.shard, **windows, **run)
        return _summarise(store, options, "embedded")
    if options.shard is not None:
        raise InvalidArgumentError("Expected one folder with --shard, got files or a glob; give the folder.")
    recordings = find_recordings([Path(path) for path in options.paths])
    store = embed_files(recordings.folder, recordings.paths, options.out, load(options), **windows, **run)
    return max(recordings.exit_code, _summarise(store, options, "embedded"))


def _embed_by_ray(options: argparse.Namespace) -> int:
    from sedembed.ray import embed_dataset

    for name in ("frames", "shard", "batch_size"):
        if getattr(options, name):
            raise InvalidArgumentError(f"--{name.replace('_', '-')} does not go with --ray; leave one of them out.")
    windows = {"window": options.window, "hop": options.hop, "tags": options.tags}
    paths = options.paths if len(options.paths) > 1 else options.paths[0]
    store = embed_dataset(paths, options.out, load(options), options.workers, **windows)
    return _summarise(store, options, "embedded")


def _merge(options: argparse.Namespace) -> int:
    from sedembed.store.merge import merge_stores

    return _summarise(merge_stores(options.out, options.stores), options, "merged")


def _shard(text: str) -> tuple[int, int]:
    """Read "I/N"; argparse turns the error into a sentence."""
    index, separator, count = text.partition("/")
    if not (separator and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"expected I/N with I from 0 to N - 1, such as 0/4, got {text!r}")
    return int(index), int(count)


def _summarise(store: EmbeddingStore, options: argparse.Namespace, what: str) -> int:
    """Print how many recordings a store holds, and what failed."""
    failures = store.failures.to_pylist()
    for failure in failures:
        complain(f"{failure['path']}: {failure['error']}: {failure['message']}")
    summary = {what: len(store), "failed": len(failures), "store": str(options.out)}
    if options.json:
        print_json(summary)
    else:
        print(f"{len(store)} {what}, {len(failures)} failed; vectors in {options.out}")
    return SOME_FAILED if failures else GOOD


def _tag(options: argparse.Namespace) -> int:
    from sedembed.batch.annotate import tag_recordings

    if options.k < 1:
        raise InvalidArgumentError(f"-k needs a number of events of at least 1, got {options.k}.")
    recordings = find_recordings(options.paths)
    model = load(options)
    found = tag_recordings(
        model.runner, recordings.folder, recordings.paths, options.k, options.out, progress=recordings.bar
    )
    rows = ((path, [(name, round(p, 4)) for name, p in tags]) for path, _, tags, _ in recordings.report(found))
    if options.out is not None:
        _write_tags(options.out, rows)
        return recordings.exit_code
    for path, tags in rows:
        if options.json:
            print_json({"path": path, "events": [{"label": name, "probability": p} for name, p in tags]})
        else:
            print(f"{path}\t" + ", ".join(f"{name} {p:.2f}" for name, p in tags), flush=True)
    return recordings.exit_code


def _write_tags(out: Path, rows: Iterable[tuple[str, list[tuple[str, float]]]]) -> None:
    """Write a CSV with one row for each recording and event."""
    from sedembed._utils.files import write_atomic

    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "rank", "label", "probability"])
    for path, tags in rows:
        writer.writerows([path, rank, name, f"{p:.4f}"] for rank, (name, p) in enumerate(tags, 1))
    write_atomic(out, text.getvalue())


def _models(options: argparse.Namespace) -> int:
    from dataclasses import fields

    from sedembed.models.registry import describe_model, list_models

    records = [describe_model(name) for name in list_models()]
    if options.json:
        # Not asdict: it copies by pickling, which a read-only mapping refuses.
        rows = [{field.name: getattr(record, field.name) for field in fields(record)} for record in records]
        print_json([{**row, "metrics": dict(row["metrics"])} for row in rows])
        return GOOD
    for record in records:
        print(
            f"{record.name}  version {record.version}, {record.embedding_size}-D, {record.sample_rate} Hz, "
            f"{record.parameters / 1e6:.1f} M parameters, {record.bytes / 1e6:.0f} MB, {record.source}, "
            f"{record.licence}"
        )
        print(f"    {record.provenance}")
        print("    " + ", ".join(f"{name} {value:g}" for name, value in record.metrics.items()))
    return GOOD


def _export(options: argparse.Namespace) -> int:
    from sedembed.engine.export import export_onnx
    from sedembed.models.weights import load_network, resolve

    resolved = resolve(options.model, local_files_only=options.local_files_only)
    file = export_onnx(load_network(resolved), resolved.record, options.out)
    print(f"{file} is ready: log_mel (batch, feature frames, bins) in; frames, embedding, probabilities out")
    return GOOD


def _convert(options: argparse.Namespace) -> int:
    from sedembed.models.convert import convert_checkpoint

    out = convert_checkpoint(options.checkpoint, options.out, normalizer=options.normalizer, pooling=options.pooling)
    print(f'{out} is ready: sedembed.load_model("{out}")')
    return GOOD
