"""Embed recordings on the machines of a Ray cluster (extra ``ray``)."""

from __future__ import annotations

import inspect
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from sedembed.audio.remote import Location, locate
from sedembed.batch.embed_folder import embed_files
from sedembed.batch.loop import check_options
from sedembed.embedder import Embedder
from sedembed.errors import InvalidArgumentError, MissingPackageError, StoreError
from sedembed.loading import load_model
from sedembed.store.layout import list_shards, open_shard, schema_of
from sedembed.store.merge import RowBuffer
from sedembed.store.store import EmbeddingStore, open_store
from sedembed.store.writer import SHARD_ROWS, SHARD_SECONDS, StoreWriter

__all__ = ["embed_dataset"]

logger = logging.getLogger(__name__)

# How often a task is given to another worker after its own has died: what kills every worker must not go round forever.
_RETRIES = 3


def embed_dataset(
    paths_or_glob: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    model: str | os.PathLike[str] | Embedder = "talnet",
    workers: int | None = None,
    *,
    window: float | None = None,
    hop: float | None = None,
    tags: bool = False,
    files_per_task: int = 64,
    timeout: float = 60.0,
    storage_options: Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> EmbeddingStore:
    """Embed recordings on a Ray cluster into a store on this machine.

    Each worker is an actor with the model and one CPU. Recordings go to the workers in small tasks, as Ray Data streams
    them, and vectors come back to this process, which alone writes the store. A task whose worker dies is given to
    another one. Running the same command again continues after an interruption, also after a crash: recordings with a
    vector are not read again, and failed ones are tried again. Each recording is in the store once.

    Parameters
    ----------
    paths_or_glob : path, URL, or iterable of these
        A folder or prefix; a pattern such as ``s3://bucket/**/*.flac``; or files. Anything that fsspec reads: paths
        that all workers see, ``s3://``, ``gs://``, ``hf://``. Of folders and patterns only files with a suffix of sound
        are taken.
    out : path
        Directory of the store on this machine: new, empty, or of an earlier run with the same settings.
    model : str, path or Embedder
        What `load_model` takes, or a loaded model. It is sent to the workers.
    workers : int, optional
        Number of actors; by default one for each CPU of the cluster.
    window, hop, tags
        As for `embed_folder`.
    files_per_task : int
        Recordings of one task; so many are read again if a worker dies.
    timeout : float
        Longest silence of a decoder, in seconds.
    storage_options : mapping, optional
        For the file system of fsspec, such as ``{"anon": True}`` for ``s3://``.
    progress : bool, optional
        Show a progress bar; by default if stderr is a terminal.

    Returns
    -------
    EmbeddingStore
        Paths are relative to the folder, to the part of the pattern before its first wildcard, or to the folder that
        all files have in common. Every recording is in its vectors or its failures.

    Raises
    ------
    MissingPackageError
        If Ray, or what fsspec needs for the URLs, is not installed.
    MissingFileError
        If there are no recordings.
    InvalidArgumentError
        For options that are not positive, more workers than the cluster has CPUs, or a model on another device than
        the CPU.
    StoreError
        As for `embed_folder`, and if a task killed its worker several times.
    KeyboardInterrupt
        After Ctrl-C, once what has come back is on disk.

    Notes
    -----
    A running cluster is used (`ray.init(address=...)` before, or the environment variable RAY_ADDRESS); else Ray is
    started on this machine, without its usage statistics. Recordings that are not on a file system of the workers are
    copied to their temporary folder, a task at a time; whether these have changed since is not noticed.

    Examples
    --------
    >>> store = embed_dataset("s3://bucket/recordings/**/*.flac", "vectors")  # doctest: +SKIP
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingPackageError('embed_dataset needs Ray: pip install "sedembed[ray]".') from error
    check_options(workers, files_per_task, timeout)
    location = locate(paths_or_glob, storage_options)
    loaded = model if isinstance(model, Embedder) else load_model(model, device="cpu")
    if loaded.device.type != "cpu":
        raise InvalidArgumentError(
            f"Workers run on CPUs, and the model is on {loaded.device}; load it with device='cpu'."
        )
    out = Path(out).expanduser()
    options = {"window": window, "hop": hop, "tags": tags, "timeout": timeout}
    with StoreWriter(out, _describe(loaded, location, options)) as writer:
        listing = location.listing
        writer.keep_failures(listing.files)
        for path, failure in listing.failures.items():
            writer.fail(path, *failure)
        _forget_changed(writer, location)
        writer.forget(writer.started)  # recordings of which embed_folder wrote some windows
        left = [path for path in listing.files if path not in writer.done]
        logger.info("%s: %d of %d recordings are left", out, len(left), len(listing.files))
        if left:
            with _cluster(ray):
                count = _count_workers(ray, workers, len(left), files_per_task)
                tasks = _run(ray, loaded, location, left, count, files_per_task, options)
                bar = tqdm(
                    total=len(listing.files),
                    initial=len(listing.files) - len(left),
                    unit="file",
                    disable=None if progress is None else not progress,
                )
                with bar:
                    _write(writer, tasks, set(left), bar, ray)
        writer.finish()
    return open_store(out)


def _describe(model: Embedder, location: Location, options: dict[str, Any]) -> dict[str, Any]:
    """Contents of `run.json`: those of a store that `embed_files` makes here, about the place of the recordings."""
    with tempfile.TemporaryDirectory() as place:
        run = embed_files(place, [], Path(place) / "out", model, progress=False, **options).run
    return {**{key: value for key, value in run.items() if key != "manifest"}, "folder": location.url}


def _forget_changed(writer: StoreWriter, location: Location) -> None:
    """Remove the vectors of recordings on this machine that have changed."""
    folder, changed = location.folder, []
    for path in location.listing.files if folder is not None else []:
        assert folder is not None
        if path in writer.done:
            try:
                status = (folder / path).stat()
            except OSError:
                continue
            if not writer.unchanged(path, status.st_size, status.st_mtime_ns):
                changed.append(path)
    if changed:
        logger.warning("%s: embedded again, because they have changed: %d files", location.url, len(changed))
        writer.forget(changed)


@contextmanager
def _cluster(ray: Any) -> Iterator[None]:
    """Use the cluster that there is, or one that is started for the while."""
    own = not ray.is_initialized()
    if own:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # it would describe its plan
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            address = os.environ.get("RAY_ADDRESS")
            cure = (
                f"Check the cluster at RAY_ADDRESS={address}"
                if address
                else "Look at the logs in the folder that `ray` names, by default /tmp/ray"
            )
            raise StoreError(
                f"Ray did not start ({type(error).__name__}: {str(error).strip()[:200]}). {cure}, or leave Ray out."
            ) from error
    try:
        yield
    finally:
        if own:
            ray.shutdown()


def _count_workers(ray: Any, workers: int | None, files: int, files_per_task: int) -> int:
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if cpus < (workers or 1):
        raise InvalidArgumentError(
            f"{workers or 1} workers were asked for, and the cluster has {cpus} CPUs; each worker needs one."
        )
    return min(workers or cpus, -(-files // files_per_task))


def _run(
    ray: Any,
    model: Embedder,
    location: Location,
    paths: list[str],
    workers: int,
    files_per_task: int,
    settings: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    """Give the tasks to the workers; their results in the order in which they are done."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    tasks = -(-len(paths) // files_per_task)
    place = {"url": location.url, "options": location.options}
    options: dict[str, Any] = {}
    if "ray_remote_args_fn" in inspect.signature(ray.data.Dataset.map_batches).parameters:
        options["ray_remote_args_fn"] = lambda: {"max_task_retries": _RETRIES}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray 2.60 deprecates that option and has no other for it
        dataset = ray.data.from_items([{"path": path} for path in paths], override_num_blocks=tasks).map_batches(
            _Worker,
            fn_constructor_args=(ray.put(model), place, settings),
            batch_size=files_per_task,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=1,
            **options,
        )
    results: Iterator[dict[str, Any]] = dataset.iter_rows()
    return results


def _write(writer: StoreWriter, tasks: Iterator[dict[str, Any]], left: set[str], bar: Any, ray: Any) -> None:
    """Write what comes back; each recording once, also if a task ran twice."""
    buffer, committed = RowBuffer(), time.monotonic()
    try:
        for task in tasks:
            done = set[str]()
            for rows, about in zip(task["rows"], json.loads(task["about"]), strict=True):
                table = pa.ipc.open_stream(rows).read_all()
                keep = [row for row, path in enumerate(table["path"].to_pylist()) if path in left]
                recordings = None if about is None else [(int(size), int(changed)) for size, changed in about]
                kept = None if recordings is None else [recordings[row] for row in keep]
                if keep:
                    buffer.add(table.take(pa.array(keep, pa.int64())), kept)
                    done.update(table["path"].to_pylist())
            failures = {path: failure for path, *failure in json.loads(task["failures"]) if path in left}
            for path, (error, message) in failures.items():
                writer.fail(path, error, message)
            before = len(left)
            left -= done | failures.keys()
            bar.update(before - len(left))
            if buffer.rows >= SHARD_ROWS or time.monotonic() - committed >= SHARD_SECONDS:
                buffer.write(writer)
                committed = time.monotonic()
    except ray.exceptions.RayError as error:
        buffer.write(writer)
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[-1][:200]}"
        raise StoreError(
            f"Ray gave up ({reason}); {len(left)} recordings are left. Look at the "
            "logs of its workers, then run the same command again to continue."
        ) from error
    except KeyboardInterrupt:
        buffer.write(writer)
        raise KeyboardInterrupt(
            f"interrupted: {len(left)} recordings are left; run the same command again to continue"
        ) from None
    buffer.write(writer)
    if left:
        raise StoreError(f"{len(left)} recordings came back from no worker; run the same command again to continue.")


