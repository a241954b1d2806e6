"""How much the vector of a clip changes when only its recording changes.

``python examples/measure_robustness.py --data ESC-50 --models talnet weanet`` takes 200 clips and changes each in five
ways that leave the sound the same. It prints the cosine between the vector of the clip and that of the changed clip:
the median over the clips, and the lowest tenth in brackets.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

import sedembed

RATE = 16_000
SHIFT = RATE // 20  # 50 ms
Waveform = NDArray[np.float32]


def as_16_bit(waveform: Waveform) -> Waveform:
    return np.round(waveform * 32767.0).astype(np.int16).astype(np.float32) / np.float32(32767.0)


def as_mp3(waveform: Waveform) -> Waveform:
    """Encode as MP3 with 128 kbit/s and decode."""
    encoded = io.BytesIO()
    # libsndfile maps 0 to 1 linearly to 160 to 8 kbit/s at this sample rate.
    level = (160 - 128) / (160 - 8)
    soundfile.write(encoded, waveform, RATE, format="MP3", bitrate_mode="CONSTANT", compression_level=level)
    encoded.seek(0)
    return soundfile.read(encoded, dtype="float32")[0]


def twenty_db_quieter(waveform: Waveform) -> Waveform:
    return 0.1 * waveform


def over_44_100_hz(waveform: Waveform) -> Waveform:
    """Resample to 44.1 kHz and back, as for a file of that rate."""
    return soxr.resample(soxr.resample(waveform, RATE, 44_100, quality="HQ"), 44_100, RATE, quality="HQ")


def shifted(waveform: Waveform) -> Waveform:
    return waveform[SHIFT:]


CHANGES: dict[str, Callable[[Waveform], Waveform]] = {
    "16 bit": as_16_bit,
    "MP3, 128 kbit/s": as_mp3,
    "-20 dB": twenty_db_quieter,
    "50 ms later": shifted,
    "over 44.1 kHz": over_44_100_hz,
}


def cosines(model: sedembed.Embedder, clips: list[Waveform]) -> dict[str, list[float]]:
    whole = np.asarray(model.embed(clips, sample_rate=RATE), dtype=np.float64)
    # Both have the same length: what a shift removes at one end is removed at the other.
    cut = np.asarray(model.embed([clip[:-SHIFT] for clip in clips], sample_rate=RATE), dtype=np.float64)
    result = {}
    for name, change in CHANGES.items():
        before = cut if change is shifted else whole
        after = np.asarray(model.embed([change(clip) for clip in clips], sample_rate=RATE), dtype=np.float64)
        norms = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
        result[name] = ((before * after).sum(1) / np.maximum(norms, 1e-12)).tolist()
    return result


def read_clips(data: Path, count: int) -> list[Waveform]:
    """Every n-th clip of the list, so that all classes occur."""
    with (data / "meta" / "esc50.csv").open(newline="") as stream:
        rows = sorted(csv.DictReader(stream), key=lambda row: (int(row["target"]), row["filename"]))
    rows = rows[:: max(1, len(rows) // count)][:count]
    clips = []
    for row in rows:
        samples, rate = soundfile.read(data / "audio" / row["filename"], dtype="float32", always_2d=True)
        clips.append(soxr.resample(samples.mean(1), rate, RATE) if rate != RATE else samples.mean(1))
    return clips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a copy of ESC-50")
    parser.add_argument("--models", nargs="+", default=["talnet", "weanet"], help="names or directories")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--json", type=Path, help="also write the cosines of all clips here")
    arguments = parser.parse_args()
    clips = read_clips(arguments.data, arguments.clips)
    results = {name: cosines(sedembed.load_model(name), clips) for name in arguments.models}
    print(f"| cosine, {len(clips)} clips | " + " | ".join(results) + " |")
    print("| --- |" + " --- |" * len(results))
    for change in CHANGES:
        cells = [f"{np.median(r[change]):.4f} ({np.quantile(r[change], 0.1):.4f})" for r in results.values()]
        print(f"| {change} | " + " | ".join(cells) + " |")
    if arguments.json:
        arguments.json.write_text(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
