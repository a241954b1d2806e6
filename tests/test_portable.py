"""The package on other systems: Windows and macOS by what its source uses, and simulated; and with few rights."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "sedembed").rglob("*.py"))
MODEL = ROOT / "tests" / "fixtures" / "model-1"
# Not on Windows.
POSIX_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "termios", "tty"}
# Names of `os` and `signal` that Windows or macOS lacks; each use must ask first.
MISSING = {
    "fork",
    "getuid",
    "geteuid",
    "killpg",
    "mkfifo",
    "register_at_fork",
    "sched_getaffinity",
    "statvfs",
    "sysconf",
}


def walk(kind: type[ast.AST]) -> Iterator[tuple[Path, ast.AST, str]]:
    for file in SOURCES:
        text = file.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, kind):
                yield file, node, text


def test_no_modules_that_windows_lacks():
    found = set()
    for file, node, _ in walk(ast.stmt):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found |= {f"{file.name}: {name}" for name in names if name.partition(".")[0] in POSIX_MODULES}
    assert found == set()


def test_what_is_not_everywhere_is_asked_for():
    unasked = []
    for file, node, text in walk(ast.Attribute):
        assert isinstance(node, ast.Attribute)
        if not (isinstance(node.value, ast.Name) and node.value.id in ("os", "signal") and node.attr in MISSING):
            continue
        around = text.splitlines()[max(0, node.lineno - 3) : node.lineno]
        if not any(f'hasattr(os, "{node.attr}")' in line for line in around):
            unasked.append(f"{file.name}:{node.lineno} os.{node.attr}")
    assert unasked == []


def test_text_files_name_their_encoding():
    """Windows would take the code page of its user."""
    unnamed = []
    for file, node, _ in walk(ast.Call):
        assert isinstance(node, ast.Call)
        if not isinstance(node.func, ast.Attribute):
            continue
        named = any(keyword.arg in ("encoding", None) for keyword in node.keywords)
        constants = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        if node.func.attr == "read_text":
            missing = not named and not node.args
        elif node.func.attr == "write_text":
            missing = not named and len(node.args) < 2
        else:
            continue
        if missing:
            unnamed.append(f"{file.name}:{node.lineno} {node.func.attr}{constants}")
    assert unnamed == []


LITTLE = """
import os, pathlib, sys
import pyarrow.parquet, scipy, sklearn.linear_model, soundfile, torch  # they know the system they run on
for name in ("sched_getaffinity", "register_at_fork", "killpg", "fork", "getuid", "geteuid"):
    if hasattr(os, name):
        delattr(os, name)

# Windows neither removes nor replaces what is open or mapped, and renames nothing over what is there.
replace, rename, unlink = os.replace, os.rename, os.unlink

