"""Checks at the door of a probe: its parameters, and the model that vectors come from."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

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
    if probe.normalize not in NORMALIZATIONS:
        raise InvalidArgumentError(f"normalize must be one of {', '.join(NORMALIZATIONS)}, got {probe.normalize!r}")
    cs: list[Any] = [probe.C] if probe.C != "auto" else list(DEFAULT_CS if probe.Cs is None else probe.Cs)
    if not cs or not all(isinstance(c, (int, float, np.number)) and 0 < c < np.inf for c in cs):
        raise InvalidArgumentError(f'C must be a positive number or "auto", and Cs positive numbers; got {cs}')
    if any(b <= a for a, b in pairwise(cs)):
        raise InvalidArgumentError(f"Cs must ascend, because each fit begins from the one before; got {cs}")
    if probe.metric is not None:
        check_name(probe.metric)
    if (probe.tol is not None and not probe.tol > 0) or not probe.max_iter >= 1 or not probe.max_memory >= 1:
        raise InvalidArgumentError("tol, max_iter and max_memory must be positive")


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
