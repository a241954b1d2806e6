"""Files of events: CSV, RTTM, Audacity labels, Raven selection tables and JSON."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from sedembed._utils.files import atomic_file, make_folder
from sedembed.detection.events import Event
from sedembed.errors import InvalidArgumentError

__all__ = ["EACH", "FORMATS", "EventWriter", "format_of", "open_events", "short_names"]

_SUFFIXES = {".csv": "csv", ".rttm": "rttm", ".txt": "audacity", ".json": "json"}


class EventWriter(Protocol):
    """Writes the events of recordings, one after the other, to an open text file; times with three decimals.

    Parameters
    ----------
    stream : text file
        Where to write.
    clock : bool
        Whether to write the time of day of each event too, where the format has a place for it.
    """

    def __init__(self, stream: IO[str], clock: bool = False) -> None: ...

    def add(
        self, path: str, name: str, duration: float, events: Sequence[Event], start: datetime | None = None
    ) -> None:
        """Write the events of a recording.

        Parameters
        ----------
        path, name : str
            Of the recording; the name as `short_names` gives it.
        duration : float
            In seconds.
        events : sequence of Event
            What to write.
        start : datetime, optional
            When the recording began.
        """

    def finish(self) -> None:
        """Write what comes after the last recording."""


class _Csv:
    """Columns ``path,onset,offset,label,probability``, and with the clock ``time``, of the onset."""

    def __init__(self, stream: IO[str], clock: bool = False) -> None:
        self._writer, self._clock = csv.writer(stream, lineterminator="\n"), clock
        self._writer.writerow(["path", "onset", "offset", "label", "probability", *(["time"] if clock else [])])

    def add(
        self, path: str, name: str, duration: float, events: Sequence[Event], start: datetime | None = None
    ) -> None:
        for event in events:
            times = (f"{event.onset:.3f}", f"{event.offset:.3f}")
            clock = [_clock_time(start, event.onset) or ""] if self._clock else []
            self._writer.writerow([path, *times, event.label, f"{event.probability:.3f}", *clock])

    def finish(self) -> None:
        pass


class _Rttm:
    """NIST's Rich Transcription Time Marked format: ten fields, the sound in that of the speaker.

    ``SPEAKER <name> 1 <onset> <duration> <NA> <NA> <label> <probability> <NA>``. Fields are separated by spaces,
    so those within a name or a label become underscores.
    """

    def __init__(self, stream: IO[str], clock: bool = False) -> None:
        self._stream = stream

    def add(
        self, path: str, name: str, duration: float, events: Sequence[Event], start: datetime | None = None
    ) -> None:
        for event in events:
            # Of the rounded times, so that onset and duration add up to the offset of the other formats.
            seconds = round(event.offset, 3) - round(event.onset, 3)
            fields = [_word(name), "1", f"{event.onset:.3f}", f"{seconds:.3f}", "<NA>", "<NA>", _word(event.label)]
            print("SPEAKER", *fields, f"{event.probability:.3f}", "<NA>", file=self._stream)

    def finish(self) -> None:
        pass


class _Audacity:
    """Label track of one recording: onset, offset and text, separated by tabs."""

    def __init__(self, stream: IO[str], clock: bool = False) -> None:
        self._stream = stream

    def add(
        self, path: str, name: str, duration: float, events: Sequence[Event], start: datetime | None = None
    ) -> None:
        for event in events:
            self._stream.write(f"{event.onset:.3f}\t{event.offset:.3f}\t{event.label}\n")

    def finish(self) -> None:
        pass


class _Raven:
    """Selection table of one recording for Raven: tab-separated, one selection a line."""

    _COLUMNS = (
        *("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)"),
        *("Begin File", "Label", "Probability"),
    )
    _BAND = ("0.0", "8000.0")  # Hz: what networks of 16 kHz are given

    def __init__(self, stream: IO[str], clock: bool = False) -> None:
        self._writer, self._clock = csv.writer(stream, delimiter="\t", lineterminator="\n"), clock
        self._writer.writerow([*self._COLUMNS, *(["Begin Date Time"] if clock else [])])

    def add(
        self, path: str, name: str, duration: float, events: Sequence[Event], start: datetime | None = None
    ) -> None:
        for number, event in enumerate(events, 1):
            times = (f"{event.onset:.3f}", f"{event.offset:.3f}")
            clock = [_clock_time(start, event.onset) or ""] if self._clock else []
            place = [number, "Spectrogram 1", 1, *times, *self._BAND, PurePosixPath(path).name]
            self._writer.writerow([*place, event.label, f"{event.probability:.3f}", *clock])

    def finish(self) -> None:
        pass


class _Json:
    """Array of recordings, one a line: ``path``, ``duration`` and ``events``, each with the columns of the CSV."""

    def __init__(self, stream: IO[str], clock: bool = False) -> None:
        self._stream, self._first, self._clock = stream, True, clock
        stream.write("[")

    def add(
        self, path: str, name: str, duration: float, events: Sequence[Event], start: datetime | None = None
    ) -> None:
        rows = [
            {
                "onset": round(event.onset, 3),
                "offset": round(event.offset, 3),
                "label": event.label,
                "probability": round(event.probability, 3),
                **({"time": _clock_time(start, event.onset)} if self._clock else {}),
            }
            for event in events
        ]
        recording = {"path": path, "duration": round(duration, 3), "events": rows}
        self._stream.write(("\n" if self._first else ",\n") + json.dumps(recording, ensure_ascii=False))
        self._first = False

    def finish(self) -> None:
        self._stream.write("\n]\n")


FORMATS: dict[str, type[EventWriter]] = {
    "csv": _Csv,
    "rttm": _Rttm,
    "audacity": _Audacity,
    "raven": _Raven,
    "json": _Json,
}
# Formats whose files are of one recording each, and the end of their names.
EACH = {"audacity": ".txt", "raven": ".selections.txt"}


def _clock_time(start: datetime | None, seconds: float) -> str | None:
    """Time of day that is so many seconds after the start, in ISO 8601."""
    return None if start is None else (start + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def format_of(out: Path | None) -> str:
    """Format that the suffix of a file stands for; CSV without one."""
    suffix = "" if out is None else out.suffix.lower()
    if suffix and suffix not in _SUFFIXES:
        known = ", ".join(f"{suffix} ({name})" for suffix, name in _SUFFIXES.items())
        raise InvalidArgumentError(f"the suffix of {out} stands for no format: expected {known}, or give --format")
    return _SUFFIXES.get(suffix, "csv")


def short_names(paths: Sequence[str], *, words: bool = False) -> dict[str, str]:
    """Name of each recording without its suffix; where two would share a name, all keep their suffixes.

    With `words`, names that differ only in spaces and underscores count as the same, and ValueError is raised where
    that cannot be helped.
    """
    key = _word if words else str
    short = {path: str(PurePosixPath(path).with_suffix("")) for path in paths}
    if len({key(name) for name in short.values()}) == len(paths):
        return short
    if len({key(path) for path in paths}) < len(paths):
        twice = [path for path, count in Counter(map(key, paths)).items() if count > 1]
        raise InvalidArgumentError(
            f"RTTM has no spaces in names, so several recordings would be called {twice[0]!r}; rename them or use CSV"
        )
    return {path: path for path in paths}


def _word(text: str) -> str:
    return "_".join(text.split()) or "_"


@contextlib.contextmanager
def open_events(path: Path) -> Iterator[IO[str]]:
    """Open a text file that appears whole or not at all; its folder is made if missing."""
    make_folder(path.parent)
    with atomic_file(path) as opened:
        stream = io.TextIOWrapper(opened, encoding="utf-8", newline="", write_through=True)
        yield stream
        stream.detach()
