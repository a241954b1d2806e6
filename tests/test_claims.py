"""Figures that README, docs and model cards claim are those of docs/results and of the logs in docs/training."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sedembed
from sedembed._evaluation.evaluate import find_task

ROOT = Path(__file__).parents[1]
RESULTS, LOGS = ROOT / "docs" / "results", ROOT / "docs" / "training"
# What a row of a table says, and the result behind it.
ROWS = {
    "averaged with version 4": "esc50-talnet-5b-averaged",
    "averaged with version 5": "esc50-weanet-9-averaged",
    "`talnet-9b` averaged": "esc50-talnet-9-averaged",
    "`talnet-9a`": "esc50-talnet-9a",
    "`talnet-9b`": "esc50-talnet-9b",
    "`talnet-5b`": "esc50-talnet-5b",
    "`talnet-7b`": "esc50-talnet-7b",
    "`talnet-7c`": "esc50-talnet-7c",
    "`talnet-8b`": "esc50-talnet-8b",
    "`talnet-8c`": "esc50-talnet-8c",
    "`talnet-6b`": "esc50-talnet-6b",
    "`talnet-4c`": "esc50-talnet-4c",
    "`talnet`": "esc50-talnet",
    "`weanet-7`": "esc50-weanet-7",
    "`weanet-8`": "esc50-weanet-8",
    "`weanet-9`": "esc50-weanet-9",
    "`weanet-10b`": "esc50-weanet-10b",
    "`weanet-11b`": "esc50-weanet-11b",
    "`weanet-11c`": "esc50-weanet-11c",
    "`weanet-11d`": "esc50-weanet-11d",
    "`weanet-6`": "esc50-weanet-6",
    "`weanet`": "esc50-weanet",
    "TALNet untrained": "esc50-untrained",
    "mean and deviation of the log-mel features": "esc50-log-mel",
}
QUOTED = "the paper's"  # what others measured
TABLES = {"README.md": "| features | ESC-50 accuracy |", "docs/training.md": "| features | accuracy | by fold |"}
RUNS = {
    "talnet-4c": "esc50-talnet-4c",
    "talnet-5b": "esc50-talnet-5b",
    "talnet-6b": "esc50-talnet-6b",
    "talnet-7a": "esc50-talnet",
    "talnet-7b": "esc50-talnet-7b",
    "talnet-7c": "esc50-talnet-7c",
    "talnet-8b": "esc50-talnet-8b",
    "talnet-8c": "esc50-talnet-8c",
    "talnet-9a": "esc50-talnet-9a",
    "talnet-9b": "esc50-talnet-9b",
    "weanet-6": "esc50-weanet-6",
    "weanet-7": "esc50-weanet-7",
    "weanet-8": "esc50-weanet-8",
    "weanet-9": "esc50-weanet-9",
    "weanet-10b": "esc50-weanet-10b",
    "weanet-11b": "esc50-weanet-11b",
    "weanet-11d": "esc50-weanet",
}
HELD_OUT = {
    "correlation": ("correlation", "{:.3f}"),
    "same top event": ("top1_agreement", "{:.1%}"),
    "MAP": ("map", "{:.3f}"),
    "MAUC": ("mauc", "{:.3f}"),
    "divergence, nats": ("kl", "{:.2f}"),
}
HELD_OUT_TABLE = "| network | correlation |"
PAGES = ["README.md", "CHANGELOG.md", *sorted(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md"))]


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def score(found: dict[str, Any]) -> float:
    return float(found["score"] if "score" in found else found["accuracy"])


def percent(found: dict[str, Any]) -> str:
    return f"{100 * score(found):.2f} %"


def folds(found: dict[str, Any]) -> list[float]:
    return [fold["score"] if isinstance(fold, dict) else fold for fold in found["folds"]]


def table(text: str, header: str) -> list[list[str]]:
    """Cells of the table whose header line begins so."""
    lines = text.split(header, 1)[1].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().replace("**", "") for cell in line.strip("|").split("|")])
    return rows


def accuracies(page: str, text: str) -> Iterator[str]:
    """What the table of accuracies says otherwise than the results do; rows without a result are named too."""
    for name, accuracy, *rest in table(text, TABLES[page]):
        if QUOTED in name:
            continue
        behind = next((kept for row, kept in ROWS.items() if row in name), None)
        if behind is None:
            yield f"{name}: no result in docs/results"
            continue
        found = result(behind)
        if accuracy != percent(found):
            yield f"{name}: {accuracy}, measured {percent(found)}"
        version = re.search(r"` version (\w+)|, version (\w+)$", name)
        if version and (version[1] or version[2]) != found["model_version"]:
            yield f"{name}: measured with version {found['model_version']}"
        for cell in rest:
            said, measured = [float(value) for value in cell.split(",")], [100 * value for value in folds(found)]
            if len(said) != len(measured) or any(abs(a - b) > 0.0501 for a, b in zip(said, measured, strict=True)):
                yield f"{name}: folds {cell}, measured {measured}"


def runs(text: str) -> Iterator[str]:
    """What the table of training runs says otherwise than their logs and the results do."""
    for name, *_, accuracy, losses in table(text, "| run | starts from |"):
        run = name.strip("`")
        with (LOGS / f"{run}.csv").open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.DictReader(stream) if row["held_out_kl"]]
        step = re.search(r"at step ([\d ]+)$", losses)
        row = rows[-1] if step is None else next(row for row in rows if row["step"] == step[1].replace(" ", ""))
        measured = f"{float(row['held_out_bce']):.2f} ({float(row['held_out_kl']):.2f})"
        if losses.partition(" at step")[0] != measured:
            yield f"{run}: {losses}, the log says {measured}"
        said = re.search(r"[\d.]+ %", accuracy)
        if said and (run not in RUNS or said[0] != percent(result(RUNS[run]))):
            yield f"{run}: {said[0]} is not in docs/results"


def held_out(text: str) -> Iterator[str]:
    """What the table of held-out recordings says otherwise than the results do."""
    _, *columns = header_of(text)
    for name, *cells in table(text, HELD_OUT_TABLE):
        kept = next(kept for row, kept in ROWS.items() if row in name).replace("esc50", "held-out")
        for column, cell in zip(columns, cells, strict=True):
            key, form = HELD_OUT[column]
            measured = form.format(result(kept)[key]).replace("%", " %")
            if cell != measured:
                yield f"{name}: {column} {cell}, measured {measured}"


def header_of(text: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(HELD_OUT_TABLE)]
    return [cell.strip() for cell in line.strip("|").split("|")]


def choices_of_c(text: str) -> Iterator[str]:
    """What the table about C says otherwise than its result does."""
    rows = table(text, "| C | accuracy, five folds |")
    for cells, row in zip(rows, result("analysis-c")["rows"], strict=True):
        measured = [
            f"{100 * row['accuracy']:.1f} %",
            f"{row['silhouette']:.2f}",
            f"{row['largest_cosine']:.2f}",
            f"{100 * row['nearest_of_same_category']:.0f} %",
            str(row["classes_with_event"]),
        ]
        c, chosen, _ = cells[0].partition(" (chosen by `auto`)")
        if (float(c.replace(" ", "")), bool(chosen), cells[1:]) != (row["C"], row["auto"], measured):
            yield f"C = {cells[0]}: {cells[1:]}, measured {measured} at C = {row['C']}"


def stray(text: str) -> list[str]:
    """Accuracies to a hundredth of a percent that no result has, wherever they stand."""
    measured = {percent(result(file.stem)) for file in RESULTS.glob("esc50-*.json")}
    return [said for said in re.findall(r"\d\d\.\d\d %", text) if said not in measured]


def card(name: str, text: str) -> Iterator[str]:
    """What a model card says otherwise than the results do."""
    found, beside = result(f"esc50-{name}"), result(f"held-out-{name}")
    lines = [
        rf"accuracy {score(found):.4f} \(standard deviation over folds {found['std']:.3f}\) \|",
        rf"^correlation of clip .* \| {beside['correlation']:.3f} \|",
        rf"^top event .* \| {beside['top1_agreement']:.3f} \|",
        rf"^MAP .* {beside['classes_present']} classes \| {beside['map']:.3f} \|",
        rf"^Kullback-Leibler .* \| {beside['kl']:.3f} \|",
        rf"^ +value: {score(found):.4f}$",
    ]
    if name == "talnet":
        lines.append(rf"same network untrained \| accuracy {score(result('esc50-untrained')):g} \|")
        lines.append(rf"log-mel features \| accuracy {score(result('esc50-log-mel')):g} \|")
    text = text.replace("\n| ", "\n")
    yield from (f"{name}: {line}" for line in lines if not re.search(line, text, re.M))


@pytest.mark.parametrize("page", TABLES)
def test_accuracies(page: str):
    assert list(accuracies(page, read(page))) == []
    assert len(table(read(page), TABLES[page])) >= 5


def test_training_runs():
    assert list(runs(read("docs/training.md"))) == []


def test_held_out_recordings():
    assert list(held_out(read("docs/training.md"))) == []
    assert len(table(read("docs/training.md"), HELD_OUT_TABLE)) == 20


def test_choices_of_c():
    assert list(choices_of_c(read("docs/analysis.md"))) == []


@pytest.mark.parametrize("page", PAGES)
def test_no_accuracy_without_a_result(page: str):
    assert stray(read(page)) == []


@pytest.mark.parametrize("name", ["talnet", "weanet"])
def test_cards_and_records(name: str):
    found, record = result(f"esc50-{name}"), sedembed.describe_model(name)
    assert (found["model_version"], found["model_sha256"]) == (record.version, record.sha256)
    assert round(score(found), 4) == record.metrics["esc50_accuracy"]
    assert list(card(name, read(f"sedembed/weights/{name}/README.md"))) == []


@pytest.mark.parametrize("file", sorted(RESULTS.glob("esc50-*.json")), ids=lambda file: file.stem)
def test_every_changed_accuracy_is_noticed(file: Path):
    # No result of 2 000 clips ends in an odd hundredth.
    said, other = percent(result(file.stem)), f"{100 * score(result(file.stem)) + 1.01:.2f} %"
    pages = [page for page in TABLES if said in read(page)]
    assert pages, "a result that no page claims"
    for page in pages:
        changed = read(page).replace(said, other)
        assert [line for line in accuracies(page, changed) if other in line]
        assert other in stray(changed)


def test_other_changed_figures_are_noticed():
    text = read("docs/training.md")
    row = next(line for line in text.splitlines() if line.startswith("| mean and deviation of the log-mel"))
    unknown = text.replace(row, row.replace("mean and deviation of the log-mel features", "a new network"))
    assert [line for line in accuracies("docs/training.md", unknown) if "no result" in line]
    kept = result("esc50-weanet")
    first = f"| {100 * folds(kept)[0]:.1f}, "
    assert first in text
    assert [line for line in accuracies("docs/training.md", text.replace(first, "| 12.3, ")) if "folds 12.3" in line]
    assert list(runs(text.replace("(TALNet version 1)", "85.70 % (TALNet version 1)")))
    assert list(runs(text.replace("7.68 (2.02)", "7.68 (2.03)")))
    correlation = f"{result('held-out-talnet')['correlation']:.3f}"
    assert list(held_out(text.replace(f"| {correlation} |", "| 0.999 |")))
    analysis = read("docs/analysis.md")
    accuracy = f"| {100 * result('analysis-c')['rows'][0]['accuracy']:.1f} % |"
    assert list(choices_of_c(analysis.replace(accuracy, "| 99.9 % |")))
    page = read("sedembed/weights/talnet/README.md")
    assert list(card("talnet", page.replace(f"| {correlation} |", "| 0.999 |")))
    assert list(card("talnet", page.replace(f"value: {score(result('esc50-talnet')):.4f}", "value: 0.95")))


def test_the_figures_of_the_paper_are_those_of_the_task():
    paper = find_task("esc50").paper
    said = f"| {100 * paper['talnet']:.1f} %, {100 * paper['weanet']:.1f} % |"
    for page, header in TABLES.items():
        row = next(
            line for line in read(page).split(header, 1)[1].splitlines() if "the paper's TALNet and WEANet" in line
        )
        assert said in row


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda file: file.name)
def test_results_say_how_to_repeat_them(file: Path):
    found = json.loads(file.read_text(encoding="utf-8"))
    assert {"command", "seed", "versions", "clips_sha256", "hardware"} <= found.keys()
    assert re.match(r"(sedembed evaluate|python examples/|python -m sedembed\._training)", found["command"])
    assert re.fullmatch(r"[0-9a-f]{64}", found["clips_sha256"])
    assert found.get("partial", False) is False
    assert f"`{file.name}`" in (RESULTS / "README.md").read_text(encoding="utf-8")
    assert not re.search(r"/(root|home|work|tmp|Users)/", file.read_text(encoding="utf-8"))  # nobody's folders
