"""Tests of threads."""

from __future__ import annotations

import pytest
import torch

from sedembed._training.threads import map_ahead, open_threads


@pytest.mark.parametrize("ahead", [0, 1, 3, 50])
def test_results_come_in_order_and_only_so_far_ahead(ahead: int) -> None:
    asked: list[int] = []
    with open_threads(2) as pool:
        results = map_ahead(pool, lambda item: item * item, (asked.append(i) or i for i in range(10)), ahead)
        found = []
        for result in results:
            found.append(result)
            assert len(asked) <= len(found) + ahead
    assert found == [i * i for i in range(10)]


def test_an_error_reaches_the_caller_in_its_place() -> None:
    with open_threads(2) as pool:
        results = map_ahead(pool, lambda item: 1 // item, [1, 1, 0, 1], 4)
        assert [next(results), next(results)] == [1, 1]
        with pytest.raises(ZeroDivisionError):
            next(results)


def test_threads_compute_on_one_core_each_and_leave_the_callers_alone() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with open_threads(2) as pool:
            assert set(pool.map(lambda _: torch.get_num_threads(), range(8))) == {1}
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
