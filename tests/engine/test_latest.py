"""Windows of a stream that end a hop apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sedembed.embedder import Embedder
from sedembed.engine.windows import iter_latest
from sedembed.errors import InvalidArgumentError

RATE = 16_000


@settings(deadline=None, max_examples=200)
@given(
    st.integers(1, 90),
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(0, 5),
    st.lists(st.integers(0, 90), max_size=9),
)
def test_the_definition(length: int, frame: int, hops: int, more: int, cuts: list[int]) -> None:
    hop, window = hops * frame, (hops + more) * frame
    sound = np.arange(length, dtype=np.float32)
    found = list(iter_latest(np.split(sound, sorted(min(cut, length) for cut in cuts)), window, hop, frame))
    ends = [*range(hop, length + 1, hop), *([length] if length % hop else [])]
    assert [end for _, _, end in found] == ends
    for wave, start, end in found:
        assert start % frame == 0
        assert max(0, end - window) <= start < max(0, end - window) + frame
        assert wave.tolist() == sound[start:end].tolist()


def test_a_window_comes_with_its_last_sample() -> None:
    given_so_far = 0

    def blocks():
        nonlocal given_so_far
        for _ in range(40):
            given_so_far += 5
            yield np.zeros(5, np.float32)

    for _, _, end in iter_latest(blocks(), 40, 20, 4):
        assert given_so_far == end


class TestStream:
    @pytest.mark.parametrize("samples", [5 * RATE + 777, 2 * RATE, 900])
    def test_each_frame_once_and_as_its_window_gives_it(self, untrained_embedder: Embedder, samples: int) -> None:
        sound = np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32)
        parts = list(untrained_embedder.stream(np.array_split(sound, 37), RATE, window=2.0, hop=0.5))
        whole = untrained_embedder.embed_frames(sound)
        times = np.concatenate([part.times for part in parts])
        np.testing.assert_allclose(times, whole.times, atol=1e-9)
        for number, part in enumerate(parts):
            end = min(samples, (number + 1) * RATE // 2)
            start = max(0, -(-(end - 2 * RATE) // 1600) * 1600)
            expected = untrained_embedder.embed_frames(sound[start:end]).embeddings[-len(part.times) :]
            np.testing.assert_allclose(part.embeddings, expected, atol=1e-5)

    def test_refusals(self, untrained_embedder: Embedder) -> None:
        for options in ({"hop": 0}, {"hop": -1.0}, {"window": 61.0}, {"hop": True}, {"window": 2.0, "hop": 3.0}):
            with pytest.raises(InvalidArgumentError, match="Expected a"):
                untrained_embedder.stream([np.zeros(10)], RATE, **options)
