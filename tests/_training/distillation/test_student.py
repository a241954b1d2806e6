"""Tests of student."""

from __future__ import annotations

import torch

from sedembed._training.distillation.student import update_average
from tests._training.distillation.distill_helpers import data, trainer  # noqa: F401


def test_the_average_is_of_weights_and_statistics():
    student, average = (torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)) for _ in range(2))
    student[1].running_mean.fill_(3.0)
    expected = {key: 0.75 * value + 0.25 * student.state_dict()[key] for key, value in average.state_dict().items()}
    update_average(average, student, 0.75)
    for key, value in average.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[key])


def test_frozen_blocks_stay_as_the_average_was(data, tmp_path):
    settings = {"optimizer": "adamw", "learning_rate": 0.1}
    trainer(data, tmp_path / "first", **settings).run()
    start = tmp_path / "first" / "checkpoint.pt"
    run = trainer(data, tmp_path / "second", start, frozen_blocks=4, **settings)
    run.run()
    first = trainer(data, tmp_path / "first", **settings)
    before, after = (each.average.network.eval() for each in (first, run))
    x = torch.randn(1, 1, 40, 64, generator=torch.Generator().manual_seed(0))
    for i in range(1, 11):
        old, new = before.get_submodule(f"conv{i}"), after.get_submodule(f"conv{i}")
        if i <= 4:
            # Batch normalisations are folded.
            torch.testing.assert_close(new(x), old(x), atol=1e-4, rtol=1e-4)
            x = old(x)
        else:
            assert not torch.allclose(new.conv.weight, old.conv.weight, atol=1e-3)
    again = trainer(data, tmp_path / "second", frozen_blocks=4, **settings)
    for key, value in run.average.state_dict().items():
        assert torch.equal(value, again.average.state_dict()[key]), key
    batch = run.batches.make(0)
    assert again._update(batch) == run._update(batch)
