"""Events: from probabilities to onsets and offsets, piece by piece; the model's `detect`; the command `detect`."""

from __future__ import annotations

import csv
import inspect
import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

import sedembed
from sedembed import Event
from sedembed.audio.reader import load_audio
from sedembed.cli.main import main
from sedembed.detection.detect import run_windows
from sedembed.detection.events import EventDetector, EventRules
from sedembed.detection.formats import FORMATS, open_events, short_names
from sedembed.engine.windows import iter_overlapping
from sedembed.errors import AudioDecodeError, InvalidWaveformError, WriteError

SOUNDS = Path(__file__).parents[2] / "examples" / "sounds"
RATE = 16_000
NAMES = ("Speech", "Dog", "Siren", "Bird, chirp")


@pytest.fixture(scope="module")
def talnet():
    return sedembed.load_model("talnet", device="cpu")


def rules(threshold=0.5, *, names=NAMES, **options) -> EventRules:
    return EventRules.check(names, 10.0, threshold, **{"median": 0.0, "max_gap": 0.0, **options})


def detect(track: np.ndarray, chosen: EventRules, cuts=(), duration: float | None = None) -> list[Event]:
    """Events of a track that arrives in pieces, in the order of onsets."""
    detector = EventDetector(chosen)
    events = []
    for start, stop in zip([0, *cuts], [*cuts, len(track)], strict=True):
        events += detector.push(track[start:stop], start / 10)
    events += detector.finish(len(track) / 10 if duration is None else duration)
    return sorted(events, key=lambda event: (event.onset, event.offset, event.label))


def step(*spans: tuple[int, int], frames: int = 50, column: int = 0) -> np.ndarray:
    track = np.zeros((frames, len(NAMES)), np.float32)
    for start, stop in spans:
        track[start:stop, column] = 1.0
    return track


def reference(track, thresholds, median, shortest, gap):
    """The same decisions in plain loops over the whole track: (column, start, stop, probability), in frames."""
    half = median // 2
    found = []
    for column in range(track.shape[1]):
        if not len(track):
            continue
        padded = np.pad(track[:, column], half, mode="symmetric")
        smooth = [float(np.median(padded[i : i + median])) for i in range(len(track))]
        runs = []
        for i, p in enumerate(smooth):
            if p < thresholds[column]:
                continue
            if runs and i - runs[-1][1] <= gap:
                runs[-1] = [runs[-1][0], i + 1, max(runs[-1][2], p)]
            else:
                runs.append([i, i + 1, p])
        found += [(column, *run) for run in runs if run[1] - run[0] >= shortest]
    return sorted(found)


