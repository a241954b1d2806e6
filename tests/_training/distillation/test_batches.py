"""Tests of batches."""

from __future__ import annotations

import numpy as np
import torch

from tests._training.distillation.distill_helpers import data, trainer  # noqa: F401


def test_batches_depend_on_seed_and_step_only(data, tmp_path):
    run = trainer(data, tmp_path).batches
    a, b, other = run.make(7), run.make(7), run.make(8)
    assert torch.equal(a.features, b.features)
    assert torch.equal(a.targets, b.targets)
    assert not torch.equal(a.features, other.features)


def test_batches_ahead_are_those_of_each_step(data, tmp_path):
    run = trainer(data, tmp_path).batches
    ahead = list(run.batches(1, 4, torch.device("cpu")))
    assert len(ahead) == 3
    for step, batch in enumerate(ahead, 1):
        assert torch.equal(batch.features, run.make(step).features)


def test_inner_features_are_matched_where_asked(data, tmp_path):
    settings = {"local_weight": 1.0, "held_out_share": 0.4, "steps": 2}
    plain, rich = (trainer(data, tmp_path / str(w), inner_weight=w, **settings) for w in (0.0, 0.5))
    assert rich.student.to_teacher.out_features == 384 + 1504
    batches = [run.batches.make(0) for run in (plain, rich)]
    torch.testing.assert_close(batches[1].embeddings[:, :384], batches[0].embeddings)
    torch.testing.assert_close(batches[1].local[:, :, :384], batches[0].local)
    rich.run()
    assert np.isfinite(rich.validate()).all()
