"""Probes on disk: a directory with ``probe.json`` and ``probe.safetensors``."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sedembed._utils.schema import is_finite, read_json_object
from sedembed._utils.versions import list_versions
from sedembed.errors import ProbeError

__all__ = ["HUB_FILES", "SavedProbe", "read_probe", "write_probe"]

FORMAT_VERSION = 1
JSON_FILE = "probe.json"
TENSORS_FILE = "probe.safetensors"
# As hubs name them.
HUB_FILES = ("config.json", "model.safetensors")
# Of this machine or of one fit: not part of what a probe is.
_NOT_SAVED = ("cv", "device", "progress")
_TENSORS = ("coef", "intercept", "mean", "scale")


@dataclass(frozen=True)
class SavedProbe:
    """All of a fitted probe that is kept on disk.

    Attributes
    ----------
    parameters : dict
        What `get_params` gives; those that belong to a machine or to one fit are left out.
    classes : ndarray, shape (K,)
        Numbers, strings or truth values.
    tensors : dict of str to ndarray
        coef (K, D), intercept (K,), mean (D,), scale (D,).
    multilabel : bool
        Whether a row may have several classes.
    c : float
        The C of the fit.
    scores : dict of float to float
        Score of each C that was tried.
    passes : int
        Passes over the rows.
    model : dict or None
        Which model the vectors came from.
    """

    parameters: dict[str, Any]
    classes: NDArray[Any]
    tensors: dict[str, NDArray[Any]]
    multilabel: bool
    c: float
    scores: dict[float, float]
    passes: int
    model: dict[str, Any] | None


def write_probe(
    saved: SavedProbe, path: Path, names: tuple[str, str] = (JSON_FILE, TENSORS_FILE), card: str | None = None
) -> Path:
    """Write a fitted probe; what was there is replaced in one step.

    Parameters
    ----------
    saved : SavedProbe
        The probe.
    path : Path
        The directory.
    names : (str, str)
        Of the description and of the tensors.
    card : str, optional
        Model card, written as README.md.
    """
    json_file, tensors_file = names
    if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not (path / json_file).exists())):
        raise ProbeError(f"{path} is there and is not a probe; choose another directory.")
    tensors = save(saved.tensors)
    parameters = {name: _plain(value) for name, value in saved.parameters.items() if name not in _NOT_SAVED}
    versions = list_versions("scikit-learn")
    description = {
        "format_version": FORMAT_VERSION,
        "sedembed": versions["sedembed"],
        "scikit-learn": versions["scikit-learn"],
        "model": saved.model,
        "classes": _write_classes(saved.classes),
        "classes_dtype": _type_of(saved.classes),
        "multilabel": saved.multilabel,
        "C": saved.c,
        "scores": [[c, score] for c, score in saved.scores.items()],
        "passes": saved.passes,
        "parameters": parameters,
        "tensors_sha256": hashlib.sha256(tensors).hexdigest(),
    }
    description["sha256"] = _sha256_of(description)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.mkdir(parents=True)
        (partial / tensors_file).write_bytes(tensors)
        (partial / json_file).write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", "utf-8")
        if card is not None:
            (partial / "README.md").write_text(card, "utf-8")
        if path.exists():
            old = path.with_name(f".{path.name}.{uuid.uuid4().hex}.old")
            path.rename(old)
            partial.rename(path)
            shutil.rmtree(old)
        else:
            partial.rename(path)
    except OSError as error:
        raise ProbeError(f"Could not write {path}: {error.strerror or error}; choose another place.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return path


def read_probe(path: Path, names: tuple[str, str] = (JSON_FILE, TENSORS_FILE)) -> SavedProbe:
    """Read what `write_probe` wrote under these names.

    Raises
    ------
    ProbeError
        If there is none, or it is damaged or of a newer format.
    """
    try:
        text, data = (path / names[0]).read_bytes(), (path / names[1]).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ProbeError(
            f"Expected a probe at {path}, found no {Path(error.filename).name} there; make one with "
            "LinearProbe.save or `sedembed probe fit`."
        ) from None
    except OSError as error:
        raise _damaged(path, error) from error
    try:
        description = read_json_object(text, JSON_FILE)
        version = description["format_version"]
    except (ValueError, KeyError) as error:
        raise _damaged(path, error) from error
    if version != FORMAT_VERSION:
        raise ProbeError(
            f"{path} has format {version}, and this sedembed reads format {FORMAT_VERSION}; use the version of "
            "sedembed that wrote it, or fit again."
        )
    try:
        return _parse(description, data)
    except (KeyError, TypeError, ValueError, OverflowError, SafetensorError) as error:
        raise _damaged(path, error) from error


def _parse(description: dict[str, Any], data: bytes) -> SavedProbe:
    if hashlib.sha256(data).hexdigest() != description["tensors_sha256"]:
        raise ValueError(f"{TENSORS_FILE} does not belong to {JSON_FILE}")
    tensors = load(data)
    classes = _read_classes(description["classes"], description["classes_dtype"])
    parameters = dict(description["parameters"])
    _ = parameters["C"], parameters["normalize"]  # without them it is no probe
    if isinstance(parameters.get("class_weight"), list):
        parameters["class_weight"] = dict(parameters["class_weight"])
    for name in _TENSORS:
        shape = (len(classes),) if name == "intercept" else tensors["coef"].shape[1:]
        shape = (len(classes), *shape) if name == "coef" else shape
        if tensors[name].shape != shape or not np.isfinite(tensors[name]).all():
            raise ValueError(f"{name} has the shape {tensors[name].shape}, expected {shape} of finite numbers")
    model, multilabel, passes = (description[name] for name in ("model", "multilabel", "passes"))
    if not isinstance(model, dict | None) or type(multilabel) is not bool or type(passes) is not int:
        raise ValueError("model, multilabel or passes is of another type than expected")
    scores = {float(c): float(score) for c, score in description["scores"]}
    if not is_finite(description["C"]):
        raise ValueError(f"C is {description['C']!r}, expected a finite number")
    # Last, so that a value that cannot be is named; earlier versions wrote no checksum.
    if description.get("sha256", _sha256_of(description)) != _sha256_of(description):
        raise ValueError(f"{JSON_FILE} is not as it was written")
    return SavedProbe(parameters, classes, tensors, multilabel, float(description["C"]), scores, passes, model)


def _sha256_of(description: dict[str, Any]) -> str:
    """Sha256 of all that a probe says of itself, whatever the spaces and the order."""
    values = {key: value for key, value in description.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _damaged(path: Path, problem: object) -> ProbeError:
    return ProbeError(f"{path} is damaged ({problem}); restore it from a copy, or fit again.")


def _type_of(classes: NDArray[Any]) -> str:
    """Name the type of labels: "object" and "str" for texts, else NumPy's own, such as "int32"."""
    return {"O": "object", "U": "str"}.get(classes.dtype.kind, classes.dtype.name)


