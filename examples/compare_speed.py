"""Speed of `embed_folder` beside the same work by hand: ``python examples/compare_speed.py FOLDER``.

By hand means what one would write without this library: `librosa.load` at 16 kHz, librosa's spectrogram and mel
filters, and the network as PyTorch runs it, one file after the other. Both run in processes of their own, in turn;
the ratio is taken round by round, so a machine whose speed drifts does not spoil it. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np


def by_hand(folder: Path) -> dict[str, Any]:
    import librosa
    import torch

    from sedembed.models.weights import load_network, resolve

    network = load_network(resolve("talnet"))
    filters = librosa.filters.mel(sr=16_000, n_fft=4096, n_mels=64)
    seconds, vectors = 0.0, {}
    started = time.perf_counter()
    with torch.no_grad():
        for path in sorted(folder.iterdir()):
            waveform, _ = librosa.load(path, sr=16_000)
            seconds += len(waveform) / 16_000
            spectrum = librosa.stft(waveform, n_fft=4096, hop_length=400, win_length=1024, pad_mode="constant")
            mel = librosa.power_to_db(filters @ np.abs(spectrum)).T
            vectors[path.name] = network(torch.from_numpy(mel[None])).frames[0].mean(0).numpy()
    return {"wall": time.perf_counter() - started, "seconds": seconds, "vectors": vectors}


def by_sedembed(folder: Path, precision: str) -> dict[str, Any]:
    import sedembed

    model = sedembed.load_model("talnet", precision=precision)
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        store = sedembed.embed_folder(folder, Path(out) / "store", model, progress=False)
        wall = time.perf_counter() - started
        vectors = dict(zip(store.paths, store.vectors, strict=True))
        seconds = sum(store.index["duration"].to_pylist())
    return {"wall": wall, "seconds": seconds, "vectors": vectors}


def forward_alone(folder: Path) -> dict[str, float]:
    """Run the network of `embed_folder` on features that are ready, in batches of the same size."""
    import torch

    import sedembed
    from sedembed.audio.reader import load_audio

    model = sedembed.load_model("talnet")
    waveforms = [load_audio(path, 16_000)[0] for path in sorted(folder.iterdir())]
    features = [model.runner.features(waveform) for waveform in waveforms]
    with torch.inference_mode():
        model.runner.run(features[:16])
        started = time.perf_counter()
        model.runner.run(features)
        wall = time.perf_counter() - started
    return {"wall": wall, "seconds": sum(map(len, waveforms)) / 16_000}


def run(kind: str, folder: Path, keep: Path) -> dict[str, float]:
    command = [sys.executable, __file__, str(folder), "--only", kind, "--keep", str(keep / f"{kind}.npz")]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(result.stdout.splitlines()[-1])


def greatest_difference(folder: Path) -> float:
    """Compare the vectors of both ways: the greatest distance, relative to the length of the vector."""
    hand, ours = np.load(folder / "hand.npz"), np.load(folder / "float32.npz")
    return max(float(np.linalg.norm(hand[name] - ours[name]) / np.linalg.norm(hand[name])) for name in hand)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="sound files, without subfolders")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int, help="use only the first so many files")
    parser.add_argument("--keep", help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=["hand", "float32", "bfloat16", "forward"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        jobs = {
            "hand": by_hand,
            "float32": lambda folder: by_sedembed(folder, "float32"),
            "bfloat16": lambda folder: by_sedembed(folder, "bfloat16"),
            "forward": forward_alone,
        }
        result = jobs[arguments.only](arguments.folder)
        vectors = result.pop("vectors", {})
        np.savez(arguments.keep, **vectors)
        result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "sounds"
        folder.mkdir()
        for path in sorted(arguments.folder.iterdir())[: arguments.limit]:
            (folder / path.name).symlink_to(path.resolve())
        kinds = ("hand", "float32", "forward")
        rounds = [{kind: run(kind, folder, folder.parent) for kind in kinds} for _ in range(arguments.rounds)]
        difference = greatest_difference(folder.parent)
    for kind, text in (("hand", "by hand"), ("float32", "embed_folder"), ("forward", "its forward pass alone")):
        wall = statistics.median(r[kind]["wall"] for r in rounds)
        speed = rounds[0][kind]["seconds"] / wall
        ratio = statistics.median(r["hand"]["wall"] / r[kind]["wall"] for r in rounds)
        peak = max(r[kind]["peak_mb"] for r in rounds)
        print(f"{text:24} {wall:8.1f} s  {speed:7.0f} audio-s/s  x{ratio:5.2f}  peak {peak:6.0f} MB")
    share = statistics.median(r["forward"]["wall"] / r["float32"]["wall"] for r in rounds)
    print(f"embed_folder runs at {share:.0%} of its forward pass; vectors differ by at most {difference:.1e}")


if __name__ == "__main__":
    main()
