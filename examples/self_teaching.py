"""See if self-teaching helps against wrong labels: ``python examples/self_teaching.py --data ESC-50 --out DIR``.

Takes the clips of ESC-50's folds 1 to 4, gives a share of them a wrong label, trains a small WEANet on them (stage 0),
then further stages that are each taught by the labels and by the network of the stage before, and scores every stage on
fold 5, which nobody was trained on and whose labels are right. The control is a network that is trained on the labels
alone for as many steps as all stages together.

One row a stage goes to results.csv in the folder given by --out. Run the same command again to continue after an
interruption, or with more seeds or shares of noise to add to it; ``--report`` prints the tables of what is there. All
networks stay in that folder. ESC-50 is for evaluation only: do not publish weights trained on it.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sedembed._evaluation.tasks.esc50 import ESC50
from sedembed._training.clips import ClipSet
from sedembed._training.features import FeatureStore
from sedembed._training.loop import predict
from sedembed._training.settings import TrainConfig
from sedembed._training.sustain import SustainConfig, run_stages, stage_probabilities, stage_seed
from sedembed.models.weights import load_network, resolve, save_pretrained

TEST_FOLD = "fold5"
SELF_TAUGHT, CONTROL = "self-taught", "labels alone"

# Sizes for a processor: one epoch of 1 600 clips takes seconds. Chosen on fold 4 with folds 1 to 3 as training clips.
SETTINGS = {
    "model": "weanet",
    "network": {
        "channels": [8, 16, 32, 64],
        "segment_channels": 128,
        "hidden_channels": [64, 64],
        "n_mels": 32,
        "hop_length": 320,
        "win_length": 512,
    },
    "batch_size": 32,
    "steps": 1500,
    "seconds": 2.56,
    "learning_rate": 2e-3,
    "balanced": False,
    "spec_augment": True,
    "spec_augment_bins": 6,
    "spec_augment_seconds": 0.5,
    "spec_augment_fill": 0.0,  # the mean of all clips: features are normalised by it
    "winograd": False,
    "validation": "none",
}
COLUMNS = (
    "noise",
    "seed",
    "training",
    "stage",
    "steps",
    "clips",
    "corrupted",
    "test_clips",
    "test_accuracy",
    "train_accuracy_true",
    "train_accuracy_given",
    "corrupted_found_true",
    "corrupted_kept_wrong",
)


def corrupt(targets: np.ndarray, classes: int, share: float, seed: int) -> np.ndarray:
    """Give ``round(share · n)`` of n clips a wrong class, each of the other ones equally likely."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(targets), round(share * len(targets)), replace=False)
    corrupted = targets.copy()
    corrupted[chosen] = (targets[chosen] + rng.integers(1, classes, len(chosen))) % classes
    return corrupted


def read_esc50(data: Path) -> tuple[ClipSet, ClipSet]:
    """Clips of folds 1 to 4, and of fold 5, with their true labels."""
    contents = ESC50().read(data)
    gone = set(contents.missing)
    clips = [clip for clip in contents.clips if clip.path not in gone]
    if gone:
        print(f"{len(gone)} of {len(contents.clips)} recordings are missing: figures will differ")
    classes = tuple(sorted({clip.labels[0] for clip in clips}))
    parts = []
    for test in (False, True):
        part = [clip for clip in clips if (clip.part == TEST_FOLD) == test]
        targets = one_hot(np.array([classes.index(clip.labels[0]) for clip in part]), len(classes))
        names = tuple(clip.path for clip in part)
        parts.append(ClipSet(names, tuple(data / name for name in names), targets, classes))
    return parts[0], parts[1]


