"""Windows of equal length, the last of which ends with the sound."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sedembed.engine.windows import iter_hops


@settings(deadline=None, max_examples=200)
@given(
    st.integers(0, 90),
    st.integers(1, 20).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size))),
    st.lists(st.integers(0, 90)),
)
def test_the_definition(length: int, lengths: tuple[int, int], cuts: list[int]):
    size, hop = lengths
    sound = np.arange(length, dtype=np.float32)
    found = [
        (start, window.tolist(), last)
        for window, start, last in iter_hops(np.split(sound, sorted(min(cut, length) for cut in cuts)), size, hop)
    ]
    expected = [start for start in range(0, length, hop) if start + size < length] if length else []
    expected += [max(0, length - size)] if length else []
    assert [start for start, _, _ in found] == expected
    assert [window for _, window, _ in found] == [sound[start : start + size].tolist() for start in expected]
    assert [last for _, _, last in found] == [start == expected[-1] for start in expected]
