"""Tests of the names of sound events and of AudioSet's ontology."""

from __future__ import annotations

import pytest

from sedembed.errors import InvalidArgumentError
from sedembed.models.labels import find_label, find_labels, list_below, load_hierarchy, load_labels

NAMES = load_labels()


def test_the_ontology_knows_every_label():
    below = set().union(*map(list_below, load_hierarchy()))
    assert set(NAMES) <= below | set(load_hierarchy())
    assert all(name not in list_below(name) for name in load_hierarchy())


def test_children_are_included_in_any_case():
    dogs = ["Dog", "Bark", "Yip", "Howl", "Bow-wow", "Growling", "Whimper (dog)"]
    assert find_labels(NAMES, ["dog"]) == dogs == find_labels(NAMES, ["BARK", " Dog "])
    assert find_labels(NAMES, ["bark"]) == ["Bark"]
    # A group that no network knows, and a class of two parents.
    assert "Speech" in find_labels(NAMES, ["human sounds"])
    assert "Growling" in find_labels(NAMES, ["cat"]) or "Growling" in find_labels(NAMES, ["Canidae, dogs, wolves"])


def test_other_classes_have_no_groups():
    assert find_labels(["0", "1"], ["1"]) == ["1"]
    with pytest.raises(InvalidArgumentError, match="does not know"):
        find_labels(["0", "1"], ["Human sounds"])


def test_what_is_near_is_suggested():
    with pytest.raises(InvalidArgumentError, match="did you mean 'Siren'"):
        find_label(NAMES, "sirene")
    with pytest.raises(InvalidArgumentError, match=r"see model\.labels"):
        find_label(NAMES, "")
