"""Tests of sampler."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sedembed._training.sampler import BalancedOrder, ShuffledOrder, positions_of
from sedembed.errors import DatasetError
from tests._training.train_helpers import clips  # noqa: F401


class TestSampler:
    MEMBERS = (np.array([0, 1, 2, 3]), np.array([], np.int64), np.array([4]), np.array([1, 5, 6]), np.array([2, 7]))

    def test_each_class_once_in_a_round(self) -> None:
        order = BalancedOrder(self.MEMBERS, 8, 1)
        drawn = np.array([order.clip(p) for p in range(4 * 240)]).reshape(240, 4)
        queues: dict[int, list[int]] = {c: [] for c in (0, 2, 3, 4)}
        # Which class a draw is for: tell them apart by giving each class clips of its own.
        apart = BalancedOrder([own + 100 * c for c, own in enumerate(self.MEMBERS)], 8, 1)
        for turn in range(240):
            seen = [apart.clip(4 * turn + slot) for slot in range(4)]
            assert sorted(number // 100 for number in seen) == [0, 2, 3, 4]
            assert [number % 100 for number in seen] == list(drawn[turn])
            for number in seen:
                queues[number // 100].append(number % 100)
        # Every clip of a class comes once before any comes again, each time in another order.
        for c, own in queues.items():
            size = len(self.MEMBERS[c])
            epochs = [tuple(own[i : i + size]) for i in range(0, 240 - size + 1, size)]
            assert {tuple(sorted(epoch)) for epoch in epochs} == {tuple(sorted(self.MEMBERS[c]))}
            assert {1: 1, 2: 2, 3: 6, 4: 15}[size] <= len(set(epochs)) <= 24

    def test_the_order_of_classes_changes(self) -> None:
        order = BalancedOrder([np.array([c]) for c in range(527)], 527, 15213)
        rounds = [[order.clip(p) for p in range(527 * r, 527 * (r + 1))] for r in range(3)]
        assert all(sorted(turn) == list(range(527)) for turn in rounds)
        assert rounds[0] != rounds[1] != rounds[2]

    @pytest.mark.parametrize("balanced", [True, False])
    def test_any_position_at_once(self, balanced: bool) -> None:
        def new(seed: int = 3) -> Any:
            return BalancedOrder(self.MEMBERS, 8, seed) if balanced else ShuffledOrder(8, seed)

        order = new()
        sequence = [order.clip(p) for p in range(100)]
        assert [new().clip(p) for p in (99, 57, 0)] == [sequence[p] for p in (99, 57, 0)]
        other = new(4)
        assert [other.clip(p) for p in range(100)] != sequence

    def test_plain_order_has_each_clip_once_an_epoch(self) -> None:
        order = ShuffledOrder(7, 0)
        epochs = [tuple(order.clip(p) for p in range(7 * e, 7 * (e + 1))) for e in range(5)]
        assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
        assert len(set(epochs)) == 5

    def test_processes_share_a_batch(self) -> None:
        for step, count in ((0, 2), (3, 3), (5, 4)):
            parts = [positions_of(step, 10, rank, count) for rank in range(count)]
            np.testing.assert_array_equal(np.concatenate(parts), np.arange(10 * step, 10 * step + 10))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1

    def test_who_stands_in_for_an_unreadable_clip(self) -> None:
        order = BalancedOrder(self.MEMBERS, 8, 1)
        for position in range(16):
            tried = [order.clip(position, attempt) for attempt in range(20)]
            assert tried == [order.clip(position, attempt) for attempt in range(20)]
            own = next(set(m.tolist()) for m in self.MEMBERS if len(m) and set(tried[: len(m)]) == set(m.tolist()))
            assert not set(tried[len(own) :]) <= own
        with pytest.raises(DatasetError, match="No clip carries any class"):
            BalancedOrder([np.array([], np.int64)], 5, 0)
