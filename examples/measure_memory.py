"""Peak memory and speed of `embed_folder` on very long files, or on very many short ones.

    python examples/measure_memory.py --files 100 1000 5000 20000 --hours 0.003 0.1 1 10 --json memory.json

Each amount is embedded by a process of its own. Short files are tones of 0.1 to 2 s, nearly all of different lengths.
Speed is given by the clock and by the time of the processor; the latter says something beside other programs too.
``--plot FILE`` draws the figures (needs matplotlib), and ``--from memory.json`` those of an earlier run.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE = 16_000
PROGRAM = """
import json, resource, sys, time
from sedembed import embed_folder, load_model
folder, out, model, frames = sys.argv[1:]
loaded = load_model(model)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started, used = time.perf_counter(), time.process_time()
store = embed_folder(folder, out, loaded, frames=frames == "True", progress=False)
wall, used = time.perf_counter() - started, time.process_time() - used
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
seconds = sum(store.index["duration"].to_pylist())
print(json.dumps({"vectors": len(store), "failures": len(store.failures), "audio seconds": seconds,
    "peak": peak, "model alone": before, "seconds": wall, "processor seconds": used}))
"""


def write_long(file: Path, hours: float) -> None:
    """One file of noise whose level wanders, a minute at a time."""
    rng = np.random.default_rng(0)
    with soundfile.SoundFile(file, "w", RATE, 1, format="FLAC") as sound:
        left = round(hours * 3600 * RATE)
        while left > 0:
            count = min(left, 60 * RATE)
            sound.write(rng.uniform(0.001, 0.2) * rng.standard_normal(count, np.float32).clip(-4, 4))
            left -= count


def write_short(folder: Path, files: int) -> None:
    """Tones of a tenth of a second to two seconds, in folders of a thousand."""
    rng = np.random.default_rng(0)
    for number in range(files):
        part = folder / f"{number // 1000:03d}"
        part.mkdir(exist_ok=True)
        time = np.arange(round(rng.uniform(0.1, 2.0) * RATE)) / RATE
        soundfile.write(part / f"{number:06d}.wav", 0.3 * np.sin(2 * np.pi * rng.uniform(50, 7000) * time), RATE)


def measure(model: str, frames: bool, *, files: int = 0, hours: float = 0.0) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "sounds"
        folder.mkdir()
        if files:
            write_short(folder, files)
        else:
            write_long(folder / "long.flac", hours)
        command = [sys.executable, "-c", PROGRAM, str(folder), str(Path(scratch) / "out"), model, str(frames)]
        result = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    unit = 2**20 if platform.system() == "Darwin" else 2**10
    return {
        "files": files or 1,
        "hours": hours or round(result["audio seconds"] / 3600, 2),
        "vectors": result["vectors"],
        "failures": result["failures"],
        "peak MiB": round(result["peak"] / unit),
        "model alone MiB": round(result["model alone"] / unit),
        "audio-seconds per second": round(result["audio seconds"] / result["seconds"], 1),
        "per second of a core": round(result["audio seconds"] / result["processor seconds"], 1),
    }


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots(2, 2, sharex="col")
    kinds = (
        ("number of files, each of 0.1 to 2 s", "files", [row for row in rows if row["files"] > 1]),
        ("length of one file, seconds", "hours", [row for row in rows if row["files"] == 1]),
    )
    for column, (title, key, some) in zip(axes.T, kinds, strict=True):
        x = [row[key] * (3600 if key == "hours" else 1) for row in some]
        column[0].plot(x, [row["peak MiB"] for row in some], "o-", label="peak")
        column[0].plot(x, [row["model alone MiB"] for row in some], "o--", label="model just loaded")
        column[1].plot(x, [row["per second of a core"] for row in some], "o-", label="for a second of one core")
        column[1].set_xlabel(title)
        column[0].set_ylabel("memory, MiB")
        column[1].set_ylabel("audio-seconds per second")
        for ax in column:
            ax.set_xscale("log")
            ax.set_ylim(bottom=0)
            ax.grid(alpha=0.3)
            ax.legend(loc="lower right")
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, nargs="+", default=[], help="lengths of one long file")
    parser.add_argument("--files", type=int, nargs="+", default=[], help="numbers of short files")
    parser.add_argument("--model", default="talnet", help="what load_model takes (default: talnet)")
    parser.add_argument("--frames", action="store_true", help="keep frame embeddings too: 1.5 GB of disk for 10 h")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--plot", type=Path, help="draw them here")
    parser.add_argument("--from", type=Path, dest="earlier", help="figures of an earlier run, to begin with")
    arguments = parser.parse_args()
    rows = json.loads(arguments.earlier.read_text()) if arguments.earlier else []
    amounts = [{"files": files} for files in arguments.files] + [{"hours": hours} for hours in arguments.hours]
    for number, amount in enumerate(amounts):
        rows.append(measure(arguments.model, arguments.frames, **amount))
        if number == 0:
            print("| " + " | ".join(rows[-1]) + " |\n| " + " | ".join("---" for _ in rows[-1]) + " |")
        print("| " + " | ".join(f"{value:g}" for value in rows[-1].values()) + " |", flush=True)
        if arguments.json:  # after each, as the next may take long
            arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
