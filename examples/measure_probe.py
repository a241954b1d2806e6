"""Cost of a probe at the scale of Kinetics700: ``python examples/measure_probe.py --rows 10000 --rows 550000``.

Writes rows of made-up vectors (float16) to a file, fits a LinearProbe to them with one C in bounded memory, and prints
the time of a pass over the rows, the number of passes, and the peak of the memory. ``--passes 1`` measures one pass
where a whole fit would take too long. The file takes 2.3 GB for 550 000 rows of 2 048.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np


def write(file: Path, rows: int, size: int, classes: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((classes, size), np.float32)
    y = rng.integers(0, classes, rows)
    x = np.lib.format.open_memmap(file, "w+", np.float16, (rows, size))
    for start in range(0, rows, 4096):
        part = y[start : start + 4096]
        x[start : start + len(part)] = 0.12 * centres[part] + rng.standard_normal((len(part), size), np.float32)
    x.flush()
    return y


def measure(rows: int, size: int, classes: int, memory: int, passes: int, folder: Path) -> dict[str, object]:
    import sedembed
    from sedembed.probe import solver as _solver

    y = write(folder / "vectors.npy", rows, size, classes)
    x = np.load(folder / "vectors.npy", mmap_mode="r")
    seconds: list[float] = []
    evaluate = _solver.Streamed.__call__

    def timed(self: object, coordinates: object) -> object:
        started = time.perf_counter()
        result = evaluate(self, coordinates)
        seconds.append(time.perf_counter() - started)
        return result

    _solver.Streamed.__call__ = timed
    warnings.simplefilter("ignore")
    started = time.perf_counter()
    probe = sedembed.LinearProbe(C=1.0, tol=1e-4, max_memory=memory, max_iter=passes).fit(x, y)
    total = time.perf_counter() - started
    return {
        "rows": rows,
        "size": size,
        "classes": classes,
        "in memory": not seconds,
        "seconds": round(total, 1),
        "passes": len(seconds) or probe.n_iter_,
        "seconds a pass": round(float(np.median(seconds)), 2) if seconds else None,
        "peak MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "accuracy on 10 000 of the rows": round(float((probe.predict(np.array(x[:10_000])) == y[:10_000]).mean()), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, action="append", required=True, help="may be given several times")
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=700)
    parser.add_argument("--memory", type=int, default=1 << 30, help="bytes of vectors held at once")
    parser.add_argument("--passes", type=int, default=100, help="passes over the rows at most")
    parser.add_argument("--folder", type=Path, help="for the file of vectors; by default a temporary one")
    arguments = parser.parse_args()
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            if len(arguments.rows) == 1:
                shape = rows, arguments.size, arguments.classes
                print(json.dumps(measure(*shape, arguments.memory, arguments.passes, Path(folder))))
                continue
            # A process each: the peak of one must not hide that of the next.
            rest = [f"--{name}={getattr(arguments, name)}" for name in ("size", "classes", "memory", "passes")]
            subprocess.run([sys.executable, __file__, f"--rows={rows}", f"--folder={folder}", *rest], check=True)


if __name__ == "__main__":
    main()
