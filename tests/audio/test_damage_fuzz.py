"""Damaged sound files by the hundred: each is read in part with a warning, read whole, or refused with a sentence.

``pytest -n0 -m slow tests/audio/test_damage_fuzz.py`` tries thousands.
"""

from __future__ import annotations

import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest

from sedembed.audio.reader import AudioReader
from sedembed.errors import AudioError
from tests.audio.damaged import encode
from tests.audio.reader_helpers import use_decoders

SECONDS = 2.0
WHOLE = {
    "wav": encode("WAV", SECONDS),
    "w64": encode("W64", SECONDS),
    "aiff": encode("AIFF", SECONDS),
    "au": encode("AU", SECONDS),
    "flac": encode("FLAC", SECONDS),
    "ogg": encode("OGG", SECONDS),
    "opus": encode("OGG", SECONDS, 48000, subtype="OPUS"),
    "mp3": encode("MP3", SECONDS, 44100),
}
KINDS = ("flip", "cut", "zero", "join", "insert", "header", "suffix")
_MOST_MEMORY = 64 * 2**20


def damage(rng: np.random.Generator) -> tuple[str, str, bytes]:
    """Draw a suffix, a kind of damage and the damaged bytes."""
    suffix, kind = str(rng.choice(list(WHOLE))), str(rng.choice(KINDS))
    data = bytearray(WHOLE[suffix])
    at = int(rng.integers(len(data)))
    if kind == "flip":
        for place in rng.integers(len(data), size=int(rng.integers(1, 20))):
            data[place] ^= 1 << int(rng.integers(8))
    elif kind == "cut":
        del data[at:]
    elif kind == "zero":
        count = int(rng.integers(1, 4000))
        data[at : at + count] = bytes(len(data[at : at + count]))
    elif kind == "join":
        data += WHOLE[str(rng.choice(list(WHOLE)))]
    elif kind == "insert":
        data[at:at] = rng.bytes(int(rng.integers(1, 4000)))
    elif kind == "header":
        for place in rng.integers(min(200, len(data)), size=int(rng.integers(1, 5))):
            data[place] = int(rng.integers(256))
    else:
        suffix = str(rng.choice(list(WHOLE)))
    return suffix, kind, bytes(data)


def read(path: Path) -> tuple[str, float]:
    """Say how a file is read, and how many seconds of it; whatever is no error of ours goes on to the caller."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with AudioReader(path, timeout=10.0) as reader:
                blocks = list(reader.blocks())
                seconds = reader.seconds
        except AudioError as error:
            said = str(error)
        else:
            said = ""
    if said:
        assert path.name in said
        return "refused", 0.0
    assert all(np.isfinite(block).all() for block in blocks)
    return ("warned" if caught else "read"), seconds


def run(folder: Path, cases: int, seed: int) -> dict[str, int]:
    """Try cases, and count how they end; "silent" are cuts of more than a tenth without a word."""
    rng = np.random.default_rng(seed)
    counts = dict.fromkeys(("read", "warned", "refused", "silent"), 0)
    for number in range(cases):
        suffix, kind, data = damage(rng)
        path = folder / f"{number}.{suffix}"
        path.write_bytes(data)
        outcome, seconds = read(path)
        counts[outcome] += 1
        if kind == "cut" and outcome == "read" and seconds < 0.9 * SECONDS:
            counts["silent"] += 1
        # No header makes more sound than its bytes can hold: the least that any of these spends is 1 kbit/s.
        assert seconds <= max(60.0, len(data) / 125), (path.name, kind, seconds)
        path.unlink()
    return counts


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("installed", ["plain", "av"])
def test_hundreds(tmp_path, monkeypatch, installed):
    if installed == "av":
        pytest.importorskip("av", reason="PyAV is not installed")
    use_decoders(monkeypatch, installed)
    tracemalloc.start()
    counts = run(tmp_path, 200, seed=14)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counts["silent"] == 0
    assert counts["warned"] > 50
    assert counts["refused"] > 20
    assert most < _MOST_MEMORY


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("installed", ["plain", "av"])
def test_thousands(tmp_path, monkeypatch, installed, record_testsuite_property):
    if installed == "av":
        pytest.importorskip("av", reason="PyAV is not installed")
    use_decoders(monkeypatch, installed)
    counts = run(tmp_path, 4000, seed=15)
    record_testsuite_property(installed, counts)  # in the report of --junit-xml
    assert counts["silent"] == 0
