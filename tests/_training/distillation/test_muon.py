"""Tests of muon."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sedembed._training.distillation.muon import Muon, orthogonalise


class TestMuon:
    @pytest.mark.parametrize("shape", [(16, 40), (40, 16), (24, 24)])
    def test_singular_values_come_near_one_and_vectors_stay(self, shape):
        matrix = torch.from_numpy(np.random.default_rng(0).normal(size=shape)).float()
        result = orthogonalise(matrix)
        values = torch.linalg.svdvals(result)
        # A direction with less than a 250th of the norm needs more than five iterations.
        within_reach = torch.linalg.svdvals(matrix / matrix.norm()) > 1 / 250
        assert within_reach.sum() >= len(values) - 1
        assert 0.6 < values[within_reach].min() <= values.max() < 1.3
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        rotated = u.T @ result @ v.T
        assert (rotated - torch.diag(rotated.diag())).abs().max() < 1e-3

    def test_step_has_the_stated_size_and_descends(self):
        torch.manual_seed(0)
        kernel = torch.nn.Parameter(torch.randn(8, 4, 3, 3))
        target = torch.randn_like(kernel)
        optimizer = Muon([kernel], lr=0.1)
        before = kernel.detach().clone()
        for step in range(60):
            loss = (kernel - target).square().sum()
            optimizer.zero_grad()
            loss.backward()
            if step == 0:
                first = loss.item()
            optimizer.step()
            if step == 0:
                size = (kernel - before).square().mean().sqrt().item()
                assert size == pytest.approx(0.2 * 0.1, rel=0.2)
        assert loss.item() < 0.3 * first
