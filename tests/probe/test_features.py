"""Tests of features."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from sedembed import LinearProbe
from tests.probe.probe_helpers import blobs, multilabel, objective


def held() -> int:
    """Bytes of this process that are no pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    x, y = blobs(6000, 24, 6, spread=0.5)
    x = (x / np.abs(x).max(0)).astype(np.float16)
    order = np.argsort(y, kind="stable")  # as in a folder for each class: blocks are not alike
    file = tmp_path_factory.mktemp("large") / "x.npy"
    np.save(file, x[order])
    return np.load(file, mmap_mode="r"), y[order]


class TestStreamed:
    # float32 rows take 576 kB in all
    @pytest.mark.parametrize("memory", [100_000, 1])
    def test_same_optimum_as_in_memory(self, on_disk, memory):
        x, y = on_disk
        inside = LinearProbe(C=10.0, progress=False).fit(np.array(x), y)
        streamed = LinearProbe(C=10.0, max_memory=memory, progress=False).fit(x, y)
        rows = np.array(x, np.float32)
        assert objective(streamed, rows, y) == pytest.approx(objective(inside, rows, y), rel=1e-4)
        assert (streamed.predict(x) == inside.predict(rows)).mean() >= 0.999
        np.testing.assert_allclose(streamed.mean_, rows.mean(0, dtype=np.float64), rtol=1e-6, atol=1e-9)

    def test_several_labels(self, tmp_path):
        x, y = multilabel(3000, 16, 4)
        np.save(tmp_path / "x.npy", x)
        y[:, 2] = 0
        y[17, 2] = 1  # a class of one row, which a sample could miss
        inside = LinearProbe(C=1.0, progress=False).fit(x, y)
        streamed = LinearProbe(C=1.0, max_memory=50_000, progress=False)
        streamed.fit(np.load(tmp_path / "x.npy", mmap_mode="r"), y)
        assert objective(streamed, x, y) == pytest.approx(objective(inside, x, y), rel=1e-4)

    def test_choice_of_c(self, on_disk):
        x, y = on_disk
        probe = LinearProbe(max_memory=100_000, progress=False).fit(x, y)
        assert 2 <= len(probe.scores_) <= 11
        assert probe.scores_[probe.C_] == max(probe.scores_.values())
        held, labels = np.array(x[::7], np.float32), y[::7]
        given = LinearProbe(max_memory=100_000, progress=False).fit(x, y, validation=(held, labels))
        assert given.score(held, labels) == pytest.approx(max(given.scores_.values()), abs=0.01)

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    def test_holds_no_more_than_it_may(self, tmp_path):
        """48 MiB of float32 rows and their labels, half of it on disk, in 24 MiB."""
        x, y = blobs(24_000, 512, 10, spread=0.2)
        np.save(tmp_path / "x.npy", x.astype(np.float16))
        x = np.load(tmp_path / "x.npy", mmap_mode="r")
        LinearProbe(C=1.0, progress=False).fit(np.array(x[:500]), y[:500])  # what any fit loads
        before, most, ended = held(), 0, threading.Event()

        def watch():
            nonlocal most
            while not ended.is_set():
                most = max(most, held())
                time.sleep(0.001)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            LinearProbe(C=1.0, tol=1e-3, max_memory=24 << 20, progress=False).fit(x, y)
        finally:
            ended.set()
            watcher.join()
        assert most - before < 24 << 20

    def test_nan_is_found_and_named(self, on_disk, tmp_path):
        x, y = on_disk
        x = np.array(x)
        x[4321, 3] = np.nan
        np.save(tmp_path / "x.npy", x)
        with pytest.raises(ValueError, match="row 4321"):
            LinearProbe(progress=False).fit(np.load(tmp_path / "x.npy", mmap_mode="r"), y)
