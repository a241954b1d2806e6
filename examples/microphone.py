"""Name the sounds that a microphone hears, as they end: ``python examples/microphone.py`` (needs ``sounddevice``).

``--file recording.wav`` plays a recording at its own speed instead. Ctrl-C ends it. The last line tells the delay, from
the end of an event until it is printed, and how much of it the sound took: an event is over when the median filter and
the longest gap have passed, 0.35 s, and the next look is at most a hop later. The rest is the time of the computer.
"""

from __future__ import annotations

import argparse
import contextlib
import queue
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

import sedembed
from sedembed.audio.reader import load_audio

BLOCK = 0.1  # seconds


class Printed(NamedTuple):
    """An event, and how long after its end it came, in seconds of the clock and of the sound."""

    event: sedembed.Event
    delay: float
    sound: float


def listen(rate: int) -> Iterator[np.ndarray]:
    """Blocks of the default microphone, until Ctrl-C."""
    import sounddevice

    blocks: queue.Queue[np.ndarray] = queue.Queue()

    def take(block: np.ndarray, frames: int, times: object, status: object) -> None:
        if status:
            print(f"the sound card says: {status}", flush=True)
        blocks.put(block[:, 0].copy())

    with sounddevice.InputStream(rate, round(BLOCK * rate), channels=1, dtype="float32", callback=take):
        while True:
            yield blocks.get()


def play(file: str, rate: int) -> Iterator[np.ndarray]:
    """Blocks of a recording, each when it would be over."""
    waveform, _ = load_audio(file, rate)
    began = time.monotonic()
    for first in range(0, len(waveform), round(BLOCK * rate)):
        block = waveform[first : first + round(BLOCK * rate)]
        time.sleep(max(0.0, began + (first + len(block)) / rate - time.monotonic()))
        yield block


def name_sounds(
    model: sedembed.Embedder, blocks: Iterable[np.ndarray], labels: Sequence[str] | None, hop: float
) -> list[Printed]:
    """Print the events of a sound while it arrives, until it ends or Ctrl-C; return them."""
    rate, heard, began = model.sample_rate, 0, time.monotonic()

    def count() -> Iterator[np.ndarray]:
        nonlocal heard
        for block in blocks:
            heard += len(block)
            yield block

    printed: list[Printed] = []
    with contextlib.suppress(KeyboardInterrupt):
        for event in model.detect_stream(count(), rate, labels=labels, hop=hop):
            late = Printed(event, time.monotonic() - began - event.offset, heard / rate - event.offset)
            printed.append(late)
            print(
                f"{event.onset:8.1f} s  {event.label} ({event.probability:.2f}), {late.delay:.2f} s after its end",
                flush=True,
            )
    return printed


def count_repeated(events: Iterable[sedembed.Event]) -> int:
    """Events that overlap an earlier one of the same label."""
    ends: dict[str, float] = {}
    repeated = 0
    for event in sorted(events, key=lambda event: event.onset):
        repeated += event.onset < ends.get(event.label, 0.0)
        ends[event.label] = max(event.offset, ends.get(event.label, 0.0))
    return repeated


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--file", help="recording to play instead of a microphone")
    parser.add_argument("--labels", help='sounds to name, separated by ";" (default: all)')
    parser.add_argument("--hop", type=float, default=1.0, help="seconds from one look to the next (default: 1)")
    parser.add_argument("--model", default="talnet")
    options = parser.parse_args(arguments)
    model = sedembed.load_model(options.model)
    model.detect(np.zeros(10 * model.sample_rate, np.float32))  # the first window takes longer
    blocks = listen(model.sample_rate) if options.file is None else play(options.file, model.sample_rate)
    labels = None if options.labels is None else options.labels.split(";")
    printed = name_sounds(model, blocks, labels, options.hop)
    if printed:
        delays, sound = [late.delay for late in printed], [late.sound for late in printed]
        print(
            f"{len(printed)} events, {count_repeated(late.event for late in printed)} of them twice; after their end: "
            f"{np.median(delays):.2f} s in the middle, {max(delays):.2f} s at most, of which the sound took "
            f"{np.median(sound):.2f} s and {max(sound):.2f} s"
        )


if __name__ == "__main__":
    main()
