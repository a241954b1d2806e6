"""Tests of formats."""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime

import pytest

from sedembed import Event
from sedembed.detection.formats import FORMATS, open_events, short_names
from sedembed.errors import WriteError

EVENTS = {
    "a b.wav": (3.5, [Event("Bird, chirp", 0.0, 1.2345, 0.98765), Event('Say "hi"', 0.3, 3.5, 0.3)]),
    "sub/ü.flac": (1.0, []),
    "sub/c.ogg": (61.0, [Event("Speech", 60.1, 60.9, 1.0)]),
}


def written(form: str) -> str:
    stream = io.StringIO()
    writer = FORMATS[form](stream)
    names = short_names(list(EVENTS))
    for path, (duration, events) in EVENTS.items():
        writer.add(path, names[path], duration, events)
    writer.finish()
    return stream.getvalue()


class TestFormats:
    def test_csv(self):
        rows = list(csv.DictReader(io.StringIO(written("csv"))))
        assert list(rows[0]) == ["path", "onset", "offset", "label", "probability"]
        assert [tuple(row.values()) for row in rows] == [
            ("a b.wav", "0.000", "1.234", "Bird, chirp", "0.988"),
            ("a b.wav", "0.300", "3.500", 'Say "hi"', "0.300"),
            ("sub/c.ogg", "60.100", "60.900", "Speech", "1.000"),
        ]

    def test_rttm(self):
        lines = [line.split(" ") for line in written("rttm").splitlines()]
        assert all(len(fields) == 10 for fields in lines)
        assert lines[0] == ["SPEAKER", "a_b", "1", "0.000", "1.234", "<NA>", "<NA>", "Bird,_chirp", "0.988", "<NA>"]
        assert lines[2] == ["SPEAKER", "sub/c", "1", "60.100", "0.800", "<NA>", "<NA>", "Speech", "1.000", "<NA>"]

    def test_json(self):
        read = json.loads(written("json"))
        assert [(row["path"], row["duration"]) for row in read] == [(p, d) for p, (d, _) in EVENTS.items()]
        assert read[0]["events"][0] == {"onset": 0.0, "offset": 1.234, "label": "Bird, chirp", "probability": 0.988}
        assert read[1]["events"] == []
        stream = io.StringIO()
        FORMATS["json"](stream).finish()
        assert json.loads(stream.getvalue()) == []

    def test_audacity(self):
        assert written("audacity").splitlines()[0].split("\t") == ["0.000", "1.234", "Bird, chirp"]
        for line in written("audacity").splitlines():
            onset, offset, label = line.split("\t")
            assert float(onset) < float(offset)
            assert label

    def test_raven(self):
        rows = list(csv.DictReader(io.StringIO(written("raven")), delimiter="\t"))
        assert list(rows[0].values()) == [
            *("1", "Spectrogram 1", "1", "0.000", "1.234", "0.0", "8000.0", "a b.wav", "Bird, chirp", "0.988")
        ]
        assert [row["Begin Time (s)"] for row in rows] == ["0.000", "0.300", "60.100"]

    def test_time_of_day(self):
        start = datetime(2026, 5, 1, 23, 59, 30)
        event = Event("Dog", 40.5, 41.0, 0.9)
        streams = {form: io.StringIO() for form in FORMATS}
        for form, stream in streams.items():
            writer = FORMATS[form](stream, True)
            writer.add("a.wav", "a", 60.0, [event], start)
            writer.add("b.wav", "b", 60.0, [event], None)
            writer.finish()
        rows = list(csv.DictReader(io.StringIO(streams["csv"].getvalue())))
        assert [row["time"] for row in rows] == ["2026-05-02T00:00:10.500", ""]
        times = [row["events"][0]["time"] for row in json.loads(streams["json"].getvalue())]
        assert times == ["2026-05-02T00:00:10.500", None]
        rows = list(csv.DictReader(io.StringIO(streams["raven"].getvalue()), delimiter="\t"))
        assert rows[0]["Begin Date Time"] == "2026-05-02T00:00:10.500"

    def test_names_without_suffix_stay_apart(self):
        assert short_names(["a.wav", "b/a.wav"]) == {"a.wav": "a", "b/a.wav": "b/a"}
        assert short_names(["a.wav", "a.mp3", "a.wav.ogg"]) == {n: n for n in ("a.wav", "a.mp3", "a.wav.ogg")}
        assert short_names(["a b.wav", "a_b.mp3"], words=True) == {n: n for n in ("a b.wav", "a_b.mp3")}
        with pytest.raises(ValueError, match=r"'a_b\.wav'"):
            short_names(["a b.wav", "a_b.wav"], words=True)

    def test_a_file_appears_whole_or_not_at_all(self, tmp_path):
        out = tmp_path / "new" / "events.csv"
        with open_events(out) as stream:
            stream.write("old")
        with pytest.raises(TypeError), open_events(out) as stream:
            stream.writelines(["half of the new", None])
        assert out.read_text() == "old"
        assert list(out.parent.iterdir()) == [out]
        with pytest.raises(WriteError, match="name a file in it"), open_events(tmp_path):
            pass
