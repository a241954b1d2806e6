"""Tests of label placement."""

from __future__ import annotations

import numpy as np
import pytest

from sedembed._analysis.label_placement import Box, arrange
from tests._analysis.figures_helpers import overlapping_share


class TestLabelling:
    def test_none_overlap_and_all_are_inside(self):
        rng = np.random.default_rng(0)
        points = rng.normal(300, 60, (120, 2))
        sizes = np.stack([rng.uniform(20, 90, 120), np.full(120, 9.0)], 1)
        frame = Box(0, 0, 600, 600)
        boxes = np.array(arrange(points, sizes, 4.0, frame))
        assert overlapping_share(boxes) == 0
        np.testing.assert_allclose(boxes[:, 2:] - boxes[:, :2], sizes)
        assert boxes.min() >= 0
        assert boxes.max() <= 600
        # Nor does any cover a point.
        dots = (points[None, :, :] > boxes[:, None, :2]) & (points[None, :, :] < boxes[:, None, 2:])
        assert not dots.all(2).any()

    def test_a_lonely_point_has_its_label_at_its_right(self):
        (box,) = arrange(np.array([[100.0, 50.0]]), np.array([[30.0, 8.0]]), 4.0, Box(0, 0, 200, 100))
        assert box == pytest.approx((107, 46, 137, 54))

    def test_points_at_one_place(self):
        boxes = np.array(arrange(np.full((30, 2), 200.0), np.full((30, 2), [60.0, 9.0]), 4.0, Box(0, 0, 400, 400)))
        assert overlapping_share(boxes) == 0

    def test_no_room_at_all(self):
        boxes = arrange(np.full((9, 2), 20.0), np.full((9, 2), [30.0, 30.0]), 1.0, Box(0, 0, 40, 40))
        assert len(boxes) == 9
        assert np.min(boxes) >= 0
        assert np.max(boxes) <= 40
