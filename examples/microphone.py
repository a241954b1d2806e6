"""Name the sounds that a microphone hears, as they end: ``python examples/microphone.py`` (needs ``sounddevice``).

``--file recording.wav`` plays a recording at its own speed instead, to measure the delay: from the end of an event
until it is printed.
"""

from __future__ import annotations

import argparse
import queue
import time
from collections.abc import Iterator

import numpy as np

import sedembed
from sedembed.audio.reader import load_audio

BLOCK = 0.1  # seconds


def listen(rate: int) -> Iterator[np.ndarray]:
    """Blocks of the default microphone, until Ctrl-C."""
    import sounddevice

    blocks: queue.Queue[np.ndarray] = queue.Queue()
    with sounddevice.InputStream(
        rate, round(BLOCK * rate), channels=1, callback=lambda block, *_: blocks.put(block[:, 0].copy())
    ):
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--file", help="recording to play instead of a microphone")
    parser.add_argument("--labels", help='sounds to name, separated by ";" (default: all)')
    parser.add_argument("--hop", type=float, default=1.0, help="seconds from one look to the next (default: 1)")
    parser.add_argument("--model", default="talnet")
    options = parser.parse_args()
    model = sedembed.load_model(options.model)
    model.detect(np.zeros(10 * model.sample_rate, np.float32))  # the first window takes longer
    blocks = listen(model.sample_rate) if options.file is None else play(options.file, model.sample_rate)
    labels = None if options.labels is None else options.labels.split(";")
    began, delays = time.monotonic(), []
    for event in model.detect_stream(blocks, model.sample_rate, labels=labels, hop=options.hop):
        delay = time.monotonic() - began - event.offset
        delays.append(delay)
        print(f"{event.onset:8.1f} s  {event.label} ({event.probability:.2f}), {delay:.2f} s after its end", flush=True)
    if delays:
        print(f"{len(delays)} events; delay {np.median(delays):.2f} s in the middle, {max(delays):.2f} s at most")


if __name__ == "__main__":
    main()