def one_hot(targets: np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[targets]


def score(predicted: np.ndarray, true: np.ndarray, given: np.ndarray) -> dict[str, float]:
    """Compare what a network says about its own training clips with the true labels and those that it was given."""
    wrong = true != given
    return {
        "train_accuracy_true": float((predicted == true).mean()),
        "train_accuracy_given": float((predicted == given).mean()),
        "corrupted_found_true": float((predicted == true)[wrong].mean()) if wrong.any() else float("nan"),
        "corrupted_kept_wrong": float((predicted == given)[wrong].mean()) if wrong.any() else float("nan"),
    }


class Experiment:
    """The clips, their features, and the table of results."""

    def __init__(self, data: Path, out: Path, config: TrainConfig) -> None:
        self.out, self.config = out, config
        self.table = out / "results.csv"
        self.train, self.test = read_esc50(data)
        network = config.build(len(self.train.classes))
        self.train_features = FeatureStore.open(self.train, network, out / "features" / "train")
        self.test_features = FeatureStore.open(self.test, network, out / "features" / "test")
        decibels = np.concatenate([self.train_features[i] for i in range(len(self.train))])
        self.mean, self.std = (float(decibels.mean(dtype=np.float64)),), (float(decibels.std(dtype=np.float64)),)

    def begin(self, config: TrainConfig, stage: int, folder: Path) -> Path:
        """Save a random network, another one for each stage, that at first weighs all segments and classes alike."""
        # The mean of the targets, so that training does not begin by learning how rare each class is.
        bias = -math.log(len(self.train.classes) - 1)
        start = replace(config, seed=stage_seed(config.seed, stage), even_attention=True, output_bias=bias)
        network = start.build(len(self.train.classes), (self.mean, self.std))
        return save_pretrained(network, folder / f"initial-{stage}")

    def run(self, noise: float, seed: int, sustain: SustainConfig, steps: int, training: str) -> None:
        """Train and score the stages that are not in the table yet."""
        done = {(row["noise"], row["seed"], row["training"], row["stage"]) for row in read_table(self.table)}
        config = TrainConfig.from_table({**self.config.as_table(), "seed": seed, "steps": steps})
        true = self.train.targets.argmax(1)
        given = corrupt(true, len(self.train.classes), noise, seed)
        clips = self.train.with_targets(one_hot(given, len(self.train.classes)))
        folder = self.out / training.replace(" ", "-") / f"noise-{round(100 * noise)}" / f"seed-{seed}"
        for stage in range(sustain.stages + 1):
            if (f"{noise:g}", str(seed), training, str(stage)) in done:
                continue
            initial = self.begin(config, stage, folder)
            model = run_stages(
                config, sustain, clips, self.train_features, folder, only_stage=stage, initial=initial, device="cpu"
            )[0]
            found = predict(load_network(resolve(model)), self.test_features)
            row = {
                "noise": f"{noise:g}",
                "seed": seed,
                "training": training,
                "stage": stage,
                "steps": steps,
                "clips": len(true),
                "corrupted": int((true != given).sum()),
                "test_clips": len(self.test),
                "test_accuracy": float((found.argmax(1) == self.test.targets.argmax(1)).mean()),
                **score(stage_probabilities(folder, stage, clips, self.train_features).argmax(1), true, given),
            }
            append(self.table, row)
            print(json.dumps(row), flush=True)


def read_table(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def append(path: Path, row: dict[str, object]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        rounded = {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
        writer.writerow(rounded)


def report(rows: Sequence[dict[str, str]]) -> str:
    """Markdown: one table a share of noise; mean and standard deviation over the seeds."""
    parts = []
    for noise in sorted({row["noise"] for row in rows}, key=float):
        here = [row for row in rows if row["noise"] == noise]
        first = {row["seed"]: row for row in here if row["training"] == SELF_TAUGHT and row["stage"] == "0"}
        parts += [
            f"{here[0]['corrupted']} of {here[0]['clips']} labels wrong ({float(noise):.0%})",
            "",
            "| training | seeds | steps | accuracy on fold 5 | beside stage 0 | training clips, true label "
            "| wrongly labelled clips, true label | …, the wrong label |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        kinds = sorted({(row["training"] == CONTROL, row["training"], row["stage"]) for row in here})
        for _, training, stage in kinds:
            group = [row for row in here if (row["training"], row["stage"]) == (training, stage)]
            pairs = [(row, first[row["seed"]]) for row in group if row["seed"] in first]
            gains = [float(row["test_accuracy"]) - float(base["test_accuracy"]) for row, base in pairs]
            name = f"stage {stage}" if training == SELF_TAUGHT else f"{training}, as long as all stages"
            cells = [
                name,
                str(len(group)),
                group[0]["steps"],
                spread([float(row["test_accuracy"]) for row in group]),
                "" if training == SELF_TAUGHT and stage == "0" else spread(gains, sign="+"),
                spread([float(row["train_accuracy_true"]) for row in group]),
                spread([float(row["corrupted_found_true"]) for row in group]),
                spread([float(row["corrupted_kept_wrong"]) for row in group]),
            ]
            parts.append(f"| {' | '.join(cells)} |")
        parts.append("")
    return "\n".join(parts)


def spread(values: Sequence[float], sign: str = "") -> str:
    """Mean and standard deviation in percent."""
    if not values:
        return "–"
    deviation = f" ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):{sign}.1f}{deviation}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with audio/ and meta/esc50.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder for networks, features and results.csv")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.3, 0.6], help="shares of wrong labels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the noise and of the networks")
    parser.add_argument("--stages", type=int, default=2, help="stages after stage 0")
    parser.add_argument("--alpha", type=float, default=0.3, help="share of the labels in the targets of these stages")
    parser.add_argument("--steps", type=int, default=SETTINGS["steps"], help="of 32 clips, in each stage")
    parser.add_argument("--carry-weights", action="store_true", help="a stage begins with the weights of the last one")
    parser.add_argument("--no-control", action="store_true", help="leave out the long training on the labels alone")
    parser.add_argument("--report", action="store_true", help="only print the tables of what is in results.csv")
    options = parser.parse_args(arguments)
    if options.report:
        print(report(read_table(options.out / "results.csv")))
        return
    if options.data is None:
        parser.error("--data is needed: the folder of ESC-50")
    if not all(0 <= noise < 1 for noise in options.noise):
        parser.error("--noise: expected shares from 0 to below 1")
    if not 0 <= options.alpha <= 1:
        parser.error("--alpha: expected a share from 0 to 1")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    sustain = SustainConfig(
        stages=options.stages,
        alphas=(options.alpha, 1.0 - options.alpha),
        carry_weights=options.carry_weights,
    )
    steps = options.steps
    experiment = Experiment(options.data, options.out, TrainConfig.from_table({**SETTINGS, "steps": steps}))
    for seed in options.seeds:
        for noise in options.noise:
            experiment.run(noise, seed, sustain, steps, SELF_TAUGHT)
    if not options.no_control and options.stages:
        for seed in options.seeds:
            for noise in options.noise:
                experiment.run(noise, seed, SustainConfig(stages=0), steps * (options.stages + 1), CONTROL)
    print(report(read_table(experiment.table)))


if __name__ == "__main__":
    main()
