"""Make a field recording of hours with planted dogs and sirens, and count what was found of them.

``python examples/make_field_recording.py SITE_20260501_043000.wav --background FOLDER --data ESC-50`` strings the
recordings of a folder together, with cross-fades, and puts in each stretch of two minutes one dog and one siren of
ESC-50, 6 dB to 18 dB above the background around it. Where they are is written to ``….planted.csv``.

``python examples/make_field_recording.py SITE_20260501_043000.wav --score events.csv`` counts, for each class: planted
sounds that an event overlaps, events that overlap none, and the error of the onset. Events of one class that overlap,
such as Siren and Police car (siren), count as one.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile

from sedembed.audio.listing import list_recordings
from sedembed.audio.reader import load_audio
from sedembed.models.labels import find_labels, load_labels

RATE = 16_000
FADE = 0.5  # seconds
SLOT = 120.0  # seconds in which each class is planted once
LEVEL = 0.02  # root mean square of the background
CLASSES = {"dog": "Dog", "siren": "Siren"}  # of ESC-50, and of AudioSet

Span = tuple[float, float]


def read_level(file: Path) -> np.ndarray:
    """Read a recording at the level of the background, without digital silence at its ends."""
    samples, _ = load_audio(file, RATE)
    heard = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
    samples = samples[heard[0] : heard[-1] + 1] if len(heard) else samples
    return samples * (LEVEL / max(1e-6, float(np.sqrt(np.mean(samples**2)))))


def make_background(files: Sequence[Path], length: int) -> np.ndarray:
    """Join recordings one after the other, the first again after the last."""
    fade = round(FADE * RATE)
    ramp = np.linspace(0.0, 1.0, fade, dtype=np.float32)
    out, at, number = np.zeros(length + fade, np.float32), 0, 0
    while at < length:
        piece = read_level(files[number % len(files)])
        number += 1
        if len(piece) <= 2 * fade:
            continue
        piece[:fade] *= ramp
        piece[-fade:] *= ramp[::-1]
        piece = piece[: len(out) - at]
        out[at : at + len(piece)] += piece
        at += len(piece) - fade
    return out[:length]


def read_clips(data: Path) -> dict[str, list[Path]]:
    """Clips of ESC-50 by class, whatever their format."""
    there = {path.stem: path for path in (data / "audio").iterdir()}
    with (data / "meta" / "esc50.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {name: [there[Path(r["filename"]).stem] for r in rows if r["category"] == name] for name in CLASSES}


def plant(sound: np.ndarray, clips: dict[str, list[Path]], rng: np.random.Generator) -> Iterator[tuple[str, Span]]:
    """Add a clip of each class to each slot of a sound; yield where."""
    slot = round(SLOT * RATE)
    order = {name: rng.permutation(len(files)) for name, files in clips.items()}
    for number, first in enumerate(range(0, len(sound) - slot + 1, slot)):
        # A half of the slot each, so that they do not overlap.
        for place, name in enumerate(rng.permutation(sorted(clips)).tolist()):
            half = slot // len(clips)
            clip = read_level(clips[name][order[name][number % len(order[name])]])[:half]
            start = first + place * half + int(rng.integers(half - len(clip) + 1))
            around = sound[start : start + len(clip)]
            level = max(LEVEL, float(np.sqrt(np.mean(around**2))))
            around += clip * np.float32(level / LEVEL * 10.0 ** (rng.uniform(6.0, 18.0) / 20.0))
            yield name, (start / RATE, (start + len(clip)) / RATE)


def make(out: Path, background: Path, data: Path, skip: set[str], hours: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    files = [background / name for name in list_recordings(background).files if name not in skip]
    sound = make_background([files[i] for i in rng.permutation(len(files))], round(3600 * hours * RATE))
    planted = sorted(plant(sound, read_clips(data), rng), key=lambda item: item[1])
    sound *= np.float32(0.9 / np.abs(sound).max())
    soundfile.write(out, sound, RATE, subtype="PCM_16")
    with out.with_suffix(".planted.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["class", "onset", "offset"])
        writer.writerows([name, f"{begin:.3f}", f"{end:.3f}"] for name, (begin, end) in planted)
    print(f"{hours:g} h of {len(files)} recordings, {len(planted)} planted sounds, in {out}")


def join(spans: Sequence[Span]) -> list[Span]:
    """Spans of time, those that overlap as one."""
    joined: list[Span] = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return joined


def score(planted: Sequence[Span], events: Sequence[Span]) -> tuple[int, int, list[float]]:
    """Planted sounds found, events that overlap none, and the errors of the onsets in seconds."""
    found = join(events)
    errors = []
    for begin, end in planted:
        over = [first for first, last in found if first < end and last > begin]
        errors += [min(abs(first - begin) for first in over)] if over else []
    false = sum(not any(first < end and last > begin for begin, end in planted) for first, last in found)
    return len(errors), false, errors


def report(recording: Path, events: Path) -> None:
    """Print a table."""
    with recording.with_suffix(".planted.csv").open(newline="") as stream:
        planted = list(csv.DictReader(stream))
    with events.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    print("| class | found | false events | onset error (median, 90 %) |\n| --- | --- | --- | --- |")
    for name, label in CLASSES.items():
        meant = set(find_labels(load_labels(), [label]))
        there = [(float(row["onset"]), float(row["offset"])) for row in planted if row["class"] == name]
        spans = [(float(row["onset"]), float(row["offset"])) for row in rows if row["label"] in meant]
        found, false, errors = score(there, spans)
        error = "{:.2f} s, {:.2f} s".format(*np.quantile(errors, [0.5, 0.9])) if errors else "none"
        print(f"| {name} | {found} of {len(there)} | {false} | {error} |")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("recording", type=Path, help="WAV to write, or with --score the one that was written")
    parser.add_argument("--background", type=Path, help="folder of recordings without dogs and sirens")
    parser.add_argument("--skip", type=Path, help="list of recordings of that folder to leave out, one path a line")
    parser.add_argument("--data", type=Path, help="a copy of ESC-50")
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--score", metavar="EVENTS", type=Path, help="CSV that `sedembed detect` wrote")
    options = parser.parse_args(arguments)
    if options.score is not None:
        report(options.recording, options.score)
        return
    if options.background is None or options.data is None:
        parser.error("give --background and --data, or --score")
    skip = set(options.skip.read_text().splitlines()) if options.skip else set()
    make(options.recording, options.background, options.data, skip, options.hours, options.seed)


if __name__ == "__main__":
    main()
