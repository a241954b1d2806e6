"""The 527 sound events of AudioSet, in the order of the networks' outputs."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

__all__ = ["load_labels"]


@cache
def load_labels() -> tuple[str, ...]:
    """Display names of the 527 AudioSet classes.

    Returns
    -------
    tuple of 527 str
        In the order of AudioSet's `class_labels_indices.csv`.
    """
    text = files("sedembed.models").joinpath("class_labels_indices.csv").read_text(encoding="utf-8")
    return tuple(row["display_name"] for row in csv.DictReader(text.splitlines()))
