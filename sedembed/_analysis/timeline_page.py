"""The picture of a recording as one page of HTML that zooms, and plays the recording on a click."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedembed._analysis.page import fill_page
from sedembed._analysis.timeline import TICK_HZ, Timeline, choose_rows, clock, loudness_range, mel_bin

__all__ = ["PAGE_COLUMNS", "timeline_page"]

PAGE_COLUMNS = 16_384  # zoomed in, more than a screen shows; in base64 about a megabyte and a half


def timeline_page(timeline: Timeline, sound: str, most: int = 12) -> str:
    """Write the page.

    Parameters
    ----------
    timeline : Timeline
        From `read_timeline`.
    sound : str
        Link from the page to the recording.
    most : int
        Most sound events to show.

    Returns
    -------
    str
        To be saved as UTF-8. It needs nothing else but, to play it, the recording.
    """
    quietest, loudest = loudness_range(timeline)
    bins = timeline.spectrogram.shape[1]
    shades = (timeline.spectrogram - quietest) / (loudest - quietest)
    events = len(timeline.events)
    thresholds = np.unique(timeline.thresholds)
    above = f"at probability {thresholds[0]:.2g}" if len(thresholds) == 1 else "at their thresholds"
    data: dict[str, Any] = {
        "name": timeline.name,
        "subtitle": f"{clock(timeline.duration, exact=True)}; {events} sound event{'' if events == 1 else 's'} {above}",
        "sound": sound,
        "duration": timeline.duration,
        "columns": len(timeline.spectrogram),
        "bins": bins,
        "step": timeline.spectrogram_step,
        "half": 0.5 * timeline.feature_step,
        "spectrogram": _bytes(shades),
        "ticks": [[mel_bin(hz, bins), f"{hz / 1000:g}"] for hz in TICK_HZ],
        "probabilityStep": timeline.probability_step,
        "probabilityStart": timeline.probability_start,
        "rows": [
            {
                "label": row.label,
                "probability": row.probability,
                "events": [[event.onset, event.offset, event.probability] for event in row.events],
                "values": _bytes(timeline.probabilities[:, row.column]),
            }
            for row in choose_rows(timeline, most)
        ],
    }
    return fill_page("timeline_page.html", timeline.name, data)


def _bytes(values: NDArray[np.float64]) -> str:
    """Numbers from 0 to 1 as bytes in base64, in C order."""
    return base64.b64encode(np.round(255.0 * np.clip(values, 0.0, 1.0)).astype(np.uint8).tobytes()).decode()