class _Worker:
    """An actor of Ray Data: paths in, rows of a store out."""

    def __init__(self, model: Embedder, place: dict[str, Any], options: dict[str, Any]) -> None:
        import ray

        self._model: Embedder = ray.get(model) if isinstance(model, ray.ObjectRef) else model
        self._place, self._options = place, options

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        paths = [str(path) for path in batch["path"]]
        location = Location(self._place["url"], None, self._place["options"])  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory(prefix="sedembed-") as place:
            rows, about, failures = embed_task(location, paths, Path(place), self._model, self._options)
        return {"rows": [rows], "about": [json.dumps(about)], "failures": [json.dumps(failures)]}


def embed_task(
    location: Location, paths: list[str], place: Path, model: Embedder, options: dict[str, Any]
) -> tuple[list[bytes], list[list[tuple[int, int]] | None], list[tuple[str, str, str]]]:
    """Embed some recordings into a store of a worker; internal.

    Parameters
    ----------
    location : Location
        Where they are.
    paths : list of str
        Which ones, relative to it.
    place : Path
        An empty folder, for copies and for the store.
    model : Embedder
        The network.
    options : dict
        For `embed_files`.

    Returns
    -------
    rows : list of bytes
        Arrow tables with the columns of a store.
    about : list
        Size and time of change of the recordings of each table, if they are on this machine.
    failures : list of (str, str, str)
        Path, error and message.
    """
    failures: list[tuple[str, str, str]] = []
    folder, names = location.folder, {path: path for path in paths}
    if folder is None:
        folder, names = place / "in", {}
        folder.mkdir()
        for number, path in enumerate(paths):
            name = f"{number}{PurePosixPath(path).suffix}"
            try:
                location.fetch(path, folder / name)
                names[name] = path
            except Exception as error:  # of the file system's own client: no common base
                failures.append((path, type(error).__name__, str(error) or repr(error)))
    # One worker has nobody to share with, and larger batches are faster.
    store = embed_files(folder, names, place / "out", model, workers=1, chunks=[len(names)], progress=False, **options)
    rows, about = [], []
    for file in list_shards(store.directory):
        table, _, recordings = open_shard(file, schema_of(store.run), None, store.manifest)
        column = table.schema.get_field_index("path")
        renamed = pa.array([names[path] for path in table["path"].to_pylist()], pa.string())
        table = table.set_column(column, table.schema.field(column), renamed)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        rows.append(sink.getvalue().to_pybytes())
        about.append(recordings if location.folder is not None else None)
    for row in store.failures.to_pylist():
        path = names[row["path"]]
        failures.append((path, row["error"], row["message"].replace(str(folder / row["path"]), location.full(path))))
    return rows, about, failures
