"""Tests of the running average of weights."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sedembed._training.averaging import average_into


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_it_is_that_of_a_float64_loop(decay: float) -> None:
    module = nn.Linear(3, 2)
    average = copy.deepcopy(module)
    expected = module.weight.detach().numpy().astype(np.float64)
    rng = np.random.default_rng(0)
    for step in range(1, 30):
        new = rng.normal(size=(2, 3)).astype(np.float32)
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(new))
        average_into(average, module, decay, step)
        share = min(decay, step / (step + 10))
        expected = share * expected + (1 - share) * new
        np.testing.assert_allclose(average.weight.detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    assert (average.weight.detach().numpy() == new).all() == (decay == 0)
