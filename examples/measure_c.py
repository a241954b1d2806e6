"""What C does to a probe's rows, on ESC-50: ``python examples/measure_c.py --data ESC-50 --store STORE``.

STORE is what ``sedembed evaluate esc50 --data ESC-50`` keeps in ``results/stores/esc50-talnet``. For each C, and for
the one that ``C="auto"`` chooses on all clips, it prints as JSON the accuracy on the five folds, how distinct the
clusters of the rows are, how alike the two most similar rows are, how often the nearest row is of the same of ESC-50's
five categories, and how many classes have a sound event with a cosine of 0.2 or more.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import sedembed
from sedembed._analysis.probe_report import analyze
from sedembed._evaluation.evaluate import digest_clips
from sedembed._evaluation.tasks.esc50 import ESC50
from sedembed._utils.machine import describe_machine
from sedembed._utils.versions import list_versions


def of_rows(probe: sedembed.LinearProbe, model: sedembed.Embedder, category: dict[str, int]) -> dict[str, Any]:
    """Figures of a probe that was fitted on all clips."""
    analysis = analyze(probe, model)
    unit = analysis.classes.rows / np.linalg.norm(analysis.classes.rows, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -1.0)
    kinds = np.array([category[name] for name in analysis.classes.names])
    return {
        "silhouette": analysis.summary["mean_silhouette"],
        "largest_cosine": round(float(cosines.max()), 4),
        "nearest_of_same_category": float(np.mean(kinds[cosines.argmax(1)] == kinds)),
        "classes_with_event": analysis.summary["classes_with_large"],
        "strongest_pairs": [[pair["class"], pair["event"]] for pair in analysis.summary["strongest_pairs"][:10]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with audio/ and meta/esc50.csv")
    parser.add_argument("--store", type=Path, required=True, help="store of its recordings")
    parser.add_argument("--C", type=float, nargs="+", default=[0.1, 1.0, 10.0, 100.0], help="values to try")
    arguments = parser.parse_args()
    task, store = ESC50(), sedembed.open_store(arguments.store)
    clips = [clip for clip in task.read(arguments.data).clips if clip.path in set(store.paths)]
    row = {path: number for number, path in enumerate(store.paths)}
    x, y = np.array(store.vectors)[[row[clip.path] for clip in clips]], np.array([clip.labels[0] for clip in clips])
    target = {clip.labels[0]: int(Path(clip.path).stem.rpartition("-")[2]) for clip in clips}
    model = sedembed.load_model(store.run["model"]["name"])
    normalize = model.default_normalize
    chosen = float(sedembed.LinearProbe(normalize=normalize).fit(x, y).C_)
    rows = []
    for c in dict.fromkeys((*arguments.C, chosen)):
        scores = [
            sedembed.LinearProbe(C=c, normalize=normalize)
            .fit(x[part.train], y[part.train])
            .score(x[part.test], y[part.test])
            for part in task.rounds(clips)
        ]
        probe = sedembed.LinearProbe(C=c, normalize=normalize).fit(x, y)
        figures = of_rows(probe, model, {name: number // 10 for name, number in target.items()})
        rows.append({"C": c, "auto": c == chosen, "accuracy": round(float(np.mean(scores)), 4), **figures})
    result = {
        "task": "esc50",
        "model": model.record.name,
        "model_version": model.record.version,
        "model_sha256": model.record.sha256,
        "clips": len(clips),
        "rows": rows,
        "command": f"python examples/measure_c.py --data {arguments.data.name} "
        f"--store results/stores/{arguments.store.name}",
        "seed": 0,
        "clips_sha256": digest_clips(arguments.data, clips),
        "versions": list_versions("torch", "numpy", "scipy", "scikit-learn"),
        "hardware": describe_machine(),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
