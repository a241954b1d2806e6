"""What a network's figure on ESC-50 is to be compared with: ``python examples/esc50_baselines.py --data ESC-50``.

``sedembed evaluate esc50`` measures the trained network. This gives, by the same protocol (five folds, C chosen by
leaving out each training fold), the accuracy of the same network (``--model``) with random weights (``--features
untrained``), and of the mean and deviation of TALNet's log-mel features over time (``--features log-mel``).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

import sedembed
from sedembed._evaluation.evaluate import digest_clips
from sedembed._evaluation.tasks.esc50 import ESC50
from sedembed._utils.machine import describe_machine
from sedembed._utils.versions import list_versions
from sedembed.audio.reader import load_audio
from sedembed.models.frontend import log_mel
from sedembed.models.weights import load_network, resolve


def untrained(name: str) -> sedembed.Embedder:
    resolved = resolve(name)
    torch.manual_seed(0)
    network = type(load_network(resolved))(resolved.config)
    return sedembed.Embedder(network.eval(), resolved.record)


def embed(model: sedembed.Embedder, data: Path, paths: list[str]) -> np.ndarray:
    with tempfile.TemporaryDirectory() as temporary:
        store = sedembed.embed_folder(data, Path(temporary) / "store", model)
        rows = dict(zip(store.paths, np.array(store.vectors), strict=True))
    return np.stack([rows[path] for path in paths])


def mean_and_deviation(data: Path, paths: list[str]) -> np.ndarray:
    rows = []
    for path in paths:
        mel = log_mel(torch.from_numpy(load_audio(data / path, 16_000)[0]))
        rows.append(torch.cat((mel.mean(0), mel.std(0))).numpy())
    return np.stack(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with audio/ and meta/esc50.csv")
    parser.add_argument("--features", choices=["untrained", "log-mel"], required=True)
    parser.add_argument("--model", default="talnet", help="network to take untrained (default: talnet)")
    arguments = parser.parse_args()
    task = ESC50()
    contents = task.read(arguments.data)
    gone = set(contents.missing)
    clips = [clip for clip in contents.clips if clip.path not in gone]
    paths, normalize = [clip.path for clip in clips], "standardize+l2"
    if arguments.features == "untrained":
        model = untrained(arguments.model)
        x, normalize = embed(model, arguments.data, paths), model.default_normalize
    else:
        x = mean_and_deviation(arguments.data, paths)
    y = np.array([clip.labels[0] for clip in clips])
    accuracies, chosen = [], []
    for part in task.rounds(clips):
        probe = sedembed.LinearProbe(normalize=normalize).fit(x[part.train], y[part.train], folds=part.inner_folds)
        accuracies.append(float(probe.score(x[part.test], y[part.test])))
        chosen.append(probe.C_)
    command = f"python examples/esc50_baselines.py --data {arguments.data.name} --features {arguments.features}"
    result = {
        "task": "esc50",
        "features": arguments.features,
        "clips": len(clips),
        "accuracy": round(float(np.mean(accuracies)), 4),
        "std": round(float(np.std(accuracies, ddof=1)), 4),
        "folds": [round(accuracy, 4) for accuracy in accuracies],
        "C": chosen,
        "command": f"{command} --model {arguments.model}" if arguments.features == "untrained" else command,
        "seed": 0,
        "clips_sha256": digest_clips(arguments.data, clips),
        "versions": list_versions("torch", "numpy", "scipy", "scikit-learn", "soundfile", "soxr"),
        "hardware": describe_machine(),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
