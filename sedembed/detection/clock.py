"""When a recording began: as a user gives it, or as recorders write it into file names."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from pathlib import PurePosixPath

from sedembed.errors import InvalidArgumentError

__all__ = ["parse_start", "start_from_name"]

# Date, time and perhaps a time zone: 20260501_043000 (AudioMoth, Song Meter), 20260501T043000+0200 (BAR),
# 2026-05-01_04-30-00, 2026-05-01T04:30:00Z, 20260501-043000, 260501_0430 (Zoom) and so on.
_WRITTEN = re.compile(
    r"(?<!\d)(?P<year>\d{4}|\d{2})[-._]?(?P<month>\d{2})[-._]?(?P<day>\d{2})"
    r"[T _-]+(?P<hour>\d{2})[-.:_h]?(?P<minute>\d{2})(?:[-.:_m]?(?P<second>\d{2}))?(?!\d)s?"
    r"(?P<zone>Z|[+-]\d{2}:?\d{2})?(?![\d])"
)
# Early AudioMoths count the seconds since 1970, in hexadecimal.
_COUNTED = re.compile(r"[0-9A-F]{8}")
_SENSIBLE = range(2000, 2100)


def parse_start(text: str) -> datetime:
    """Read a time as ISO 8601 has it, such as ``2026-05-01T04:30:00`` or ``2026-05-01 04:30+02:00``.

    Raises
    ------
    InvalidArgumentError
        For anything else.
    """
    try:
        return datetime.fromisoformat(re.sub(r"Z$", "+00:00", text.strip()))
    except ValueError:
        raise InvalidArgumentError(
            f"Expected a time such as 2026-05-01T04:30:00, or names to take it from the file names, got {text!r}."
        ) from None


def start_from_name(path: str) -> datetime | None:
    """Find the time that a recorder wrote into the name of a file.

    Parameters
    ----------
    path : str
        Of the recording; only its last part is looked at.

    Returns
    -------
    datetime or None
        Without a time zone, unless the name has one. None if there is no time in it.
    """
    stem = PurePosixPath(path).stem
    for found in _WRITTEN.finditer(stem):
        year, month, day, hour, minute = (int(found[name]) for name in ("year", "month", "day", "hour", "minute"))
        year += 2000 if year < 100 else 0
        try:
            start = datetime(year, month, day, hour, minute, int(found["second"] or 0))
        except ValueError:
            continue
        if year in _SENSIBLE:
            return start.replace(tzinfo=_zone(found["zone"]))
    if _COUNTED.fullmatch(stem):
        start = datetime.fromtimestamp(int(stem, 16), timezone.utc)
        return start if start.year in _SENSIBLE else None
    return None


def _zone(text: str | None) -> timezone | None:
    if text is None or text == "Z":
        return None if text is None else timezone.utc
    digits = text[1:].replace(":", "")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return timezone(-offset if text[0] == "-" else offset)
