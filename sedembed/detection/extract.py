"""Cut events out of a recording, into sound files of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import soundfile

from sedembed._utils.files import atomic_file
from sedembed.audio.reader import AudioReader
from sedembed.detection.events import Event

__all__ = ["extract_events"]


def extract_events(
    recording: Path, events: Sequence[Event], folder: Path, name: str, *, margin: float = 0.0
) -> list[Path]:
    """Write each event as a WAV of its own: 16 bit, mono, at the recording's rate.

    The recording is read once, in bounded memory.

    Parameters
    ----------
    recording : Path
        Where the events were found.
    events : sequence of Event
        What to cut out; they may overlap.
    folder : Path
        Where to write; made if missing.
    name : str
        Beginning of the files' names, perhaps with folders.
    margin : float
        Seconds before and after each event, as far as the recording goes.

    Returns
    -------
    list of Path
        A file for each event: ``NAME_ONSET_LABEL.wav``, the onset in seconds.

    Raises
    ------
    AudioError, FileNotFoundError
        If the recording cannot be read.
    StoreError
        If a file cannot be written.
    """
    files = [folder / f"{name}_{event.onset:09.3f}_{_slug(event.label)}.wav" for event in events]
    if not files:
        return []
    files[0].parent.mkdir(parents=True, exist_ok=True)
    with AudioReader(recording) as reader, ExitStack() as opened:
        rate = reader.info.sample_rate
        spans = [
            (max(0, round((event.onset - margin) * rate)), round((event.offset + margin) * rate)) for event in events
        ]
        waiting = sorted(range(len(events)), key=lambda index: spans[index], reverse=True)
        writing: dict[int, tuple[soundfile.SoundFile, ExitStack]] = {}
        first = 0
        for block in reader.blocks():
            last = first + len(block)
            while waiting and spans[waiting[-1]][0] < last:
                index = waiting.pop()
                stack = opened.enter_context(ExitStack())
                stream = stack.enter_context(atomic_file(files[index]))
                sound = soundfile.SoundFile(stream, "w", rate, 1, "PCM_16", format="WAV")
                writing[index] = stack.enter_context(sound), stack
            for index in list(writing):
                begin, end = spans[index]
                sound, stack = writing[index]
                sound.write(np.clip(block[max(0, begin - first) : max(0, end - first)], -1.0, 1.0))
                if end <= last:
                    stack.close()
                    del writing[index]
            first = last
    return files


def _slug(label: str) -> str:
    """Label as part of a file name."""
    return re.sub(r"[^\w]+", "-", label).strip("-")