def refuse(*paths, dir_fd=None):
    held = {os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")}
    with open("/proc/self/maps") as maps:
        held |= {line.split(maxsplit=5)[5].rstrip() for line in maps if "/" in line}
    for path in paths:
        above = "" if dir_fd is None else os.readlink(f"/proc/self/fd/{dir_fd}")
        path = os.path.realpath(os.path.join(above, path))
        if os.path.isfile(path) and path in held or any(name.startswith(path + os.sep) for name in held):
            raise PermissionError(13, "it is being used by another process", path)

def careful_replace(source, target):
    refuse(source, target)
    replace(source, target)

def careful_rename(source, target):
    refuse(source, target)
    assert not os.path.exists(target), f"Windows does not rename over {target}"
    rename(source, target)

def careful_unlink(path, *, dir_fd=None):
    refuse(path, dir_fd=dir_fd)
    unlink(path, dir_fd=dir_fd)

if os.path.isdir("/proc/self/fd"):
    os.replace, os.rename, os.unlink, os.remove = careful_replace, careful_rename, careful_unlink, careful_unlink
    pathlib.Path.replace, pathlib.Path.rename = careful_replace, careful_rename  # Python 3.10 keeps the functions of os
    with open(sys.argv[2]) as opened:
        try:
            pathlib.Path(sys.argv[2]).unlink()
        except PermissionError:
            pass
        else:
            raise AssertionError("what is open was removed")

import numpy as np
import sedembed
from sedembed._utils.machine import describe_machine
from sedembed.models.weights import load_network, resolve
assert describe_machine()["cores"] >= 1
sounds, out = pathlib.Path(sys.argv[2]).parent, pathlib.Path(sys.argv[3])
model = sedembed.load_model(sys.argv[1], device="cpu")
tone = 0.1 * np.random.default_rng(0).standard_normal(16_000)
assert model.embed(tone).shape == model.embed(sys.argv[2]).shape == (4,)
for name in "bc":
    soundfile.write(sounds / f"{name}.wav", 0.1 * np.random.default_rng(ord(name)).standard_normal(20_000), 16_000)
    store = sedembed.embed_folder(sounds, out / "store", model, progress=False)
    query = np.array(store.vectors[0])
    assert store.search(query, k=1)[0].path == "a.wav"
soundfile.write(sounds / "a.wav", 0.1 * np.random.default_rng(9).standard_normal(20_000), 16_000)
newer = sedembed.embed_folder(sounds, out / "store", model, progress=False)  # while the older is mapped
assert newer.search(query, k=1)[0].score < 0.9999
assert list(newer.paths) == ["a.wav", "b.wav", "c.wav"], newer.paths
probe = sedembed.LinearProbe(C=1.0, progress=False).fit(newer, ["x", "y", "x"])
for _ in range(2):
    probe = sedembed.LinearProbe.load(probe.save(out / "probe"))
for place in (sys.argv[1], out / "model"):
    sedembed.save_pretrained(load_network(resolve(place)), out / "model")
print("all went well")
"""


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    file = tmp_path / "sounds" / "a.wav"
    file.parent.mkdir()
    soundfile.write(file, 0.1 * np.random.default_rng(0).standard_normal(20_000), 16_000)
    return file


# Another user, who may read all and write nothing: the interpreter may lie in a folder of root's.
NOBODY = (
    "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
)  # fmt: skip


def run(code: str, *arguments: object, prefix: Sequence[str] = (), **options: object) -> str:
    command = [*prefix, sys.executable, "-c", code, *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert finished.returncode == 0, finished.stderr
    return str(finished.stdout)


def test_without_what_windows_and_macos_lack(sound: Path, tmp_path: Path):
    said = run(LITTLE, MODEL, sound, tmp_path / "out", env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert said.splitlines()[-1] == "all went well"


MODEST = """
import os, sys
sys.path[:0] = [sys.argv[1]]
import sedembed
from sedembed.cli.main import main
assert sedembed.__file__.startswith(sys.argv[1]), sedembed.__file__
model = sedembed.load_model(sys.argv[2], device="cpu")
print(model.embed(sys.argv[3]).shape, main(["models"]) == 0)
"""


def test_read_only_offline_without_home_as_another_user(sound: Path):
    """An installation that its user may not write to, no home directory, no network, nothing in the environment."""
    place = sound.parents[1]
    shutil.copytree(
        ROOT / "sedembed", place / "site" / "sedembed", ignore=shutil.ignore_patterns("*.safetensors", "__pycache__")
    )
    shutil.copytree(MODEL, place / "model")
    for path in [place, *place.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    environment = {"SEDEMBED_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]}
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("root may write everywhere, and the program setpriv, which gives rights up, is missing")
    try:
        said = run(
            MODEST,
            place / "site",
            place / "model",
            sound,
            env=environment,
            cwd=place,
            prefix=NOBODY if os.geteuid() == 0 else (),
        )
    finally:
        for path in [place, *place.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert said.splitlines()[-1] == "(4,) True"
    assert "talnet" in said


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import sedembed; sedembed.__version__; dir(sedembed)", ("torch", "numpy", "pyarrow", "sklearn", "librosa")),
        ("import sedembed; sedembed.list_models(); sedembed.describe_model('talnet')", ("torch", "pyarrow", "sklearn")),
        (
            "import contextlib, sedembed.cli.main as cli\nwith contextlib.suppress(SystemExit): cli.main(['--help'])",
            ("torch", "numpy", "pyarrow", "sklearn", "librosa", "soundfile"),
        ),
    ],
)
def test_starting_costs_little(code: str, absent: tuple[str, ...]):
    """What would take seconds is imported when it is needed."""
    said = run(f"{code}\nimport sys; print('LOADED', [name for name in {absent!r} if name in sys.modules])")
    assert said.splitlines()[-1] == "LOADED []"
