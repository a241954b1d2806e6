"""embed_folder: walk a folder, embed what is in it, survive what is in it."""

from __future__ import annotations

import errno
import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TextIO

import numpy as np
from tqdm import tqdm

from sedembed.audio.reader import AUDIO_EXTENSIONS
from sedembed.batch.readers import ReaderPool, Source, Step, current_source
from sedembed.embedder import Embedder, load_model
from sedembed.engine.provenance import describe_run
from sedembed.engine.runner import MAX_BATCH, Runner
from sedembed.engine.windows import WINDOW_SECONDS, ClipSum
from sedembed.store.store import EmbeddingStore, open_store
from sedembed.store.writer import FrameRows, StoreWriter
from sedembed.types import Precision

__all__ = ["Listing", "embed_files", "embed_folder", "list_recordings"]

logger = logging.getLogger(__name__)

# Batches looked at together to group windows of similar length.
_BATCHES_AHEAD = 4


def embed_folder(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    model: str | os.PathLike[str] | Embedder = "talnet",
    *,
    frames: bool = False,
    workers: int | None = None,
    batch_size: int | None = None,
    progress: bool | None = None,
    precision: Precision | None = None,
    timeout: float = 60.0,
) -> EmbeddingStore:
    """Embed every sound file of a folder and its subfolders into a store on disk.

    Running the same command again goes on where it was interrupted, also after a crash: files with a vector are not
    read again, failed ones are tried again, new ones are added. Memory depends neither on the number nor on the
    length of files.

    Parameters
    ----------
    folder : path
        What to embed. Taken are files with a suffix in `sedembed.audio.reader.AUDIO_EXTENSIONS`, of any case. Links are
        followed, unless they lead back to where they are; names that begin with a dot are skipped.
    out : path
        Directory of the store: new, empty, or of an earlier run with the same settings. It may lie in `folder`.
    model : str, path or Embedder
        What `load_model` takes, or a loaded model.
    frames : bool
        Also keep the frame embeddings, 40 kB for a second of sound with TALNet (`EmbeddingStore.frames`).
    workers : int, optional
        Threads that read, resample and transform files; by default one for each CPU, from 2 to 8.
    batch_size : int, optional
        Most windows in one batch of the network, by default 16. It changes speed and memory, not vectors.
    progress : bool, optional
        Show a progress bar; by default if stderr is a terminal.
    precision : {"float32", "bfloat16"}, optional
        As for `load_model`; by default float32. A loaded model has its own.
    timeout : float
        Longest silence of a decoder, in seconds. The file is then given up as an `AudioTimeoutError`.

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
        For `workers`, `batch_size` or `timeout` that are not positive, or a precision that is not the model's.
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
    _check_options(workers, batch_size, timeout)
    folder, out = Path(folder).expanduser(), Path(out).expanduser()
    listing = list_recordings(folder, out)
    if not listing.files and not listing.failures:
        raise FileNotFoundError(
            errno.ENOENT,
            f"Expected sound files, found none among {listing.ignored} files; supported are "
            f"{' '.join(sorted(AUDIO_EXTENSIONS))}",
            str(folder),
        )
    model = _load(model, precision)
    logger.info("%s: %d sound files, %d others ignored", folder, len(listing.files), listing.ignored)
    return _embed_listing(folder, listing, out, model, frames, workers, batch_size, progress, timeout)


def embed_files(
    folder: str | os.PathLike[str],
    paths: Iterable[str],
    out: str | os.PathLike[str],
    model: str | os.PathLike[str] | Embedder = "talnet",
    *,
    frames: bool = False,
    workers: int | None = None,
    batch_size: int | None = None,
    progress: bool | None = None,
    precision: Precision | None = None,
    timeout: float = 60.0,
) -> EmbeddingStore:
    """Embed the named files of a folder, whatever their suffix, into a store; internal.

    Parameters
    ----------
    folder : path
        Where they are.
    paths : iterable of str
        Files relative to `folder`, with forward slashes; one that is named twice is embedded once.
    out, model, frames, workers, batch_size, progress, precision, timeout
        As for `embed_folder`, and so is going on after an interruption.

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
    _check_options(workers, batch_size, timeout)
    folder, out = Path(folder).expanduser(), Path(out).expanduser()
    _check_folder(folder)
    listing = Listing()
    for path in sorted(set(paths)):
        listing.add(path)
    model = _load(model, precision)
    return _embed_listing(folder, listing, out, model, frames, workers, batch_size, progress, timeout)


