"""Speed and agreement of the engines: ``python examples/measure_engines.py FOLDER``.

Each engine and precision embeds the same files into a store, in a process of its own, in turn; ratios are taken round
by round, so a machine whose speed drifts does not spoil them. Vectors are compared with those of PyTorch in float32.
``--ray`` compares one worker of a Ray cluster on this machine with two. Let nothing else run meanwhile.
`examples/benchmark.py` compares the engines with the work by hand, on made-up sounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ENGINES = ("torch-float32", "torch-bfloat16", "openvino-float32", "openvino-bfloat16")


def embed(folder: Path, model: str, kind: str) -> dict[str, Any]:
    import sedembed

    with tempfile.TemporaryDirectory() as out:
        if kind.startswith("ray-"):
            loaded = sedembed.load_model(model, device="cpu")
            started = time.perf_counter()
            store = sedembed.ray.embed_dataset(
                folder, Path(out) / "store", loaded, int(kind[4:]), files_per_task=16, progress=False
            )
        else:
            engine, precision = kind.split("-")
            loaded = sedembed.load_model(model, device="cpu", precision=precision, engine=engine)
            loaded.embed([np.full(80_000, 0.1, np.float32)] * 64)  # warms up every worker
            started = time.perf_counter()
            store = sedembed.embed_folder(folder, Path(out) / "store", loaded, progress=False)
        wall = time.perf_counter() - started
        return {"wall": wall, "seconds": sum(store.index["duration"].to_pylist()), "vectors": store.vectors}


def run(folder: Path, model: str, kind: str, keep: Path) -> dict[str, float]:
    command = [sys.executable, __file__, str(folder), "--model", model, "--only", kind, "--keep", str(keep)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(result.stdout.splitlines()[-1])


def agreement(expected: np.ndarray, got: np.ndarray) -> dict[str, float]:
    """Compare vectors with those of PyTorch in float32."""
    lengths = np.linalg.norm(expected, axis=1), np.linalg.norm(got, axis=1)
    cosines = (expected * got).sum(1) / lengths[0] / lengths[1]
    difference = np.linalg.norm(expected - got, axis=1) / lengths[0]
    return {
        "median_cosine": float(np.median(cosines)),
        "least_cosine": float(cosines.min()),
        "difference": float(difference.max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="sound files, without subfolders")
    parser.add_argument("--model", default="talnet")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int, help="use only the first so many files")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--ray", action="store_true", help="one worker of Ray against two, instead of the engines")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--keep", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        result = embed(arguments.folder, arguments.model, arguments.only)
        np.save(arguments.keep, result.pop("vectors"))
        print(json.dumps(result))
        return
    kinds = ["ray-1", "ray-2"] if arguments.ray else arguments.engines
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "sounds"
        folder.mkdir()
        for path in sorted(arguments.folder.iterdir())[: arguments.limit]:
            (folder / path.name).symlink_to(path.resolve())
        keep = {kind: Path(temporary) / f"{kind}.npy" for kind in kinds}
        rounds = [
            {kind: run(folder, arguments.model, kind, keep[kind]) for kind in kinds} for _ in range(arguments.rounds)
        ]
        vectors = {kind: np.load(keep[kind]) for kind in kinds}
    base = kinds[0]
    table = {
        kind: {
            "audio_seconds_per_second": rounds[0][kind]["seconds"] / statistics.median(r[kind]["wall"] for r in rounds),
            "ratio": statistics.median(r[base]["wall"] / r[kind]["wall"] for r in rounds),
            **agreement(vectors[base], vectors[kind]),
        }
        for kind in kinds
    }
    for kind, row in table.items():
        print(
            f"{kind:18} {row['audio_seconds_per_second']:6.0f} audio-s/s  x{row['ratio']:5.2f} {base}  cosine "
            f"median {row['median_cosine']:.6f}, least {row['least_cosine']:.6f}  difference {row['difference']:.1e}"
        )
    if arguments.json is not None:
        text = {"model": arguments.model, "rounds": arguments.rounds, "files": len(vectors[base]), "engines": table}
        arguments.json.write_text(json.dumps(text, indent=2) + "\n")


if __name__ == "__main__":
    main()
