"""Tests of memory."""

from __future__ import annotations

import sys

import pytest

from sedembed._utils import memory


def test_can_be_called_anywhere(monkeypatch: pytest.MonkeyPatch):
    memory.give_back_memory()
    monkeypatch.setattr(sys, "platform", "darwin")
    memory._find_trim.cache_clear()
    try:
        assert memory._find_trim() is None
        memory.give_back_memory()
    finally:
        memory._find_trim.cache_clear()
