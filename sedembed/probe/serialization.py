"""Probes on disk: a directory with ``probe.json`` and ``probe.safetensors``."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sedembed import __version__
from sedembed.errors import ProbeError

if TYPE_CHECKING:
    from sedembed.probe.probe import LinearProbe

__all__ = ["read_probe", "write_probe"]

FORMAT_VERSION = 1
JSON_FILE = "probe.json"
TENSORS_FILE = "probe.safetensors"
# Parameters of the estimator that are plain values; `cv` may be any object and is used only in fitting.
_PARAMETERS = (
    "C", "normalize", "metric", "Cs", "class_weight", "tol", "max_iter", "max_memory", "random_state"
)  # fmt: skip


def write_probe(probe: LinearProbe, path: Path) -> Path:
    """Write a fitted probe; what was there is replaced in one step."""
    if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not (path / JSON_FILE).exists())):
        raise ProbeError(f"{path} is there and is not a probe; choose another directory")
    tensors = save({"coef": probe.coef_, "intercept": probe.intercept_, "mean": probe.mean_, "scale": probe.scale_})
    parameters = {name: getattr(probe, name) for name in _PARAMETERS}
    parameters["Cs"] = None if probe.Cs is None else [float(c) for c in probe.Cs]
    weight = probe.class_weight
    # JSON has only strings as keys: pairs keep numbers what they are.
    if isinstance(weight, Mapping):
        parameters["class_weight"] = [[_plain(key), _plain(value)] for key, value in weight.items()]
    description = {
        "format_version": FORMAT_VERSION,
        "sedembed": __version__,
        "scikit-learn": importlib.metadata.version("scikit-learn"),
        "model": probe.model_,
        "classes": _write_classes(probe.classes_),
        "classes_dtype": "str" if probe.classes_.dtype.kind == "O" else probe.classes_.dtype.kind,
        "multilabel": probe.multilabel_,
        "C": probe.C_,
        "scores": [[c, score] for c, score in probe.scores_.items()],
        "passes": probe.n_iter_,
        "parameters": {name: _plain(value) for name, value in parameters.items()},
        "tensors_sha256": hashlib.sha256(tensors).hexdigest(),
    }
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.mkdir(parents=True)
        (partial / TENSORS_FILE).write_bytes(tensors)
        (partial / JSON_FILE).write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", "utf-8")
        if path.exists():
            old = path.with_name(f".{path.name}.{uuid.uuid4().hex}.old")
            path.rename(old)
            partial.rename(path)
            shutil.rmtree(old)
        else:
            partial.rename(path)
    except OSError as error:
        raise ProbeError(f"could not write {path}: {error.strerror or error}; choose another place") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return path


def read_probe(path: Path, kind: type[LinearProbe]) -> LinearProbe:
    """Read what `write_probe` wrote."""
    try:
        description = json.loads((path / JSON_FILE).read_text("utf-8"))
        data = (path / TENSORS_FILE).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ProbeError(
            f"expected a probe at {path}, found no {Path(error.filename).name} there; make one with "
            "LinearProbe.save or `sedembed probe fit`"
        ) from None
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    if not isinstance(description, dict) or "format_version" not in description:
        raise _damaged(path, "no format_version")
    if description["format_version"] != FORMAT_VERSION:
        raise ProbeError(
            f"{path} has format {description['format_version']}, and this sedembed reads format {FORMAT_VERSION}; use "
            "the version of sedembed that wrote it, or fit again"
        )
    try:
        if hashlib.sha256(data).hexdigest() != description["tensors_sha256"]:
            raise ValueError(f"{TENSORS_FILE} does not belong to {JSON_FILE}")
        tensors = load(data)
        parameters = dict(description["parameters"])
        if isinstance(parameters["class_weight"], list):
            parameters["class_weight"] = dict(parameters["class_weight"])
        probe = kind(**parameters)
        probe.classes_ = _read_classes(description["classes"], description["classes_dtype"])
        probe.coef_, probe.intercept_ = tensors["coef"], tensors["intercept"]
        probe.mean_, probe.scale_ = tensors["mean"], tensors["scale"]
        probe.multilabel_ = bool(description["multilabel"])
        probe.C_ = float(description["C"])
        probe.scores_ = {float(c): float(score) for c, score in description["scores"]}
        probe.n_iter_ = int(description["passes"])
        probe.model_ = description["model"]
        probe.n_features_in_ = probe.coef_.shape[1]
        if probe.coef_.shape[0] != len(probe.classes_):
            raise ValueError(f"{len(probe.classes_)} classes and {probe.coef_.shape[0]} rows of weights")
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise _damaged(path, error) from error
    return probe


def _damaged(path: Path, problem: object) -> ProbeError:
    return ProbeError(f"{path} is damaged ({problem}); restore it from a copy, or fit again")


def _write_classes(classes: NDArray[Any]) -> list[Any]:
    names: list[Any] = classes.tolist()
    if classes.dtype.kind not in "biuUf" and not all(isinstance(name, str) for name in names):
        raise ProbeError(
            f"classes of type {classes.dtype} cannot be written to JSON; fit with numbers or strings as classes"
        )
    return names


def _read_classes(names: list[Any], kind: str) -> NDArray[Any]:
    types = {"b": np.bool_, "i": np.int64, "u": np.uint64, "f": np.float64}
    return np.array(names, dtype=types.get(kind, np.str_))


def _plain(value: Any) -> Any:
    """Make a numpy number one of Python's."""
    return value.item() if isinstance(value, np.generic) else value
