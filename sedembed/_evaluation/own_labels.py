"""Compare models on labels of one's own: a cross-validated probe for each, on the same rows, and paired differences."""

from __future__ import annotations

import itertools
import json
import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sedembed._utils.files import write_atomic
from sedembed._utils.machine import describe_machine
from sedembed._utils.versions import list_versions
from sedembed.audio.listing import list_recordings
from sedembed.batch.embed_folder import embed_files
from sedembed.errors import InvalidArgumentError, ProbeError
from sedembed.metrics import check_name
from sedembed.probe.inputs import StoreLabels, column_numbers, places_of
from sedembed.probe.label_table import FOLDER, table_of
from sedembed.probe.probe import LinearProbe
from sedembed.store.store import EmbeddingStore
from sedembed.types import Normalize

if TYPE_CHECKING:
    from sedembed.embedder import Embedder
    from sedembed.probe.resampling import Difference

__all__ = ["compare_on_labels"]


def compare_on_labels(
    folder: Path,
    labels: str | os.PathLike[str],
    models: Sequence[Embedder],
    results: Path,
    *,
    folds: int = 5,
    fold_column: str | None = None,
    group_column: str | None = None,
    window: float | None = None,
    hop: float | None = None,
    metric: str | None = None,
    normalize: Normalize | None = None,
    workers: int | None = None,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Embed the labelled recordings with each model, cross-validate a probe on each, write ``labels-STEM.json``.

    Parameters
    ----------
    folder : Path
        Where the recordings are.
    labels : path
        As for `LinearProbe.fit`: a CSV, or "folder".
    models : sequence of Embedder
        At least one, of different names or versions.
    results : Path
        Folder of the result, which is named after the table, and of the stores, which a later run uses again.
    folds : int
        How many folds are drawn, the same for all models.
    fold_column, group_column : str, optional
        Columns of the table: the fold of each row; what stays together in one fold.
    window, hop : float, optional
        Seconds; a row is then a window instead of a recording.
    metric : str, optional
        As for `LinearProbe`.
    normalize : {"standardize+l2", "l2", "none"}, optional
        What comes before the classifier; by default what the paper does for each network.
    workers, batch_size, progress
        As for `embed_folder`.

    Returns
    -------
    dict
        What the JSON file holds: ``models``, for each its name, version, score, interval, folds and classes;
        ``differences``, for each pair the score of ``model`` minus that of ``minus``, and its paired interval;
        ``interval``, what the intervals cover; ``failures``, labelled recordings without a row, and why;
        ``left_out``, how many labelled rows some models have and others do not. Scores are
        fractions, but for ``d_prime``.

    Raises
    ------
    ProbeError
        For labels that cannot be used, or of which the models have no row in common.
    InvalidArgumentError
        For labels of parts of recordings without a window, and models that are named twice.
    """
    started = time.monotonic()
    if metric is not None:
        check_name(metric)
    names = _distinct_names(models)
    listing = list_recordings(folder, results)
    listing.refuse_empty(folder)
    listed = listing.files
    table = table_of(labels, listed)
    if table.parts is not None and window is None:
        raise InvalidArgumentError(
            f"{table.file} labels parts of recordings by start and end; give --window, the seconds of a row."
        )
    there = replace(table, parts=None).align(listed)
    stem = FOLDER if labels == FOLDER else _as_file_name(Path(labels).stem)
    cut = "" if window is None else f"-window{window:g}-hop{window if hop is None else hop:g}"
    stores = [
        embed_files(
            folder,
            [listed[row] for row in there.rows],
            results / "stores" / f"labels-{stem}-{_as_file_name(name)}{cut}",
            model,
            window=window,
            hop=hop,
            workers=workers,
            batch_size=batch_size,
            progress=progress,
        )
        for name, model in zip(names, models, strict=True)
    ]
    failures = dict.fromkeys(there.absent, f"no such recording in {folder}")
    wanted = {listed[row] for row in there.rows}
    for store in stores:
        rows = store.failures.to_pylist()
        failures |= {row["path"]: f"{row['error']}: {row['message']}" for row in rows if row["path"] in wanted}
    aligned = [table.align(store.paths, places_of(store)) for store in stores]
    keys = [_keys(store, found.rows) for store, found in zip(stores, aligned, strict=True)]
    common = reduce(set.intersection, map(set, keys))
    if not common:
        raise ProbeError(f"The {len(models)} models have no labelled row in common; see what failed in {results}.")
    evaluations = []
    for model, store, found, own in zip(models, stores, aligned, keys, strict=True):
        probe = LinearProbe(
            metric=metric,
            normalize=normalize or model.default_normalize,
            device=model.device,
            progress=progress,
        )
        fold_numbers = column_numbers(table, found, fold_column, len(store))
        evaluations.append(
            probe.evaluate(
                store,
                StoreLabels.of(found, table.multilabel).take(np.array([key in common for key in own])),
                folds=folds if fold_numbers is None else fold_numbers,
                groups=column_numbers(table, found, group_column, len(store)),
            )
        )
    first = evaluations[0]
    result = {
        "data": folder.name or str(folder),
        "labels": str(labels),
        "metric": first.metric,
        "rows": len(first.truth),
        "left_out": len(set().union(*keys)) - len(common),
        "groups": len(np.unique(first.units)),
        "folds": len(first.fold_scores),
        "classes": first.classes,
        "class_rows": {row["class"]: row["rows"] for row in first.per_class},
        "window": window,
        "hop": window if hop is None else hop,
        "interval": _covers(len(first.truth), len(np.unique(first.units)), window, group_column),
        "models": [
            {
                "model": name,
                "model_version": model.record.version,
                "model_sha256": str(store.run["settings"]["model_sha256"]),
                "precision": model.precision,
                "normalize": normalize or model.default_normalize,
                "score": _number(found.score),
                "interval": [_number(value) for value in found.interval],
                "folds": found.summary()["folds"],
                "per_class": found.per_class,
            }
            for name, model, store, found in zip(names, models, stores, evaluations, strict=True)
        ],
        "differences": [
            _difference(names[i], names[j], evaluations[i].compare(evaluations[j]))
            for j, i in itertools.combinations(range(len(models)), 2)
        ],
        "failures": failures,
        "versions": dict(list_versions("torch", "numpy", "scipy", "scikit-learn", "pyarrow", "soundfile", "soxr")),
        "hardware": describe_machine(),
        "seconds": round(time.monotonic() - started, 3),
    }
    text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(results / f"labels-{stem}.json", text + "\n")
    return result


def _distinct_names(models: Sequence[Embedder]) -> list[str]:
    """Names of the models; those of the same name get their version too."""
    count = Counter(model.record.name for model in models)
    names = [
        model.record.name if count[model.record.name] == 1 else f"{model.record.name} {model.record.version}"
        for model in models
    ]
    twice = next((name for name, times in Counter(names).items() if times > 1), None)
    if twice is not None:
        raise InvalidArgumentError(f"Expected different models, got {twice} twice; name each once.")
    return names


def _keys(store: EmbeddingStore, rows: NDArray[np.int64]) -> list[tuple[str, int]]:
    """Name each row in the same way for every store: path and, for a window, where it begins in milliseconds."""
    places = places_of(store)
    starts = np.zeros(len(store)) if places is None else places[0]
    return [(store.paths[row], round(1000 * starts[row])) for row in rows]


def _covers(rows: int, units: int, window: float | None, group_column: str | None) -> dict[str, Any]:
    """Say what the intervals are."""
    if group_column is not None:
        drawn = f"values of the column {group_column}"
    else:
        drawn = "recordings" if window is None or units < rows else "windows"
    return {
        "level": 0.95,
        "method": f"percentile bootstrap: {units} {drawn} drawn again with replacement, the same for every model",
        "covers": "which recordings are scored; not which are fitted on, nor how the folds were drawn, so they are "
        "rather too narrow than too wide; those of several differences are not widened for their number",
    }


def _difference(model: str, minus: str, found: Difference) -> dict[str, Any]:
    low, high = found.interval
    return {
        "model": model,
        "minus": minus,
        "difference": _number(found.score),
        "interval": [_number(low), _number(high)],
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _as_file_name(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name).strip(".-") or "model"
