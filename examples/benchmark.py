"""Ratios that say how fast the library is on this machine: ``python examples/benchmark.py``. Let nothing else run.

Every figure is the median of interleaved rounds: all ways take turns, each in a process of its own, so that a machine
whose speed drifts does not spoil the ratios. What this machine cannot measure is left out and named.

The folder holds made-up clips of 10 s, 44.1 kHz, 16 bit. "By hand" is what one would write without this library:
`librosa.load` at 16 kHz, librosa's spectrogram and mel filters, and the network as PyTorch runs it, one by one.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

RATE, SECONDS = 44_100, 10
SECTIONS = ("folder", "busy", "engines", "gpu", "probe", "imports", "ray")
# Multiplications and additions of the networks for a second of sound, in thousand millions.
GIGA_MACS = {"talnet": 0.36, "weanet": 1.44}
BUSY = "while True: pass"


def write_clips(folder: Path, files: int) -> None:
    import soundfile

    rng = np.random.default_rng(0)
    steps = np.arange(SECONDS * RATE) / RATE
    for number in range(files):
        noise = np.cumsum(rng.standard_normal(len(steps))) * 0.01  # louder in the low bins, as most sound is
        noise -= np.convolve(noise, np.full(2001, 1 / 2001), mode="same")
        tone = 0.2 * np.sin(2 * np.pi * rng.uniform(100, 4000) * steps)
        soundfile.write(folder / f"{number:04d}.wav", np.clip(noise + tone, -1, 1), RATE, subtype="PCM_16")


# --- one measurement, in a process of its own ----------------------------------------------------------------------


def by_hand(folder: Path, way: dict[str, Any], keep: Path) -> float:
    import librosa
    import torch

    from sedembed.models.weights import load_network, resolve

    network = load_network(resolve(way["model"]))
    filters = librosa.filters.mel(sr=16_000, n_fft=4096, n_mels=64)
    files = sorted(folder.iterdir())
    vectors = []
    started = 0.0
    with torch.no_grad():
        for number, path in enumerate([files[0], *files]):
            if number == 1:  # the first one warms up
                started, vectors = time.perf_counter(), []
            waveform, _ = librosa.load(path, sr=16_000)
            spectrum = librosa.stft(waveform, n_fft=4096, hop_length=400, win_length=1024, pad_mode="constant")
            mel = librosa.power_to_db(filters @ np.abs(spectrum)).T
            vectors.append(network(torch.from_numpy(mel[None])).frames[0].mean(0).numpy())
    wall = time.perf_counter() - started
    np.save(keep, np.stack(vectors))
    return wall


def by_sedembed(folder: Path, way: dict[str, Any], keep: Path) -> float:
    import sedembed

    model = sedembed.load_model(way["model"], device=way["device"], precision=way["precision"], engine=way["engine"])
    with tempfile.TemporaryDirectory() as out:
        few = Path(out) / "few"  # the first ones warm up, as by hand
        few.mkdir()
        for path in sorted(folder.iterdir())[:8]:
            (few / path.name).symlink_to(path)
        sedembed.embed_folder(few, Path(out) / "warm", model, workers=way["workers"], progress=False)
        started = time.perf_counter()
        store = sedembed.embed_folder(folder, Path(out) / "store", model, workers=way["workers"], progress=False)
        wall = time.perf_counter() - started
        np.save(keep, np.asarray(store.vectors))
    return wall


def by_ray(folder: Path, way: dict[str, Any], keep: Path) -> float:
    """Seconds for the folder less those for four of its files: what starting the workers takes is left out."""
    import sedembed

    model = sedembed.load_model(way["model"], device="cpu")
    with tempfile.TemporaryDirectory() as out:
        few = Path(out) / "few"
        few.mkdir()
        for path in sorted(folder.iterdir())[:4]:
            (few / path.name).symlink_to(path)
        seconds = []
        per_task = max(8, len(list(folder.iterdir())) // 20)
        for number, source in enumerate((few, few, folder)):  # the first time Ray itself starts
            started = time.perf_counter()
            store = sedembed.ray.embed_dataset(
                source, Path(out) / str(number), model, way["workers"], files_per_task=per_task, progress=False
            )
            seconds.append(time.perf_counter() - started)
        np.save(keep, np.asarray(store.vectors))
    print(f"{way['workers']} workers of Ray: {seconds[2]:.2f} s, start {seconds[1]:.2f} s", file=sys.stderr)
    return seconds[2] - seconds[1]


def matrix_rate(seconds: float = 2.0) -> float:
    """Multiplications and additions of float32 matrices on the CUDA device, thousand millions a second."""
    import torch

    a = torch.randn(8192, 8192, device="cuda")
    torch.cuda.synchronize()
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        a @ a
        torch.cuda.synchronize()
        count += 1
    return count * 8192**3 / (time.perf_counter() - started) / 1e9


def measure(folder: Path, way: dict[str, Any], keep: Path) -> float:
    """Seconds for the folder in a new process, beside as many busy ones as the way says."""
    command = [sys.executable, __file__, "--only", json.dumps(way), "--folder", str(folder), "--keep", str(keep)]
    with busy(way["busy"]):
        result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(result.stdout.splitlines()[-1])


@contextmanager
def busy(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


# --- the tables ----------------------------------------------------------------------------------------------------


def interleave(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            seconds[name].append(run())
            print(f"{name}: {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    return seconds


def ratio(seconds: dict[str, list[float]], slow: str, fast: str) -> float:
    """Take the ratio within each round, then the median."""
    return statistics.median(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True))


def way(model: str = "talnet", **options: Any) -> dict[str, Any]:
    return {
        "how": "sedembed", "model": model, "device": "cpu", "precision": "float32", "engine": "torch",
        "workers": None, "busy": 0, **options,
    }  # fmt: skip


def folder_ways(sections: list[str], cores: int, models: list[str]) -> dict[str, dict[str, Any]]:
    ways: dict[str, dict[str, Any]] = {}
    openvino = "engines" in sections and importlib.util.find_spec("openvino") is not None
    if "folder" in sections or "engines" in sections:
        ways["by hand"] = way(how="hand")
    for model in models:
        ways[model] = way(model, workers=cores)
        if "folder" in sections:
            ways[f"{model}, one worker"] = way(model, workers=1)
        if "busy" in sections:
            ways[f"{model}, busy"] = way(model, workers=cores, busy=cores)
        if openvino:
            ways[f"{model}, openvino"] = way(model, workers=cores, engine="openvino")
        if openvino and has_bfloat16():
            ways[f"{model}, openvino bfloat16"] = way(model, workers=cores, engine="openvino", precision="bfloat16")
    return ways


def other_ways(sections: list[str], models: list[str]) -> dict[str, dict[str, Any]]:
    """Ways that need what is not everywhere: a CUDA device, Ray."""
    ways: dict[str, dict[str, Any]] = {}
    if "gpu" in sections and has_cuda():
        for model in models:
            ways[f"{model}, cuda"] = way(model, device="cuda")
            ways[f"{model}, cuda bfloat16"] = way(model, device="cuda", precision="bfloat16")
    if "ray" in sections and importlib.util.find_spec("ray") is not None:
        ways["talnet, ray 1"] = way(how="ray", workers=1)
        ways["talnet, ray 2"] = way(how="ray", workers=2)
    return ways


def has_bfloat16() -> bool:
    """Whether OpenVINO computes in bfloat16 on this processor."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def other_rows(seconds: dict[str, list[float]], audio: float) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, taken in seconds.items():
        model, _, variant = name.partition(", ")
        if variant.startswith("cuda"):
            rate = audio / statistics.median(taken)
            rows.append({"target": "3", "what": f"{name}: hours of sound an hour", "value": round(rate)})
            if model in GIGA_MACS and variant == "cuda":
                share = rate * GIGA_MACS[model] / matrix_rate()
                rows.append({"target": "3", "what": f"{name}: share of the matrix rate", "value": round(share, 3)})
        elif variant == "ray 2":
            value = round(ratio(seconds, f"{model}, ray 1", name), 3)
            what = "two workers of Ray over one, after their start"
            rows.append({"target": "6", "what": what, "value": value, "at least": 1.8})
    return rows