class TestDecisions:
    def test_unit_step(self):
        assert detect(step((12, 27)), rules()) == [Event("Speech", 1.2, 2.7, 1.0)]

    def test_to_the_ends_of_the_clip(self):
        assert detect(step((0, 50)), rules(), duration=4.97) == [Event("Speech", 0.0, 4.97, 1.0)]
        assert detect(step(), rules()) == []
        assert detect(np.zeros((0, 4), np.float32), rules(), duration=0.0) == []

    def test_threshold_is_reached_by_equality(self):
        for value in (0.1, 0.3, 0.7):
            track = step((5, 9)) * np.float32(value)
            assert [event[:3] for event in detect(track, rules(value))] == [("Speech", 0.5, 0.9)]
            assert detect(track, rules(value + 0.01)) == []

    def test_thresholds_for_each_class(self):
        track = (step((5, 9)) + step((20, 30), column=1) + step((40, 42), column=2)) * np.float32(0.4)
        assert {event.label for event in detect(track, rules({"Speech": 0.5, "Siren": 0.35}))} == {"Dog", "Siren"}
        assert {event.label for event in detect(track, rules([0.4, 0.41, 0.4, 0.0]))} == {
            "Speech",
            "Siren",
            "Bird, chirp",
        }
        assert [event.label for event in detect(track, rules(0.2, labels=["Dog"]))] == ["Dog"]
        assert [event.label for event in detect(track, rules([0.5, 0.3, 0.5, 0.5], labels="Dog"))] == ["Dog"]

    def test_gaps_of_up_to_max_gap_are_bridged(self):
        track = step((10, 13), (15, 18), (21, 25))
        assert [event[1:3] for event in detect(track, rules(max_gap=0.2))] == [(1.0, 1.8), (2.1, 2.5)]
        assert [event[1:3] for event in detect(track, rules(max_gap=0.3))] == [(1.0, 2.5)]
        assert len(detect(track, rules(max_gap=0.1))) == 3

    def test_short_events_are_dropped_after_bridging(self):
        track = step((10, 12), (13, 15), (30, 32), (40, 43))
        assert [event[1:3] for event in detect(track, rules(min_duration=0.3))] == [(4.0, 4.3)]
        assert [event[1:3] for event in detect(track, rules(min_duration=0.3, max_gap=0.1))] == [(1.0, 1.5), (4.0, 4.3)]

    def test_median_keeps_edges_and_drops_what_is_shorter_than_half(self):
        track = step((10, 12), (20, 23), (30, 34), (36, 40))
        assert [event[1:3] for event in detect(track, rules(median=0.5))] == [(2.0, 2.3), (3.0, 4.0)]

    def test_probability_is_the_highest_filtered(self):
        track = step((10, 20)) * np.float32(0.6)
        track[13, 0], track[16:18, 0] = 0.99, 0.8
        (event,) = detect(track, rules(median=0.3))
        assert event.probability == pytest.approx(0.8)
        (event,) = detect(track, rules())
        assert event.probability == pytest.approx(0.99)

    @pytest.mark.parametrize("seed", range(60))
    def test_pieces_give_what_the_whole_gives(self, seed):
        rng = np.random.default_rng(seed)
        frames, classes = int(rng.integers(1, 150)), len(NAMES)
        rough = rng.uniform(size=(frames, classes))
        # From jitter to slow swells, so that all options have something to decide.
        width = int(rng.integers(1, 12))
        track = np.stack([np.convolve(rough[:, c], np.ones(width) / width, "same")[:frames] for c in range(classes)], 1)
        track = np.round(track, int(rng.integers(1, 4))).astype(np.float32)
        thresholds = rng.uniform(0.3, 0.8, classes).astype(np.float32)
        median, shortest, gap = rng.choice([1, 3, 5, 7, 21]), int(rng.integers(0, 8)), int(rng.integers(0, 8))
        chosen = rules(thresholds, median=median / 10, min_duration=shortest / 10, max_gap=gap / 10)
        expected = reference(track, thresholds, int(median), shortest, gap)
        for _ in range(5):
            cuts = np.sort(rng.integers(0, frames + 1, rng.integers(0, 30))).tolist()
            got = [
                (NAMES.index(event.label), round(event.onset * 10), round(event.offset * 10), event.probability)
                for event in detect(track, chosen, cuts)
            ]
            assert sorted(got) == expected

    def test_random_tracks_hold_events(self):
        # The property above would also hold of a detector that finds nothing.
        rng = np.random.default_rng(0)
        track = rng.uniform(size=(300, 4)).astype(np.float32)
        assert len(reference(track, [0.5] * 4, 3, 2, 1)) > 40

    def test_events_come_as_soon_as_they_are_decided(self):
        detector = EventDetector(rules(median=0.3, max_gap=0.2))
        assert detector.push(step((2, 5), frames=7), 0.0) == []  # the last frame waits for the median, then a gap
        assert detector.push(step(frames=1), 0.7) == []
        assert detector.push(step(frames=1), 0.8) == [Event("Speech", 0.2, 0.5, 1.0)]
        assert detector.finish(0.9) == []

    def test_times_are_those_of_the_pieces(self):
        detector = EventDetector(rules())
        events = []
        for start in (0.0, 100.0, 200.0):
            events += detector.push(step((2, 4), (6, 10), frames=10), start)
        events += detector.finish(201.0)
        assert [event[1:3] for event in events] == [
            (0.2, 0.4),
            (0.6, 1.0),
            (100.2, 100.4),
            (100.6, 101.0),
            (200.2, 200.4),
            (200.6, 201.0),
        ]

    def test_memory_is_bounded(self):
        detector = EventDetector(rules(median=2.1))
        for number in range(500):
            detector.push(np.full((10, 4), 0.9, np.float32), number / 1.0)
            assert len(detector._held) <= 10 + 21
            detector._open.clear()  # an event without end keeps the time of its onset
            assert len(detector._pieces) <= 4
        assert len(detector.finish(500.0)) == 4


