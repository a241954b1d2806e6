"""The picture of a recording: what it holds, that it can be read, and that memory is bounded."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import soundfile
import torch

from sedembed import Event
from sedembed._analysis import timeline as _timeline
from sedembed._analysis.timeline import Columns, Timeline, choose_rows, clock, draw_timeline, read_timeline
from sedembed.audio.reader import load_audio
from sedembed.detection.events import EventRules
from sedembed.models.frontend import log_mel, mel_filterbank
from sedembed.models.labels import load_labels
from tests._analysis.timeline_helpers import SOUNDS, talnet  # noqa: F401


def rules(model, **options) -> EventRules:
    return EventRules.check(model.labels, model.frame_rate, **options)


def timeline(duration: float = 30.0, name: str = "scene.wav", sounds: int = 20) -> Timeline:
    """A recording with as many sounds as wanted, the longest AudioSet names first; the last three have no event."""
    labels = tuple(sorted(load_labels(), key=len, reverse=True)[:sounds])
    rng = np.random.default_rng(0)
    columns = 500
    probabilities = rng.uniform(0, 0.2, (columns, sounds))
    events = []
    for i in range(max(0, sounds - 3)):
        start = int(rng.integers(0, columns - 40))
        probabilities[start : start + 40, i] = 0.4 + i / (2 * sounds)
        onset, offset = (start * duration / columns, (start + 40) * duration / columns)
        events.append(Event(labels[i], onset, offset, 0.4 + i / (2 * sounds)))
    return Timeline(
        name=name,
        duration=duration,
        spectrogram=rng.normal(-20, 5, (columns, 64)),
        spectrogram_step=duration / columns,
        labels=labels,
        thresholds=np.full(sounds, 0.3, np.float32),
        probabilities=probabilities,
        probability_step=duration / columns,
        probability_start=0.0,
        events=sorted(events, key=lambda event: event.onset),
    )


class TestColumns:
    @pytest.mark.parametrize("rows", [1, 5, 8, 9, 100, 333])
    def test_equal_those_of_the_whole(self, rows):
        rng = np.random.default_rng(rows)
        track = rng.uniform(size=(rows, 3)).astype(np.float32)
        mean, highest = Columns(3, 8), Columns(3, 8, maximum=True)
        for block in np.split(track, np.sort(rng.integers(0, rows + 1, 6))):
            if len(block):
                mean.add(block)
                highest.add(block)
        each = 2 ** max(0, int(np.ceil(np.log2(rows / 8))))
        assert mean.rows_each == highest.rows_each == each
        parts = [track[i : i + each] for i in range(0, rows, each)]
        assert len(parts) <= 8
        np.testing.assert_allclose(mean.values, [part.mean(0, dtype=np.float64) for part in parts])
        np.testing.assert_array_equal(highest.values, [part.max(0) for part in parts])


class TestReading:
    def test_a_recording(self, talnet):
        file = SOUNDS / "birdsong.ogg"
        read = read_timeline(talnet, file, rules(talnet))
        assert read.name == "birdsong.ogg"
        assert read.duration == pytest.approx(5.0)
        assert read.events == talnet.detect(file)
        assert read.spectrogram.shape == (201, 64)
        assert read.spectrogram_step == 0.025
        assert read.probabilities.shape == (50, 527)
        assert read.probability_step == 0.1
        wave = torch.from_numpy(load_audio(file, 16_000)[0])
        np.testing.assert_allclose(read.spectrogram, log_mel(wave).numpy(), atol=1e-3)

    def test_a_long_one_is_kept_small(self, talnet, tmp_path, monkeypatch):
        monkeypatch.setattr(_timeline, "_COLUMNS", 64)
        rng = np.random.default_rng(0)
        wave = rng.normal(0, 0.01, 26 * 16_000)
        wave[13 * 16_000 : 14 * 16_000] *= 30
        soundfile.write(tmp_path / "a.wav", wave, 16_000)
        read = read_timeline(talnet, tmp_path / "a.wav", rules(talnet, labels=["Speech", "Rain"]))
        assert len(read.spectrogram) <= 64
        assert len(read.probabilities) <= 64
        assert read.probabilities.shape[1] == 2
        assert len(read.spectrogram) * read.spectrogram_step == pytest.approx(26, abs=read.spectrogram_step)
        assert len(read.probabilities) * read.probability_step == pytest.approx(26, abs=read.probability_step)
        loudest = read.spectrogram.max(1).argmax() * read.spectrogram_step
        assert 13 - read.spectrogram_step <= loudest <= 14


class TestRows:
    def test_strongest_by_onset(self):
        given = timeline()
        rows = choose_rows(given, 5)
        strongest = sorted(given.events, key=lambda event: -event.probability)[:5]
        assert {row.label for row in rows} == {event.label for event in strongest}
        onsets = [row.events[0].onset for row in rows]
        assert onsets == sorted(onsets)

    def test_at_least_three(self):
        rows = choose_rows(timeline(sounds=4), 12)
        assert [bool(row.events) for row in rows] == [True, False, False]
        assert rows[1].probability >= rows[2].probability
        assert len(choose_rows(timeline(sounds=4), 2)) == 2
        assert len(choose_rows(timeline(sounds=1), 12)) == 1


def test_clock():
    assert [clock(s) for s in (0, 59, 61.2, 3599.6, 3661)] == ["0:00", "0:59", "1:01", "1:00:00", "1:01:01"]
    assert clock(3.25, exact=True) == "3.2 s"
    assert clock(100, exact=True) == "1:40"


def texts(figure) -> list:
    """Visible texts with something in them, and where they are on the page."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    found = []
    for text in figure.findobj(Text):
        box = text.get_window_extent()
        on_axis = text.axes is None or text.axes.get_visible()
        if text.get_visible() and text.get_text().strip() and on_axis and box.width > 0:
            found.append((text, box))
    return found


