"""Is this installation in order? Versions, weights, and the vectors that each engine gives on this machine."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from sedembed._utils.files import sha256_of, write_atomic
from sedembed._utils.machine import CORE_PACKAGES, OPTIONAL_PACKAGES, describe_machine
from sedembed._utils.versions import list_versions
from sedembed.embedder import Embedder
from sedembed.errors import InvalidArgumentError, SedembedError
from sedembed.loading import load_model
from sedembed.models.registry import ModelRecord, describe_model, list_models
from sedembed.models.weights import load_network, resolve
from sedembed.types import Engine, Precision

__all__ = ["Finding", "check_installation", "check_sound", "write_golden"]

# Greatest difference from the golden vector, relative to its length: CPU kernels differ in the sixth digit, and a
# mantissa of bfloat16 has eight bits.
TOLERANCES = {"float32": 1e-4, "bfloat16": 3e-2}
_GOLDEN_FILE = "golden.json"
_STEP = 8  # every eighth number of a vector is kept


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes
    ----------
    state : {"ok", "absent", "wrong"}
        "absent" is what is optional and not there; only "wrong" is an error.
    subject, text : str
        What was looked at, and what was found.
    """

    state: Literal["ok", "absent", "wrong"]
    subject: str
    text: str


def check_installation() -> Iterator[Finding]:
    """Look at all that vectors depend on; the networks run for a few seconds. No connection is made.

    Yields
    ------
    Finding
        Versions, machine, GPU, decoders; then for each packaged weight its sha256, and its golden vector with each
        engine, precision and device that is here.
    """
    yield from _versions()
    machine = describe_machine()
    yield Finding(
        "ok",
        "machine",
        f"{machine['system']} {machine['machine']}, {machine['processor']}, {machine['instructions']}, "
        f"{machine['cores']} cores, {machine['threads']} threads",
    )
    yield Finding("ok" if machine["gpus"] else "absent", "GPU", ", ".join(machine["gpus"]) or "none that PyTorch uses")
    yield from _decoders()
    for name in list_models():
        record = describe_model(name)
        if record.source.startswith("package:"):
            yield from _weights(record)


def check_sound() -> NDArray[np.float32]:
    """Two seconds at 16 kHz that are the same everywhere: a rising tone, clicks and noise of a fixed generator."""
    time = np.arange(32_000) / 16_000
    tone = 0.3 * np.sin(2 * np.pi * (200 + 900 * time) * time)
    state, noise = 1, np.empty(len(time))
    for index in range(len(noise)):  # whole numbers: no library decides what comes out
        state = (1_103_515_245 * state + 12_345) % 2**31
        noise[index] = state / 2**30 - 1
    clicks = np.where(np.arange(len(time)) % 4000 == 0, 0.5, 0.0)
    return (tone + 0.05 * noise + clicks).astype(np.float32)


def write_golden(name: str) -> Path:
    """Keep what a packaged weight gives for `check_sound`, beside it; to be run once when a weight is replaced.

    Parameters
    ----------
    name : str
        Name of the model.

    Returns
    -------
    Path
        The file written.
    """
    model = load_model(name, device="cpu")
    vector = [round(float(value), 7) for value in model.embed(check_sound())[::_STEP]]
    golden = {"sha256": model.record.sha256, "version": model.record.version, "embedding": vector}
    file = _golden_file(model.record)
    write_atomic(file, json.dumps(golden) + "\n")
    return file


def _golden_file(record: ModelRecord) -> Path:
    return Path(str(files("sedembed"))) / "weights" / record.name / _GOLDEN_FILE