def _check_options(workers: int | None, batch_size: int | None, timeout: float) -> None:
    for name, value in (("workers", workers), ("batch_size", batch_size)):
        if value is not None and (not isinstance(value, (int, np.integer)) or value < 1):
            raise ValueError(f"{name} must be a whole number of at least 1, or None, got {value!r}")
    if not timeout > 0:
        raise ValueError(f"timeout must be a positive number of seconds, got {timeout!r}")


def _load(model: str | os.PathLike[str] | Embedder, precision: Precision | None) -> Embedder:
    if not isinstance(model, Embedder):
        return load_model(model, precision=precision or "float32")
    if precision is not None and precision != model.precision:
        raise ValueError(f"precision={precision!r} was asked for, but the model was loaded with {model.precision!r}")
    return model


def _embed_listing(
    folder: Path,
    listing: Listing,
    out: Path,
    model: Embedder,
    frames: bool,
    workers: int | None,
    batch_size: int | None,
    progress: bool | None,
    timeout: float,
) -> EmbeddingStore:
    """Embed what is listed and not yet done; the arguments have been checked."""
    batch_size = MAX_BATCH if batch_size is None else int(batch_size)
    with StoreWriter(out, describe_run(model.runner, folder, frames=frames)) as writer:
        writer.keep_failures(listing.files)
        for path, (error, message) in listing.failures.items():
            writer.fail(path, error, message)
        paths = [path for path in listing.files if path not in writer.done]
        if len(paths) < len(listing.files):
            logger.info("%s: %d files are done already", out, len(listing.files) - len(paths))
        bar = tqdm(
            total=len(listing.files),
            initial=len(listing.files) - len(paths),
            unit="file",
            disable=None if progress is None else not progress,
        )
        with bar, _warnings_logged(), _interrupts_noted() as interrupted:
            pool = ReaderPool(
                folder,
                paths,
                model.runner.features,
                sample_rate=model.sample_rate,
                cut=model.runner.windows,
                workers=workers or min(8, max(2, os.cpu_count() or 2)),
                ahead=_BATCHES_AHEAD * batch_size * model.runner.max_batch_frames // MAX_BATCH,
                timeout=timeout,
            )
            try:
                run = _Run(model.runner, writer, batch_size, frames, bar)
                while pool.left and not interrupted.is_set():
                    run.process(pool.take(_BATCHES_AHEAD * batch_size, pool.queue.maxsize))
                    if writer.due:
                        writer.commit()
            finally:
                pool.close()
            writer.commit()
        if interrupted.is_set():
            message = (
                f"interrupted: {len(listing.files) - pool.left} of {len(listing.files)} files are done and kept in "
                f"{out}; run the same command again to go on"
            )
            raise KeyboardInterrupt(message)
    return open_store(out)


# --- the network's side --------------------------------------------------------------------------------------------


@dataclass
class _Clip:
    sum: ClipSum
    frames: FrameRows | None
    windows: int = 0


