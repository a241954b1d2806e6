"""Fixtures and helpers that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest

import sedembed

SOUNDS = Path(__file__).parents[2] / "examples" / "sounds"


@pytest.fixture(scope="module")
def talnet():
    return sedembed.load_model("talnet", device="cpu")