class TestRules:
    def test_frames(self):
        chosen = rules(median=0.3, min_duration=0.7, max_gap=0.3)
        assert (chosen.median, chosen.min_duration, chosen.max_gap) == (3, 7, 3)
        chosen = rules(median=0.4, min_duration=0.71, max_gap=0.39)
        assert (chosen.median, chosen.min_duration, chosen.max_gap) == (5, 8, 3)
        assert rules(median=0).median == 1

    def test_a_mapping_leaves_the_default(self):
        np.testing.assert_array_equal(rules({"Dog": 0.9}).thresholds, np.float32([0.3, 0.9, 0.3, 0.3]))

    @pytest.mark.parametrize(
        ("options", "cure"),
        [
            ({"threshold": 30}, "probability from 0 to 1"),
            ({"threshold": -0.1}, "probability from 0 to 1"),
            ({"threshold": float("nan")}, "probability from 0 to 1"),
            ({"threshold": "loud"}, "must be a number"),
            ({"threshold": {"Dog": None}}, "probability from 0 to 1|must be a number"),
            ({"threshold": {"Dog": 2}}, "for 'Dog'"),
            ({"threshold": {"dog": 0.5}}, "did you mean 'Dog'"),
            ({"threshold": [0.5, 0.5]}, "each of the 4 labels"),
            ({"labels": ["Sirene"]}, "did you mean 'Siren'"),
            ({"labels": "chirp"}, "did you mean 'Bird, chirp'"),
            ({"labels": ["qqq"]}, "see model.labels"),
            ({"labels": []}, "at least one"),
            ({"median": -1}, "median must be a number of seconds, at least 0"),
            ({"median": 100}, "at most 60"),
            ({"min_duration": float("inf")}, "min_duration must be"),
            ({"max_gap": "long"}, "max_gap must be"),
            ({"max_gap": True}, "max_gap must be"),
        ],
    )
    def test_refusals(self, options, cure):
        with pytest.raises(ValueError, match=cure):
            rules(**options)


class TestWindows:
    @pytest.mark.parametrize("samples", [1, 99, 100, 101, 180, 181, 260, 1000])
    @pytest.mark.parametrize("block", [1, 7, 100, 5000])
    def test_overlapping(self, samples, block):
        wave = np.arange(samples, dtype=np.float32)
        windows = list(iter_overlapping((wave[i : i + block] for i in range(0, samples, block)), 100, 80))
        assert [last for _, last in windows] == [False] * (len(windows) - 1) + [True]
        for number, (window, last) in enumerate(windows):
            np.testing.assert_array_equal(window, wave[number * 80 : number * 80 + 100])
            assert len(window) == 100 or last
        assert windows[-1][0][-1] == samples - 1
        assert len(windows) == 1 or len(windows[-1][0]) > 20

    def test_nothing(self):
        assert list(iter_overlapping([], 100, 80)) == []


