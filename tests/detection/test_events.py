"""Events: from probabilities to onsets and offsets, piece by piece; the model's `detect`; the command `detect`."""

from __future__ import annotations

import numpy as np
import pytest

from sedembed import Event
from sedembed.detection.events import EventDetector, EventRules

NAMES = ("Speech", "Dog", "Siren", "Bird, chirp")


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
            ({"threshold": {"dogg": 0.5}}, "did you mean 'Dog'"),
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