def folder_rows(
    ways: dict[str, dict[str, Any]], seconds: dict[str, list[float]], cores: int, kept: dict[str, Path]
) -> list[dict[str, Any]]:
    rows = []

    def row(target: str, what: str, value: float, bar: float | None) -> None:
        rows.append({"target": target, "what": what, "value": round(value, 4), "at least": bar})

    for name in ways:
        model, _, variant = name.partition(", ")
        if name == "talnet" and "by hand" in seconds:
            row("1", "embed_folder over by hand", ratio(seconds, "by hand", "talnet"), 4.5)
        elif variant == "one worker":
            share = ratio(seconds, name, model) / cores
            row("1", f"{model}: speed with {cores} workers over {cores} x one", share, 0.9)
        elif variant == "busy":
            row("1", f"{model}: speed kept beside {cores} busy processes", ratio(seconds, model, name), 0.45)
        elif variant == "openvino":
            bar = {"talnet": 1.3, "weanet": 1.6}.get(model)
            row("2", f"{model}: openvino float32 over torch", ratio(seconds, model, name), bar)
        elif variant == "openvino bfloat16":
            if model == "talnet":
                row("2", "talnet: openvino bfloat16 over by hand", ratio(seconds, "by hand", name), 8.0)
            row("2", f"{model}: least cosine of bfloat16", least_cosine(kept[model], kept[name]), 0.999)
    return rows


