"""The command evaluate: target tasks of the paper, or models on labels of one's own."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sedembed.cli.common import GOOD, SOME_FAILED, AddCommand, add_model, complain, load, print_json, warnings_said
from sedembed.errors import InvalidArgumentError, MissingFileError

if TYPE_CHECKING:
    from sedembed._evaluation.tasks.base import Task

__all__ = ["register"]

logger = logging.getLogger(__name__)

_ALL = "all"


def register(add: AddCommand) -> None:
    """Add the commands of this module."""
    sub = add("evaluate", _evaluate, "score models on the paper's target tasks, or compare them on your own labels")
    sub.add_argument("task", metavar="TASK", nargs="?", help='one that --list shows, or "all"')
    sub.add_argument("--list", action="store_true", help="list the tasks; with -v also how their data lie on disk")
    sub.add_argument(
        "--labels",
        metavar="CSV|folder",
        help="instead of a TASK: columns path,label (with --window also start,end), or folder, as for probe fit",
    )
    sub.add_argument("--data", metavar="DIR", type=Path, help="folder of the recordings; nothing is downloaded")
    sub.add_argument("--data-root", metavar="DIR", type=Path, help='for "all": folder that holds the data sets')
    add_model(sub, several=True)
    sub.add_argument(
        "-o",
        "--out",
        metavar="RESULTS",
        type=Path,
        default=Path("results"),
        help="folder of results and of embeddings, which are used again (default: results)",
    )
    sub.add_argument("--partial", action="store_true", help="evaluate an incomplete copy as far as it goes")
    sub.add_argument("--repeats", metavar="N", type=int, default=1, help="fits with other inner splits (default: 1)")
    sub.add_argument(
        "--normalize",
        choices=["standardize+l2", "l2", "none"],
        help="before the classifier (default: as in the paper, l2 for WEANet, else standardize+l2)",
    )
    own = sub.add_argument_group("with --labels")
    own.add_argument("--folds", metavar="N", type=int, help="folds of the cross-validation (default: 5)")
    own.add_argument("--fold-column", metavar="NAME", help="column with the fold of each row")
    own.add_argument("--group-column", metavar="NAME", help="rows of one value stay together, such as one recordist's")
    own.add_argument("--window", metavar="S", type=float, help="a row for each window of S seconds")
    own.add_argument("--hop", metavar="S", type=float, help="from one window to the next (default: the window)")
    own.add_argument("--metric", help="accuracy, top5, map, mauc, ... (default: accuracy, or map if multi-label)")
    sub.add_argument("--workers", type=int, help="threads (default: by the number of cores)")
    sub.add_argument("--batch-size", type=int, help="most windows of one batch (default: 16)")
    sub.add_argument("--json", action="store_true", help="print the result as JSON")


_OWN = ("folds", "fold_column", "group_column", "window", "hop", "metric")


def _evaluate(options: argparse.Namespace) -> int:
    if options.list:
        return _list(options)
    if options.labels is not None:
        return _compare(options)
    if options.task is None and len(options.model) > 1:
        options.task = options.model.pop()  # --model NAME TASK
    if options.task is None:
        raise InvalidArgumentError('name a task, or "all", or give --labels; sedembed evaluate --list shows the tasks')
    given = next((name for name in _OWN if getattr(options, name) is not None), None)
    if given is not None:
        raise InvalidArgumentError(
            f"--{given.replace('_', '-')} goes with --labels, and {options.task} has its own protocol; leave it out."
        )
    if options.repeats < 1:
        raise InvalidArgumentError(f"--repeats needs a whole number of at least 1, got {options.repeats}")
    run, code = _evaluate_all if options.task == _ALL else _evaluate_one, GOOD
    for name in options.model:
        code = max(code, run(argparse.Namespace(**{**vars(options), "model": name})))
    return code


def _compare(options: argparse.Namespace) -> int:
    from sedembed._evaluation.own_labels import compare_on_labels
    from sedembed._evaluation.report import format_own_labels

    if options.task is not None:
        raise InvalidArgumentError(f"--labels goes without a task; leave out {options.task}, or --labels.")
    if options.data is None:
        raise InvalidArgumentError("--data is needed: the folder of the recordings that --labels labels.")
    if options.partial or options.repeats != 1 or options.data_root is not None:
        raise InvalidArgumentError("--partial, --repeats and --data-root belong to a task; leave them out.")
    if options.fold_column is not None and options.folds is not None:
        raise InvalidArgumentError("--folds draws folds, and --fold-column names them; leave one out.")
    if options.folds is not None and options.folds < 2:
        raise InvalidArgumentError(f"--folds must be at least 2, got {options.folds}.")
    if options.hop is not None and options.window is None:
        raise InvalidArgumentError("--hop is from one window to the next; give --window as well.")
    models = [load(argparse.Namespace(**{**vars(options), "model": name})) for name in options.model]
    settings = {name: getattr(options, name) for name in (*_OWN, "normalize", "workers", "batch_size")}
    if options.folds is None:
        del settings["folds"]
    with warnings_said():
        result = compare_on_labels(options.data, options.labels, models, options.out, **settings)
    if options.json:
        print_json(result)
    else:
        print(f"{format_own_labels(result)}\n\neverything is in {options.out}")
    return _report_failures(result)


def _list(options: argparse.Namespace) -> int:
    from sedembed._evaluation.evaluate import find_task, list_tasks

    tasks = list_tasks() if options.task in (None, _ALL) else [find_task(options.task)]
    if options.json:
        fields = ("name", "title", "classes", "clips", "multilabel", "metric", "licence", "source", "layout")
        lists = ("other_metrics", "paper")
        rows = [{name: getattr(task, name) for name in fields} for task in tasks]
        print_json([{**row, **_plain(task, lists)} for row, task in zip(rows, tasks, strict=True)])
        return GOOD
    for task in tasks:
        labels = "several labels a clip" if task.multilabel else "one label a clip"
        print(f"{task.name}  {task.title}: {task.classes} classes, {labels}, {task.clips} clips, {task.metric}")
        print(f"    {task.source}  ({task.licence})")
        if options.verbose:
            print("".join(f"        {line}\n" for line in task.layout.splitlines()), end="")
    return GOOD


def _plain(task: Task, names: tuple[str, ...]) -> dict[str, Any]:
    """Attributes as JSON has them."""
    values = {name: getattr(task, name) for name in names}
    return {name: list(value) if isinstance(value, tuple) else dict(value) for name, value in values.items()}


def _evaluate_one(options: argparse.Namespace) -> int:
    from sedembed._evaluation.evaluate import find_data, find_task, list_tasks
    from sedembed._evaluation.report import format_results, write_tables

    task, data = find_task(options.task), options.data
    if data is None and options.data_root is not None:
        data = find_data(task, options.data_root)[0]
    if data is None:
        raise InvalidArgumentError(f"--data is needed: the folder of {task.title}, from {task.source} ({task.licence})")
    result = _run(task, data, load(options), options)
    write_tables(options.out, list_tasks())
    if options.json:
        print_json(result)
    else:
        print(format_results([result]))
        _print_notes(result)
        print(f"everything is in {options.out}")
    return _report_failures(result)


def _evaluate_all(options: argparse.Namespace) -> int:
    from sedembed._evaluation.evaluate import find_data, list_tasks
    from sedembed._evaluation.report import describe_result, format_comparison, write_tables

    if options.data_root is None:
        raise InvalidArgumentError(
            "--data-root is needed: the folder that holds the data sets, each in a folder of its own"
        )
    tasks = list_tasks()
    looked_for = {task.name: find_data(task, options.data_root) for task in tasks}
    found = {task: folder for task in tasks if (folder := looked_for[task.name][0]) is not None}
    absent = {name: names for name, (folder, names) in looked_for.items() if folder is None}
    if not found:
        raise MissingFileError(
            f"{options.data_root} holds the data of no task; expected folders such as "
            f"{', '.join(names[-1] for names in absent.values())}"
        )
    model = load(options)
    results, failed, code = [], dict[str, str](), GOOD
    for task, folder in found.items():
        try:
            result = _run(task, folder, model, options)
        except Exception as error:  # whatever it is, the other tasks are still worth running
            failed[task.name] = f"{type(error).__name__}: {error}"
            complain(f"{task.name}: {failed[task.name]}")
            logger.info("%s failed", task.name, exc_info=True)
            continue
        results.append(result)
        code = max(code, _report_failures(result))
        if not options.json:
            print(describe_result(result), flush=True)
            _print_notes(result)
    comparison = write_tables(options.out, tasks) if results else None
    for name, names in absent.items():
        complain(f"{name}: not in {options.data_root}, where it would be {' or '.join(names)}")
    if options.json:
        print_json({"results": results, "failed": failed, "not_found": list(absent), "table": comparison})
    elif comparison is not None:
        print(f"\n{format_comparison(comparison)}\n\nthe table is in {options.out / 'table.md'}")
    return SOME_FAILED if failed else code


def _run(task: Task, data: Path, model: Any, options: argparse.Namespace) -> dict[str, Any]:
    from sedembed._evaluation.evaluate import evaluate

    return evaluate(
        task,
        data,
        model,
        options.out,
        partial=options.partial,
        repeats=options.repeats,
        normalize=options.normalize,
        workers=options.workers,
        batch_size=options.batch_size,
    )


def _print_notes(result: dict[str, Any]) -> None:
    for path, reason in result["excluded"].items():
        print(f"  left out: {path} ({reason})")
    for note in result["notes"]:
        print(f"  note: {note}")


def _report_failures(result: dict[str, Any]) -> int:
    for path, reason in result["failures"].items():
        complain(f"{path}: {reason}")
    return SOME_FAILED if result["failures"] else GOOD
