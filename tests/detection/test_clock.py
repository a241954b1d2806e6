"""Tests of the time of day at which recordings began."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from sedembed.detection.clock import parse_start, start_from_name
from sedembed.errors import InvalidArgumentError

DAWN = datetime(2026, 5, 1, 4, 30)


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("20260501_043000.WAV", DAWN),  # AudioMoth
        ("SMA01234_20260501_043000.wav", DAWN),  # Song Meter
        ("site-7/20260501T043000+0200_dawn.flac", DAWN.replace(tzinfo=timezone(timedelta(hours=2)))),  # BAR
        ("20260501T043000Z.flac", DAWN.replace(tzinfo=timezone.utc)),
        ("2026-05-01_04-30-00.wav", DAWN),
        ("rec 2026-05-01 04.30.00 (1).m4a", DAWN),
        ("260501_0430.wav", DAWN),  # Zoom
        ("69F42C48.WAV", DAWN.replace(tzinfo=timezone.utc)),  # early AudioMoth
        ("20260501/notes.wav", None),
        ("20261301_043000.wav", None),
        ("123456789012345678.wav", None),
        ("dog.wav", None),
        ("00000012.wav", None),
    ],
)
def test_names_of_recorders(name: str, start: datetime | None) -> None:
    found = start_from_name(name)
    assert found == start
    assert found is None or (found.tzinfo is None) == (start.tzinfo is None)


def test_times_as_given() -> None:
    assert parse_start("2026-05-01T04:30:00") == parse_start("2026-05-01 04:30") == DAWN
    assert parse_start("2026-05-01T04:30:00Z").utcoffset() == timedelta(0)
    with pytest.raises(InvalidArgumentError, match="2026-05-01T04:30:00"):
        parse_start("half past four")
