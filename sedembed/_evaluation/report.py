"""Tables of results, as text for a terminal and as Markdown, and the paper's Table 2 side by side with them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sedembed._evaluation.tasks.base import Task

__all__ = [
    "compare_models",
    "describe_result",
    "format_comparison",
    "format_own_labels",
    "format_results",
    "read_results",
    "write_tables",
]

logger = logging.getLogger(__name__)

_NEEDED = ("task", "model", "model_version", "metric", "score", "std", "missing", "partial", "paper", "split_sizes")
_NOTHING = "–"
_PLAIN = ("d_prime", "probe_d_prime")  # not fractions


def read_results(results: Path) -> list[dict[str, Any]]:
    """Read the results that `evaluate` wrote into a folder, by file name; other files are passed over."""
    found = []
    for file in sorted(results.glob("*.json")):
        try:
            result = json.loads(file.read_bytes())
        except (OSError, ValueError) as error:
            logger.warning("%s is not in the table: it cannot be read (%s)", file, error)
            continue
        if isinstance(result, dict) and all(key in result for key in _NEEDED):
            found.append(result)
    return found


def describe_result(result: Mapping[str, Any]) -> str:
    """One line: task, model, score and the paper's."""
    return (
        f"{result['task']} {_model(result)}: {result['metric']} {_score(result)} "
        f"(paper {_show(result['paper'], result['metric'])}){_partial(result)}"
    )


def format_results(results: Sequence[Mapping[str, Any]], markdown: bool = False) -> str:
    """Table of results, one a row: task, model, metric, score ± std, the paper's score, clips, other metrics.

    Fractions are shown in per cent.
    """
    header = ["task", "model", "metric", "score", "paper", "clips", "other metrics"]
    rows = [
        [
            result["task"] + _partial(result),
            _model(result),
            result["metric"],
            _score(result),
            _show(result["paper"], result["metric"]),
            str(sum(result["split_sizes"].values())),
            _others(result) or _NOTHING,
        ]
        for result in results
    ]
    return _format_table(header, rows, markdown)


def compare_models(results: Sequence[Mapping[str, Any]], tasks: Sequence[Task]) -> dict[str, Any]:
    """Table 2 of the paper with a column for each model that has results.

    Returns
    -------
    dict
        ``models``: their names with versions. ``tasks``: for each task its ``task`` (name), ``title``, ``metric``,
        ``paper`` (network to score) and ``results`` (model to ``score``, ``std``, ``partial``, ``missing``,
        ``other_metrics``). Scores are fractions.
    """
    models = sorted({_model(result) for result in results})
    columns = ("score", "std", "partial", "missing", "other_metrics")
    rows = {
        task.name: {"task": task.name, "title": task.title, "metric": task.metric, "paper": dict(task.paper)}
        for task in tasks
    }
    for result in results:  # a task that this version does not know keeps its place in the table
        name = result["task"]
        rows.setdefault(name, {"task": name, "title": name, "metric": result["metric"], "paper": {}})
    table = []
    for name, row in rows.items():
        of_task = {_model(result): result for result in results if result["task"] == name}
        found = {model: {key: result.get(key) for key in columns} for model, result in of_task.items()}
        table.append({**row, "results": found})
    return {"models": models, "tasks": table}


def format_comparison(comparison: Mapping[str, Any], markdown: bool = False) -> str:
    """Show what `compare_models` gives; fractions in per cent."""
    networks = list(dict.fromkeys(name for row in comparison["tasks"] for name in row["paper"]))
    header = ["task", "metric", *(f"paper: {name}" for name in networks), *comparison["models"]]
    rows = []
    for row in comparison["tasks"]:
        metric = row["metric"]
        cells = [_show(row["paper"].get(name), metric) for name in networks]
        for model in comparison["models"]:
            result = row["results"].get(model)
            cells.append(_NOTHING if result is None else _score({**result, "metric": metric}) + _partial(result))
        rows.append([row["task"], metric, *cells])
    return _format_table(header, rows, markdown)


