"""What README and docs say to paste: every Python block runs, and every command that needs no data of its own."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sedembed.cli.main import main

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
RECIPES = "docs/recipes.md"  # needs packages that not everybody has, so its parts run one by one
# What a command needs that is not in the repository; everything else is run.
NEEDS = {
    "ESC-50": "a copy of ESC-50",
    "data-root": "copies of the target tasks' data",
    "AUDIOSET": "a copy of AudioSet",
    "audioset": "a copy of AudioSet",
    "TALNet.pt": "the authors' checkpoint",
    "RUN": "a run of a training",
    "PROBE": "names of the reader's own",
    "FILE": "names of the reader's own",
    "birds-model": "labelled recordings of the reader's own",
}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the examples in it, as a clone has them, and a store and labels as the pages name them."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python") and page != RECIPES])
def test_python_runs(page: str, place: Path):
    code = "\n".join(blocks(page, "python"))
    exec(compile(code, page, "exec"), {})


def recipes() -> dict[str, str]:
    """Code of each recipe, by its heading."""
    parts = re.split(r"^## ", (ROOT / RECIPES).read_text(encoding="utf-8"), flags=re.M)[1:]
    return {part.splitlines()[0]: "\n".join(re.findall(r"```python\n(.*?)```", part, re.S)) for part in parts}


@pytest.fixture(scope="module")
def recipe_store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Where the first block of the page has made a store, and its variables."""
    folder, variables, here = tmp_path_factory.mktemp("recipes"), dict[str, Any](), Path.cwd()
    shutil.copytree(ROOT / "examples", folder / "examples")
    os.chdir(folder)
    try:
        exec(compile(blocks(RECIPES, "python")[0], RECIPES, "exec"), variables)
    finally:
        os.chdir(here)
    return folder, variables


@pytest.mark.filterwarnings("default")  # what other packages warn of is theirs
@pytest.mark.parametrize("name", recipes())
def test_recipe_runs(name: str, recipe_store: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch):
    code = recipes()[name]
    imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    for node in imports:
        package = (node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    folder, variables = recipe_store
    monkeypatch.chdir(folder)
    exec(compile(code, f"{RECIPES}: {name}", "exec"), dict(variables))


def commands(page: str) -> list[list[str]]:
    text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    return [shlex.split(line, comments=True)[1:] for line in text.splitlines() if line.startswith("sedembed ")]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_commands_run(page: str, place: Path, capsys: pytest.CaptureFixture[str]):
    ran = 0
    for arguments in commands(page):
        if any(need in f" {' '.join(arguments)}" for need in NEEDS):
            continue
        if arguments[0] in ("plot", "analyze") and find_spec("matplotlib") is None:
            continue
        assert main(arguments) == 0, (arguments, capsys.readouterr().err)
        ran += 1
    if page == "README.md":
        assert ran >= 9


def test_links_lead_somewhere():
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", (ROOT / page).read_text(encoding="utf-8")):
            own = re.sub(
                r"^https://(?:github\.com|raw\.githubusercontent\.com)/sedembed/sedembed/(?:(?:blob|tree)/)?main/",
                "/",
                target,
            )
            if own.startswith(("http:", "https:", "mailto:")):
                continue
            file = ROOT / own[1:] if own.startswith("/") else (ROOT / page).parent / own
            if not file.exists():
                broken.append(f"{page}: {target}")
    assert broken == []
