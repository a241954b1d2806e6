"""Run a target task with a model: check the data, embed them, fit linear probes, score, write the result."""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import math
import os
import re
import shlex
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from sedembed._evaluation.fits import Fit, Problem, name_some, run_rounds
from sedembed._evaluation.tasks.base import Clip, Contents, Task
from sedembed._utils.files import write_atomic
from sedembed._utils.machine import describe_machine
from sedembed._utils.text import did_you_mean
from sedembed._utils.versions import list_versions
from sedembed.errors import DatasetError, InvalidArgumentError, NotAFolderError
from sedembed.types import Normalize

if TYPE_CHECKING:
    from sedembed.embedder import Embedder
    from sedembed.store.store import EmbeddingStore

__all__ = ["Normalize", "digest_clips", "evaluate", "find_data", "find_task", "list_tasks"]

logger = logging.getLogger(__name__)


# Module and class of each task, opened when it is asked for; the order is that of every list and table.
_TASKS: dict[str, str] = {
    "esc50": "sedembed._evaluation.tasks.esc50:ESC50",
    "urbansound8k": "sedembed._evaluation.tasks.urbansound8k:UrbanSound8K",
    "fsdkaggle2019-curated": "sedembed._evaluation.tasks.fsdkaggle2019:FSDKaggle2019Curated",
    "fsdkaggle2019-noisy": "sedembed._evaluation.tasks.fsdkaggle2019:FSDKaggle2019Noisy",
    "dcase2019-1a": "sedembed._evaluation.tasks.dcase2019:DCASE2019Task1A",
    "magnatagatune": "sedembed._evaluation.tasks.magnatagatune:MagnaTagATune",
    "kinetics700": "sedembed._evaluation.tasks.kinetics700:Kinetics700",
    "audioset": "sedembed._evaluation.tasks.audioset:AudioSet",
}
# What the official archives and usual downloads unpack to; case, hyphens and the like are not compared.
_FOLDERS: dict[str, tuple[str, ...]] = {
    "esc50": ("ESC-50", "ESC-50-master"),
    "urbansound8k": ("UrbanSound8K",),
    "fsdkaggle2019-curated": ("FSDKaggle2019",),
    "fsdkaggle2019-noisy": ("FSDKaggle2019",),
    "dcase2019-1a": ("TAU-urban-acoustic-scenes-2019-development", "DCASE2019", "DCASE2019-task1a"),
    "magnatagatune": ("MagnaTagATune", "MTAT", "magnatune"),
    "kinetics700": ("Kinetics-700", "k700", "Kinetics"),
    "audioset": ("AudioSet",),
}
_INCOMPLETE = "incomplete:"


def list_tasks() -> list[Task]:
    """All target tasks, in the order of the paper's table."""
    return [find_task(name) for name in _TASKS]


def find_task(name: str) -> Task:
    """Task of this name.

    Raises
    ------
    ValueError
        If there is none; the message names the nearest and all.
    """
    try:
        module, _, cls = _TASKS[name].partition(":")
    except KeyError:
        hint = did_you_mean(name, _TASKS)
        raise InvalidArgumentError(f"No task is called {name!r}.{hint} There are: {', '.join(_TASKS)}.") from None
    return cast(Task, getattr(importlib.import_module(module), cls)())


def find_data(task: Task, root: Path) -> tuple[Path | None, list[str]]:
    """Look for the data of a task in a folder of data sets.

    Returns
    -------
    folder : Path or None
        The first folder of a known name, if there is one.
    names : list of str
        The names looked for.

    Raises
    ------
    OSError
        If `root` cannot be listed.
    """
    if not root.is_dir():
        raise NotAFolderError(f"Expected a folder of data sets at {root}, found none. Check the spelling.")
    names = list(dict.fromkeys((task.name, *_FOLDERS.get(task.name, ()))))
    there = {_bare(entry.name): entry for entry in sorted(root.iterdir(), reverse=True) if entry.is_dir()}
    return next((there[_bare(name)] for name in names if _bare(name) in there), None), names


