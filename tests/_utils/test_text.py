"""Words for messages."""

from __future__ import annotations

import pytest

from sedembed._utils.text import did_you_mean


@pytest.mark.parametrize(
    ("name", "expected"),
    [("talnte", " Did you mean 'TALNet'?"), ("TALNET", " Did you mean 'TALNet'?"), ("xyz", ""), ("", "")],
)
def test_did_you_mean(name: str, expected: str):
    assert did_you_mean(name, ["weanet", "TALNet"]) == expected
