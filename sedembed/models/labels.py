"""The 527 sound events of AudioSet, in the order of the networks' outputs, and the tree of its ontology."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files

from sedembed.errors import InvalidArgumentError

__all__ = ["find_label", "find_labels", "list_below", "load_hierarchy", "load_labels"]


@cache
def load_labels() -> tuple[str, ...]:
    """Display names of the 527 AudioSet classes.

    Returns
    -------
    tuple of 527 str
        In the order of AudioSet's `class_labels_indices.csv`.
    """
    return tuple(row["display_name"] for row in _read("class_labels_indices.csv"))


@cache
def load_hierarchy() -> dict[str, tuple[str, ...]]:
    """Children of each class of AudioSet's ontology that has some.

    Returns
    -------
    dict of str to tuple of str
        Among the classes are groups that the networks do not know, such as "Human sounds". A class may have several
        parents.
    """
    children: dict[str, list[str]] = {}
    for row in _read("audioset_hierarchy.csv"):
        children.setdefault(row["parent"], []).append(row["child"])
    return {parent: tuple(names) for parent, names in children.items()}


def find_label(names: Sequence[str], wanted: str, option: str = "labels") -> str:
    """Find a name, in any case.

    Parameters
    ----------
    names : sequence of str
        All that there are.
    wanted : str
        One of them, upper or lower case.
    option : str
        What the error speaks of.

    Raises
    ------
    InvalidArgumentError
        If there is none; the message names what is near.
    """
    if wanted in names:
        return wanted
    lowered = {name.lower(): name for name in reversed(names)}
    words = str(wanted).strip().lower()
    if words in lowered:
        return lowered[words]
    near = (
        difflib.get_close_matches(words, lowered, n=3, cutoff=0.5) or [n for n in lowered if words and words in n][:3]
    )
    hint = (
        f"did you mean {' or '.join(repr(lowered[name]) for name in near)}?"
        if near
        else "see model.labels, or `sedembed labels`"
    )
    raise InvalidArgumentError(f"{option} names the sound event {wanted!r}, which the model does not know; {hint}")


def find_labels(names: Sequence[str], wanted: Iterable[str]) -> list[str]:
    """Find names in any case, and all that is below them in AudioSet's ontology.

    Parameters
    ----------
    names : sequence of str
        All that the model knows.
    wanted : iterable of str
        Some of them, or groups of the ontology, such as "Human sounds".

    Returns
    -------
    list of str
        Each once, in the order of `names`.

    Raises
    ------
    InvalidArgumentError
        For one that is neither.
    """
    hierarchy, found = load_hierarchy(), set[str]()
    # A model of other classes has nothing to do with the groups.
    groups = [group for group in hierarchy if list_below(group) & set(names)]
    for label in wanted:
        name = find_label([*names, *groups], label)
        found |= {name, *list_below(name)}
    return [name for name in names if name in found]


def list_below(name: str) -> set[str]:
    """All classes below one in AudioSet's ontology, without itself."""
    hierarchy, below, pending = load_hierarchy(), set[str](), [name]
    while pending:
        for child in hierarchy.get(pending.pop(), ()):
            if child not in below:
                below.add(child)
                pending.append(child)
    return below


def _read(name: str) -> list[dict[str, str]]:
    text = files("sedembed.models").joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
