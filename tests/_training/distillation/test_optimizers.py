"""Tests of optimizers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sedembed._training.distillation.config import DistillConfig
from sedembed._training.distillation.muon import Muon
from sedembed._training.distillation.optimizers import Schedule, make_optimizers


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("cosine", [0.1, 0.980, 0.5, 0.0002]),
        ("linear", [0.1, 0.91, 0.5, 0.01]),
        ("constant", [0.1, 1.0, 1.0, 1.0]),
        ("plateau", [0.1, 1.0, 1.0, 1.0]),
    ],
)
def test_schedules(schedule, expected):
    made = Schedule(DistillConfig(schedule=schedule, steps=100, warmup_steps=10))
    tolerance = 1e-3 if schedule == "cosine" else 1e-12
    np.testing.assert_allclose([made.factor(step) for step in (0, 9, 50, 99)], expected, atol=tolerance)


def test_the_plateau_lowers_the_rate():
    made = Schedule(DistillConfig(schedule="plateau", plateau_patience=1, warmup_steps=1))
    for loss in (1.0, 0.9, 0.95, 0.95, 0.95, 0.95):
        made.observe(loss)
    assert made.factor(50) == pytest.approx(0.8**2)
    constant = Schedule(DistillConfig(schedule="constant", warmup_steps=1))
    for loss in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0):
        constant.observe(loss)
    assert constant.factor(50) == 1.0


def test_muon_is_for_the_inner_convolutions():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(4, 4, 3), torch.nn.Conv2d(4, 4, 1), torch.nn.Linear(4, 2)
    )
    settings = DistillConfig(optimizer="muon", learning_rate=0.1, muon_learning_rate=0.2, weight_decay=0.3)
    adamw, muon = make_optimizers(network, settings)
    assert isinstance(muon, Muon)
    assert [p is network[1].weight for p in muon.param_groups[0]["params"]] == [True]
    decayed, plain = adamw.param_groups
    assert [p.ndim for p in decayed["params"]] == [4, 4, 2]
    assert [p.ndim for p in plain["params"]] == [1, 1, 1, 1]
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert (adamw.param_groups[0]["base_lr"], muon.param_groups[0]["base_lr"]) == (0.1, 0.2)
    assert len(make_optimizers(network, DistillConfig(optimizer="adamw"))) == 1
