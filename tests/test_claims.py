"""Accuracies that README, docs and model cards claim are those of docs/results."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sedembed
from sedembed._evaluation.evaluate import find_task

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
# Row of a table in README and docs to the result behind it. To be given a result when it is measured anew.
ROWS = {
    "`talnet`": "talnet",
    "`weanet`": "weanet",
    "TALNet untrained": "untrained",
    "mean and deviation of the log-mel features": "log-mel",
}
# Rows of development versions, and what others measured: their results are not kept.
QUOTED = ("version 3", "for comparison", "the paper's")
TABLES = {"README.md": "| features | ESC-50 accuracy |", "docs/training.md": "| features | accuracy | by fold |"}


def result(name: str) -> dict[str, Any] | None:
    file = RESULTS / f"esc50-{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def score(found: dict[str, Any]) -> float:
    return found["score"] if "score" in found else found["accuracy"]


def folds(found: dict[str, Any]) -> list[float]:
    return [fold["score"] if isinstance(fold, dict) else fold for fold in found["folds"]]


def table(text: str, header: str) -> list[list[str]]:
    lines = text.split(header, 1)[1].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().replace("**", "") for cell in line.strip("|").split("|")])
    return rows


def disagreements(page: str, text: str) -> Iterator[str]:
    """What a table says otherwise than the results do; rows without a result are named too."""
    for name, accuracy, *rest in table(text, TABLES[page]):
        if any(word in name for word in QUOTED):
            continue
        behind = next((kept for row, kept in ROWS.items() if row in name), None)
        found = None if behind is None else result(behind)
        if found is None:
            if behind not in NOT_KEPT:
                yield f"{page}: {name}: no result in docs/results"
            continue
        if accuracy != f"{100 * score(found):.2f} %":
            yield f"{page}: {name}: {accuracy}, measured {100 * score(found):.2f} %"
        version = re.search(r"version (\w+)", name)
        if version and version[1] != found["model_version"]:
            yield f"{page}: {name}: measured with version {found['model_version']}"
        for cell in rest:
            said = [float(value) for value in cell.split(",")]
            measured = [100 * value for value in folds(found)]
            if len(said) != len(measured) or any(abs(a - b) > 0.0501 for a, b in zip(said, measured, strict=True)):
                yield f"{page}: {name}: folds {cell}, measured {measured}"


# Measured before results were kept; the command is in docs/results/README.md.
NOT_KEPT = {"untrained"}


@pytest.mark.parametrize("page", TABLES)
def test_tables(page: str):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert list(disagreements(page, text)) == []
    assert len(table(text, TABLES[page])) >= 5


@pytest.mark.parametrize("page", TABLES)
def test_a_changed_figure_is_noticed(page: str):
    text = (ROOT / page).read_text(encoding="utf-8")
    found = result("weanet")
    assert found is not None
    figure = f"{100 * score(found):.2f}"
    changed = text.replace(figure, f"{float(figure) + 1:.2f}")
    assert changed != text
    assert [line for line in disagreements(page, changed) if "weanet" in line and "measured" in line]
    row = next(
        line for line in text.splitlines() if line.startswith("|") and "mean and deviation of the log-mel" in line
    )
    assert not [line for line in disagreements(page, text.replace(row + "\n", "")) if "measured" in line]
    unknown = row.replace("mean and deviation of the log-mel features", "a new network")
    assert [line for line in disagreements(page, text.replace(row, unknown)) if "no result" in line]


@pytest.mark.parametrize("name", ["talnet", "weanet"])
def test_cards_and_records(name: str):
    found = result(name)
    if found is None:
        assert name in NOT_KEPT
        return
    record = sedembed.describe_model(name)
    assert (found["model_version"], found["model_sha256"]) == (record.version, record.sha256)
    assert round(score(found), 4) == record.metrics["esc50_accuracy"]
    card = (ROOT / "sedembed" / "weights" / name / "README.md").read_text(encoding="utf-8")
    said = re.search(r"accuracy ([\d.]+) \(standard deviation over folds ([\d.]+)\)", card)
    assert said is not None
    assert said.groups() == (f"{score(found):.4f}", f"{found['std']:.3f}")


def test_the_figures_of_the_paper_are_those_of_the_task():
    paper = find_task("esc50").paper
    said = f"| {100 * paper['talnet']:.1f} %, {100 * paper['weanet']:.1f} % |"
    for page, header in TABLES.items():
        text = (ROOT / page).read_text(encoding="utf-8").split(header, 1)[1]
        row = next(line for line in text.splitlines() if "the paper's TALNet and WEANet" in line)
        assert said in row


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda file: file.name)
def test_results_say_how_to_repeat_them(file: Path):
    found = json.loads(file.read_text(encoding="utf-8"))
    assert {"command", "seed", "versions", "clips_sha256", "hardware"} <= found.keys()
    assert re.match(r"(sedembed evaluate|python examples/)", found["command"])
    assert re.fullmatch(r"[0-9a-f]{64}", found["clips_sha256"])
    assert found.get("partial", False) is False
    assert f"`{file.name}`" in (RESULTS / "README.md").read_text(encoding="utf-8")
    assert not re.search(r"/(root|home|work|tmp|Users)/", file.read_text(encoding="utf-8"))  # nobody's folders
