"""Tests of frozen_winograd."""

from __future__ import annotations

import threading

import pytest
import torch
from torch.nn import functional

from sedembed.models.layers import frozen_winograd as module
from sedembed.models.layers import packed
from sedembed.models.layers.frozen_winograd import FrozenWinograd, freeze_winograd


def check(shape: tuple[int, int, int, int], pool: tuple[int, int] | None, bias: bool = True) -> None:
    """Compare with the direct sum in float64."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(shape[1], 6, 3, padding=1, bias=bias)
    x = torch.randn(shape).to(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = functional.relu(conv.double()(x.double()))
        expected = expected if pool is None else functional.max_pool2d(expected, pool)
    found = FrozenWinograd(conv.float(), pool)(x)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pool", [None, (1, 2), (2, 2), (2, 1), (4, 4)])
@pytest.mark.parametrize("shape", [(2, 5, 8, 4), (1, 3, 9, 7), (3, 4, 5, 6), (2, 2, 50, 4)])
def test_equals_the_direct_sum(shape: tuple[int, int, int, int], pool: tuple[int, int] | None):
    check(shape, pool)


def test_equals_the_direct_sum_without_bias_and_for_one_point():
    check((3, 4, 1, 1), None, bias=False)


@pytest.mark.parametrize("block", [1, 70, 100])
def test_parts_of_an_item_and_several_items_at_once(block: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_BLOCK", block)
    check((3, 5, 21, 6), (2, 2))
    check((3, 5, 21, 6), None)


def test_without_the_operators_of_onednn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packed, "_pack", lambda weight: None)
    check((2, 5, 8, 4), (1, 2))


def test_threads_and_modes_do_not_disturb_each_other():
    torch.manual_seed(0)
    layer = FrozenWinograd(torch.nn.Conv2d(64, 64, 3, padding=1))
    inputs = [torch.randn(1, 64, 8 + 4 * i, 8) for i in range(4)]
    alone = [layer(x) for x in inputs]
    found: list[torch.Tensor | None] = [None] * 4

    def work(i: int) -> None:
        for mode in (True, False, True) * 5:
            with torch.inference_mode(mode):
                found[i] = layer(inputs[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(alone, found, strict=True):
        assert b is not None
        assert torch.equal(a, b)


def test_only_wide_3x3_convolutions_are_frozen():
    wide = torch.nn.Conv2d(128, 128, 3, padding=1)
    assert isinstance(freeze_winograd(wide, (2, 2)), FrozenWinograd)
    others = [
        torch.nn.Conv2d(64, 128, 3, padding=1),
        torch.nn.Conv2d(128, 128, 1),
        torch.nn.Conv2d(128, 128, 3),
        torch.nn.Conv2d(128, 128, 3, padding=1, stride=2),
    ]
    assert [freeze_winograd(conv, None) for conv in others] == [None] * 4
    assert freeze_winograd(wide, (1, 3)) is None