def least_cosine(one: Path, other: Path) -> float:
    a, b = np.load(one).astype(np.float64), np.load(other).astype(np.float64)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def probe_rows(rounds: int, rows: int, size: int, classes: int) -> list[dict[str, Any]]:
    """Time the sweep of compare_probe_speed.py, on one thread."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        script = Path(__file__).with_name("compare_probe_speed.py")
        command = [sys.executable, str(script), "--rounds", str(rounds), "--rows", str(rows), "--size", str(size)]
        command += ["--classes", str(classes), "--json", file.name]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        table = {entry["way"]: entry["times LinearProbe"] for entry in json.loads(Path(file.name).read_text())}
    what = f"sweep of {rows} x {size}, {classes} classes: GridSearchCV over LinearProbe"
    return [
        {"target": "4", "what": f"{what}, same optimum", "value": table["GridSearchCV, same optimum"], "at least": 5.0},
        {"target": "4", "what": f"{what}, its default tolerance", "value": table["GridSearchCV, default tolerance"]},
    ]  # fmt: skip


def import_rows(rounds: int) -> list[dict[str, Any]]:
    def timed(*arguments: str) -> Callable[[], float]:
        def run() -> float:
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            return time.perf_counter() - started

        return run

    ways = {
        "numpy": timed("-c", "import numpy"),
        "sedembed": timed("-c", "import numpy, sedembed"),
        "help": timed("-m", "sedembed", "--help"),
    }
    seconds = interleave(ways, max(5, rounds))
    beyond = statistics.median(b - a for a, b in zip(seconds["numpy"], seconds["sedembed"], strict=True))
    return [
        {"target": "5", "what": "import sedembed beyond numpy, s", "value": round(beyond, 3), "at most": 0.15},
        {"target": "5", "what": "sedembed --help, s", "value": round(statistics.median(seconds["help"]), 3),
         "at most": 0.3},
    ]  # fmt: skip


def judge(row: dict[str, Any]) -> str:
    if row.get("at most") is not None:
        return "reached" if row["value"] <= row["at most"] else "missed"
    if row.get("at least") is not None:
        return "reached" if row["value"] >= row["at least"] else "missed"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--models", nargs="+", default=["talnet", "weanet"])
    parser.add_argument("--files", type=int, default=96, help="clips of the folder (default: 96)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, help="by default one for each core")
    parser.add_argument("--probe", type=int, nargs=3, default=[2000, 1024, 50], metavar=("ROWS", "SIZE", "CLASSES"))
    parser.add_argument("--json", type=Path, help="also write all figures here")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        options = json.loads(arguments.only)
        run = {"hand": by_hand, "sedembed": by_sedembed, "ray": by_ray}[options["how"]]
        print(run(arguments.folder, options, arguments.keep))
        return
    cores = arguments.workers or len(os.sched_getaffinity(0))
    rows: list[dict[str, Any]] = []
    speeds: list[dict[str, Any]] = []
    ways = folder_ways(arguments.sections, cores, arguments.models)
    if not {"folder", "busy", "engines"} & set(arguments.sections):
        ways = {}
    ways |= other_ways(arguments.sections, arguments.models)
    if ways:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "clips"
            folder.mkdir()
            write_clips(folder, arguments.files)
            kept = {name: Path(scratch) / f"{number}.npy" for number, name in enumerate(ways)}
            runs = {name: (lambda name=name: measure(folder, ways[name], kept[name])) for name in ways}
            seconds = interleave(runs, arguments.rounds)
            rows += folder_rows(ways, seconds, cores, kept)
            rows += other_rows(seconds, arguments.files * SECONDS)
            for name, taken in seconds.items():
                rate = arguments.files * SECONDS / statistics.median(taken)
                speeds.append({"way": name, "audio-seconds per second": round(rate), "seconds": taken})
    if "probe" in arguments.sections:
        rows += probe_rows(arguments.rounds, *arguments.probe)
    if "imports" in arguments.sections:
        rows += import_rows(arguments.rounds)
    print("| target | what | value | bar | |\n| --- | --- | --- | --- | --- |")
    for row in rows:
        bound = f">= {row['at least']}" if row.get("at least") else f"<= {row['at most']}" if "at most" in row else ""
        print(f"| {row['target']} | {row['what']} | {row['value']:g} | {bound} | {judge(row)} |")
    if speeds:
        print(f"\n| {arguments.files} clips of {SECONDS} s, {RATE} Hz | audio-seconds per second |\n| --- | --- |")
        for speed in speeds:
            print(f"| {speed['way']} | {speed['audio-seconds per second']} |")
    missing = [
        f"target {target}: {name} is not there"
        for target, section, name, there in (
            ("2", "engines", "OpenVINO", importlib.util.find_spec("openvino") is not None),
            ("3", "gpu", "a CUDA device", "gpu" not in arguments.sections or has_cuda()),
            ("6", "ray", "Ray", importlib.util.find_spec("ray") is not None),
        )
        if section in arguments.sections and not there
    ]
    for text in missing:
        print(f"\nNot measured, {text}.")
    print("\nNot measured, target 2: int8, which is not offered. Memory, target 1: examples/measure_memory.py.")
    if arguments.json:
        machine = {"processor": platform.processor(), "cores": cores, "python": platform.python_version()}
        result = {"machine": machine, "rounds": arguments.rounds, "rows": rows, "speeds": speeds}
        result["not measured"] = missing
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
