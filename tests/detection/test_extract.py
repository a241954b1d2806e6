"""Tests of cutting events out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from sedembed.detection.events import Event
from sedembed.detection.extract import extract_events


def test_each_event_is_what_the_recording_has_there(tmp_path: Path) -> None:
    rate = 44_100
    wave = np.random.default_rng(0).integers(-20_000, 20_000, rate * 8, dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", wave, rate, subtype="PCM_16")
    events = [
        Event("Dog", 0.0, 0.5, 0.9),
        Event("Bark, howl/yip", 0.25, 6.0, 0.8),
        Event("Siren", 2.0, 2.1, 0.7),
        Event("Siren", 7.9, 8.0, 0.7),
    ]
    files = extract_events(tmp_path / "a.wav", events, tmp_path / "out", "sub/a", margin=0.1)
    assert [str(file.relative_to(tmp_path / "out")) for file in files] == [
        "sub/a_00000.000_Dog.wav",
        "sub/a_00000.250_Bark-howl-yip.wav",
        "sub/a_00002.000_Siren.wav",
        "sub/a_00007.900_Siren.wav",
    ]
    for file, event in zip(files, events, strict=True):
        cut, found = soundfile.read(file, dtype="int16")
        begin, end = max(0, round((event.onset - 0.1) * rate)), round((event.offset + 0.1) * rate)
        assert found == rate
        np.testing.assert_array_equal(cut, wave[begin:end])
    assert extract_events(tmp_path / "a.wav", [], tmp_path / "none", "a") == []
    assert not (tmp_path / "none").exists()
