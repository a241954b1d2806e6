"""What fine-tuning brings: ``python examples/finetune.py``, or on real recordings with ``--words`` or ``--data``.

The network is fine-tuned by `sedembed.finetune`, which holds out a tenth of the recordings to choose the epoch, and
scored on others, which nothing has seen. Beside it stands a probe on the network as it was, fitted on the same
recordings.

``--words FOLDER`` takes spoken words, a copy of the Basic Arabic Vocal Emotions Dataset: seven words by 60 speakers,
of whom every fourth is heard in the test alone. ``--data FOLDER`` takes a fold of ESC-50. Without either, the
recordings are synthetic crickets of eight species, told apart by their rate of pulses alone: pitch, length of the
pulses, loudness and noise are drawn at random. AudioSet teaches neither the words nor these crickets.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

import sedembed

RATE = 16_000
SPECIES = 8
SECONDS = 2.0


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


def read_words(folder: Path) -> tuple[Clips, Clips]:
    """Clips to train on, and those of every fourth speaker to test on; the clips of a speaker are a group."""
    files = [path.relative_to(folder) for path in sorted(folder.glob("*/*.wav"))]
    # SPEAKER-SEX-AGE-WORD-EMOTION-NUMBER.wav
    parts = [(path.as_posix(), *path.stem.split("-")) for path in files]
    sides: dict[bool, list[tuple[str, str, str]]] = {True: [], False: []}
    for path, speaker, _, _, word, *_ in parts:
        sides[int(speaker) % 4 == 0].append((path, f"word {word}", speaker))
    return Clips(folder, sides[False]), Clips(folder, sides[True])


def chirp(species: int, rng: np.random.Generator) -> np.ndarray:
    """Two seconds of a cricket: species 0 has 4 pulses a second, the last one 16."""
    t = np.arange(round(SECONDS * RATE)) / RATE
    rate = 4.0 * 4.0 ** (species / (SPECIES - 1)) * np.exp(rng.normal(0.0, 0.02))
    duty, phase = rng.uniform(0.3, 0.6), (t * rate + rng.uniform()) % 1.0
    pulses = np.where(phase < duty, np.sin(np.pi * phase / duty) ** 2, 0.0)
    song = pulses * np.sin(2 * np.pi * (rng.uniform(2500.0, 6000.0) * t + rng.uniform()))
    noise = rng.normal(0.0, 0.5 * 10.0 ** (-rng.uniform(0.0, 15.0) / 20.0), len(t))
    return (rng.uniform(0.03, 0.3) * (song + noise)).astype(np.float32)


def make_crickets(out: Path, train: int, test: int) -> tuple[Clips, Clips]:
    """Write recordings to train on and to test on, so many of each species."""
    rng, sides = np.random.default_rng(0), []
    for side, count in (("train", train), ("test", test)):
        (out / side).mkdir(parents=True, exist_ok=True)
        rows = []
        for number in range(count * SPECIES):
            name = f"{number}.wav"
            soundfile.write(out / side / name, np.clip(chirp(number % SPECIES, rng), -1, 1), RATE)
            rows.append((name, f"species {number % SPECIES}", name))
        sides.append(Clips(out / side, rows))
    return sides[0], sides[1]


def score_probe(model: sedembed.Embedder, train: Clips, test: Clips) -> float:
    probe = sedembed.LinearProbe(normalize=model.default_normalize, progress=False)
    probe.fit(model.embed(train.paths), train.labels, groups=train.groups)
    return float(probe.score(model.embed(test.paths), test.labels))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    real = parser.add_mutually_exclusive_group()
    real.add_argument("--data", type=Path, help="folder with audio/ and meta/esc50.csv (default: crickets)")
    real.add_argument("--words", type=Path, help="folder of the Basic Arabic Vocal Emotions Dataset")
    parser.add_argument("--fold", type=int, default=5, help="fold of ESC-50 to test on (default: 5)")
    parser.add_argument("--train", type=int, default=40, help="crickets of each species to train on (default: 40)")
    parser.add_argument("--test", type=int, default=50, help="crickets of each species to test on (default: 50)")
    parser.add_argument("--model", default="talnet", help="what load_model takes (default: talnet)")
    parser.add_argument("--out", type=Path, default=Path("finetuned"), help="directory of the results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--frozen-blocks", type=int, default=0, help="first blocks that stay as they are (default: 0)")
    parser.add_argument("--device", help="such as cpu or cuda:0")
    options = parser.parse_args(arguments)

    if options.words is not None:
        train, test = read_words(options.words)
    elif options.data is None:
        train, test = make_crickets(options.out / "crickets", options.train, options.test)
    else:
        train, test = read_esc50(options.data, options.fold)
    labels = train.write(options.out / "train.csv")
    print(f"{len(train.rows)} clips to train on, {len(test.rows)} to test on, {len(set(train.labels))} classes")
    before = score_probe(sedembed.load_model(options.model, options.device), train, test)
    print(f"probe on the network as it was: {before:.4f}", flush=True)
    print("| seed | best epoch | held out: probe, fine-tuned | test: fine-tuned | CPU time |")
    print("| --- | --- | --- | --- | --- |")
    for seed in options.seeds:
        began = time.process_time()
        result = sedembed.finetune(
            train.folder,
            labels,
            options.out / f"seed-{seed}",
            options.model,
            group="group",
            device=options.device,
            seed=seed,
            epochs=options.epochs,
            frozen_blocks=options.frozen_blocks,
        )
        took = (time.process_time() - began) / 60
        probe = sedembed.LinearProbe.load(result.model / "probe")
        score = probe.score(sedembed.load_model(result.model, options.device).embed(test.paths), test.labels)
        print(
            f"| {seed} | {result.epoch} of {result.epochs} | {result.before:.4f}, {result.after:.4f} | {score:.4f} "
            f"| {took:.1f} min |",
            flush=True,
        )


if __name__ == "__main__":
    main()
