"""Probabilities of many recordings by the network itself, kept on disk and resumed."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from sedembed.batch.embed_folder import _interrupts_noted, _warnings_logged
from sedembed.batch.readers import ReaderPool, Source, Step
from sedembed.embedder import Embedder
from sedembed.engine.provenance import describe_run
from sedembed.engine.runner import MAX_BATCH
from sedembed.engine.windows import ClipSum
from sedembed.store.store import open_store
from sedembed.store.writer import StoreWriter

__all__ = ["tag_files"]

logger = logging.getLogger(__name__)

_BATCHES_AHEAD = 4
_TIMEOUT = 60.0


def tag_files(
    folder: Path, paths: Sequence[str], out: Path, model: Embedder, progress: bool | None = None
) -> tuple[NDArray[np.float32], dict[str, tuple[str, str]]]:
    """Clip probabilities of many files, as `Embedder.tag` gives them.

    `out` is a store like that of `embed_folder`, with probabilities for vectors. Running it again goes on where it was
    interrupted: only files without probabilities are read, those that failed among them. Besides the result, memory
    depends neither on the number nor on the length of files.

    Parameters
    ----------
    folder : Path
        Where the files are.
    paths : sequence of str
        Which ones, relative to `folder`.
    out : Path
        Directory of the store: new, empty, or of an earlier call with the same folder and model.
    model : Embedder
        The network.
    progress : bool, optional
        Show a progress bar; by default if stderr is a terminal.

    Returns
    -------
    probabilities : ndarray of float32, shape (len(paths), classes)
        In the order of `paths` and `Embedder.labels`; rows of NaN for files that failed.
    failures : dict of str to (str, str)
        Class and message of the error of each path that failed.

    Raises
    ------
    StoreError
        If `out` is something else, of another model, version, precision or folder, in use, damaged, or the disk takes
        no more. What was written before is kept.
    KeyboardInterrupt
        After Ctrl-C, once the files that are finished are on disk.
    """
    probabilities = np.full((len(paths), len(model.labels)), np.nan, np.float32)
    if not paths:
        return probabilities, {}
    wanted = list(dict.fromkeys(paths))
    with StoreWriter(out, describe_run(model.runner, folder, kind="probabilities")) as writer:
        writer.keep_failures(wanted)
        _tag(folder, [path for path in wanted if path not in writer.done], model, writer, progress, len(wanted))
        failures = {path: writer.failures[path] for path in wanted if path in writer.failures}
    store = open_store(out)
    rows: dict[str, list[int]] = {}
    for row, path in enumerate(paths):
        rows.setdefault(path, []).append(row)
    stored = store.paths
    for numbers, block in store.blocks():
        for number, values in zip(numbers, block, strict=True):
            probabilities[rows.get(stored[number], [])] = values
    return probabilities, failures


def _tag(
    folder: Path, paths: Sequence[str], model: Embedder, writer: StoreWriter, progress: bool | None, total: int
) -> None:
    """Read, run and write what is not yet done."""
    bar = tqdm(
        total=total,
        initial=total - len(paths),
        unit="file",
        desc="tagging",
        disable=None if progress is None else not progress,
    )
    with bar, _warnings_logged(), _interrupts_noted() as interrupted:
        pool = ReaderPool(
            folder,
            paths,
            model.runner.features,
            sample_rate=model.sample_rate,
            cut=model.runner.windows,
            workers=min(8, max(2, os.cpu_count() or 2)),
            ahead=_BATCHES_AHEAD * model.runner.max_batch_frames,
            timeout=_TIMEOUT,
        )
        clips: dict[Source, ClipSum] = {}
        try:
            while pool.left and not interrupted.is_set():
                bar.update(_process(pool.take(_BATCHES_AHEAD * MAX_BATCH, pool.queue.maxsize), model, writer, clips))
                if writer.due:
                    writer.commit()
        finally:
            pool.close()
        writer.commit()
    if interrupted.is_set():
        message = (
            f"interrupted: {total - pool.left} of {total} files are done and kept in {writer.directory}; "
            "run the same command again to go on"
        )
        logger.warning("%s", message)
        raise KeyboardInterrupt(message)


def _process(steps: list[Step], model: Embedder, writer: StoreWriter, clips: dict[Source, ClipSum]) -> int:
    """Run the windows that the readers handed in; return how many files are finished with them."""
    failed = {step.source for step in steps if step.error is not None}
    windows = [
        (step.source, step.features) for step in steps if step.features is not None and step.source not in failed
    ]
    results = model.runner.run([features for _, features in windows], probabilities=True)
    for (source, _), result in zip(windows, results, strict=True):
        clips.setdefault(source, model.runner.new_sum()).add(result)
    ends = [step for step in steps if step.features is None]
    for source, _, error in ends:
        if error is not None and not isinstance(error, Exception):
            raise error
        clip, info = clips.pop(source, None), source.info
        if error is None and (clip is None or info is None):
            error = ValueError("the file gave no samples; leave it out or fetch it again")
        if error is None and clip is not None and not np.isfinite(clip.probabilities).all():
            error = ValueError("the network gives NaN or infinity for this sound; check its level")
        if error is not None or clip is None or info is None:
            logger.warning("%s: %s: %s", source.path, type(error).__name__, error)
            writer.fail(source.path, type(error).__name__, str(error) or repr(error))
        else:
            writer.add(source.path, source.seconds, info.sample_rate, info.channels, clip.probabilities)
    return len(ends)