def drawn_ticks(figure) -> list[str]:
    axis = figure.axes[1].xaxis
    low, high = axis.axes.get_xlim()
    return [t.label1.get_text() for t in axis.get_major_ticks() if low - 1e-6 <= t.get_loc() <= high + 1e-6]


class TestDrawing:
    @pytest.fixture(autouse=True)
    def _needs_matplotlib(self):
        pytest.importorskip("matplotlib")

    @pytest.mark.parametrize(
        ("duration", "unit", "some_ticks"),
        [
            (0.05, "s", ["0"]),
            (3.2, "s", ["0", "0.5", "3"]),
            (59.9, "s", ["0", "10", "50"]),
            (1800.0, "min:s", ["0:00", "10:00", "30:00"]),
            (36_000.0, "h:min:s", ["0:00", "2:00:00", "10:00:00"]),
        ],
    )
    def test_time_axis(self, duration, unit, some_ticks):
        figure = draw_timeline(timeline(duration))
        texts(figure)
        top, below = figure.axes[0], figure.axes[1]
        assert top.get_xlim() == below.get_xlim() == (0.0, duration)
        assert below.get_xlabel() == f"time ({unit})"
        ticks = drawn_ticks(figure)
        assert set(some_ticks) <= set(ticks)
        assert len(ticks) <= 15

    def test_content(self):
        given = timeline()
        figure = draw_timeline(given, 12)
        rows = choose_rows(given, 12)
        below = figure.axes[1]
        shown = [label.get_text() for label in below.get_yticklabels()]
        assert len(shown) == 12
        for label, row in zip(shown, rows, strict=True):
            assert row.label.startswith(label.rstrip("…"))
        (strips,) = below.get_images()
        for i, row in enumerate(rows):
            np.testing.assert_allclose(strips.get_array()[i], given.probabilities[:, row.column])
        spans = {(round(x0, 6), round(x1, 6)) for c in below.collections for (x0, _), (x1, _) in c.get_segments()}
        assert spans == {(round(e.onset, 6), round(e.offset, 6)) for row in rows for e in row.events}
        written = [text.get_text() for text, _ in texts(figure)]
        assert "frequency (kHz)" in written
        assert "log-mel (dB)" in written
        assert {"0.25", "0.5", "1", "2", "4", "8"} <= set(written)
        assert "sound event: probability ≥ 0.3" in written
        assert f"{rows[0].probability:.2f}" in written
        assert any(text.startswith("scene.wav") and "30.0 s" in text for text in written)

    def test_frequencies_are_where_the_front_end_has_them(self):
        filters = mel_filterbank(16_000, 4096, 64)
        centres = filters.argmax(1) * 16_000 / 4096
        figure = draw_timeline(timeline())
        for hz, place in zip((250, 500, 1000, 2000, 4000), figure.axes[0].get_yticks(), strict=False):
            assert np.interp(place, np.arange(64), centres) == pytest.approx(hz, rel=0.03)

    @pytest.mark.parametrize(
        ("name", "duration"),
        [
            ("a.wav", 3.3),
            ("x" * 200 + ".wav", 1799.0),
            ("cost $5 and $6_{}^.wav", 65.0),
            ("line\nbreak\x07.wav", 100_000.0),
            ("Straße.wav", 12.0),
        ],
    )
    def test_texts_do_not_overlap(self, name, duration):
        figure = draw_timeline(timeline(duration, name, sounds=28), 25)
        page = figure.bbox
        boxes = texts(figure)
        assert len(boxes) > 40
        legend = figure.axes[0].get_legend()
        boxes = [(text, box) for text, box in boxes if text not in legend.get_texts()]
        boxes.append((legend, legend.get_window_extent()))  # with its line
        for i, (text, box) in enumerate(boxes):
            assert box.x0 >= page.x0 - 1, text
            assert box.x1 <= page.x1 + 1, text
            assert box.y0 >= page.y0 - 1, text
            assert box.y1 <= page.y1 + 1, text
            for other, there in boxes[:i]:
                width = min(box.x1, there.x1) - max(box.x0, there.x0)
                height = min(box.y1, there.y1) - max(box.y0, there.y0)
                area = min(box.width * box.height, there.width * there.height)
                assert max(0.0, width) * max(0.0, height) <= 0.05 * area, (text, other)

    def test_a_short_event_in_a_long_file_is_seen(self):
        given = timeline(1800.0, sounds=4)
        event = given.events[0]._replace(offset=given.events[0].onset + 0.2)
        figure = draw_timeline(dataclasses.replace(given, events=[event]))
        ((first, last),) = [segment for c in figure.axes[1].collections for segment in c.get_segments()]
        assert last[0] - first[0] >= 1800 / 600

    def test_no_event(self):
        figure = draw_timeline(timeline(sounds=3))
        assert any("no sound reaches 0.3" in text.get_text() for text, _ in texts(figure))

    def test_silence(self):
        quiet = dataclasses.replace(timeline(), spectrogram=np.full((500, 64), -100.0))
        texts(draw_timeline(quiet))

    @pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("PDF", b"%PDF")])
    def test_formats(self, tmp_path, suffix, magic):
        out = tmp_path / "new" / f"a.{suffix}"
        _timeline.save_picture(draw_timeline(timeline(sounds=4)), out)
        assert out.read_bytes().startswith(magic)
        assert list(out.parent.iterdir()) == [out]
