"""A folder of short recordings, decoded once into one memory-mapped array, and the crops drawn from it."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from tqdm import tqdm

from sedembed._training.distillation.augment import filter_sound
from sedembed.errors import InvalidArgumentError

__all__ = ["Collection", "CropSettings", "draw_crop", "draw_mixture", "open_collection"]

SAMPLE_RATE = 16_000
_FADE = 0.01  # seconds, at both ends of a sound in silence
_FLOOR_DB = (-96.0, -66.0)  # root mean square of the noise that is called silence; 16 bits round at about -101 dB


@dataclass(frozen=True)
class Collection:
    """Decoded recordings.

    Attributes
    ----------
    samples : ndarray of int16, shape (total,), memory-mapped
        All recordings end to end.
    starts : ndarray of int64, shape (recordings + 1,)
        Recording i is ``samples[starts[i]:starts[i + 1]]``.
    files : list of str
        Paths relative to the audio folder; those of further folders are the paths to open.
    held_out : ndarray of bool, shape (recordings,)
        Recordings of the collections kept for validation.
    added : int
        How many recordings, at the end, come from further folders.
    """

    samples: NDArray[np.int16]
    starts: NDArray[np.int64]
    files: list[str]
    held_out: NDArray[np.bool_]
    added: int = 0

    def waveform(self, index: int) -> NDArray[np.float32]:
        """Return recording `index` as float32 in [-1, 1]."""
        return self.samples[self.starts[index] : self.starts[index + 1]].astype(np.float32) / 32768.0

    def repeated(self, index: int) -> NDArray[np.float32]:
        """Return recording `index` repeated or cut to ten seconds."""
        return np.resize(self.waveform(index), 10 * SAMPLE_RATE)

    def measured(self) -> list[int]:
        """List every twentieth recording of the first folder that is not held out, to measure statistics on."""
        return [index for index in range(0, len(self.files) - self.added, 20) if not self.held_out[index]]


def open_collection(folders: Path | Sequence[Path], cache: Path, held_out_share: float) -> Collection:
    """Decode the ``audio`` of each folder, listed in its ``segments.csv``, into `cache` unless that was done before.

    Whole sub-collections of the first folder are held out, in the order of a hash of their names, until
    `held_out_share` of its recordings is reached; random recordings of one source would resemble the training part too
    much. Further folders are for training only, so the held-out part stays the same when folders are added.
    """
    first, *further = [folders] if isinstance(folders, Path) else folders
    rows = _read_rows(first)
    added = [(folder, row) for folder in further for row in _read_rows(folder)]
    files = [row["file"] for row in rows] + [str((folder / "audio" / row["file"]).absolute()) for folder, row in added]
    samples_path, index_path = cache / "samples.npy", cache / "index.json"
    if not index_path.exists() or json.loads(index_path.read_text(encoding="utf-8"))["files"] != files:
        cache.mkdir(parents=True, exist_ok=True)
        _decode(first / "audio", files, samples_path, index_path)
    names = sorted({row["collection"] for row in rows}, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    of_name = np.array([row["collection"] for row in rows])
    held_out = np.zeros(len(files), dtype=np.bool_)
    for name in names:
        members = np.append(of_name == name, np.zeros(len(added), dtype=np.bool_))
        # Holding out a larger collection would leave too little to train on.
        if members.sum() <= held_out_share / 2 * len(rows) and (held_out | members).sum() <= held_out_share * len(rows):
            held_out |= members
    kept_back = {rows[index]["collection"] for index in np.flatnonzero(held_out)}
    for folder, row in added:
        if row["collection"] in kept_back:
            raise InvalidArgumentError(
                f"Expected no recordings of held-out collections in {folder}, got {row['file']}. Remove the collection "
                f"{row['collection']} from its segments.csv."
            )
    starts = np.array(json.loads(index_path.read_text(encoding="utf-8"))["starts"], dtype=np.int64)
    return Collection(np.load(samples_path, mmap_mode="r"), starts, files, held_out, len(added))


def _read_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "segments.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _decode(audio: Path, files: list[str], samples_path: Path, index_path: Path) -> None:
    parts: list[NDArray[np.int16]] = []
    for name in tqdm(files, desc="decoding", unit="file", disable=None):
        samples, rate = soundfile.read(audio / name, dtype="int16")
        if rate != SAMPLE_RATE or samples.ndim != 1:
            raise InvalidArgumentError(f"{name}: expected mono at {SAMPLE_RATE} Hz, got {samples.shape} at {rate} Hz")
        parts.append(samples)
    starts = np.concatenate(([0], np.cumsum([len(part) for part in parts])))
    temporary = samples_path.with_suffix(".tmp.npy")
    np.save(temporary, np.concatenate(parts))
    temporary.replace(samples_path)
    index_path.write_text(json.dumps({"files": files, "starts": starts.tolist()}), encoding="utf-8")


@dataclass(frozen=True)
class CropSettings:
    """How a training example is made; levels in dB, durations in seconds."""

    seconds: float = 5.0
    mix_probability: float = 0.7
    mix_level_db: float = 10.0
    gain_db: tuple[float, float] = (-9.0, 3.0)
    speed_probability: float = 0.0  # of playing a recording faster or slower, which moves its pitch too
    speed_semitones: float = 3.0
    third_probability: float = 0.0  # of a third sound where there is a second
    equaliser_probability: float = 0.0
    equaliser_db: float = 9.0
    room_probability: float = 0.0
    silence_probability: float = 0.0  # of silence around a part of the mixture, as in padded files


def draw_crop(collection: Collection, index: int, length: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw a crop of a recording; one shorter than `length` is repeated and rolled."""
    waveform = collection.waveform(index)
    if len(waveform) > length:
        start = int(rng.integers(len(waveform) - length + 1))
        return waveform[start : start + length]
    return np.roll(np.resize(waveform, length), int(rng.integers(length)))


