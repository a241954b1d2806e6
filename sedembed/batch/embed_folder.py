"""embed_folder: embed every recording of a folder into a store, and continue where an earlier run stopped."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sedembed._utils.checks import check_flag, check_path, check_type
from sedembed.audio.listing import Listing, check_folder, list_recordings
from sedembed.batch.loop import check_options
from sedembed.batch.vector_job import VectorJob, WindowJob, write_vectors
from sedembed.embedder import Embedder
from sedembed.engine.provenance import describe_run
from sedembed.engine.windows import Hops
from sedembed.engine.workers import chunk_sizes
from sedembed.errors import InvalidArgumentError
from sedembed.loading import load_model
from sedembed.store.store import EmbeddingStore, open_store
from sedembed.store.writer import StoreWriter
from sedembed.types import Precision

__all__ = ["embed_files", "embed_folder"]

logger = logging.getLogger(__name__)

# A shard of fewer blocks of recordings than this would often be much larger or smaller than another.
_BLOCKS = 4


def embed_folder(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    model: str | os.PathLike[str] | Embedder = "talnet",
    *,
    window: float | None = None,
    hop: float | None = None,
    tags: bool = False,
    frames: bool = False,
    workers: int | None = None,
    batch_size: int | None = None,
    progress: bool | None = None,
    precision: Precision | None = None,
    timeout: float = 60.0,
    shard: tuple[int, int] | None = None,
) -> EmbeddingStore:
    """Embed every sound file of a folder and its subfolders into a store on disk.

    Running the same command again continues where it was interrupted, also after a crash: files with a vector are not
    read again, failed ones are tried again, new ones are added. Memory depends neither on the number of files nor on
    their length.

    Parameters
    ----------
    folder : path
        What to embed. Taken are files with a suffix in `sedembed.audio.reader.AUDIO_EXTENSIONS`, of any case. Links are
        followed, unless they lead back to where they are; names that begin with a dot are skipped.
    out : path
        Directory of the store: new, empty, or of an earlier run with the same settings. It may lie in `folder`.
    model : str, path or Embedder
        What `load_model` takes, or a loaded model.
    window : float, optional
        One row for each window of so many seconds, at most 60, instead of one for each recording. The last window ends
        with the recording; one that is shorter than a window is one window.
    hop : float, optional
        From the start of one window to that of the next in seconds; by default `window`.
    tags : bool
        Also keep the probabilities of the sound events, in float16, beside each vector (`EmbeddingStore.tags`).
    frames : bool
        Also keep the frame embeddings, 40 kB for a second of sound with TALNet (`EmbeddingStore.frames`).
    workers : int, optional
        Threads that each take recordings from decoding to the network; by default as many as PyTorch uses
        (`torch.get_num_threads`), or one for each core if the network runs on a GPU. Vectors do not depend on it.
    batch_size : int, optional
        Most windows in one batch of the network, by default 16. It changes speed and memory, not vectors.
    progress : bool, optional
        Show a progress bar; by default if stderr is a terminal.
    precision : {"float32", "bfloat16"}, optional
        As for `load_model`; by default float32. A loaded model has its own.
    timeout : float
        Longest silence of a decoder, in seconds. The file is then given up as an `AudioTimeoutError`.
    shard : (int, int), optional
        (i, n), i from 0: only one part in n of the sorted list, the i-th, into a store of its own. The shards may run
        at once, on one machine or many; `merge_stores` makes one store of them. A part is every n-th block of up to 32
        recordings, or every n-th recording where a shard would get fewer than four blocks.

    Returns
    -------
    EmbeddingStore
        Vectors and failures, on disk. Every file is in one of the two: any error of a file is recorded there, and the
        run goes on. Folders that cannot be listed and files whose names are not valid UTF-8 count as failures.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If there is no such folder, or no sound file in it.
    StoreError
        If `out` is something else than a store, of other settings or another folder, in use by another run, damaged,
        or the disk takes no more. What was written before is kept.
    ValueError
        For `workers`, `batch_size` or `timeout` that are not positive, a window or hop out of range, a precision that
        is not the model's, or a `shard` that is not among n.
    KeyboardInterrupt
        After Ctrl-C, once the files that are finished are on disk; a second Ctrl-C does not wait for that.
    ModelNotFoundError, WeightsError, DownloadError
        As for `load_model`.

    Examples
    --------
    >>> store = embed_folder("recordings", "vectors")  # doctest: +SKIP
    >>> store.vectors.shape, len(store.failures)  # doctest: +SKIP
    ((2000, 1024), 0)
    """
    check_options(workers, batch_size, timeout)
    _check_shard(shard)
    folder, out = check_path(folder, "folder"), check_path(out, "out")
    check_flag(frames, "frames")
    check_flag(progress, "progress", optional=True)
    listing = list_recordings(folder, out)
    listing.refuse_empty(folder)
    model = _load(model, precision)
    hops = _check_hops(model, window, hop, frames)
    logger.info("%s: %d sound files", folder, len(listing.files))
    run: dict[str, Any] = {"workers": workers, "batch_size": batch_size, "progress": progress, "timeout": timeout}
    if shard is not None:
        sizes = chunk_sizes(len(listing.files))
        if len(listing.files) >= _BLOCKS * sizes[0] * shard[1]:
            run["chunks"] = sizes[shard[0] :: shard[1]]  # batches, and so vectors, are to the bit those of a single run
        else:
            sizes = [1] * len(listing.files)
        listing = listing.shard(*shard, sizes)
    if listing.ignored:
        logger.warning("%s: %s", folder, listing.describe_ignored())
    return _embed_listing(folder, listing, out, model, hops, tags, frames, shard, run)


def embed_files(
    folder: str | os.PathLike[str],
    paths: Iterable[str],
    out: str | os.PathLike[str],
    model: str | os.PathLike[str] | Embedder = "talnet",
    *,
    window: float | None = None,
    hop: float | None = None,
    tags: bool = False,
    frames: bool = False,
    workers: int | None = None,
    batch_size: int | None = None,
    progress: bool | None = None,
    precision: Precision | None = None,
    timeout: float = 60.0,
    chunks: Sequence[int] | None = None,
) -> EmbeddingStore:
    """Embed the named files of a folder, whatever their suffix, into a store; internal.

    Parameters
    ----------
    folder : path
        Where they are.
    paths : iterable of str
        Files relative to `folder`, with forward slashes; one that is named twice is embedded once.
    out, model, window, hop, tags, frames, workers, batch_size, progress, precision, timeout
        As for `embed_folder`, and so is going on after an interruption.
    chunks : sequence of int, optional
        How many recordings at a time share batches; by default so that several workers share the files.

    Returns
    -------
    EmbeddingStore
        Each of `paths` is in its vectors or in its failures, those that do not exist in the latter. Vectors of paths
        that were named in earlier runs stay; failures of other paths are forgotten.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If there is no such folder.
    StoreError, ValueError, KeyboardInterrupt, ModelNotFoundError, WeightsError, DownloadError
        As for `embed_folder`.
    """
    check_options(workers, batch_size, timeout)
    folder, out = check_path(folder, "folder"), check_path(out, "out")
    check_flag(frames, "frames")
    check_flag(progress, "progress", optional=True)
    check_folder(folder)
    listing = Listing()
    for path in sorted(set(paths)):
        listing.add(path)
    model = _load(model, precision)
    run = {"workers": workers, "batch_size": batch_size, "progress": progress, "timeout": timeout, "chunks": chunks}
    return _embed_listing(folder, listing, out, model, _check_hops(model, window, hop, frames), tags, frames, None, run)


def _check_shard(shard: object) -> None:
    whole = isinstance(shard, (tuple, list)) and all(type(part) is int for part in shard) and len(shard) == 2
    if shard is not None and not (whole and 0 <= shard[0] < shard[1]):  # type: ignore[index]
        raise InvalidArgumentError(f"shard must be (i, n), two whole numbers with 0 <= i < n, got {shard!r}.")


def _load(model: str | os.PathLike[str] | Embedder, precision: Precision | None) -> Embedder:
    check_type(precision, (str, type(None)), "precision", "leave it out, or pass float32 or bfloat16")
    if not isinstance(model, Embedder):
        return load_model(model, precision=precision or "float32")
    if precision is not None and precision != model.precision:
        raise InvalidArgumentError(
            f"precision={precision!r} was asked for, but the model was loaded with {model.precision!r}"
        )
    return model


def _check_hops(model: Embedder, window: float | None, hop: float | None, frames: bool) -> Hops | None:
    if window is None:
        if hop is not None:
            raise InvalidArgumentError(f"hop={hop!r} was given without a window; give window= as well.")
        return None
    if frames:
        raise InvalidArgumentError("frames=True keeps frames of whole recordings; leave it out, or leave out window=.")
    return Hops.check(window, hop, model.runner.shortest_window)


def _embed_listing(
    folder: Path,
    listing: Listing,
    out: Path,
    model: Embedder,
    hops: Hops | None,
    tags: bool,
    frames: bool,
    shard: tuple[int, int] | None,
    run: dict[str, Any],
) -> EmbeddingStore:
    """Embed what is listed and not yet done; the arguments have been checked."""
    description = describe_run(model.runner, folder, frames=frames, hops=hops, tags=tags, shard=shard)
    with StoreWriter(out, description) as writer:
        writer.keep_failures(listing.files)
        for path, (error, message) in listing.failures.items():
            writer.fail(path, error, message)
        job: VectorJob | WindowJob = (
            VectorJob(model.runner, writer, frames=frames, tags=tags)
            if hops is None
            else WindowJob(model.runner, writer, hops, tags=tags)
        )
        write_vectors(job, folder, listing.files, **run)
        writer.finish()
    return open_store(out)
