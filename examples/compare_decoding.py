"""Compare decoding with that of another version: ``python examples/compare_decoding.py OTHER [FOLDER]``.

OTHER is a checkout of the repository to compare with. Each version reads the same files, at the network's rate, in a
process of its own, in turn; the ratio is taken round by round. Without a folder the files are made: a minute of each of
WAV, FLAC, Ogg Vorbis and MP3, stereo at 44.1 kHz.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

PROGRAM = """
import json, sys, time, warnings
from pathlib import Path
import numpy as np
from sedembed.audio.reader import load_audio
warnings.simplefilter("ignore")
folder, keep, samples = Path(sys.argv[1]), Path(sys.argv[2]), {}
files = sorted(file for file in folder.rglob("*") if file.suffix in (".wav", ".flac", ".ogg", ".mp3"))
for file in {file.suffix: file for file in files}.values():
    load_audio(file, 16_000)
spent = {}
for file in files:
    started = time.thread_time()
    samples[str(file.relative_to(folder))] = load_audio(file, 16_000)[0]
    spent[file.suffix] = spent.get(file.suffix, 0.0) + time.thread_time() - started
np.savez(keep, **samples)
print(json.dumps(spent))
"""
RATE = 44_100


def make_files(folder: Path) -> None:
    """Write a minute of noisy tones in each format."""
    rng = np.random.default_rng(0)
    time = np.arange(RATE)[:, None] / RATE
    for name in ("a.wav", "a.flac", "a.ogg", "a.mp3"):
        with soundfile.SoundFile(folder / name, "w", RATE, 2) as sound:
            for second in range(60):
                tone = 0.3 * np.sin(2 * np.pi * (200 + 40 * second) * time * [1, 1.5])
                sound.write((tone + 0.05 * rng.standard_normal((RATE, 2))).clip(-1, 1))


def decode(checkout: Path, folder: Path, keep: Path) -> dict[str, float]:
    """Return seconds of CPU by suffix."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, str(folder), str(keep)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=keep.parent, env=environment)
    spent: dict[str, float] = json.loads(done.stdout)
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="checkout of the version to compare with")
    parser.add_argument("folder", type=Path, nargs="?", help="files to read")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    here = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder
        if folder is None:
            folder = Path(scratch) / "made"
            folder.mkdir()
            make_files(folder)
        rounds = []
        for _ in range(options.rounds):
            before = decode(options.other.resolve(), folder.resolve(), Path(scratch) / "before.npz")
            rounds.append((before, decode(here, folder.resolve(), Path(scratch) / "after.npz")))
        for suffix in sorted(rounds[0][0]):
            ratio = statistics.median(before[suffix] / after[suffix] for before, after in rounds)
            print(f"{suffix}: {ratio:.2f} times the speed")
        with np.load(Path(scratch) / "before.npz") as old, np.load(Path(scratch) / "after.npz") as new:
            lengths = [name for name in old.files if len(old[name]) != len(new[name])]
            most = max(float(np.abs(old[name] - new[name]).max()) for name in old.files if name not in lengths)
            print(f"{len(old.files)} files, {len(lengths)} of another length, samples differ by at most {most:.1e}")


if __name__ == "__main__":
    main()