def draw_mixture(
    collection: Collection, cumulative: NDArray[np.float64], settings: CropSettings, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw a training waveform: a crop, often with one or two more at random relative levels, at a random gain.

    `cumulative` are cumulated sampling weights, one a recording.
    """
    length = round(settings.seconds * SAMPLE_RATE)
    first, second = np.searchsorted(cumulative, rng.random(2) * cumulative[-1])
    mixture = _draw_sound(collection, int(first), length, settings, rng)
    if rng.random() < settings.mix_probability:
        mixture = _mix(mixture, _draw_sound(collection, int(second), length, settings, rng), settings, rng)
        if _happens(settings.third_probability, rng):
            third = int(np.searchsorted(cumulative, rng.random() * cumulative[-1]))
            mixture = _mix(mixture, _draw_sound(collection, third, length, settings, rng), settings, rng)
    if _happens(settings.silence_probability, rng):
        mixture = _surround_by_silence(mixture, rng)
    gain = 10.0 ** (rng.uniform(*settings.gain_db) / 20.0)
    return np.asarray(np.clip(mixture * np.float32(gain), -1.0, 1.0), dtype=np.float32)


def _surround_by_silence(mixture: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Keep a tenth to nine tenths of the mixture; the rest becomes zeros or, as often, noise of at most -66 dB."""
    length = len(mixture)
    kept = int(length * rng.uniform(0.1, 0.9))
    start = int(rng.integers(length - kept + 1))
    fade = np.minimum(np.arange(1, kept + 1), np.arange(kept, 0, -1)) / (_FADE * SAMPLE_RATE)
    floor = 10.0 ** (rng.uniform(*_FLOOR_DB) / 20.0) if rng.random() < 0.5 else 0.0
    padded = np.float32(floor) * rng.standard_normal(length, dtype=np.float32)
    padded[start : start + kept] += mixture[start : start + kept] * np.minimum(fade, 1.0).astype(np.float32)
    return padded


def _happens(probability: float, rng: np.random.Generator) -> bool:
    # A probability of zero draws nothing, so that runs without the setting keep their examples.
    return probability > 0.0 and rng.random() < probability


def _mix(
    mixture: NDArray[np.float32], other: NDArray[np.float32], settings: CropSettings, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Add a sound at a random relative level; both stay audible at the level of the first."""
    level = rng.uniform(-settings.mix_level_db, settings.mix_level_db)
    ratio = _rms(mixture) / _rms(other) * 10.0 ** (level / 20.0)
    mixture = mixture + other * np.float32(ratio)
    return mixture / np.float32(np.sqrt(1.0 + 10.0 ** (level / 10.0)))


def _draw_sound(
    collection: Collection, index: int, length: int, settings: CropSettings, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw a crop of a recording, at times faster or slower, through an equaliser, or in a room."""
    if _happens(settings.speed_probability, rng):
        speed = 2.0 ** (rng.uniform(-settings.speed_semitones, settings.speed_semitones) / 12.0)
        crop = draw_crop(collection, index, math.ceil(length * speed) + 1, rng)
        sound: NDArray[np.float32] = soxr.resample(crop, SAMPLE_RATE * speed, SAMPLE_RATE, quality="MQ")[:length]
    else:
        sound = draw_crop(collection, index, length, rng)
    equaliser_db = settings.equaliser_db if _happens(settings.equaliser_probability, rng) else None
    room = _happens(settings.room_probability, rng)
    if equaliser_db is None and not room:
        return sound
    return filter_sound(sound, SAMPLE_RATE, rng, equaliser_db=equaliser_db, room=room)


def _rms(waveform: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))) + 1e-4
