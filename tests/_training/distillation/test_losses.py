"""Tests of losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from sedembed._training.distillation.losses import align_frames, clip_bce, embedding_error, even_out, local_error
from tests._training.distillation.distill_helpers import data, trainer  # noqa: F401


class TestAlignment:
    def test_interpolates_a_ramp(self):
        times = 0.475 + 0.32 * np.arange(14)
        matrix = align_frames(times, 16)
        assert matrix.shape == (16, 14)
        inner = matrix.sum(1) > 0.999
        # The first cell is before all segments and the last after them.
        assert inner.tolist() == [False] + [True] * 14 + [False]
        values = (matrix @ torch.from_numpy(times).float())[inner].numpy()
        np.testing.assert_allclose(values[1:-1], 0.32 * np.arange(2, 14), atol=1e-5)

    def test_averages_finer_frames(self):
        times = 0.0375 + 0.1 * np.arange(50)
        matrix = align_frames(times, 16)
        np.testing.assert_allclose(matrix.sum(1), 1.0, atol=1e-6)
        middle = (matrix @ torch.from_numpy(times).float())[1:-1].numpy()
        np.testing.assert_allclose(middle, 0.32 * np.arange(1, 15), atol=0.02)


def test_cross_entropy_by_hand():
    p, t = torch.tensor([[0.2, 0.9], [0.5, 0.5]]), torch.tensor([[0.0, 1.0], [0.25, 0.5]])
    entropies = -(t * p.log() + (1 - t) * (1 - p).log())
    assert clip_bce(p, t).item() == pytest.approx(entropies.sum().item() / 2)


def test_embedding_error_by_hand():
    difference = torch.randn(2, 7, generator=torch.Generator().manual_seed(0))
    expected = difference[:, :4].square().mean(1) + 0.5 * difference[:, 4:].square().mean(1)
    torch.testing.assert_close(embedding_error(difference, 4, 0.5), expected)
    torch.testing.assert_close(embedding_error(difference, 4, 0.0), difference[:, :4].square().mean(1))


class TestEvenOut:
    rows = np.random.default_rng(0).normal(size=(500, 6)) @ (
        np.eye(6) + 0.2 * np.random.default_rng(1).normal(size=(6, 6))
    )

    def test_whitens_as_scikit_learn_does(self):
        even = even_out(self.rows, 1.0)
        white = PCA(whiten=True).fit_transform(self.rows)
        ours = (self.rows - self.rows.mean(0)) @ even
        ours /= ours.std()
        # Distances do not depend on the rotation; the share that keeps small variances small is what they differ by.
        distances = [np.linalg.norm(x[:250] - x[250:], axis=1) for x in (ours, white)]
        np.testing.assert_allclose(*distances, rtol=0.1)

    @pytest.mark.parametrize("power", [0.0, 0.5])
    def test_leaves_a_share_of_the_spread(self, power):
        covariance = np.cov(self.rows, rowvar=False, bias=True)
        even = even_out(self.rows, power)
        after = np.linalg.eigvalsh(even @ covariance @ even)
        before = np.linalg.eigvalsh(covariance)
        expected = before / (before + 0.01 * before.mean()) ** power
        np.testing.assert_allclose(after, expected * before.sum() / expected.sum(), rtol=1e-9)
        np.testing.assert_allclose(even, even.T, atol=1e-12)

    def test_the_errors_are_those_of_evened_differences(self, data, tmp_path):
        run = trainer(data, tmp_path, local_weight=1.0, whitening=0.5, inner_weight=0.5)
        size, even = run.teacher.embedding_size, run._even
        assert not even[:size, size:].any()
        batch = run.batches.make(0)
        guesses = {}
        run.student.to_teacher.register_forward_hook(lambda _, __, out: guesses.update(out=out.detach()))
        clip, local = run._update(batch)[1:]
        difference = (guesses["out"].mean(1) - batch.embeddings) @ even
        expected = difference[:, :size].square().mean() + 0.5 * difference[:, size:].square().mean()
        assert clip == pytest.approx(expected.item(), rel=1e-5)
        times = 0.0375 + 0.1 * np.arange(guesses["out"].shape[1])
        expected = local_error(guesses["out"] @ even, batch.local @ even, times, size, 0.5)
        assert local == pytest.approx(expected.item(), rel=1e-5)


def test_the_local_loss_is_that_of_a_loop(data, tmp_path):
    run = trainer(data, tmp_path, local_weight=1.0)
    batch = run.batches.make(0)
    frames = {}
    run.student.to_teacher.register_forward_hook(lambda _, __, out: frames.update(out=out.detach().numpy()))
    local = run._update(batch)[2]
    times = [0.0375 + 0.1 * i for i in range(frames["out"].shape[1])]
    errors = []
    for item, cells in zip(frames["out"], batch.local.numpy(), strict=True):
        for k, target in enumerate(cells):
            weights = [max(0.0, 1 - abs(0.32 * k - time) / 0.32) for time in times]
            if sum(weights) > 0.5:
                errors.append(((np.average(item, axis=0, weights=weights) - target) ** 2).mean())
    assert local == pytest.approx(np.mean(errors), rel=1e-4)
