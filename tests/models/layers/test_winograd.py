"""Tests of winograd."""

from __future__ import annotations

import pytest
import torch

from sedembed.models.layers.winograd import WinogradConv2d, use_winograd


class TestWinograd:
    @pytest.mark.parametrize("shape", [(2, 5, 8, 4), (1, 3, 9, 7), (3, 4, 1, 1), (2, 2, 50, 2)])
    def test_equals_the_direct_sum_in_both_directions(self, shape):
        torch.manual_seed(0)
        batch, channels, time, bins = shape
        direct = torch.nn.Conv2d(channels, 6, 3, padding=1)
        fast = WinogradConv2d(channels, 6, 3, padding=1)
        fast.load_state_dict(direct.state_dict())
        results = []
        for module in (direct, fast):
            x = torch.linspace(-1, 1, batch * channels * time * bins).sin().view(shape).requires_grad_()
            y = module(x)
            (y * torch.arange(y.numel()).view(y.shape).cos()).sum().backward()
            results.append((y, x.grad, module.weight.grad, module.bias.grad))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, atol=3e-5, rtol=3e-5)

    def test_only_wide_3x3_convolutions_change(self):
        wide = torch.nn.Conv2d(8, 128, 3, padding=1)
        others = [torch.nn.Conv2d(1, 64, 3, padding=1), torch.nn.Conv2d(64, 128, 1), torch.nn.Conv2d(8, 128, 3)]
        network = torch.nn.Sequential(*others, torch.nn.Conv2d(8, 128, 3, padding=1, stride=2), wide)
        use_winograd(network)
        assert [type(layer).__name__ for layer in network] == ["Conv2d"] * 4 + ["WinogradConv2d"]
        assert network[4].weight is wide.weight