class _Run:
    """What the main thread does with the windows that the decoders hand in."""

    def __init__(self, runner: Runner, writer: StoreWriter, batch_size: int, frames: bool, bar: tqdm) -> None:
        self._runner, self._writer, self._batch_size, self._frames, self._bar = runner, writer, batch_size, frames, bar
        self._clips: dict[Source, _Clip] = {}
        self._seconds, self._started = 0.0, time.monotonic()

    def process(self, steps: list[Step]) -> None:
        failed = {step.source for step in steps if step.error is not None}
        windows = [
            (step.source, step.features) for step in steps if step.features is not None and step.source not in failed
        ]
        results = self._runner.run([features for _, features in windows], max_items=self._batch_size)
        # Windows of a file come in order, and so do their results.
        for (source, _), result in zip(windows, results, strict=True):
            clip = self._clips.get(source)
            if clip is None:
                rows = self._writer.open_frames() if self._frames else None
                clip = self._clips[source] = _Clip(self._runner.new_sum(), rows)
            clip.sum.add(result)
            if clip.frames is not None:
                times = self._runner.frame_times(len(result.frames), clip.windows * WINDOW_SECONDS)
                clip.frames.add(source.path, times, result.frames)
            clip.windows += 1
        for step in steps:
            if step.features is None:
                self._finish(step.source, step.error)

    def _finish(self, source: Source, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, Exception):
            raise error
        clip = self._clips.pop(source, None)
        info = source.info
        if error is None and (clip is None or info is None):
            error = ValueError("the file gave no samples; leave it out or fetch it again")
        if error is None and clip is not None and not np.isfinite(clip.sum.embedding).all():
            error = ValueError("the network gives NaN or infinity for this sound; check its level")
        if error is not None or clip is None or info is None:
            if clip is not None and clip.frames is not None:
                self._writer.drop_frames(clip.frames)
            logger.warning("%s: %s: %s", source.path, type(error).__name__, error)
            self._writer.fail(source.path, type(error).__name__, str(error) or repr(error))
        else:
            self._writer.add(
                source.path, source.seconds, info.sample_rate, info.channels, clip.sum.embedding, clip.frames
            )
            self._seconds += source.seconds
            elapsed = time.monotonic() - self._started
            self._bar.set_postfix_str(f"{self._seconds / max(elapsed, 1e-3):.0f} s of sound/s", refresh=False)
        self._bar.update()


# --- the folder ----------------------------------------------------------------------------------------------------


@dataclass
class Listing:
    """Sound files of a folder, what could not be listed (path to error and message), and how many other files."""

    files: list[str] = field(default_factory=list)
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)
    ignored: int = 0

    def add(self, path: str) -> None:
        """Take a file, if a store can hold its name."""
        if _is_utf8(path):
            self.files.append(path)
        else:
            self.failures[path] = ("UnicodeError", "the name is not valid UTF-8; rename the file")


def list_recordings(folder: Path, skip: Path | None = None) -> Listing:
    """Find the sound files under a folder, but not under `skip`; relative paths with forward slashes, sorted."""
    _check_folder(folder)
    listing = Listing()
    skipped = _identity(skip) if skip is not None and skip.exists() else None
    # Each directory with those above it: a link to one of them is a loop, a link elsewhere is not.
    pending: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]
    while pending:
        prefix, above = pending.pop()
        try:
            here = _identity(folder / prefix)
            if here == skipped:
                continue
            if here in above:
                logger.warning("%s links back to a folder that it is in; not followed", prefix)
                continue
            with os.scandir(folder / prefix) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    path = f"{prefix}/{entry.name}" if prefix else entry.name
                    if _is_directory(entry):
                        pending.append((path, (*above, here)))
                    elif PurePosixPath(entry.name).suffix.lower() not in AUDIO_EXTENSIONS:
                        listing.ignored += 1
                    else:
                        listing.add(path)
        except OSError as error:
            listing.failures[prefix or "."] = (type(error).__name__, f"{error}; no file in this folder was embedded")
    listing.files.sort()
    return listing


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        raise FileNotFoundError(errno.ENOENT, "Expected a folder of sound files, found nothing", str(folder))
    if not folder.is_dir():
        raise NotADirectoryError(
            errno.ENOTDIR, "Expected a folder of sound files, got a file; embed() takes a single one", str(folder)
        )


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: if its suffix is one of sound, the decoder says what is wrong
        return False


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- warnings and Ctrl-C -------------------------------------------------------------------------------------------


@contextmanager
def _warnings_logged() -> Iterator[None]:
    """Log what the decoders warn about under the path of the file, whatever the filters say."""
    with warnings.catch_warnings():
        warnings.filterwarnings("always", module=r"sedembed\.")
        show = warnings.showwarning

        def log(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            source = current_source()
            if source is None:
                show(message, category, filename, lineno, file, line)
            else:
                logger.warning("%s: %s", source.path, message)

        warnings.showwarning = log
        yield


@contextmanager
def _interrupts_noted() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a flag; the second does what it always does."""
    interrupted = threading.Event()
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupted
        return

    def note(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        interrupted.set()

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
