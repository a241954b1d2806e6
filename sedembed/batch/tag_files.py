"""Probabilities of many recordings by the network itself, kept on disk and resumed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sedembed.batch.vector_job import VectorJob, write_vectors
from sedembed.embedder import Embedder
from sedembed.engine.provenance import describe_run
from sedembed.store.store import open_store
from sedembed.store.writer import StoreWriter

__all__ = ["tag_files"]


def tag_files(
    folder: Path, paths: Sequence[str], out: Path, model: Embedder, progress: bool | None = None
) -> tuple[NDArray[np.float32], dict[str, tuple[str, str]]]:
    """Clip probabilities of many files, as `Embedder.tag` gives them.

    `out` is a store like that of `embed_folder`, with probabilities for vectors. Running it again continues where it
    was interrupted: only files without probabilities are read, among them those that failed. Besides the result,
    memory depends neither on the number of files nor on their length.

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
        job = VectorJob(model.runner, writer, probabilities=True)
        write_vectors(job, folder, wanted, progress=progress, description="tagging")
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
