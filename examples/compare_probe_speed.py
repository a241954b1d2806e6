"""Time of a sweep over folds and C: LinearProbe against GridSearchCV, side by side in one run.

``python examples/compare_probe_speed.py [--data ESC-50]``: with ESC-50 the vectors are TALNet's, without it they are
made up: 2 000 rows of 1 024 numbers in 50 classes that overlap. Both choose among the same ten C on the same five folds
with the same normalisation, fitted on each part, and are then fitted on all rows. scikit-learn is timed twice:
at its default tolerance, where fits with large C stop far from the optimum, and at one that comes within 1e-4 of the
optimum, as LinearProbe does. The objectives are computed in float64 by the same lines for all of them.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

import sedembed

CS = tuple(float(f"{c:.3g}") for c in np.logspace(-1, 3.5, 10))


def made_up(rows: int, size: int, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.arange(rows) % classes
    # Like embeddings: a few strong directions, many weak ones.
    decay = 1.0 / np.sqrt(1.0 + np.arange(size))
    x = (0.3 * rng.normal(size=(classes, size))[y] + rng.normal(size=(rows, size))) * decay
    return (x @ np.linalg.qr(rng.normal(size=(size, size)))[0]).astype(np.float32), y, rng.permutation(rows) % 5


def esc50(data: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with (data / "meta" / "esc50.csv").open(newline="") as stream:
        known = {Path(row["filename"]).stem: row for row in csv.DictReader(stream)}
    with tempfile.TemporaryDirectory() as temporary:
        store = sedembed.embed_folder(data / "audio", Path(temporary) / "store")
        rows = [known[Path(path).stem] for path in store.paths]
        vectors = np.array(store.vectors)
    return vectors, np.array([int(row["target"]) for row in rows]), np.array([int(row["fold"]) for row in rows])


def objective(x: np.ndarray, y: np.ndarray, coef: np.ndarray, intercept: np.ndarray, c: float) -> float:
    z = Normalizer().fit_transform(StandardScaler().fit_transform(x.astype(np.float64)))
    scores = z @ coef.astype(np.float64).T + intercept
    losses = np.logaddexp.reduce(scores, axis=1) - scores[np.arange(len(y)), y]
    return float(c * losses.sum() + 0.5 * (coef.astype(np.float64) ** 2).sum())


def by_probe(x: np.ndarray, y: np.ndarray, folds: np.ndarray) -> dict[str, object]:
    probe = sedembed.LinearProbe(Cs=CS, progress=False).fit(x, y, folds=folds)
    return {"C": probe.C_, "score": probe.scores_[probe.C_], "linear": (probe.coef_, probe.intercept_), "use": probe}


def by_grid(x: np.ndarray, y: np.ndarray, folds: np.ndarray, tol: float, max_iter: int) -> dict[str, object]:
    pipeline = make_pipeline(StandardScaler(), Normalizer(), LogisticRegression(tol=tol, max_iter=max_iter))
    grid = GridSearchCV(pipeline, {"logisticregression__C": CS}, cv=PredefinedSplit(folds)).fit(x, y)
    last = grid.best_estimator_[-1]
    return {
        "C": grid.best_params_["logisticregression__C"],
        "score": grid.best_score_,
        "linear": (last.coef_, last.intercept_),
        "use": grid,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a copy of ESC-50")
    parser.add_argument("--rows", type=int, default=2000, help="made up without --data")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3, help="the ways take turns; the medians are compared")
    parser.add_argument("--json", type=Path, help="also write the table here")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    x, y, folds = (
        esc50(arguments.data) if arguments.data else made_up(arguments.rows, arguments.size, arguments.classes)
    )
    ways = {
        "LinearProbe": lambda: by_probe(x, y, folds),
        "GridSearchCV, default tolerance": lambda: by_grid(x, y, folds, 1e-4, 100),
        "GridSearchCV, same optimum": lambda: by_grid(x, y, folds, 1e-7, 10_000),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results = {}
    for _ in range(arguments.rounds):
        for name, run in ways.items():
            started = time.perf_counter()
            results[name] = run()
            seconds[name].append(time.perf_counter() - started)
    probe = results["LinearProbe"]
    fastest = statistics.median(seconds["LinearProbe"])
    rows = []
    for name, result in results.items():
        # At one C for all, or objectives could not be compared.
        tol = {"LinearProbe": None, "GridSearchCV, default tolerance": 1e-4, "GridSearchCV, same optimum": 1e-7}[name]
        values = []
        for c in (CS[0], CS[5], CS[-1]):
            if tol is None:
                one = sedembed.LinearProbe(C=c, progress=False).fit(x, y)
                linear = one.coef_, one.intercept_
            else:
                z = Normalizer().fit_transform(StandardScaler().fit_transform(x))
                fit = LogisticRegression(C=c, tol=tol, max_iter=100 if tol == 1e-4 else 10_000).fit(z, y)
                linear = fit.coef_, fit.intercept_
            values.append(objective(x, y, *linear, c))
        rows.append(
            {
                "way": name,
                "seconds": round(statistics.median(seconds[name]), 2),
                "times LinearProbe": round(statistics.median(seconds[name]) / fastest, 1),
                "C": result["C"],
                "cross-validated accuracy": round(float(result["score"]), 4),
                "same predictions": round(float((result["use"].predict(x) == probe["use"].predict(x)).mean()), 4),
                "objectives": values,
            }
        )
    least = np.min([row["objectives"] for row in rows], axis=0)
    names = ["seconds", "times LinearProbe", "C", "cross-validated accuracy", "same predictions", "above the least"]
    print(f"| {len(x)} x {x.shape[1]}, {len(set(y))} classes, 5 folds x {len(CS)} C | " + " | ".join(names) + " |")
    print("| --- |" + " --- |" * len(names))
    for row in rows:
        above = np.array(row.pop("objectives")) / least - 1.0
        row["above the least"] = ", ".join(f"{share:.0e}" for share in above)
        print(f"| {row['way']} | " + " | ".join(str(row[name]) for name in names) + " |")
    print(
        f"above the least: objective for C = {CS[0]:g}, {CS[5]:g} and {CS[-1]:g} over the best of the three, less one"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
