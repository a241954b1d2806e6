"""Peak memory of `embed_folder` on one very long file, or on very many short ones.

    python examples/measure_memory.py --hours 10
    python examples/measure_memory.py --files 20000

The figure does not grow with hours. With files of ever new lengths it levels off after some thousand: oneDNN, which
computes the convolutions, keeps what it prepared for the last 1024 shapes. ONEDNN_PRIMITIVE_CACHE_CAPACITY=8 in the
environment makes it level off at once.
"""

from __future__ import annotations

import argparse
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000
PROGRAM = """
import resource, sys
from sedembed import embed_folder, load_model
folder, out, model, frames = sys.argv[1:]
loaded = load_model(model)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
store = embed_folder(folder, out, loaded, frames=frames == "True")
print(len(store), len(store.failures))
"""


def write_long(file: Path, hours: float) -> None:
    """One file of noise whose level wanders, a minute at a time."""
    rng = np.random.default_rng(0)
    with soundfile.SoundFile(file, "w", RATE, 1, format="FLAC") as sound:
        left = round(hours * 3600 * RATE)
        while left > 0:
            count = min(left, 60 * RATE)
            sound.write(rng.uniform(0.001, 0.2) * rng.standard_normal(count).clip(-4, 4))
            left -= count


def write_short(folder: Path, files: int) -> None:
    """Tones of a tenth of a second to two seconds, in folders of a thousand."""
    rng = np.random.default_rng(0)
    for number in range(files):
        part = folder / f"{number // 1000:03d}"
        part.mkdir(exist_ok=True)
        time = np.arange(round(rng.uniform(0.1, 2.0) * RATE)) / RATE
        soundfile.write(part / f"{number:06d}.wav", 0.3 * np.sin(2 * np.pi * rng.uniform(50, 7000) * time), RATE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--hours", type=float, help="length of the one long file (default: 10)")
    what.add_argument("--files", type=int, help="number of short files instead")
    parser.add_argument("--model", default="talnet", help="what load_model takes (default: talnet)")
    parser.add_argument("--frames", action="store_true", help="keep frame embeddings too: 1.5 GB of disk for 10 h")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "sounds"
        folder.mkdir()
        if arguments.files:
            write_short(folder, arguments.files)
        else:
            write_long(folder / "long.flac", arguments.hours or 10.0)
        size = sum(file.stat().st_size for file in folder.rglob("*.*"))
        out = str(Path(scratch) / "out")
        command = [sys.executable, "-c", PROGRAM, str(folder), out, arguments.model, str(arguments.frames)]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    unit = 2**20 if platform.system() == "Darwin" else 2**10
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"{output[1]} vectors, {output[2]} failures from {size / 2**20:.0f} MiB of files")
    print(f"peak memory {peak / unit:.0f} MiB, of which {int(output[0]) / unit:.0f} MiB with the model just loaded")


if __name__ == "__main__":
    main()