def format_own_labels(result: Mapping[str, Any]) -> str:
    """Show what `compare_on_labels` gives: a table of models, one of differences, and what the intervals cover."""
    metric, unit = result["metric"], "" if result["metric"] in _PLAIN else " (%)"
    rows = [
        [f"{row['model']} {row['model_version']}", _show(row["score"], metric), _between(row["interval"], metric)]
        for row in result["models"]
    ]
    parts = [
        f"{result['rows']} {'recordings' if result['window'] is None else 'windows'} of {len(result['classes'])} "
        f"classes in {result['folds']} folds; each is scored by a probe that was fitted, and whose C was chosen, "
        "without it",
        _format_table(["model", metric + unit, "95 % interval"], rows, False),
    ]
    if result["differences"]:
        rows = [
            [f"{row['model']} - {row['minus']}", _show(row["difference"], metric), _between(row["interval"], metric)]
            for row in result["differences"]
        ]
        parts.append(_format_table(["difference", metric + unit, "paired 95 % interval"], rows, False))
    parts.append(f"Intervals: {result['interval']['method']}. They cover {result['interval']['covers']}.")
    if result["left_out"]:
        parts.append(f"{result['left_out']} labelled rows are left out, because only some of the models have a vector.")
    shown = [row["interval"] for row in (*result["models"], *result["differences"])]
    if any(low is None or low == high for low, high in shown):
        parts.append("An interval without width says only that every sample scored the same: label more recordings.")
    return "\n\n".join(parts)


def write_tables(results: Path, tasks: Sequence[Task]) -> dict[str, Any]:
    """Compare all results of a folder: write ``table.md`` and ``table.json`` and return what is in the latter.

    Raises
    ------
    StoreError
        If the disk takes no more.
    """
    from sedembed._utils.files import write_atomic

    found = read_results(results)
    comparison = compare_models(found, tasks)
    order = {row["task"]: number for number, row in enumerate(comparison["tasks"])}
    found.sort(key=lambda result: (order[result["task"]], _model(result)))
    text = (
        "Scores in per cent, ± the standard deviation over folds and repeats. Paper: Kumar, Wang, Ithapu & Fuegen "
        "(2021), Table 2.\n\n"
        f"{format_comparison(comparison, markdown=True)}\n\n{format_results(found, markdown=True)}\n"
    )
    write_atomic(results / "table.md", text)
    write_atomic(results / "table.json", json.dumps(comparison, indent=2, ensure_ascii=False) + "\n")
    return comparison


def _model(result: Mapping[str, Any]) -> str:
    return f"{result['model']} {result['model_version']}"


def _score(result: Mapping[str, Any]) -> str:
    spread = "" if result["std"] is None else f" ± {_show(result['std'], result['metric'])}"
    return _show(result["score"], result["metric"]) + spread


def _show(value: float | None, metric: str) -> str:
    if value is None:
        return _NOTHING
    return f"{value:.3f}" if metric in _PLAIN else f"{100 * value:.2f}"


def _between(interval: Sequence[float | None], metric: str) -> str:
    low, high = interval
    return f"{_show(low, metric)} to {_show(high, metric)}"


def _partial(result: Mapping[str, Any]) -> str:
    if not result["partial"]:
        return ""
    return f" (partial: {result['missing']} clips missing)" if result["missing"] else " (partial)"


def _others(result: Mapping[str, Any]) -> str:
    paper = result.get("paper_other_metrics", {})
    shown = []
    for name, value in result.get("other_metrics", {}).items():
        reached = paper.get(name)
        beside = "" if reached is None else f" (paper {_show(reached, name)})"
        shown.append(f"{name} {_show(value, name)}{beside}")
    return ", ".join(shown)


def _format_table(header: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> str:
    if markdown:
        cells = [[cell.replace("|", r"\|") for cell in row] for row in (header, ["---"] * len(header), *rows)]
        return "\n".join("| " + " | ".join(row) + " |" for row in cells)
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *rows)]
    return "\n".join(line.rstrip() for line in lines)
