"""Tests of student."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from sedembed._training.distillation import student as student_module
from sedembed._training.distillation.losses import align_frames
from sedembed._training.distillation.student import fit_map, update_average
from tests._training.distillation.distill_helpers import data, trainer  # noqa: F401


def test_the_average_is_of_weights_and_statistics():
    student, average = (torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)) for _ in range(2))
    student[1].running_mean.fill_(3.0)
    expected = {key: 0.75 * value + 0.25 * student.state_dict()[key] for key, value in average.state_dict().items()}
    update_average(average, student, 0.75)
    for key, value in average.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[key])


def test_the_map_is_that_of_ridge_regression(data, tmp_path):
    run = trainer(data, tmp_path / "run", inner_weight=0.5)
    student = run.student
    batches = [run.batches.make(step) for step in range(3)]
    fit_map(student, batches, 3.0, 0.75)
    rows, wanted, weights = [], [], []
    with torch.no_grad():
        for batch in batches:
            frames = student.network.forward_normalised(batch.features).frames
            times = student.network.first_frame_time + np.arange(frames.shape[1]) / student.network.frame_rate
            matrix = align_frames(times, batch.local.shape[1]).numpy()
            cells = np.flatnonzero(matrix.sum(1) > 0)
            for clip, number in enumerate(frames.numpy()):
                rows += [number.mean(0), *(matrix[cells] @ number)]
                wanted += [batch.embeddings[clip].numpy(), *batch.local[clip, cells].numpy()]
                weights += [3.0 / len(frames)] + [0.75 / len(frames) / len(cells)] * len(cells)
    x, y, w = (np.asarray(values, np.float64) for values in (rows, wanted, weights))
    squares = (w[:, None] * x**2).sum(0).mean()
    expected = Ridge(alpha=squares, solver="cholesky").fit(x, y, sample_weight=w)
    assert y.shape[1] > 384
    np.testing.assert_allclose(student.to_teacher.weight.detach(), expected.coef_, atol=1e-4)
    np.testing.assert_allclose(student.to_teacher.bias.detach(), expected.intercept_, atol=1e-4)


@pytest.mark.parametrize("model", ["talnet", "weanet"])
def test_a_run_may_begin_with_a_fitted_map(data, tmp_path, model):
    trainer(data, tmp_path / "first", model=model).run()
    start = tmp_path / "first" / "model"
    plain = trainer(data, tmp_path / "plain", start, model=model)
    fitted = trainer(data, tmp_path / "fitted", start, model=model, map_batches=4)
    batch = plain.batches.make(plain.config.steps)  # the first of those that the map was fitted to
    errors = [run._update(batch)[1] for run in (plain, fitted)]
    assert errors[1] < 0.9 * errors[0]
    for key, value in fitted.average.to_teacher.state_dict().items():
        assert value.any(), key
    fitted.run()
    again = trainer(data, tmp_path / "fitted", model=model, map_batches=4)
    assert torch.equal(again.student.to_teacher.weight, fitted.student.to_teacher.weight)


@pytest.mark.parametrize(
    ("precision", "tiles", "contiguous"),
    [("bfloat16", True, False), ("bfloat16", False, True), ("float32", True, True)],
)
def test_the_first_block_has_the_faster_memory_order(data, tmp_path, precision, tiles, contiguous, monkeypatch):
    monkeypatch.setattr(student_module, "has_bfloat16_tiles", lambda: tiles)
    run = trainer(data, tmp_path / "run", model="weanet", precision=precision)
    weight = next(value for name, value in run.student.network.named_parameters() if name == "b1.1.conv.weight")
    assert weight.is_contiguous() is contiguous
    assert weight.is_contiguous(memory_format=torch.channels_last) is not contiguous


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
