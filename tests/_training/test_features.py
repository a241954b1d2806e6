"""Tests of features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from sedembed._training import features as features_module
from sedembed._training.clips import ClipSet
from sedembed._training.features import UnreadableClipError
from sedembed._training.loop import predict
from sedembed._training.settings import TrainConfig
from sedembed.errors import DatasetError
from tests._training.train_helpers import TINY, clips, store, tiny, whole  # noqa: F401


class TestFeatures:
    def test_whole_clips_as_the_network_hears_them(self, clips: ClipSet) -> None:
        found, network = store(clips), tiny().build(1)
        for i, frames in ((0, 128), (9, 96), (11, 224)):  # whole segments of 32; at least 96 frames
            wave, _ = soundfile.read(clips.paths[i], dtype="float32")
            wave = np.pad(wave, (0, max(0, network.min_samples - len(wave))))
            np.testing.assert_array_equal(found[i], network.features(torch.from_numpy(wave)).numpy())
            assert found[i].shape == (frames, 64)
        assert len(found) == 12
        with pytest.raises(IndexError):
            found[12]

    def test_float16_of_decibels(self) -> None:
        decibels = np.linspace(-100, 60, 1_000_001, dtype=np.float32)
        error = np.abs(decibels.astype(np.float16).astype(np.float32) - decibels)
        assert error.max() <= 1 / 32
        assert error[np.abs(decibels) < 64].max() <= 1 / 64

    def test_cached_as_on_the_fly(self, clips: ClipSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(features_module, "SHARD_CLIPS", 5)
        fresh, cached = store(clips), store(clips, cache=tmp_path / "cache")
        for i in range(12):
            assert cached[i].dtype == np.float32
            np.testing.assert_allclose(cached[i], fresh[i], rtol=0, atol=1 / 32)
        assert np.abs(cached[3] - fresh[3]).max() > 0
        # Nothing is decoded any more.
        gone = ClipSet(clips.names, tuple(Path("/nowhere") for _ in clips.names), clips.targets, clips.classes)
        np.testing.assert_array_equal(store(gone, cache=tmp_path / "cache")[11], cached[11])
        part = cached.subset(clips.select([11, 2]))
        np.testing.assert_array_equal(part[0], cached[11])
        assert len(part) == 2

    def test_goes_on_where_it_was_stopped(
        self, clips: ClipSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(features_module, "SHARD_CLIPS", 4)
        store(clips, cache=tmp_path / "whole")
        load, asked = features_module.load_audio, list[str]()

        def interrupted(path: Path, rate: int) -> Any:
            asked.append(path.name)
            if len(asked) == 7:
                raise KeyboardInterrupt
            return load(path, rate)

        with monkeypatch.context() as patch:
            patch.setattr(features_module, "load_audio", interrupted)
            with pytest.raises(KeyboardInterrupt):
                store(clips, cache=tmp_path / "parts")
        first = len(asked)
        monkeypatch.setattr(
            features_module, "load_audio", lambda path, rate: (asked.append(path.name), load(path, rate))[1]
        )
        store(clips, cache=tmp_path / "parts")
        assert sorted(asked[first:]) == sorted(clips.names[4:])
        names = sorted(file.name for file in (tmp_path / "whole").iterdir())
        assert len(names) == 7
        assert names == sorted(file.name for file in (tmp_path / "parts").iterdir())
        for name in names:
            assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()

    def test_another_ones_cache_is_refused(self, clips: ClipSet, tmp_path: Path) -> None:
        cache = tmp_path / "cache"
        store(clips, cache=cache)
        with pytest.raises(DatasetError, match=r"other clips .*\(clips, names differ\)"):
            store(clips.select(range(11)), cache=cache)
        with pytest.raises(DatasetError, match=r"\(front_end differ\)"):
            store(clips, tiny(network={**TINY, "top_db": 60.0}), cache=cache)
        with pytest.raises(DatasetError, match=r"\(front_end differ\)"):
            store(clips, TrainConfig(), cache=cache)
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "thesis.txt").touch()
        with pytest.raises(DatasetError, match="Choose an empty folder"):
            store(clips, cache=tmp_path / "other")
        (cache / "features-00000.npy").write_bytes((cache / "features-00000.npy").read_bytes()[:-100])
        with pytest.raises(DatasetError, match=r"features-00000\.npy .* is damaged"):
            store(clips, cache=cache)

    def test_damaged_caches_are_refused(self, clips: ClipSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        cache = tmp_path / "cache"
        store(clips, cache=cache)
        index, described = cache / "features-00000.json", cache / "cache.json"
        good = json.loads(index.read_text())
        first, second, *rest = good["frames"]
        for frames in ([], None, "12", [10**40, *good["frames"][1:]], [-1, first + second + 1, *rest], [True] * 12):
            index.write_text(json.dumps({**good, "frames": frames}))
            with pytest.raises(DatasetError, match=r"features-00000\.json is damaged"):
                store(clips, cache=cache)
        for failures in (None, [], {"a": ["x", "y"]}, {"1": 3}, {"1": ["x"]}):
            index.write_text(json.dumps({**good, "failures": failures}))
            with pytest.raises(DatasetError, match=r"features-00000\.json is damaged"):
                store(clips, cache=cache)
        for text in ("", "{", "[]", "[" * 100_000, "{}"):
            index.write_text(text)
            with pytest.raises(DatasetError, match=r"features-00000\.json is damaged"):
                store(clips, cache=cache)
        index.write_text(json.dumps(good))
        store(clips, cache=cache)
        for text in ("", "{", "[]", "[" * 100_000):
            described.write_text(text)
            with pytest.raises(DatasetError, match=r"cache\.json is damaged"):
                store(clips, cache=cache)

    @pytest.mark.parametrize("cached", [False, True])
    def test_unreadable_clips(self, clips: ClipSet, tmp_path: Path, cached: bool) -> None:
        broken = tmp_path / "broken.wav"
        broken.write_bytes(b"RIFF" + bytes(100))
        paths = (broken, *clips.paths[1:-1], tmp_path / "gone.wav")
        damaged = ClipSet(clips.names, paths, clips.targets, clips.classes)
        found = store(damaged, cache=tmp_path / "cache" if cached else None)
        for i in (0, 11):
            with pytest.raises(UnreadableClipError, match="cannot be decoded"):
                found[i]
        assert {i: error for i, (error, _) in found.failures.items()} == {
            0: "AudioDecodeError",
            11: "MissingFileError",
        }
        np.testing.assert_allclose(found[5], store(clips)[5], atol=1 / 32)
        probabilities = predict(tiny().build(3), found, batch_size=5)
        assert [i for i in range(12) if np.isnan(probabilities[i]).all()] == [0, 11]
        assert np.isfinite(probabilities[1:11]).all()

    def test_too_many_unreadable_clips(self, tmp_path: Path) -> None:
        names = tuple(f"{i}.wav" for i in range(60))
        nothing = ClipSet(names, tuple(tmp_path / name for name in names), np.ones((60, 1), np.float32), ("a",))
        with pytest.raises(DatasetError, match="60 of 60 clips cannot be decoded"):
            store(nothing, cache=tmp_path / "cache")
        found = store(nothing)
        for i in range(49):
            with pytest.raises(UnreadableClipError):
                found[i]
        with pytest.raises(DatasetError, match="50 of 50 clips cannot be decoded, one of them because") as caught:
            found[49]
        assert not isinstance(caught.value, UnreadableClipError)
