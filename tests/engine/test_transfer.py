"""Tests of transfer, on the devices that are there."""

from __future__ import annotations

import pytest
import torch

from sedembed.engine.runner import pick_device
from sedembed.engine.transfer import to_device, to_host
from sedembed.errors import InvalidArgumentError

DEVICES = [torch.device("cpu"), *([torch.device("cuda:0")] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_there_and_back(device: torch.device):
    values = [torch.randn(3, 5), torch.arange(7), torch.randn(2, 2, dtype=torch.float64)]
    there = [to_device(value, device) for value in values]
    assert {value.device for value in there} == {device}
    waits = [to_host([value * 2 for value in there]) for _ in range(3)]
    for wait in waits:
        for found, value in zip(wait(), values, strict=True):
            assert found.device.type == "cpu"
            torch.testing.assert_close(found, value * 2)


def test_nothing_to_copy():
    assert to_host([])() == []


def test_apples_gpu_is_refused_in_a_sentence():
    with pytest.raises(InvalidArgumentError, match="got 'mps': the networks were never run on Apple's GPU"):
        pick_device("mps")
