"""Building a collection: cutting, the comparison with evaluation sets, the choice by coverage."""

from __future__ import annotations

import csv
import logging
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sedembed._training.distillation.collect import Source, collect, cut_source, read_table
from sedembed._training.distillation.coverage import choose_by_coverage
from sedembed._training.distillation.fingerprint import SAME_RECORDING, FingerprintIndex, fingerprint
from sedembed._training.distillation.teacher import Teacher

RATE = 16_000
SOURCE = Source("owner/name", "things", "kind", "CC0", ".", "", 100, 3)


def sound(seed: int, seconds: float) -> np.ndarray:
    """Noise whose spectrum changes ten times a second."""
    rng = np.random.default_rng(seed)
    pieces = []
    for _ in range(round(10 * seconds)):
        piece = np.convolve(rng.normal(size=RATE // 10), rng.normal(size=32), mode="same")
        pieces.append(piece / np.abs(piece).max())
    return 0.5 * np.concatenate(pieces)


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    torch.manual_seed(0)
    return Teacher().eval()


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A folder of sources with one work tree: a long recording, two short ones, silence, and what is not sound."""
    folder = tmp_path_factory.mktemp("sources") / "owner+name"
    folder.mkdir()
    soundfile.write(folder / "a_long.wav", sound(1, 35), RATE)
    soundfile.write(folder / "b_short.flac", sound(2, 1.0), RATE)
    soundfile.write(folder / "c_short.ogg", sound(3, 2.0), RATE)
    soundfile.write(folder / "d_12345.wav", sound(4, 8.0), 2 * RATE)
    soundfile.write(folder / "e_silence.wav", np.zeros(5 * RATE), RATE)
    (folder / "f_broken.wav").write_bytes(b"no sound")
    (folder / "readme.txt").write_text("no sound either")
    return folder.parent


class TestFingerprint:
    def test_a_copy_is_found_wherever_it_lies(self):
        clips = [sound(seed, 5.0) for seed in range(4)]
        index = FingerprintIndex([fingerprint(clip) for clip in clips])
        recording = sound(9, 10.0)
        recording[4 * RATE : 9 * RATE] = 0.3 * clips[2] + np.random.default_rng(0).normal(0, 0.01, 5 * RATE)
        scores = index.scores(fingerprint(recording))
        assert scores.argmax() == 2
        assert scores[2] > 0.6
        assert np.delete(scores, 2).max() < SAME_RECORDING

    def test_a_part_of_a_clip_is_found(self):
        clip = sound(0, 5.0)
        index = FingerprintIndex([fingerprint(clip)])
        part = np.concatenate((sound(7, 8.0), clip[: 2 * RATE]))
        assert index.scores(fingerprint(part))[0] > SAME_RECORDING
        assert index.scores(fingerprint(sound(7, 8.0)))[0] < SAME_RECORDING

    def test_scores_are_those_of_a_loop_over_the_shifts(self):
        a, b = fingerprint(sound(0, 2.0)).astype(int), fingerprint(sound(1, 3.0)).astype(int)
        best = 0
        for shift in range(-len(a) + 1, len(b)):
            low, high = max(0, shift), min(len(b), shift + len(a))
            best = max(best, int((a[low - shift : high - shift] * b[low:high]).sum()))
        expected = best / min(np.count_nonzero(a), np.count_nonzero(b))
        assert FingerprintIndex([a.astype(np.int8)]).scores(b.astype(np.int8))[0] == pytest.approx(expected, rel=1e-4)

    def test_level_and_silence(self):
        clip = sound(0, 3.0)
        np.testing.assert_array_equal(fingerprint(clip), fingerprint(0.01 * clip))
        assert not fingerprint(np.zeros(RATE)).any()
        padded = fingerprint(np.concatenate((clip, np.zeros(2 * RATE))))
        assert not padded[130:].any()
        assert FingerprintIndex([fingerprint(np.zeros(RATE))]).scores(padded)[0] == pytest.approx(0.0, abs=1e-6)

    def test_nothing_and_too_much(self):
        assert FingerprintIndex([]).scores(fingerprint(sound(0, 1.0))).shape == (0,)
        with pytest.raises(ValueError, match="longest"):
            FingerprintIndex([fingerprint(sound(0, 1.0))], longest=1.0).scores(fingerprint(sound(0, 2.0)))


class TestCoverage:
    def test_rare_events_come_first_and_the_budget_holds(self):
        probabilities = np.full((30, 3), 0.01)
        probabilities[:28, 0] = 0.9
        probabilities[28, 1] = probabilities[29, 2] = 0.9
        chosen = choose_by_coverage(probabilities, np.full(30, 10.0), 60.0)
        assert len(chosen) == 6
        assert {28, 29} <= set(chosen[:3].tolist())

    def test_is_the_greedy_choice(self):
        rng = np.random.default_rng(0)
        probabilities, seconds = rng.random((20, 5)) ** 4, rng.uniform(1, 10, 20)
        known = np.array([0.0, 1.0, 2.0, 50.0, 0.0])
        amounts, left, expected = known.copy(), 40.0, []
        while True:
            fits = [i for i in range(20) if i not in expected and seconds[i] <= left]
            if not fits:
                break
            best = max(fits, key=lambda i: np.log1p(probabilities[i] / (5 + amounts)).sum() / seconds[i])
            expected.append(best)
            amounts += probabilities[best]
            left -= seconds[best]
        assert choose_by_coverage(probabilities, seconds, 40.0, known).tolist() == expected


class TestCut:
    def test_long_recordings_give_parts_and_short_ones_are_joined(self, repository):
        segments = list(cut_source(SOURCE, repository / "owner+name", set()))
        whole = soundfile.read(repository / "owner+name" / "a_long.wav", dtype="float32")[0]
        assert [segment.how for segment in segments] == ["cut"] * 3 + ["cut", "joined"]
        for segment, start in zip(segments[:3], (0, 12.5, 25), strict=True):
            part = whole[int(start * RATE) : int((start + 10) * RATE)]
            np.testing.assert_array_equal(segment.samples, (part * 32767).astype(np.int16))
        assert len(segments[3].samples) == 4 * RATE
        assert 3.0 * RATE < len(segments[4].samples) < 4.3 * RATE

    def test_a_bare_repository_gives_the_same(self, repository, tmp_path):
        tree = tmp_path / "tree"
        subprocess.run(["cp", "-r", repository / "owner+name", tree], check=True)
        for command in (
            ["init", "-q"],
            ["add", "."],
            ["-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-q", "-m", "sounds"],
        ):
            subprocess.run(["git", "-C", tree, *command], check=True)
        plain = list(cut_source(SOURCE, repository / "owner+name", set()))
        bare = list(cut_source(SOURCE, tree / ".git", set()))
        for a, b in zip(plain, bare, strict=True):
            np.testing.assert_array_equal(a.samples, b.samples)

    def test_files_are_chosen_by_the_table(self, repository):
        folder = repository / "owner+name"

        def count(forbidden: frozenset[str] = frozenset(), **changes: object) -> int:
            return len(list(cut_source(Source(**{**vars(SOURCE), **changes}), folder, set(), forbidden)))

        assert count(keep="a_long", most_segments=1) == 1
        assert count(drop="long|short") == 1
        assert count(drop="long|short", forbidden=frozenset({"12345"})) == 0
        assert count(drop="long|short", forbidden=frozenset({"1234"})) == 1
        seen: set[str] = set()
        assert len(list(cut_source(SOURCE, folder, seen))) == 5
        assert not list(cut_source(SOURCE, folder, seen))

    def test_the_tables_can_be_read(self):
        folder = Path(__file__).parents[3] / "docs" / "training"
        tables = [read_table(folder / name) for name in ("more-audio.csv", "open-audio-again.csv")]
        names = [source.collection for table in tables for source in table]
        assert len(names) == len(set(names))
        assert all(source.most_files > 0 and source.most_segments > 0 for table in tables for source in table)

    def test_other_columns_are_refused(self, tmp_path):
        (tmp_path / "table.csv").write_text("repository,name\na/b,c\n")
        with pytest.raises(ValueError, match="columns"):
            read_table(tmp_path / "table.csv")


class TestCollect:
    def test_writes_a_folder_to_train_on(self, repository, teacher, tmp_path, caplog):
        missing = Source("no/where", "nowhere", "", "", ".", "", 1, 1)
        with caplog.at_level(logging.INFO):
            collect([SOURCE, missing], repository, tmp_path / "out", teacher, exclude=frozenset({"things/0001"}))
        assert "no/where" in caplog.text
        with (tmp_path / "out" / "segments.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        assert [row["file"] for row in rows] == [f"things/000{i}.flac" for i in (0, 2, 3, 4)]
        known = np.load(tmp_path / "out" / "teacher.npz")
        assert known["logits"].shape == (4, 527)
        assert known["embeddings"].shape == (4, 384)
        for row in rows:
            samples, rate = soundfile.read(tmp_path / "out" / "audio" / row["file"])
            assert rate == RATE
            assert len(samples) / RATE == pytest.approx(float(row["seconds"]), abs=1e-3)
        with (tmp_path / "out" / "sources.csv").open() as stream:
            (source,) = csv.DictReader(stream)
        assert (source["repository"], source["segments"]) == ("owner/name", "4")

    def test_evaluation_clips_and_known_segments_are_left_out(self, repository, teacher, tmp_path):
        collect([SOURCE], repository, tmp_path / "first", teacher)
        clip = tmp_path / "clip.ogg"
        whole, _ = soundfile.read(repository / "owner+name" / "a_long.wav")
        soundfile.write(clip, 0.5 * whole[30 * RATE :], RATE)
        collect([SOURCE], repository, tmp_path / "second", teacher, evaluation=[clip])
        assert len(np.load(tmp_path / "second" / "teacher.npz")["files"]) == 4
        with pytest.raises(ValueError, match="found none"):
            collect([SOURCE], repository, tmp_path / "third", teacher, known=tmp_path / "first")

    def test_hours_are_chosen_by_coverage(self, repository, teacher, tmp_path):
        collect([SOURCE], repository, tmp_path / "out", teacher, hours=15 / 3600)
        files = np.load(tmp_path / "out" / "teacher.npz")["files"].tolist()
        assert (
            sorted(
                path.relative_to(tmp_path / "out" / "audio").as_posix()
                for path in (tmp_path / "out" / "audio").rglob("*.flac")
            )
            == files
        )
        seconds = sum(soundfile.info(tmp_path / "out" / "audio" / file).duration for file in files)
        assert 0 < seconds <= 15
