"""Tests of packed."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from sedembed.models.layers import packed
from sedembed.models.layers.packed import PackedLinear


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_is_a_linear_layer_and_can_be_copied(packs: bool, bias: bool, rows: int, monkeypatch: pytest.MonkeyPatch):
    if not packs:
        monkeypatch.setattr(packed, "_pack", lambda weight: None)
    torch.manual_seed(0)
    layer = torch.nn.Linear(37, 50, bias=bias)
    x = torch.randn(rows, 37)
    made = PackedLinear(layer.weight, layer.bias)
    found = made(x)
    torch.testing.assert_close(found, layer(x).detach(), atol=1e-6, rtol=1e-5)
    assert not found.requires_grad
    for again in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(again(x), found)


def test_float64_is_not_packed():
    layer = torch.nn.Linear(3, 4).double()
    x = torch.randn(2, 3, dtype=torch.float64)
    torch.testing.assert_close(PackedLinear(layer.weight, layer.bias)(x), layer(x).detach())