def evaluate(
    task: Task,
    data: str | os.PathLike[str],
    model: str | os.PathLike[str] | Embedder = "talnet",
    results: str | os.PathLike[str] = "results",
    *,
    partial: bool = False,
    repeats: int = 1,
    normalize: Normalize | None = None,
    progress: bool | None = None,
    workers: int | None = None,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """Evaluate a model on a target task by the protocol of the paper and write ``RESULTS/TASK-MODEL.json``.

    The recordings are embedded into a store at ``RESULTS/stores/TASK-MODEL``, which a later run continues or reuses.
    On the training part of each round a linear probe is fitted, its C tuned as `Round` says, and scored on the test
    part. Nothing is downloaded.

    Parameters
    ----------
    task : Task
        What `find_task` gives.
    data : path
        Folder of the data set, laid out as ``task.layout`` says.
    model : str, path or Embedder
        What `load_model` takes, or a loaded model.
    results : path
        Folder for the result and the store.
    partial : bool
        Evaluate an incomplete copy as far as it goes, instead of refusing it.
    repeats : int
        Fits of each round, with other inner splits. Rounds whose validation clips or inner folds the protocol fixes
        are fitted once, for nothing in them is drawn.
    normalize : {"standardize+l2", "l2", "none"}, optional
        What comes before the classifier; by default what the paper does for the network.
    progress : bool, optional
        Show progress bars; by default if stderr is a terminal.
    workers, batch_size
        As for `embed_folder`.

    Returns
    -------
    dict
        What the JSON file holds. Scores are fractions, but for ``d_prime``; what is not defined is null.

        - ``task``, ``model``, ``model_version``: names and version;
        - ``metric``, ``score``: its name and its mean over rounds and repeats; for a task of `Task.own_outputs` that
          of the network's own probabilities;
        - ``std``: sample standard deviation over rounds and repeats, null if there is one;
        - ``folds``: for each round and repeat its ``name``, ``repeat`` (from 0), ``score``, ``C``, ``other_metrics``
          and the number of clips in ``train``, ``validation`` (null where there is no validation part) and ``test``;
        - ``other_metrics``: their means; scores of the probe begin with ``probe_`` for a task of `Task.own_outputs`;
        - ``per_class``: class to the mean over rounds of `metrics.per_class`, null for classes without test clips;
        - ``split_sizes``: part to number of clips used;
        - ``missing``: number of clips that are not there or cannot be read;
        - ``partial``: whether that, or metadata that are cut short, make the score one of an incomplete copy;
        - ``paper``: score of the paper's network of that name or architecture, or null; ``paper_other_metrics``: what
          it says of the others;
        - ``versions``: of Python and packages;
        - ``seconds``: time it took, not counting what an earlier run embedded;
        - ``model_sha256``, ``precision``, ``normalize``, ``repeats``: what else the score depends on;
        - ``command``: the shell command that repeats it, with the name of the data folder only; ``seed``: of the first
          repeat, one more for each further one; ``clips_sha256``: of the list of clips used, as `digest_clips` says;
          ``hardware``: as `describe_machine` says, with ``device`` and ``engine``;
        - ``missing_paths``: those that are not there; ``failures``: those that cannot be read, with the reason;
        - ``excluded``: clips known to be broken, with the reason; ``extra``: number of files that no metadata name;
        - ``notes``: what a reader of the score should know.

    Raises
    ------
    DatasetError
        If the copy is laid out otherwise or, without `partial`, incomplete; if recordings cannot be read, once all
        others have been embedded; or if no round can be fitted on what is there.
    StoreError
        If the store is of another model or data folder, or the disk takes no more.
    ValueError
        For `repeats` below 1, an unknown `normalize`, or a network that does not tag what a task of
        `Task.own_outputs` needs.
    """
    started = time.monotonic()
    _check_options(repeats, normalize)
    data, results = Path(data).expanduser(), Path(results).expanduser()
    contents = _read(task, data, partial)

    from sedembed.batch.embed_folder import embed_files
    from sedembed.embedder import Embedder
    from sedembed.loading import load_model

    if not isinstance(model, Embedder):
        model = load_model(model)
    classes = sorted({label for clip in contents.clips for label in clip.labels})
    if task.own_outputs:
        classes = _own_classes(task, model, classes)
    stem = f"{task.name}-{_as_file_name(model.record.name)}"
    store = results / "stores" / stem
    absent = {*contents.missing, *contents.excluded}
    clips = [clip for clip in contents.clips if clip.path not in absent]
    logger.info("%s: embedding %d clips into %s", task.name, len(clips), store)
    embedded = embed_files(
        data, [clip.path for clip in clips], store, model, workers=workers, batch_size=batch_size, progress=progress
    )
    failures = _failures_of(clips, embedded)
    clips = [clip for clip in clips if clip.path not in failures]
    notes = [*contents.notes]
    own: dict[str, NDArray[np.float32]] = {}
    if task.own_outputs and clips:
        own, failed = _tag(task, clips, data, results / "stores" / f"{stem}-tags", model, progress)
        failures |= failed
        clips = [clip for clip in clips if clip.path not in failures]
    if failures and not partial:
        raise _unreadable(task, failures, store)
    if not clips:
        raise task.refuse(data, "none of its recordings can be read; fetch them again")
    chain = normalize or model.default_normalize
    problem = Problem(task, clips, classes, embedded, own, chain, str(model.device), progress)
    fits = run_rounds(problem, task.rounds(clips), repeats, notes)
    missing = len(contents.missing) + len(failures)
    cut_short = any(note.startswith(_INCOMPLETE) for note in contents.notes)
    result = {
        "task": task.name,
        "model": model.record.name,
        "model_version": model.record.version,
        "metric": task.metric,
        **_summarise(task, fits, classes),
        "split_sizes": dict(Counter(clip.part for clip in clips)),
        "missing": missing,
        "partial": bool(missing) or cut_short,
        "paper": _of_model(task.paper, model),
        "versions": dict(list_versions("torch", "numpy", "scipy", "scikit-learn", "pyarrow", "soundfile", "soxr")),
        "seconds": round(time.monotonic() - started, 3),
        "model_sha256": str(embedded.run["settings"]["model_sha256"]),
        "precision": model.precision,
        "normalize": chain,
        "repeats": repeats,
        "command": _command(task, data, model, partial, repeats, normalize),
        "seed": 0,
        "clips_sha256": digest_clips(data, clips),
        "hardware": {**describe_machine(), "device": str(model.device), "engine": model.engine},
        "paper_other_metrics": {name: _of_model(scores, model) for name, scores in task.paper_other.items()},
        "missing_paths": list(contents.missing),
        "failures": failures,
        "excluded": dict(contents.excluded),
        "extra": len(contents.extra),
        "notes": list(dict.fromkeys(notes)),
    }
    if contents.extra:
        result["notes"].append(f"{len(contents.extra)} sound files are not used: {name_some(contents.extra)}")
    _write(results / f"{stem}.json", result)
    return result


# --- the data ------------------------------------------------------------------------------------------------------


def _check_options(repeats: int, normalize: str | None) -> None:
    if not isinstance(repeats, (int, np.integer)) or repeats < 1:
        raise InvalidArgumentError(f"repeats must be a whole number of at least 1, got {repeats!r}")
    if normalize is not None and normalize not in get_args(Normalize):
        raise InvalidArgumentError(f"normalize must be one of {', '.join(get_args(Normalize))}, got {normalize!r}")


def _read(task: Task, data: Path, partial: bool) -> Contents:
    """Contents of the data folder; an incomplete one is refused unless `partial`."""
    contents = task.read(data)
    problems = [note.removeprefix(_INCOMPLETE).strip() for note in contents.notes if note.startswith(_INCOMPLETE)]
    if contents.missing:
        total = len(contents.clips)
        problems.append(f"{len(contents.missing)} of {total} recordings are missing ({name_some(contents.missing)})")
    if problems and not partial:
        if contents.extra:
            problems.append(f"{len(contents.extra)} sound files are extra ({name_some(contents.extra)})")
        raise DatasetError(
            f"{data} is an incomplete copy of {task.title}: {'; '.join(problems)}. Get the rest from {task.source} "
            f"({task.licence}), or evaluate what is there with --partial (partial=True)"
        )
    return contents


def _failures_of(clips: Iterable[Clip], store: EmbeddingStore) -> dict[str, str]:
    """Clips without a vector, and why."""
    there = set(store.paths)
    reasons = {row["path"]: f"{row['error']}: {row['message']}" for row in store.failures.to_pylist()}
    return {clip.path: reasons.get(clip.path, "no reason given") for clip in clips if clip.path not in there}


def _unreadable(task: Task, failures: dict[str, str], store: Path) -> DatasetError:
    several = [f"{path} ({reason})" for path, reason in failures.items()]
    return DatasetError(
        f"{len(failures)} recordings of {task.title} cannot be read: {name_some(several)}. Get them again from "
        f"{task.source} ({task.licence}), or evaluate the others with --partial (partial=True); all others are "
        f"embedded and kept in {store}"
    )


def _bare(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())


def _as_file_name(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name).strip(".-") or "model"


# --- the network's own outputs -------------------------------------------------------------------------------------


def _own_classes(task: Task, model: Embedder, classes: Sequence[str]) -> list[str]:
    unknown = sorted(set(classes) - set(model.labels))
    if unknown:
        raise InvalidArgumentError(
            f"{task.title} scores what the network itself tags, but {model.record.name!r} tags "
            f"{len(model.labels)} events without {name_some(unknown)}; use a model whose events are those of the task"
        )
    return list(model.labels)


def _tag(
    task: Task, clips: Sequence[Clip], data: Path, store: Path, model: Embedder, progress: bool | None
) -> tuple[dict[str, NDArray[np.float32]], dict[str, str]]:
    """Probabilities of the test clips by path, and failures."""
    from sedembed.batch.tag_files import tag_files

    tested = sorted({int(number) for round_ in task.rounds(clips) for number in round_.test})
    paths = [clips[number].path for number in tested]
    logger.info("%s: tagging %d clips into %s", task.name, len(paths), store)
    probabilities, failures = tag_files(data, paths, store, model, progress)
    failed = {path: f"{error}: {message}" for path, (error, message) in failures.items()}
    return {path: row for path, row in zip(paths, probabilities, strict=True) if path not in failed}, failed


# --- the result ----------------------------------------------------------------------------------------------------


def _summarise(task: Task, fits: Sequence[Fit], classes: Sequence[str]) -> dict[str, Any]:
    # The network's own outputs do not change from repeat to repeat.
    scores = [fit.score for fit in fits if fit.repeat == 0 or not task.own_outputs]
    folds = [
        {
            "name": fit.name,
            "repeat": fit.repeat,
            "score": _number(fit.score),
            "C": fit.C,
            "other_metrics": {name: _number(value) for name, value in fit.other_metrics.items()},
            "train": fit.train,
            "validation": fit.validation,
            "test": fit.test,
        }
        for fit in fits
    ]
    names = dict.fromkeys(name for fit in fits for name in fit.other_metrics)
    others = {name: _mean([fit.other_metrics.get(name, math.nan) for fit in fits]) for name in names}
    return {
        "score": _mean(scores),
        "std": float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        "folds": folds,
        "other_metrics": others,
        "per_class": {label: _mean([fit.per_class[i] for fit in fits]) for i, label in enumerate(classes)},
    }


def digest_clips(data: Path, clips: Iterable[Clip]) -> str:
    """Sha256 of the list of clips: one line each of path, bytes, part and labels, separated by tabs, by path.

    Two copies of a data set with the same digest hold files of the same names and sizes, with the same labels and
    splits. Contents are not read: AudioSet would take hours.
    """
    lines = sorted(
        f"{clip.path}\t{(data / clip.path).stat().st_size}\t{clip.part}\t{';'.join(clip.labels)}\n" for clip in clips
    )
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def _command(task: Task, data: Path, model: Embedder, partial: bool, repeats: int, normalize: Normalize | None) -> str:
    """Shell command that gives this result; options at their defaults are left out."""
    options = {
        "--data": data.name,
        "--model": model.record.name,
        "--precision": model.precision if model.precision != "float32" else "",
        "--engine": model.engine if model.engine != "torch" else "",
        "--repeats": str(repeats) if repeats > 1 else "",
        "--normalize": normalize or "",
    }
    given = [word for option, value in options.items() if value for word in (option, value)]
    return shlex.join(["sedembed", "evaluate", task.name, *given, *(["--partial"] if partial else [])])


def _mean(values: Sequence[float]) -> float | None:
    """Mean of what is defined; null if nothing is."""
    defined = [value for value in values if not math.isnan(value)]
    return _number(float(np.mean(defined))) if defined else None


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _of_model(scores: Mapping[str, float], model: Embedder) -> float | None:
    """Score by name or, for other weights of the same network, by architecture."""
    return scores.get(model.record.name, scores.get(model.record.architecture))


def _write(file: Path, result: dict[str, Any]) -> None:
    write_atomic(file, json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
