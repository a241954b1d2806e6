"""What `tag` and `detect` find in long recordings, by the length of their windows.

``python examples/measure_long_scenes.py --data ESC-50 --models talnet weanet`` mixes scenes of eight minutes: one
ambience throughout and 32 clips at random places, 6 dB to 18 dB above it. It then compares

- `tag`: the highest of parts of 10 s (what `tag` does), of parts of other lengths, or the mean of parts of 10 s.
  Average precision of the classes in a scene, and the share of them at or above 0.3.
- `detect`: windows of 10 s (what `detect` does), 30 s and 60 s. The share of the placed clips that an event of the
  right label overlaps, and the share of the events, of labels that belong to some class, that overlap a clip of it.

With ``--names`` it asks for each class by one name instead, as `sedembed detect --labels` does, and compares that name
alone, the name with all below it in AudioSet's ontology, and the same in a stream with a hop of a second: clips found,
false events an hour (they overlap no clip of the class), and the median error of the onset. ``--alone`` measures the
first only, also in versions in which a name stood for nothing else.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

import sedembed

RATE = 16_000
Waveform = NDArray[np.float32]
AMBIENCES = ("rain", "sea_waves", "wind", "crickets", "crackling_fire")
# Labels that count as right for a class of ESC-50; classes without a clear label of AudioSet are left out.
LABELS: dict[str, tuple[str, ...]] = {
    "airplane": ("Aircraft", "Fixed-wing aircraft, airplane", "Aircraft engine", "Jet engine"),
    "car_horn": ("Vehicle horn, car horn, honking", "Toot"),
    "cat": ("Cat", "Meow", "Caterwaul"),
    "chainsaw": ("Chainsaw",),
    "chirping_birds": ("Bird", "Bird vocalization, bird call, bird song", "Chirp, tweet"),
    "church_bells": ("Church bell", "Bell", "Change ringing (campanology)"),
    "clapping": ("Clapping", "Applause"),
    "clock_alarm": ("Alarm clock", "Alarm", "Beep, bleep"),
    "clock_tick": ("Tick", "Tick-tock", "Clock"),
    "coughing": ("Cough",),
    "cow": ("Moo", "Cattle, bovinae"),
    "crackling_fire": ("Fire", "Crackle"),
    "crickets": ("Cricket", "Insect"),
    "crow": ("Crow", "Caw"),
    "crying_baby": ("Baby cry, infant cry", "Crying, sobbing"),
    "dog": ("Dog", "Bark", "Bow-wow"),
    "door_wood_knock": ("Knock",),
    "engine": ("Engine", "Idling", "Medium engine (mid frequency)", "Heavy engine (low frequency)"),
    "fireworks": ("Fireworks", "Firecracker"),
    "footsteps": ("Walk, footsteps", "Run"),
    "frog": ("Frog", "Croak"),
    "glass_breaking": ("Shatter", "Glass", "Breaking"),
    "hand_saw": ("Sawing",),
    "helicopter": ("Helicopter",),
    "hen": ("Chicken, rooster", "Cluck", "Fowl"),
    "insects": ("Insect", "Fly, housefly", "Buzz", "Bee, wasp, etc.", "Mosquito"),
    "keyboard_typing": ("Typing", "Computer keyboard"),
    "laughing": ("Laughter", "Belly laugh", "Giggle", "Chuckle, chortle"),
    "pig": ("Pig", "Oink"),
    "rain": ("Rain", "Raindrop", "Rain on surface"),
    "rooster": ("Crowing, cock-a-doodle-doo", "Chicken, rooster"),
    "sea_waves": ("Waves, surf", "Ocean"),
    "sheep": ("Sheep", "Bleat"),
    "siren": ("Siren", "Police car (siren)", "Ambulance (siren)", "Civil defense siren"),
    "sneezing": ("Sneeze",),
    "snoring": ("Snoring",),
    "thunderstorm": ("Thunderstorm", "Thunder"),
    "toilet_flush": ("Toilet flush",),
    "train": ("Train", "Rail transport", "Railroad car, train wagon"),
    "vacuum_cleaner": ("Vacuum cleaner",),
    "wind": ("Wind", "Wind noise (microphone)"),
}


@dataclass(frozen=True)
class Scene:
    """A mixture, and (class, onset, offset) of what is in it, in seconds."""

    waveform: Waveform
    events: list[tuple[str, float, float]]


def read_clips(data: Path) -> dict[str, list[Waveform]]:
    """Clips of fold 5 by class, without silence at their ends, at equal level."""
    clips: dict[str, list[Waveform]] = {}
    with (data / "meta" / "esc50.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            if row["fold"] != "5" or row["category"] not in LABELS:
                continue
            samples, rate = soundfile.read(data / "audio" / row["filename"], dtype="float32", always_2d=True)
            mono = soxr.resample(samples.mean(1), rate, RATE) if rate != RATE else samples.mean(1)
            heard = np.flatnonzero(np.abs(mono) > 0.02 * np.abs(mono).max())
            mono = mono[heard[0] : heard[-1] + 1] if len(heard) else mono
            clips.setdefault(row["category"], []).append(mono / (np.sqrt(np.mean(mono**2)) + 1e-9))
    return clips


def make_scene(clips: dict[str, list[Waveform]], minutes: float, count: int, rng: np.random.Generator) -> Scene:
    length = round(60 * minutes * RATE)
    ambience = str(rng.choice([name for name in AMBIENCES if name in clips]))
    waveform = np.resize(clips[ambience][int(rng.integers(len(clips[ambience])))], length).astype(np.float32)
    events = [(ambience, 0.0, length / RATE)]
    others = sorted(set(clips) - set(AMBIENCES))
    # Half of the classes at most, so that a scene lacks some.
    classes = rng.choice(others, size=max(1, min(16, len(others) // 2)), replace=False)
    for _ in range(count):
        name = str(rng.choice(classes))
        clip = clips[name][int(rng.integers(len(clips[name])))][:length]
        start = int(rng.integers(length - len(clip) + 1))
        waveform[start : start + len(clip)] += clip * np.float32(10.0 ** (rng.uniform(6.0, 18.0) / 20.0))
        events.append((name, start / RATE, (start + len(clip)) / RATE))
    return Scene(waveform * np.float32(0.7 / np.abs(waveform).max()), events)


def measure_tags(model: sedembed.Embedder, scene: Scene, seconds: float, mean: bool) -> tuple[float, float]:
    """Average precision over the classes, and the share of the present ones at or above 0.3."""
    if mean:
        size = round(seconds * RATE)
        parts = [scene.waveform[i : i + size] for i in range(0, len(scene.waveform), size)]
        probabilities = model.tag([part for part in parts if len(part) >= RATE], sample_rate=RATE).mean(0)
    else:
        # `tag` has no option for this: 10 s is fixed.
        with mock.patch("sedembed.engine.runner.PART_SECONDS", seconds):
            probabilities = model.tag(scene.waveform, sample_rate=RATE)
    index = {label: number for number, label in enumerate(model.labels)}
    scores = np.array([max(probabilities[index[label]] for label in labels) for labels in LABELS.values()])
    present = np.isin(list(LABELS), [name for name, _, _ in scene.events])
    return float(average_precision_score(present, scores)), float((scores[present] >= 0.3).mean())


def measure_events(model: sedembed.Embedder, scene: Scene, seconds: float) -> tuple[int, int, int, int]:
    """Placed clips that were found, and all; events that are right, and all."""
    # `detect` has no option for this: 10 s is fixed.
    with mock.patch("sedembed.detection.detect._WINDOW_SECONDS", seconds):
        found = model.detect(scene.waveform, sample_rate=RATE)
    meant = {label for labels in LABELS.values() for label in labels}
    found = [event for event in found if event.label in meant]
    hits = [
        any(e.label in LABELS[name] and e.onset < end and e.offset > begin for e in found)
        for name, begin, end in scene.events[1:]
    ]
    right = [
        any(e.label in LABELS[name] and e.onset < end and e.offset > begin for name, begin, end in scene.events)
        for e in found
    ]
    return sum(hits), len(hits), sum(right), len(right)


@dataclass
class Count:
    """What was found under one name a class, in all scenes together."""

    found: int = 0
    placed: int = 0
    false: int = 0
    hours: float = 0.0
    errors: list[float] = field(default_factory=list)

    def add(self, scene: Scene, events: Sequence[sedembed.Event], labels: dict[str, set[str]]) -> None:
        """Compare events with what is in a scene; `labels` are those that stand for each class."""
        self.hours += len(scene.waveform) / RATE / 3600
        for name, begin, end in scene.events[1:]:
            self.placed += 1
            over = [e for e in events if e.label in labels[name] and e.onset < end and e.offset > begin]
            self.found += bool(over)
            self.errors += [min(abs(event.onset - begin) for event in over)] if over else []
        for name, wanted in labels.items():
            spans = [(begin, end) for other, begin, end in scene.events if other == name]
            self.false += sum(
                event.label in wanted and not any(event.onset < end and event.offset > begin for begin, end in spans)
                for event in events
            )

    def describe(self) -> str:
        """Cells of the table."""
        error = f"{np.median(self.errors):.2f} s" if self.errors else "none"
        return f"{self.found} of {self.placed} | {self.false / self.hours:.0f} | {error}"


def measure_names(models: Sequence[str], scenes: Sequence[Scene], alone: bool, streamed: int) -> None:
    """Print a table of what one name a class finds; the first scenes are also heard as streams."""
    print("| model | asked for | clips found | false events an hour | onset error (median) |")
    print("| --- | --- | --- | --- | --- |")
    for name in models:
        model = sedembed.load_model(name)
        names = {category: {labels[0]} for category, labels in LABELS.items()}
        below = names if alone else _with_all_below(model, names)
        first = f"first {streamed} scenes, "
        ways = {"the name alone": Count()}
        if not alone:
            ways |= {"with all below it": Count()}
            if streamed:
                ways |= {f"{first}whole": Count(), f"{first}stream with a hop of 1 s": Count()}
        for number, scene in enumerate(scenes):
            events = model.detect(scene.waveform, sample_rate=RATE)
            blocks = np.split(scene.waveform, range(RATE // 10, len(scene.waveform), RATE // 10))
            for way, count in ways.items():
                if not way.startswith("first") or number < streamed:
                    found = list(model.detect_stream(blocks, RATE, hop=1.0)) if "hop" in way else events
                    count.add(scene, found, names if way == "the name alone" else below)
        for way, count in ways.items():
            print(f"| {name} | {way} | {count.describe()} |", flush=True)


def _with_all_below(model: sedembed.Embedder, names: dict[str, set[str]]) -> dict[str, set[str]]:
    # Not at the top: versions that --alone measures lack it.
    from sedembed.models.labels import find_labels

    return {category: set(find_labels(model.labels, labels)) for category, labels in names.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a copy of ESC-50")
    parser.add_argument("--models", nargs="+", default=["talnet", "weanet"], help="names or directories")
    parser.add_argument("--scenes", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--events", type=int, default=32)
    parser.add_argument("--names", action="store_true", help="ask for each class by one name")
    parser.add_argument("--alone", action="store_true", help="with --names: only the name alone")
    parser.add_argument("--streamed", type=int, default=1, help="with --names: scenes heard as streams (default: 1)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    clips = read_clips(arguments.data)
    scenes = [
        make_scene(clips, arguments.minutes, arguments.events, np.random.default_rng(seed))
        for seed in range(arguments.scenes)
    ]
    if arguments.names:
        measure_names(arguments.models, scenes, arguments.alone, arguments.streamed)
        return
    ways = [(f"tag, parts of {seconds} s", float(seconds), False) for seconds in (60, 30, 20, 10, 5)]
    ways.append(("tag, the mean of parts of 10 s", 10.0, True))
    figures: dict[str, dict[str, list[float]]] = {}
    for name in arguments.models:
        model = sedembed.load_model(name)
        figures[name] = {}
        for way, seconds, mean in ways:
            values = [measure_tags(model, scene, seconds, mean) for scene in scenes]
            figures[name][way] = np.mean(values, axis=0).round(3).tolist()
        for window in (10.0, 30.0, 60.0):
            hits, placed, right, events = np.sum([measure_events(model, scene, window) for scene in scenes], axis=0)
            share = [round(float(hits / placed), 3), round(float(right / max(events, 1)), 3)]
            figures[name][f"detect, windows of {window:g} s"] = share
    print(f"| {len(scenes)} scenes of {arguments.minutes:g} minutes | " + " | ".join(figures) + " |")
    print("| --- |" + " --- |" * len(figures))
    for way in next(iter(figures.values())):
        print(f"| {way} | " + " | ".join(f"{f[way][0]:.3f}, {f[way][1]:.3f}" for f in figures.values()) + " |")
    print("tag: average precision, share of the classes present at 0.3; detect: clips found, events right")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
