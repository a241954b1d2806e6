"""The wheel holds the package and nothing else, the sdist what its tests need; both install by metadata alone."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(build("wheel", tmp_path_factory.mktemp("wheel")))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> tarfile.TarFile:
    return tarfile.open(build("sdist", tmp_path_factory.mktemp("sdist")))


def build(kind: str, out: Path) -> Path:
    if find_spec("hatchling") is None:
        pytest.skip("needs hatchling, which builds both archives (extra dev)")
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    (file,) = out.iterdir()
    return file


def package_files() -> set[str]:
    files = (file for file in (ROOT / "sedembed").rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return {file.relative_to(ROOT).as_posix() for file in files}


def test_wheel(wheel: zipfile.ZipFile):
    names = set(wheel.namelist())
    package = {name for name in names if ".dist-info/" not in name}
    assert package == package_files()
    assert {"sedembed/py.typed", "sedembed/__init__.pyi", "sedembed/weights/talnet/golden.json"} <= package
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert sum(item.compress_size for item in wheel.infolist()) < 60_000_000


def test_metadata(wheel: zipfile.ZipFile):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = email.message_from_bytes(wheel.read(name))
    assert metadata["Requires-Python"] == ">=3.10"
    classifiers = metadata.get_all("Classifier") or []
    for version in ("3.10", "3.11", "3.12", "3.13", "3.14"):
        assert f"Programming Language :: Python :: {version}" in classifiers
    requirements = metadata.get_all("Requires-Dist") or []
    assert not [item for item in requirements if "<" in item or "==" in item.partition(";")[0]]  # floors, no ceilings
    assert (metadata.get_payload() or "").strip().startswith("# sedembed")
    (wheel_file,) = [name for name in wheel.namelist() if name.endswith(".dist-info/WHEEL")]
    assert b"Tag: py3-none-any" in wheel.read(wheel_file)  # no machine code of its own
    (entries,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert re.search(rb"sedembed\s*=\s*sedembed\.cli\.main:main", wheel.read(entries))


def test_sdist(sdist: tarfile.TarFile):
    names = {name.partition("/")[2] for name in sdist.getnames()}
    assert package_files() <= names
    needed = {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "PKG-INFO", "tests/conftest.py", ".ci/run"}
    needed |= {"examples/sounds/rain.ogg", "docs/results/README.md", "tests/fixtures/store-1/run.json"}
    assert needed <= names
    foreign = [name for name in names if re.search(r"__pycache__|\.pyc$|\.egg-info|/\.git/|\.venv|_cache/", name)]
    assert foreign == []


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_constraints_name_one_version_for_each_python(version: str):
    """README's commands install with them; NumPy, SciPy and others have given Python 3.10 up."""
    lines = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    environment = {"python_version": version, "python_full_version": f"{version}.0"}
    chosen = [pin for pin in pins if pin.marker is None or pin.marker.evaluate(environment)]
    assert sorted(pin.name for pin in chosen) == sorted({pin.name for pin in pins})
    assert all(str(pin.specifier).startswith("==") for pin in pins)
    metadata = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[(.*?)^\]", metadata, re.S | re.M)
    assert listed is not None
    for floor in map(Requirement, re.findall(r'"(.+?)"', listed[1])):
        (pin,) = [pin for pin in chosen if pin.name == floor.name]
        assert floor.specifier.contains(str(pin.specifier).removeprefix("=="))
