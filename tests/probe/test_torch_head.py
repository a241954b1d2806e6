"""Tests of torch head."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sedembed import LinearProbe
from tests.probe.probe_helpers import blobs


class TestTorch:
    @pytest.mark.parametrize("normalize", ["standardize+l2", "l2", "none"])
    def test_head_gives_the_same_scores_and_learns(self, normalize):
        x, y = blobs(80, 6, 3)
        x /= np.abs(x).max(0)
        probe = LinearProbe(C=3.0, normalize=normalize, progress=False).fit(x, y)
        head = probe.to_torch()
        inputs = torch.from_numpy(x).requires_grad_()
        scores = head(inputs)
        np.testing.assert_allclose(scores.detach(), probe.decision_function(x), atol=1e-4)
        torch.nn.functional.cross_entropy(scores, torch.from_numpy(y)).backward()
        assert inputs.grad.abs().sum() > 0
        assert {name for name, _ in head.named_parameters()} == {"linear.weight", "linear.bias"}
