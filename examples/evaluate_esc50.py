"""Accuracy of a linear classifier on ESC-50: ``python examples/evaluate_esc50.py --data ESC-50``.

Five predefined folds. Embeddings are standardised on the training folds and scaled to unit length; logistic
regression; its C is chosen by leaving out each training fold in turn. The test fold is never looked at before the end.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

import sedembed
from sedembed.audio import load_audio
from sedembed.models.frontend import log_mel
from sedembed.models.talnet import TALNet
from sedembed.models.weights import resolve

CHOICES = (1.0, 3.0, 10.0, 30.0, 100.0)


def embed(audio: Path, files: list[str], model: sedembed.Embedder, store: Path | None) -> np.ndarray:
    with tempfile.TemporaryDirectory() as temporary:
        result = sedembed.embed_folder(audio, store or Path(temporary) / "store", model)
        rows = dict(zip(result.paths, np.array(result.vectors), strict=True))
    return np.stack([rows[name] for name in files])


def mean_and_std(audio: Path, files: list[str]) -> np.ndarray:
    rows = []
    for name in files:
        mel = log_mel(torch.from_numpy(load_audio(audio / name, 16_000)[0]))
        rows.append(torch.cat((mel.mean(0), mel.std(0))).numpy())
    return np.stack(rows)


def classifier(c: float) -> object:
    return make_pipeline(StandardScaler(), Normalizer(), LogisticRegression(C=c, max_iter=300, tol=1e-3))


def evaluate(x: np.ndarray, y: np.ndarray, folds: np.ndarray) -> tuple[list[float], list[float]]:
    accuracies, chosen = [], []
    # Which classifiers are fitted on all folds but two does not depend on which of the two is the test fold.
    inner: dict[tuple[int, int, float], LogisticRegression] = {}
    for test in sorted(set(folds)):
        scores = []
        for c in CHOICES:
            correct = []
            for held in sorted(set(folds) - {test}):
                key = (min(test, held), max(test, held), c)
                if key not in inner:
                    inner[key] = classifier(c).fit(x[~np.isin(folds, key[:2])], y[~np.isin(folds, key[:2])])
                correct.append(inner[key].score(x[folds == held], y[folds == held]))
            scores.append(np.mean(correct))
        best = CHOICES[int(np.argmax(scores))]
        final = classifier(best).fit(x[folds != test], y[folds != test])
        accuracies.append(float(final.score(x[folds == test], y[folds == test])))
        chosen.append(best)
    return accuracies, chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with audio/ and meta/esc50.csv")
    parser.add_argument("--model", default="talnet", help='a model, "untrained" or "log-mel"')
    parser.add_argument("--store", type=Path, help="where to keep the embeddings")
    arguments = parser.parse_args()
    with (arguments.data / "meta" / "esc50.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    # Copies in other formats keep the official names but for the suffix.
    there = {path.stem: path.name for path in (arguments.data / "audio").iterdir()}
    files = [there[Path(row["filename"]).stem] for row in rows]
    y, folds = np.array([int(row["target"]) for row in rows]), np.array([int(row["fold"]) for row in rows])
    audio = arguments.data / "audio"
    if arguments.model == "log-mel":
        x = mean_and_std(audio, files)
    elif arguments.model == "untrained":
        resolved = resolve("talnet")
        torch.manual_seed(0)
        x = embed(audio, files, sedembed.Embedder(TALNet(resolved.config).eval(), resolved.record), arguments.store)
    else:
        x = embed(audio, files, sedembed.load_model(arguments.model), arguments.store)
    warnings.simplefilter("ignore", ConvergenceWarning)
    accuracies, chosen = evaluate(x, y, folds)
    result = {
        "model": arguments.model,
        "clips": len(files),
        "accuracy": round(float(np.mean(accuracies)), 4),
        "std": round(float(np.std(accuracies)), 4),
        "folds": accuracies,
        "C": chosen,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