@pytest.fixture
def loudness(untrained_embedder, monkeypatch):
    """A model for which every frame that is loud is all sounds at once, so that onsets are known to the frame."""

    def probabilities(features):
        frames = features[: len(features) // 4 * 4].reshape(-1, 4, 64)
        loud = (frames[:, 2].amax(1) > -20).float()  # centred in the frame, its 64 ms reach into no other
        return loud[:, None].expand(-1, 527).numpy()

    monkeypatch.setattr(untrained_embedder.runner, "frame_probabilities", probabilities)
    return untrained_embedder


def bursts(seconds: float, *spans: tuple[float, float]) -> np.ndarray:
    wave = np.zeros(round(seconds * RATE), np.float32)
    for onset, offset in spans:
        part = slice(round(onset * RATE), round(offset * RATE))
        wave[part] = np.random.default_rng(0).normal(0, 0.2, part.stop - part.start)
    return wave


class TestDetect:
    """Onsets through the windows of the model; the network is replaced, all else is real."""

    SPANS = ((0.5, 2.0), (7.7, 9.3), (12.3, 31.7), (32.2, 32.7), (33.5, 34.4), (36.0, 37.13))

    def test_events_run_on_across_windows(self, loudness):
        events = loudness.detect(bursts(37.13, *self.SPANS), labels="Speech", max_gap=0.0)
        assert [event.label for event in events] == ["Speech"] * len(self.SPANS)
        np.testing.assert_allclose([event[1:3] for event in events], self.SPANS, atol=0.1)
        assert events[-1].offset <= 37.13

    def test_stretches_follow_each_other(self, loudness):
        wave = bursts(37.13, *self.SPANS)
        stretches = list(run_windows(loudness.runner, np.split(wave, [5, 200_000])))
        frames = np.concatenate([stretch.probabilities for stretch in stretches])
        starts = [s.start + i / 10 for s in stretches for i in range(len(s.probabilities))]
        np.testing.assert_allclose(starts, np.arange(371) / 10)
        assert [round(s.end, 6) for s in stretches] == [9, 17, 25, 33, 37.13]
        assert frames.shape == (371, 527)
        assert [len(s.features) for s in stretches[:-1]] == [4 * len(s.probabilities) for s in stretches[:-1]]
        assert sum(len(s.features) for s in stretches) == 1 + len(wave) // 400

    @pytest.mark.parametrize("seconds", [0.06, 0.3, 9.99, 10.0, 10.05, 18.0, 18.02, 26.0])
    def test_a_sound_throughout(self, loudness, seconds):
        (event,) = loudness.detect(bursts(seconds, (0, seconds)), labels=["Speech"])
        assert event.onset == 0.0
        assert seconds - 0.1 <= event.offset <= seconds

    def test_however_the_sound_arrives(self, loudness, tmp_path):
        wave = bursts(37.13, *self.SPANS)
        expected = loudness.detect(wave, labels=["Speech", "Dog"])
        soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
        assert loudness.detect(tmp_path / "a.wav", labels=["Speech", "Dog"]) == expected
        for block in (997, 64_000, 10_000_000):
            blocks = (wave[i : i + block] for i in range(0, len(wave), block))
            streamed = loudness.detect_stream(blocks, RATE, labels=["Speech", "Dog"])
            assert sorted(streamed, key=lambda e: (e.onset, e.offset, e.label)) == expected

    def test_stream_gives_events_before_the_end(self, loudness):
        def endless():
            while True:
                yield bursts(1.0, (0.2, 0.6))

        events = loudness.detect_stream(endless(), RATE, labels="Dog")
        np.testing.assert_allclose(next(events)[1:3], (0.2, 0.6), atol=0.1)
        with pytest.raises(InvalidWaveformError, match="at least one sample"):
            list(loudness.detect_stream([], RATE))
        with pytest.raises(ValueError, match="threshold"):
            loudness.detect_stream([], RATE, 7)

    def test_several_clips(self, loudness):
        clips = [bursts(2, (0.5, 1.0)), bursts(11, (10.0, 10.6)), bursts(1)]
        together = loudness.detect(clips, labels="Dog")
        assert together == [loudness.detect(clip, labels="Dog") for clip in clips]
        assert [len(events) for events in together] == [1, 1, 0]
        assert loudness.detect(np.stack([clips[0], clips[0]]), labels="Dog") == [together[0], together[0]]
        with pytest.raises(InvalidWaveformError, match="clip 1 of 2"):
            loudness.detect([clips[0], np.full(10, np.nan)])
        with pytest.raises(InvalidWaveformError, match="at least one clip"):
            loudness.detect([])

    def test_refusals(self, loudness, tmp_path):
        with pytest.raises(InvalidWaveformError, match="leave sample_rate out"):
            loudness.detect(tmp_path / "a.wav", RATE)
        with pytest.raises(FileNotFoundError):
            loudness.detect(tmp_path / "none.wav")
        (tmp_path / "a.wav").write_text("no sound")
        with pytest.raises(AudioDecodeError):
            loudness.detect(tmp_path / "a.wav")
        with pytest.raises(ValueError, match="did you mean 'Siren'"):
            loudness.detect(np.zeros(100), labels=["siren"])

    def test_nan_is_not_silence(self, untrained_embedder, monkeypatch):
        monkeypatch.setattr(untrained_embedder.runner, "frame_probabilities", lambda _: np.full((10, 527), np.nan))
        with pytest.raises(InvalidWaveformError, match="NaN"):
            untrained_embedder.detect(bursts(1, (0, 1)))


class TestShippedModel:
    @pytest.mark.parametrize(
        ("file", "label"),
        [
            ("speech_german.flac", "Speech"),
            ("birdsong.ogg", "Bird"),
            ("rain.ogg", "Rain"),
            ("police_siren.ogg", "Siren"),
        ],
    )
    def test_a_sound_between_silences(self, talnet, file, label):
        sound = load_audio(SOUNDS / file, RATE)[0]
        scene = np.concatenate([np.zeros(4 * RATE, np.float32), sound, np.zeros(12 * RATE, np.float32)])
        alone, events = (talnet.detect(x, labels=label) for x in (sound, scene))
        assert alone
        assert abs(events[0].onset - (4 + alone[0].onset)) <= 1.0
        assert abs(events[-1].offset - (4 + alone[-1].offset)) <= 1.0
        assert all(event.probability >= 0.3 for event in events)

    def test_a_long_sound_is_one_event(self, talnet):
        rain = np.tile(load_audio(SOUNDS / "rain.ogg", RATE)[0], 5)
        (event,) = talnet.detect(rain, labels="Rain")
        assert event.onset <= 0.3
        assert event.offset >= 24.5

    def test_strongest_event_is_that_of_tag(self, talnet):
        for file in ("ocean_waves.mp3", "speech_english.wav", "police_siren.ogg"):
            events = talnet.detect(SOUNDS / file)
            best = max(events, key=lambda event: event.probability)
            assert best.label in [talnet.labels[i] for i in talnet.tag(SOUNDS / file).argsort()[-2:]]
            assert events == sorted(events, key=lambda event: event.onset)

    def test_thresholds(self, talnet):
        sound = SOUNDS / "police_siren.ogg"
        assert {event.label for event in talnet.detect(sound)} >= {"Siren", "Emergency vehicle"}
        assert "Siren" not in {event.label for event in talnet.detect(sound, threshold={"Siren": 0.99})}
        everything = np.full(527, 0.99)
        everything[talnet.labels.index("Siren")] = 0.5
        assert {event.label for event in talnet.detect(sound, threshold=everything)} == {"Siren"}


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


@pytest.fixture
def command(loudness, monkeypatch):
    """Run `sedembed detect` with the model of known onsets, looking for speech."""
    monkeypatch.setattr("sedembed.cli.events.load", lambda options: loudness)
    return lambda *arguments: main(["detect", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    soundfile.write(tmp_path / "in" / "a.wav", bursts(3, (1.0, 2.0)), RATE)
    soundfile.write(tmp_path / "in" / "sub" / "b.wav", bursts(2, (0.5, 1.0)), RATE)
    soundfile.write(tmp_path / "in" / "quiet.wav", bursts(1), RATE)
    return tmp_path / "in"


SPEECH = ("--labels", "Speech")


class TestCommand:
    def test_file(self, command, folder, capsys):
        assert command(folder / "a.wav", *SPEECH) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines == ["path,onset,offset,label,probability", "a.wav,1.000,2.000,Speech,1.000"]

    def test_folder(self, command, folder, tmp_path, capsys):
        assert command(folder, *SPEECH) == 0
        rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
        assert [(row["path"], row["onset"]) for row in rows] == [("a.wav", "1.000"), ("sub/b.wav", "0.500")]
        assert command(folder, *SPEECH, "-o", tmp_path / "events.csv") == 0
        assert capsys.readouterr().out == ""
        assert list(csv.DictReader(io.StringIO((tmp_path / "events.csv").read_text()))) == rows

    def test_failures_are_listed_and_the_rest_is_kept(self, command, folder, tmp_path, capsys):
        (folder / "broken.wav").write_text("no sound")
        assert command(folder, *SPEECH, "-o", tmp_path / "e.json") == 1
        assert "broken.wav: AudioDecodeError" in capsys.readouterr().err
        read = json.loads((tmp_path / "e.json").read_text())
        assert [row["path"] for row in read] == ["a.wav", "quiet.wav", "sub/b.wav"]

    def test_nothing_readable_leaves_the_old_file(self, command, folder, tmp_path, capsys):
        (tmp_path / "e.csv").write_text("old")
        assert command(folder / "none.wav", "-o", tmp_path / "e.csv") == 1
        assert "none.wav: MissingFileError" in capsys.readouterr().err
        assert (tmp_path / "e.csv").read_text() == "old"

    def test_format_goes_by_the_suffix(self, command, folder, tmp_path):
        for name, beginning in {"e.rttm": "SPEAKER a 1 ", "e.json": "[\n{", "e.txt": "1.000\t2", "e": "path,"}.items():
            assert command(folder / "a.wav", *SPEECH, "-o", tmp_path / name) == 0
            assert (tmp_path / name).read_text().startswith(beginning)
        assert command(folder / "a.wav", *SPEECH, "-o", tmp_path / "e.tsv") == 2
        assert command(folder / "a.wav", *SPEECH, "-o", tmp_path / "e.tsv", "--format", "csv") == 0

    def test_json_option(self, command, folder, capsys):
        assert command(folder, *SPEECH, "--json") == 0
        assert len(json.loads(capsys.readouterr().out)) == 3

    def test_audacity_has_a_file_for_each_recording(self, command, folder, tmp_path, capsys):
        out = tmp_path / "labels"
        assert command(folder, *SPEECH, "--format", "audacity", "-o", out) == 0
        found = {str(p.relative_to(out)): p.read_text() for p in out.rglob("*") if p.is_file()}
        assert set(found) == {"a.txt", "quiet.txt", "sub/b.txt"}
        assert found["quiet.txt"] == ""
        assert found["sub/b.txt"] == "0.500\t1.000\tSpeech\n"
        assert command(folder, "--format", "audacity") == 2
        assert "a folder" in capsys.readouterr().err

    def test_options(self, command, folder, capsys):
        assert command(folder / "a.wav", "--labels", "Speech; Dog", "--labels", "Bird", "--threshold", "1.0") == 0
        assert len(capsys.readouterr().out.splitlines()) == 4
        assert command(folder / "a.wav", *SPEECH, "--min-duration", "1.5", "--max-gap", "0", "--median", "0") == 0
        assert len(capsys.readouterr().out.splitlines()) == 1

    def test_thresholds_of_single_sounds(self, talnet, monkeypatch, capsys):
        monkeypatch.setattr("sedembed.cli.events.load", lambda options: talnet)
        sound = str(SOUNDS / "police_siren.ogg")
        assert main(["detect", sound, "--threshold", "Siren=0.6", "--threshold", "0.99"]) == 0
        assert {row["label"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))} == {"Siren"}

    @pytest.mark.parametrize(
        "options",
        [["--threshold", "30"], ["--labels", "speech"], ["--median", "-1"], ["--threshold", "Speach=0.4"]],
    )
    def test_bad_values(self, command, folder, options, capsys):
        assert command(folder, *options) == 2
        assert capsys.readouterr().err.count("\n") == 1

    def test_no_number(self, command, folder):
        with pytest.raises(SystemExit) as exit_:
            command(folder, "--threshold", "high")
        assert exit_.value.code == 2

    def test_a_folder_without_sound(self, command, tmp_path, capsys):
        (tmp_path / "notes.md").write_text("no sound")
        assert command(tmp_path) == 2
        assert ".wav" in capsys.readouterr().err

    def test_help_tells_the_defaults_of_detect(self, capsys):
        with pytest.raises(SystemExit):
            main(["detect", "--help"])
        text = " ".join(capsys.readouterr().out.split())
        defaults = {n: p.default for n, p in inspect.signature(sedembed.Embedder.detect).parameters.items()}
        for name in ("threshold", "median", "min_duration", "max_gap"):
            after = text.rsplit("--" + name.replace("_", "-"), 1)[1]
            assert f"(default: {defaults[name]:g})" in after
