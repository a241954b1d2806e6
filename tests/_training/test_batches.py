"""Tests of batches."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sedembed._training.batches import BatchMaker
from sedembed._training.clips import ClipSet
from sedembed._training.distributed import Processes
from sedembed._training.sampler import ShuffledOrder
from tests._training.train_helpers import TINY, clips, fake_store, run, store, tiny, whole  # noqa: F401


class TestBatches:
    def maker(self, clips: ClipSet, read: Any, processes: Processes | None = None, **settings: Any) -> BatchMaker:
        config = tiny(balanced=False, **settings)
        return BatchMaker(config, clips, fake_store(clips, config, read), config.build(3), processes or Processes())

    def test_spec_augment(self, clips: ClipSet) -> None:
        features = np.full((1024, 64), -30, np.float32)
        maker = self.maker(clips, lambda _: features, seconds=10.0, spec_augment_fill=7.0)
        widths = []
        for position in range(500):
            masked = maker.item(position)[0] == 7.0
            interval, band = masked.all(axis=1), masked.all(axis=0)
            np.testing.assert_array_equal(masked, interval[:, None] | band)
            for mask in (interval, band):  # in one piece
                assert len(np.flatnonzero(np.diff(np.pad(mask, 1).astype(int)))) in (0, 2)
            widths.append((interval.sum(), band.sum()))
        times, bands = np.array(widths).T
        assert 195 <= times.max() <= 200  # 2 s at 100 frames a second
        assert set(bands) == set(range(17))
        assert times.mean() == pytest.approx(100, abs=8)
        assert bands.mean() == pytest.approx(8, abs=0.7)
        plain = self.maker(clips, lambda _: features, seconds=10.0, spec_augment=False)
        np.testing.assert_array_equal(plain.item(3)[0], features)

    def test_masks_hold_the_mean_of_the_clip(self, clips: ClipSet) -> None:
        ramp = np.linspace(-90, -10, 1024 * 64, dtype=np.float32).reshape(1024, 64)
        whole = self.maker(clips, lambda _: ramp, seconds=5.0, spec_augment=False)
        masked = self.maker(clips, lambda _: ramp, seconds=5.0)
        for position in range(10):
            before, after = whole.item(position)[0], masked.item(position)[0]
            changed = before != after
            assert changed.any()
            np.testing.assert_array_equal(after[changed], before.mean())

    @pytest.mark.parametrize(("fill", "expected"), [(None, 0.0), ("mean", "mean"), (2.5, 2.5)])
    def test_talnet_masks_with_zero_after_normalisation(self, clips: ClipSet, fill: Any, expected: Any) -> None:
        ramp = np.linspace(-90, -10, 400 * 64, dtype=np.float32).reshape(400, 64)
        settings = {"model": "talnet", "network": {}, "seconds": 5.0}
        whole = self.maker(clips, lambda _: ramp, spec_augment=False, **settings)
        masked = self.maker(clips, lambda _: ramp, spec_augment_fill=fill, **settings)
        for position in range(10):
            before, after = whole.item(position)[0], masked.item(position)[0]
            changed = before != after
            assert changed.any()
            value = before.mean() if expected == "mean" else np.float32(expected)
            np.testing.assert_array_equal(after[changed], value)

    def test_crops_and_silence(self, clips: ClipSet) -> None:
        ramp = np.repeat(np.arange(200, dtype=np.float32)[:, None], 64, 1)
        maker = self.maker(clips, lambda _: ramp, spec_augment=False)
        starts = {int(maker.item(p)[0][0, 0]) for p in range(1200)}
        assert starts == set(range(200 - 128 + 1))
        np.testing.assert_array_equal(np.diff(maker.item(0)[0][:, 0]), np.ones(127))
        # A short clip is followed by what the front end gives for silence: 80 dB under its maximum, -100 at least.
        for top, silence in ((-5.0, -85.0), (-40.0, -100.0)):
            short = np.full((96, 64), top - 10, np.float32)
            short[3, 3] = top
            maker = self.maker(
                clips, lambda _, short=short: short, spec_augment=False, network={**TINY, "mean": 1.0, "std": 2.0}
            )
            item = maker.item(0)[0]
            np.testing.assert_array_equal(item[:96], (short - 1) / 2)
            np.testing.assert_array_equal(item[96:], np.full((32, 64), (silence - 1) / 2))

    def test_whole_clips_are_as_long_as_the_longest(self, clips: ClipSet) -> None:
        config = tiny(seconds=None, balanced=False, spec_augment=False)
        features = store(clips, config)
        maker = BatchMaker(config, clips, features, config.build(3), Processes())
        (batch,) = maker.batches(1, 2)
        order = [ShuffledOrder(12, config.seed).clip(p) for p in range(6, 12)]
        np.testing.assert_array_equal(batch.targets, clips.targets[order])
        assert batch.features.shape[1] == max(len(features[i]) for i in order)
        for row, index in zip(batch.features.numpy(), order, strict=True):
            np.testing.assert_array_equal(row[: len(features[index])], features[index])
            silence = max(-100.0, float(features[index].max()) - 80.0)
            np.testing.assert_allclose(row[len(features[index]) :], silence, rtol=1e-6)

    def test_a_batch_depends_on_seed_and_step_only(self, clips: ClipSet) -> None:
        config = tiny()
        maker = BatchMaker(config, clips, store(clips), config.build(3), Processes())
        run = list(maker.batches(0, 5))
        (again,) = maker.batches(3, 4)
        assert torch.equal(run[3].features, again.features)
        assert torch.equal(run[3].targets, again.targets)
        assert not torch.equal(run[2].features, again.features)
        halves = [
            next(BatchMaker(config, clips, store(clips), config.build(3), Processes(rank, 2)).batches(3, 4))
            for rank in range(2)
        ]
        assert torch.equal(torch.cat([half.features for half in halves]), again.features)

    def test_a_clip_of_the_same_class_stands_in(self, clips: ClipSet, tmp_path: Path) -> None:
        paths = tuple(tmp_path / "gone.wav" if i in (0, 3, 4) else path for i, path in enumerate(clips.paths))
        damaged = ClipSet(clips.names, paths, clips.targets, clips.classes)
        config = tiny()
        maker = BatchMaker(config, damaged, store(damaged), config.build(3), Processes())
        drawn = Counter(int(c) for batch in maker.batches(0, 10) for c in batch.targets.argmax(1))
        assert drawn == {0: 20, 1: 20, 2: 20}
