"""Which windows of recordings a store holds already."""

from __future__ import annotations

import math

import pyarrow as pa

__all__ = ["WindowCounts"]


class WindowCounts:
    """What is known of the windows on disk: how many of each recording, the start of the latest, and the last one."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float, bool]] = {}

    def add(self, table: pa.Table) -> None:
        """Take the rows of a shard: columns path, start and last."""
        for path, start, last in zip(*(table[name].to_pylist() for name in ("path", "start", "last")), strict=True):
            count, latest, ended = self._seen.get(path, (0, 0.0, False))
            self._seen[path] = (count + 1, max(latest, start), ended or last)

    def summarise(self, hop: float) -> tuple[set[str], dict[str, int], list[str]]:
        """Paths that are done, those that have begun with their number of windows, and those with a gap."""
        done, started, broken = set[str](), dict[str, int](), list[str]()
        for path, (count, latest, ended) in self._seen.items():
            # The last window ends with the sound, so it may begin between two multiples of the hop.
            if count != 1 + (math.ceil(latest / hop - 1e-3) if ended else round(latest / hop)):
                broken.append(path)
            elif ended:
                done.add(path)
            else:
                started[path] = count
        return done, started, broken
