"""Share of the time that `embed_folder` holds Python's interpreter lock: ``python examples/measure_lock.py FOLDER``.

The lock is what could limit many workers, which are threads of one process: it is held by one of them at a time. Needs
py-spy (``pip install py-spy``), which looks at the process from outside, some hundred times a second, and counts how
often a thread held the lock. The folder is embedded again and again meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM = """
import sys, tempfile, time
import sedembed
folder, model, workers = sys.argv[1], sedembed.load_model(sys.argv[2]), int(sys.argv[3])
rounds = 0
while True:
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        store = sedembed.embed_folder(folder, out + "/store", model, workers=workers, progress=False)
        rate = sum(store.index["duration"].to_pylist()) / (time.perf_counter() - started)
    print(round(rate, 1), flush=True)  # the first line says that all is warm
"""


def program() -> str:
    places = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    found = shutil.which("py-spy", path=places)
    if found is None:
        raise SystemExit("This needs py-spy: pip install py-spy")
    return found


def measure(folder: Path, model: str, workers: int, seconds: int, rate: int) -> dict[str, float]:
    command = [sys.executable, "-c", PROGRAM, str(folder), model, str(workers)]
    with (
        tempfile.TemporaryDirectory() as scratch,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            process.stdout.readline()
            file = Path(scratch) / "samples.txt"
            options = ["--gil", "--nonblocking", "--format", "raw", "--rate", str(rate), "--duration", str(seconds)]
            spy = [program(), "record", *options, "--pid", str(process.pid), "--output", str(file)]
            subprocess.run(spy, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            held = sum(int(line.rsplit(" ", 1)[1]) for line in file.read_text().splitlines())
        finally:
            process.kill()
        speeds = [float(line) for line in process.stdout.read().splitlines()]
    return {
        "workers": workers,
        "share of the time with the lock held": round(held / (rate * seconds), 4),
        "audio-seconds per second": max(speeds, default=float("nan")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="sound files")
    parser.add_argument("--model", default="talnet")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--rate", type=int, default=200, help="looks a second")
    arguments = parser.parse_args()
    for workers in arguments.workers:
        print(json.dumps(measure(arguments.folder, arguments.model, workers, arguments.seconds, arguments.rate)))


if __name__ == "__main__":
    main()