def _versions() -> Iterator[Finding]:
    versions = list_versions(*CORE_PACKAGES)
    head = f"sedembed {versions.pop('sedembed')}, Python {versions.pop('python')}"
    yield Finding("ok", "versions", head)
    old = [f"{name} {versions[name]} (needs {needed})" for name, needed in _unmet(versions)]
    shown = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield Finding("wrong" if old else "ok", "dependencies", f"update {', '.join(old)}" if old else shown)
    optional = {name: version for name, version in list_versions(*OPTIONAL_PACKAGES).items() if name not in _ALWAYS}
    there = [f"{name} {version}" for name, version in optional.items() if version != "unknown"]
    yield Finding("ok" if there else "absent", "optional", ", ".join(there) or "none")


_ALWAYS = ("python", "sedembed")


def _unmet(versions: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Dependencies that are missing or older than sedembed's metadata say."""
    try:
        from packaging.requirements import Requirement  # of huggingface-hub
        from packaging.version import Version
    except ImportError:
        return
    try:
        lines = importlib.metadata.requires("sedembed") or []
    except importlib.metadata.PackageNotFoundError:  # used from its source
        return
    for requirement in map(Requirement, lines):
        version = versions.get(requirement.name)
        if requirement.marker is not None or version is None:
            continue
        if version == "unknown" or not requirement.specifier.contains(Version(version), prereleases=True):
            yield requirement.name, str(requirement.specifier)


def _decoders() -> Iterator[Finding]:
    found = [f"libsndfile {soundfile.__libsndfile_version__}"]
    program = shutil.which("ffmpeg")
    found += [f"ffmpeg ({program})"] if program else []
    found += ["PyAV"] if importlib.util.find_spec("av") else []
    lacking = "" if len(found) > 1 else "; no PyAV or ffmpeg: no M4A, AAC, WMA or video"
    yield Finding("ok", "decoders", ", ".join(found) + lacking)


def _weights(record: ModelRecord) -> Iterator[Finding]:
    subject = f"{record.name} {record.version}"
    file = Path(str(files("sedembed"))) / "weights" / record.name / "model.safetensors"
    try:
        got = sha256_of(file)
    except OSError as error:
        yield Finding("wrong", subject, f"{file}: {error.strerror}; install sedembed again")
        return
    if got != record.sha256:
        yield Finding("wrong", subject, f"{file} has sha256 {got}, not {record.sha256}; install sedembed again")
        return
    yield Finding("ok", subject, f"sha256 {got}")
    try:
        golden = json.loads(_golden_file(record).read_bytes())
        expected = np.array(golden["embedding"])
    except (OSError, ValueError, KeyError) as error:
        yield Finding("wrong", subject, f"no golden vector ({error}); install sedembed again")
        return
    if golden["sha256"] != record.sha256:
        yield Finding("wrong", subject, "the golden vector is of other weights; install sedembed again")
        return
    network = load_network(resolve(record.name))
    sound = check_sound()
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        for engine in ("torch", "openvino"):
            if engine == "openvino" and (device != "cpu" or importlib.util.find_spec("openvino") is None):
                continue
            for precision in get_args(Precision):
                yield _vector(network, record, sound, expected, device, engine, precision)


def _vector(
    network: Any,
    record: ModelRecord,
    sound: NDArray[np.float32],
    expected: NDArray[np.float64],
    device: str,
    engine: Engine,
    precision: Precision,
) -> Finding:
    subject = f"{record.name} {record.version}"
    how = f"{engine} {precision} {device}"
    try:
        model = Embedder(network, record, device=device, engine=engine, precision=precision)
    except InvalidArgumentError as error:  # an arithmetic that this processor or engine does not have
        return Finding("absent", subject, f"{how}: {error}")
    try:
        found = model.embed(sound)[::_STEP].astype(np.float64)
    except (SedembedError, RuntimeError) as error:
        return Finding("wrong", subject, f"{how}: {type(error).__name__}: {error}")
    apart = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    tolerance = TOLERANCES.get(precision, TOLERANCES["bfloat16"])
    text = f"{how}: golden vector to {apart:.0e}"
    if not apart <= tolerance:
        return Finding("wrong", subject, f"{text}, allowed {tolerance:.0e}; report it with sedembed.show_versions()")
    return Finding("ok", subject, text)
