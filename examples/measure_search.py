"""Time and memory of an exact search among very many vectors.

    python examples/measure_search.py --rows 1000000

writes a store of random vectors (4 GB for a million of 1024 numbers, and as much again by the first search) into a
temporary folder, searches it in processes of their own, and removes it. `--scratch` says where, `--keep` keeps it.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from sedembed.store.layout import FORMAT_VERSION
from sedembed.store.writer import SHARD_ROWS, StoreWriter

PROGRAM = """
import json, resource, sys, time
import numpy as np
from sedembed import open_store

out, queries = sys.argv[1], int(sys.argv[2])
times = []

def clock(action):
    started = time.perf_counter()
    result = action()
    times.append(time.perf_counter() - started)
    return result

store = open_store(out)
clock(lambda: len(store))
rng = np.random.default_rng(1)
vectors = rng.standard_normal((3 + queries, store.embedding_size))
clock(lambda: store.search(vectors[0]))
clock(lambda: store.search(vectors[1]))
single = clock(lambda: store.search(vectors[2]))
clock(lambda: store.search(vectors[3:]))
print(json.dumps([times, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, single]))
"""


def write_store(out: Path, rows: int, size: int) -> None:
    """Random vectors in the shards that `embed_folder` writes."""
    settings = {"embedding_size": size, "frames": False, "precision": "float32"}
    run = {"format_version": FORMAT_VERSION, "fingerprint": "random", "settings": settings, "folder": "/random"}
    rng = np.random.default_rng(0)
    with StoreWriter(out, run) as writer:
        for start in range(0, rows, SHARD_ROWS):
            vectors = rng.standard_normal((min(SHARD_ROWS, rows - start), size), np.float32)
            for number, vector in enumerate(vectors, start):
                writer.add(f"{number // 1000:04d}/{number:07d}.wav", 1.0, 16_000, 1, vector)
            writer.commit()


def search(out: Path, queries: int) -> tuple[list[float], float, list[list[object]]]:
    """Seconds of each step, peak memory in MiB, and what the last single query found, in a new process."""
    command = [sys.executable, "-c", PROGRAM, str(out), str(queries)]
    times, peak, found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return times, peak / (2**20 if platform.system() == "Darwin" else 2**10), found


def check(out: Path, size: int, found: list[list[object]]) -> None:
    """Compare with plain float64 arithmetic over the same random numbers."""
    from sedembed import open_store

    query = np.random.default_rng(1).standard_normal((3, size))[2]
    store = open_store(out)
    cosines = np.empty(len(store))
    for rows, block in store.blocks():
        wide = block.astype(np.float64)
        cosines[rows] = wide @ query / np.linalg.norm(wide, axis=1) / np.linalg.norm(query)
    best = np.argsort(-cosines)[: len(found)]
    assert [path for path, *_ in found] == [store.paths[row] for row in best], "search is not exact"
    np.testing.assert_allclose([cosine for _, cosine, *_ in found], cosines[best], rtol=1e-12)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="vectors (default: 1000000)")
    parser.add_argument("--size", type=int, default=1024, help="numbers of a vector (default: 1024)")
    parser.add_argument("--queries", type=int, default=16, help="how many at once in the last step (default: 16)")
    parser.add_argument("--scratch", type=Path, help="folder for the store (default: the system's temporary folder)")
    parser.add_argument("--keep", action="store_true", help="leave the store there")
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(dir=arguments.scratch))
    try:
        started = time.perf_counter()
        write_store(scratch / "store", arguments.rows, arguments.size)
        print(f"{arguments.rows} x {arguments.size} written in {time.perf_counter() - started:.0f} s to {scratch}")
        print(f"rows       process   open   first query   next   next   {arguments.queries} at once   peak memory")
        for process in ("first", "second"):
            times, peak, found = search(scratch / "store", arguments.queries)
            opened, first, second, third, several = times
            print(
                f"{arguments.rows:<10d} {process:<7s} {opened:6.2f} s {first:11.2f} s {second:4.2f} s {third:4.2f} s "
                f"{several:8.2f} s {peak:9.0f} MiB",
                flush=True,
            )
        check(scratch / "store", arguments.size, found)
        print("the same rows and cosines as float64 throughout")
    finally:
        if not arguments.keep:
            shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