def _write_classes(classes: NDArray[Any]) -> list[Any]:
    names: list[Any] = classes.tolist()
    if classes.dtype.kind not in "biuUf" and not all(isinstance(name, str) for name in names):
        raise ProbeError(
            f"classes of type {classes.dtype} cannot be written to JSON; fit with numbers or strings as classes"
        )
    return names


def _read_classes(names: list[Any], kind: str) -> NDArray[Any]:
    if not isinstance(names, list):
        raise TypeError("classes is no list")
    # One letter: written by earlier versions, which kept no widths.
    types = {"b": "bool", "i": "int64", "u": "uint64", "f": "float64", "U": "str"}
    dtype = np.dtype(types.get(kind, kind))
    if dtype.kind not in "biufUO":
        raise ValueError(f"classes are of type {kind!r}")
    kinds: dict[str, type | tuple[type, ...]] = {"b": bool, "i": int, "u": int, "f": (int, float)}
    expected = kinds.get(dtype.kind, str)
    if not all(isinstance(name, expected) and (dtype.kind == "b") == (type(name) is bool) for name in names):
        raise ValueError(f"classes are not of type {kind}")
    return np.array(names, dtype=dtype)


def _plain(value: Any) -> Any:
    """Make a value one that JSON has: numbers of NumPy, sequences and mappings of them."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        # JSON has only strings as keys: pairs keep numbers what they are.
        return [[_plain(key), _plain(item)] for key, item in value.items()]
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in value]
    return value
