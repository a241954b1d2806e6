"""What fine-tuning brings on a fold of ESC-50: ``python examples/finetune.py --data ESC-50``.

The network is fine-tuned on four folds by `sedembed.finetune`, which holds out a tenth of them to choose the epoch, and
scored on the fifth, which nothing has seen. Beside it stand a probe on the network as it was, and a new probe on the
fine-tuned network, both fitted on the four folds.

Without --data it runs on the sounds beside this script, cut into pieces of a second: enough to see it work, far too few
to measure anything.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

import sedembed
from sedembed.audio.reader import load_audio
from sedembed.probe.label_table import read_labels

HERE = Path(__file__).parent


@dataclass
class Clips:
    """Recordings of a folder; those of one group are never on both sides of a split."""

    folder: Path
    rows: list[tuple[str, str, str]]  # path, label, group

    @property
    def paths(self) -> list[Path]:
        """Where the recordings are."""
        return [self.folder / path for path, _, _ in self.rows]

    @property
    def labels(self) -> np.ndarray:
        """Class of each."""
        return np.array([label for _, label, _ in self.rows])

    @property
    def groups(self) -> np.ndarray:
        """Group of each."""
        return np.array([group for _, _, group in self.rows])

    def write(self, file: Path) -> Path:
        """Write a table of labels."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w", newline="") as stream:
            csv.writer(stream).writerows([("path", "label", "group"), *self.rows])
        return file


def read_esc50(data: Path, fold: int) -> tuple[Clips, Clips]:
    """Clips to train on and clips of the fold that is left out; clips of one recording are a group."""
    with (data / "meta" / "esc50.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    # Copies in other formats keep the official names but for the suffix.
    there = {path.stem: path.name for path in (data / "audio").iterdir()}
    folds = sorted({int(row["fold"]) for row in rows})
    if fold not in folds:
        raise SystemExit(f"--fold: expected one of {folds}, got {fold}")
    sides: dict[bool, list[tuple[str, str, str]]] = {True: [], False: []}
    for row in rows:
        name = there[Path(row["filename"]).stem]
        sides[int(row["fold"]) == fold].append((name, row["category"], row["src_file"]))
    return Clips(data / "audio", sides[False]), Clips(data / "audio", sides[True])


def cut_sounds(out: Path, rate: int = 16_000) -> tuple[Clips, Clips]:
    """Write pieces of one second of the sounds beside this script, to train on and held out."""
    table = read_labels(HERE / "labels.csv")
    sides: dict[bool, list[tuple[str, str, str]]] = {True: [], False: []}
    out.mkdir(parents=True, exist_ok=True)
    for path, (label,), split in zip(table.paths, table.labels, table.column("split"), strict=True):
        waveform, _ = load_audio(HERE / "sounds" / path, rate)
        for number, start in enumerate(range(0, len(waveform) - rate // 2, rate)):
            name = f"{Path(path).stem}-{number}.wav"
            soundfile.write(out / name, waveform[start : start + rate], rate)
            sides[split == "test"].append((name, label, path))
    return Clips(out, sides[False]), Clips(out, sides[True])


def score_probe(model: sedembed.Embedder, train: Clips, test: Clips) -> float:
    probe = sedembed.LinearProbe(normalize=model.default_normalize, progress=False)
    probe.fit(model.embed(train.paths), train.labels, groups=train.groups)
    return float(probe.score(model.embed(test.paths), test.labels))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, help="folder with audio/ and meta/esc50.csv (default: the example sounds)")
    parser.add_argument("--fold", type=int, default=5, help="fold of ESC-50 to test on (default: 5)")
    parser.add_argument("--model", default="talnet", help="what load_model takes (default: talnet)")
    parser.add_argument("--out", type=Path, default=Path("finetuned"), help="directory of the results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", help="such as cpu or cuda:0")
    options = parser.parse_args(arguments)

    train, test = cut_sounds(options.out / "pieces") if options.data is None else read_esc50(options.data, options.fold)
    labels = train.write(options.out / "train.csv")
    print(f"{len(train.rows)} clips to train on, {len(test.rows)} to test on, {len(set(train.labels))} classes")
    before = score_probe(sedembed.load_model(options.model, options.device), train, test)
    print(f"probe on the network as it was: {before:.4f}", flush=True)
    print("| seed | best epoch | classifier trained along | new probe |\n| --- | --- | --- | --- |")
    for seed in options.seeds:
        result = sedembed.finetune(
            train.folder,
            labels,
            options.out / f"seed-{seed}",
            options.model,
            group="group",
            device=options.device,
            seed=seed,
            epochs=options.epochs,
            precision=options.precision,
        )
        tuned = sedembed.load_model(result.model, options.device)
        probe = sedembed.LinearProbe.load(result.model / "probe")
        along = probe.score(tuned.embed(test.paths), test.labels)
        again = score_probe(tuned, train, test)
        print(f"| {seed} | {result.epoch} of {result.epochs} | {along:.4f} | {again:.4f} |", flush=True)
    if options.data is None:
        print("(pieces of a few synthetic sounds: this shows that it runs, not that it helps)")


if __name__ == "__main__":
    main()
