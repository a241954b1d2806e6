"""Tests of packed."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from sedembed.models.layers import packed
from sedembed.models.layers.packed import PackedLinear


@pytest.mark.parametrize("way", ["packed", "plain", "MKL"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_is_a_linear_layer_and_can_be_copied(way: str, bias: bool, rows: int, monkeypatch: pytest.MonkeyPatch):
    if way == "plain":
        monkeypatch.setattr(packed, "_pack", lambda weight: None)
    monkeypatch.setattr(packed, "_prefers_mkl", lambda weight: way == "MKL")
    torch.manual_seed(0)
    layer = torch.nn.Linear(37, 50, bias=bias)
    x = torch.randn(rows, 37)
    made = PackedLinear(layer.weight, layer.bias, many_rows=True)
    assert (made._plain is not None) is (way == "MKL")
    found = made(x)
    torch.testing.assert_close(found, layer(x).detach(), atol=1e-6, rtol=1e-5)
    assert not found.requires_grad
    for again in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(again(x), found)


def test_float64_is_not_packed():
    layer = torch.nn.Linear(3, 4).double()
    x = torch.randn(2, 3, dtype=torch.float64)
    torch.testing.assert_close(PackedLinear(layer.weight, layer.bias)(x), layer(x).detach())


def test_a_bias_of_zeros_costs_nothing_with_mkl(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packed, "_prefers_mkl", lambda weight: True)
    made = PackedLinear(torch.ones(4, 3), torch.zeros(4), many_rows=True)
    assert made._bias is None
    torch.testing.assert_close(made(torch.ones(2, 3)), torch.full((2, 4), 3.0))


@pytest.mark.parametrize(("capability", "mkl"), [("AVX2", True), ("AVX2", False), ("AVX512", True), ("DEFAULT", True)])
def test_mkl_is_for_many_rows_without_avx_512(capability: str, mkl: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    monkeypatch.setattr("torch.backends.mkl.is_available", lambda: mkl)
    assert (PackedLinear(torch.ones(4, 3), many_rows=True)._plain is not None) is (capability == "AVX2" and mkl)
    assert PackedLinear(torch.ones(4, 3))._plain is None
