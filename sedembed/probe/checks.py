"""Checks at the door of a probe: its parameters, and the model that vectors come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from sedembed._utils.checks import check_flag
from sedembed.errors import InvalidArgumentError, ProbeError
from sedembed.metrics import check_name
from sedembed.probe.features import NORMALIZATIONS
from sedembed.probe.inputs import identity

if TYPE_CHECKING:
    from sedembed.embedder import Embedder
    from sedembed.store.store import EmbeddingStore

__all__ = ["DEFAULT_CS", "check_parameters", "refuse_other_model"]

DEFAULT_CS = tuple(float(f"{c:.3g}") for c in np.logspace(-1, 4, 11))
# What two sets of vectors must have in common to be of one kind.
_IDENTITY = ("version", "sha256", "front_end_version")


def check_parameters(probe: Any) -> None:
    """Check the parameters of a probe.

    Raises
    ------
    InvalidArgumentError
        For one that is out of its range.
    """
    if not isinstance(probe.normalize, str) or probe.normalize not in NORMALIZATIONS:
        raise InvalidArgumentError(f"normalize must be one of {', '.join(NORMALIZATIONS)}, got {probe.normalize!r}")
    automatic = isinstance(probe.C, str) and probe.C == "auto"
    given = (DEFAULT_CS if probe.Cs is None else probe.Cs) if automatic else [probe.C]
    cs: list[Any] = list(given) if isinstance(given, Iterable) and not isinstance(given, (str, Mapping)) else []
    if not cs or not all(_is_number(c) and 0 < c < np.inf for c in cs):
        raise InvalidArgumentError(f'C must be a positive number or "auto", and Cs positive numbers; got {given!r}')
    if any(b <= a for a, b in pairwise(cs)):
        raise InvalidArgumentError(f"Cs must ascend, because each fit begins from the one before; got {cs}")
    if probe.metric is not None:
        check_name(probe.metric)
    for name in ("tol", "max_iter", "max_memory"):
        value = getattr(probe, name)
        least = 0 if name == "tol" else 1
        if not (name == "tol" and value is None) and not (_is_number(value) and least <= value < np.inf and value > 0):
            raise InvalidArgumentError(f"tol, max_iter and max_memory must be positive numbers, got {name}={value!r}")
    check_flag(probe.progress, "progress", optional=True)
    if probe.class_weight is not None and not isinstance(probe.class_weight, (str, Mapping)):
        raise InvalidArgumentError(f'class_weight must be a dict, "balanced" or None, got {probe.class_weight!r}')
    if isinstance(probe.class_weight, Mapping):
        for label, weight in probe.class_weight.items():
            if not (_is_number(weight) and 0 <= weight < np.inf):
                raise InvalidArgumentError(
                    f"class_weight must hold numbers of at least 0, got {weight!r} for {label!r}"
                )
    if isinstance(probe.cv, (bool, str, float)) or probe.cv is None:
        raise InvalidArgumentError(f"cv must be a number of parts, a splitter or pairs of rows, got {probe.cv!r}")
    if not (isinstance(probe.random_state, (int, np.integer)) and 0 <= probe.random_state < 2**32):
        raise InvalidArgumentError(
            f"random_state must be a whole number from 0 to 2**32 - 1, got {probe.random_state!r}"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def refuse_other_model(mine: dict[str, Any] | None, vectors: EmbeddingStore | Embedder) -> None:
    """Refuse vectors of another model than the one that a probe was fitted on.

    Raises
    ------
    ProbeError
        If version, weights or front end differ. A probe fitted on plain arrays knows no model and takes all.
    """
    if mine is None:
        return
    other = identity(vectors)
    differing = [key for key in _IDENTITY if mine[key] != other[key]]
    if differing:
        raise ProbeError(
            f"The probe was fitted on vectors of {mine['name']} version {mine['version']} ({mine['sha256'][:8]}…), and "
            f"these are of {other['name']} version {other['version']} ({other['sha256'][:8]}…). They differ in "
            f"{' and '.join(differing)}: embed the recordings with the model of the probe, or fit a new probe."
        )
