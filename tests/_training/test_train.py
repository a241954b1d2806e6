"""Training on labelled clips: reading, features, order, batches, the loop, the command."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import sedembed
from sedembed._training import features as features_module
from sedembed._training import loop
from sedembed._training.batches import BatchMaker
from sedembed._training.clips import ClipSet, hold_out, read_audioset
from sedembed._training.distributed import Processes
from sedembed._training.features import FeatureStore, UnreadableClipError
from sedembed._training.loop import Training, predict
from sedembed._training.prediction import score
from sedembed._training.sampler import BalancedOrder, ShuffledOrder, positions_of
from sedembed._training.settings import TrainConfig
from sedembed.cli.main import main
from sedembed.errors import DatasetError, DivergedError
from sedembed.models.weights import load_network, resolve

TINY: dict[str, Any] = {"channels": [4, 8, 8, 8], "segment_channels": 16, "hidden_channels": [16, 16]}
HEADER = "# Segments csv\n# num_ytids=1\n# YTID, start_seconds, end_seconds, positive_labels\n"


def tiny(**settings: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "model": "weanet",
        "network": TINY,
        "batch_size": 6,
        "steps": 6,
        "validate_every": 3,
        "checkpoint_every": 2,
        "log_every": 1,
        "seconds": 1.0,
    }
    return TrainConfig(**{**values, **settings})


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> ClipSet:
    """Twelve recordings of a second, low, middle and high tones; the last three of other lengths."""
    folder, rng = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    paths = []
    for i in range(12):
        t = np.arange(round(16_000 * {9: 0.3, 10: 1.5, 11: 2.2}.get(i, 1.0))) / 16_000
        wave = 0.3 * np.sin(2 * np.pi * (300, 1200, 4000)[i % 3] * t) + 0.02 * rng.standard_normal(len(t))
        paths.append(folder / f"clip{i}.wav")
        soundfile.write(paths[-1], wave, 16_000)
    return ClipSet(
        tuple(p.name for p in paths), tuple(paths), np.tile(np.eye(3, dtype=np.float32), (4, 1)), tuple("abc")
    )


def store(clips: ClipSet, config: TrainConfig | None = None, **options: Any) -> FeatureStore:
    return FeatureStore.open(clips, (config or tiny()).build(1), workers=1, **options)


def fake_store(clips: ClipSet, config: TrainConfig, read: Any) -> FeatureStore:
    network = config.build(1)
    return FeatureStore(clips, read, {}, network.describe_front_end(), network.spectrogram, 0.5, True, 1)


def training(config: TrainConfig, clips: ClipSet, out: Path, validate: bool = True, **options: Any) -> Training:
    train = clips.select(range(9)) if validate else clips
    held_out = clips.select(range(9, 12)) if validate else None
    features = None if held_out is None else store(held_out, config)
    return Training(
        config,
        train,
        store(train, config),
        out,
        validation=held_out,
        validation_features=features,
        device="cpu",
        **options,
    )


def read_log(out: Path) -> list[dict[str, str]]:
    with (out / "log.csv").open() as stream:
        return [{k: v for k, v in row.items() if k != "audio_seconds_per_second"} for row in csv.DictReader(stream)]


class TestSettings:
    def test_defaults_are_those_of_the_authors(self) -> None:
        config = TrainConfig()
        assert (config.model, config.batch_size, config.steps, config.validate_every) == ("talnet", 250, 30_000, 1000)
        assert (config.learning_rate, config.plateau_factor, config.plateau_patience) == (1e-3, 0.8, 3)
        assert (config.spec_augment_bins, config.spec_augment_seconds, config.seed) == (16, 2.0, 15213)
        network = config.network_config(527)
        shipped = json.loads((files("sedembed") / "models" / "talnet_normalizer.json").read_text())
        assert network.mean == tuple(shipped["mu"])
        assert TrainConfig(model="weanet").network_config(527).std == 1.0

    def test_how_the_last_layers_start(self) -> None:
        for settings, attention in (
            ({"model": "weanet"}, "attention"),
            ({"network": {"pooling": "attention"}}, "fc_att"),
        ):
            plain = TrainConfig(**settings).build(3)
            even = TrainConfig(**settings, even_attention=True, output_bias=-4.0).build(3)
            output = "b8" if attention == "attention" else "fc_prob"
            assert (even.get_submodule(output).bias == -4.0).all()
            assert (plain.get_submodule(output).bias == 0.0).all()
            assert (even.get_submodule(attention).weight == 0.0).all()
            assert plain.get_submodule(attention).weight.abs().max() > 0.0
            assert torch.equal(plain.get_submodule(output).weight, even.get_submodule(output).weight)

    def test_a_file_holds_any_of_the_settings(self, tmp_path: Path) -> None:
        config = tiny(seconds=None, sustain={"stages": 2})
        (tmp_path / "a.json").write_text(json.dumps(config.as_table()))
        assert TrainConfig.read(tmp_path / "a.json") == config
        assert config.network_config(5).channels == (4, 8, 8, 8)
        with pytest.raises(ValueError, match="for the model 'weanet', not 'talnet'"):
            TrainConfig.read(tmp_path / "a.json", model="talnet")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ('{"stepz": 1}', "unknown key 'stepz'; known are model"),
            ("[1]", "expected a JSON object"),
            ("{", "is not valid JSON"),
            ('{"steps": 0}', "steps must be a whole number of at least 1, got 0"),
            ('{"steps": true}', "steps must be"),
            ('{"learning_rate": NaN}', "learning_rate must be a finite number above 0"),
            ('{"precision": "int8"}', "precision must be one of 'float32', 'bfloat16', 'float16', 'float64'"),
            ('{"seconds": 0}', "seconds must be a finite number above 0 or null"),
            ('{"plateau_factor": 1}', "plateau_factor must be a finite number between 0 and 1"),
            ('{"network": {"channels": 3}}', "network: unknown fields channels; known are mean, std, pooling"),
            ('{"network": {"pooling": "median"}}', "pooling must be one of"),
            ('{"network": {"pooling": 3}}', "network: pooling must be one of"),
            (
                '{"model": "weanet", "network": {"channels": [1.5, 2, 2, 2]}}',
                "network: channels must be a list of whole numbers",
            ),
            ('{"model": "weanet", "network": {"top_db": "much"}}', "network: top_db must be a finite number above 0"),
        ],
    )
    def test_what_is_wrong_is_said(self, tmp_path: Path, text: str, said: str) -> None:
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ValueError, match=said):
            TrainConfig.read(tmp_path / "a.json")


class TestClips:
    def test_targets_are_checked(self, clips: ClipSet) -> None:
        soft = clips.with_targets(np.full((12, 3), 0.25, np.float32))
        assert (
            [list(own) for own in soft.members]
            == [list(own) for own in clips.members]
            == [list(range(c, 12, 3)) for c in range(3)]
        )
        for bad in (np.full((12, 3), 1.1), np.full((12, 3), np.nan), np.full((12, 3), -0.1), np.zeros((12, 2))):
            with pytest.raises(DatasetError, match=r"expected targets"):
                clips.with_targets(bad)
        with pytest.raises(DatasetError, match="names of clips must differ"):
            ClipSet(("a", "a"), clips.paths[:2], clips.targets[:2], clips.classes)

    def test_select(self, clips: ClipSet) -> None:
        some = clips.with_targets(clips.targets * 0.4).select([7, 0, 1])
        assert some.names == ("clip7.wav", "clip0.wav", "clip1.wav")
        assert [list(own) for own in some.members] == [[1], [0, 2], []]
        np.testing.assert_array_equal(some.targets.argmax(1), [1, 0, 1])

    def test_a_clip_is_held_out_whatever_else_there_is(self) -> None:
        names = tuple(f"{i:011d}" for i in range(2000))
        whole = ClipSet(names, tuple(map(Path, names)), np.ones((2000, 1), np.float32), ("a",))
        train, held_out = hold_out(whole, 0.1)
        assert 140 < len(held_out) < 260
        assert {*train.names, *held_out.names} == {*names}
        assert set(hold_out(whole.select(range(500)), 0.1)[1].names) == set(held_out.names) & set(names[:500])
        with pytest.raises(DatasetError, match="leaves 5 to train on and 0 to"):
            hold_out(whole.select(range(5)), 1e-6)


@pytest.fixture(scope="module")
def mids() -> list[str]:
    text = (files("sedembed.models") / "class_labels_indices.csv").read_text()
    return [row["mid"] for row in csv.DictReader(text.splitlines())]


@pytest.fixture
def audioset(tmp_path: Path, clips: ClipSet, mids: list[str]) -> Path:
    """Copy of AudioSet: nine clips to train on, three to evaluate on, one of each list missing; one is broken."""
    data = tmp_path / "audioset"
    (data / "deep").mkdir(parents=True)
    rows = []
    for i in range(12):
        video = f"-bcdefgh_{i:02d}"
        name = (f"Y{video}.wav", f"deep/{video}_30.000_31.000.wav", f"{video}_30000.wav")[i % 3]
        shutil.copy(clips.paths[i], data / name)
        rows.append(f'{video}, 30.000, 31.000, "{mids[i % 3]},{mids[10]}"\n')
    (data / "Y-bcdefgh_99.wav").write_bytes(b"RIFF" + bytes(100))
    train = [
        *rows[:9],
        f'-missing_01, 0.000, 10.000, "{mids[5]}"\n',
        f'-bcdefgh_99, 0.000, 10.000, "{mids[0]}"\n',
        rows[9],
    ]
    (data / "balanced_train_segments.csv").write_text(HEADER + "".join(train))
    (data / "eval_segments.csv").write_text(HEADER + "".join(rows[9:]) + f'-missing_02, 0.000, 1.000, "{mids[0]}"\n')
    return data


class TestAudioSet:
    def test_parts(self, audioset: Path) -> None:
        train, missing = read_audioset(audioset, "train")
        assert train.names == (*(f"-bcdefgh_{i:02d}" for i in range(9)), "-bcdefgh_99")
        assert missing == ["balanced_train_segments/Y-missing_01.wav"]
        assert train.paths[:3] == (
            audioset / "Y-bcdefgh_00.wav",
            audioset / "deep/-bcdefgh_01_30.000_31.000.wav",
            audioset / "-bcdefgh_02_30000.wav",
        )
        assert train.classes == sedembed.models.labels.load_labels()
        assert [list(np.flatnonzero(row)) for row in train.targets[:3]] == [[0, 10], [1, 10], [2, 10]]
        # The one that both lists name is the evaluation's.
        evaluation, missing = read_audioset(audioset, "eval")
        assert evaluation.names == ("-bcdefgh_09", "-bcdefgh_10", "-bcdefgh_11")
        assert missing == ["eval_segments/Y-missing_02.wav"]
        with pytest.raises(DatasetError, match="none of the 0 recordings of the part unbalanced_train"):
            read_audioset(audioset, "unbalanced_train")
        with pytest.raises(ValueError, match="part must be train, balanced_train"):
            read_audioset(audioset, "test")

    def test_balanced_and_unbalanced_are_one(self, audioset: Path, clips: ClipSet, mids: list[str]) -> None:
        shutil.copy(clips.paths[0], audioset / "Yunbalanced1.wav")
        rows = f'unbalanced1, 0.000, 10.000, "{mids[2]}"\nunbalanced2, 0.000, 10.000, "{mids[2]}"\n'
        (audioset / "unbalanced_train_segments.csv").write_text(HEADER + rows)
        train, missing = read_audioset(audioset, "train")
        assert train.names[-1] == "unbalanced1"
        assert len(missing) == 2
        assert list(train.members[2]) == [2, 5, 8, 10]


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
        with pytest.raises(DatasetError, match="choose an empty folder"):
            store(clips, cache=tmp_path / "other")
        (cache / "features-00000.npy").write_bytes((cache / "features-00000.npy").read_bytes()[:-100])
        with pytest.raises(DatasetError, match=r"features-00000\.npy .* is damaged"):
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


class TestSampler:
    MEMBERS = (np.array([0, 1, 2, 3]), np.array([], np.int64), np.array([4]), np.array([1, 5, 6]), np.array([2, 7]))

    def test_each_class_once_in_a_round(self) -> None:
        order = BalancedOrder(self.MEMBERS, 8, 1)
        assert order.round_length == 4
        drawn = np.array([order.clip(p) for p in range(4 * 240)]).reshape(240, 4)
        queues: dict[int, list[int]] = {c: [] for c in (0, 2, 3, 4)}
        # Which class a draw is for: tell them apart by giving each class clips of its own.
        apart = BalancedOrder([own + 100 * c for c, own in enumerate(self.MEMBERS)], 8, 1)
        for turn in range(240):
            seen = [apart.clip(4 * turn + slot) for slot in range(4)]
            assert sorted(number // 100 for number in seen) == [0, 2, 3, 4]
            assert [number % 100 for number in seen] == list(drawn[turn])
            for number in seen:
                queues[number // 100].append(number % 100)
        # Every clip of a class comes once before any comes again, each time in another order.
        for c, own in queues.items():
            size = len(self.MEMBERS[c])
            epochs = [tuple(own[i : i + size]) for i in range(0, 240 - size + 1, size)]
            assert {tuple(sorted(epoch)) for epoch in epochs} == {tuple(sorted(self.MEMBERS[c]))}
            assert {1: 1, 2: 2, 3: 6, 4: 15}[size] <= len(set(epochs)) <= 24

    def test_the_order_of_classes_changes(self) -> None:
        order = BalancedOrder([np.array([c]) for c in range(527)], 527, 15213)
        rounds = [[order.clip(p) for p in range(527 * r, 527 * (r + 1))] for r in range(3)]
        assert all(sorted(turn) == list(range(527)) for turn in rounds)
        assert rounds[0] != rounds[1] != rounds[2]

    @pytest.mark.parametrize("balanced", [True, False])
    def test_any_position_at_once(self, balanced: bool) -> None:
        def new(seed: int = 3) -> Any:
            return BalancedOrder(self.MEMBERS, 8, seed) if balanced else ShuffledOrder(8, seed)

        order = new()
        sequence = [order.clip(p) for p in range(100)]
        assert [new().clip(p) for p in (99, 57, 0)] == [sequence[p] for p in (99, 57, 0)]
        other = new(4)
        assert [other.clip(p) for p in range(100)] != sequence

    def test_plain_order_has_each_clip_once_an_epoch(self) -> None:
        order = ShuffledOrder(7, 0)
        epochs = [tuple(order.clip(p) for p in range(7 * e, 7 * (e + 1))) for e in range(5)]
        assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
        assert len(set(epochs)) == 5

    def test_processes_share_a_batch(self) -> None:
        for step, count in ((0, 2), (3, 3), (5, 4)):
            parts = [positions_of(step, 10, rank, count) for rank in range(count)]
            np.testing.assert_array_equal(np.concatenate(parts), np.arange(10 * step, 10 * step + 10))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1

    def test_who_stands_in_for_an_unreadable_clip(self) -> None:
        order = BalancedOrder(self.MEMBERS, 8, 1)
        for position in range(16):
            tried = [order.clip(position, attempt) for attempt in range(20)]
            assert tried == [order.clip(position, attempt) for attempt in range(20)]
            own = next(set(m.tolist()) for m in self.MEMBERS if len(m) and set(tried[: len(m)]) == set(m.tolist()))
            assert not set(tried[len(own) :]) <= own
        with pytest.raises(DatasetError, match="no clip carries any class"):
            BalancedOrder([np.array([], np.int64)], 5, 0)


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


def run(config: TrainConfig, clips: ClipSet, out: Path, **options: Any) -> Training:
    made = training(config, clips, out, **options)
    made.run()
    return made


def states(out: Path) -> dict[str, Any]:
    return dict(torch.load(out / "checkpoint.pt", weights_only=True))


def assert_same(a: Any, b: Any, where: str = "") -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b)
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}/{i}")
    else:
        assert a == b, where


# log_every 3 and checkpoint_every 2: the sums of a line of the log are carried over, too.
WHOLE = tiny(log_every=3, steps=7, plateau_patience=0)


@pytest.fixture(scope="module")
def whole(clips: ClipSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(WHOLE, clips, out)
    return out


class TestTraining:
    @pytest.mark.parametrize("model", ["weanet", "talnet"])
    def test_first_loss_by_hand(self, model: str, clips: ClipSet, tmp_path: Path) -> None:
        plain: dict[str, Any] = {"model": "talnet", "network": {}, "batch_size": 3, "seconds": 0.3}
        if model == "weanet":
            plain = {}
        config = tiny(steps=1, spec_augment=False, **plain)
        soft = clips.with_targets(clips.targets * 0.7 + 0.1)
        made = training(config, soft, tmp_path, validate=False)
        network = config.build(3).double().train()  # the same initial weights: they depend on the seed only
        (batch,) = made._batches.batches(0, 1)
        order = BalancedOrder(clips.members, 12, config.seed)
        np.testing.assert_array_equal(batch.targets, soft.targets[[order.clip(p) for p in range(config.batch_size)]])
        with torch.no_grad():
            p = network.pool(network.forward_normalised(batch.features.double())).numpy()
        y = batch.targets.double().numpy()
        expected = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
        made.run()
        assert float(read_log(tmp_path)[0]["loss"]) == pytest.approx(expected, rel=2e-4)

    def test_overfits(self, clips: ClipSet, tmp_path: Path) -> None:
        config = tiny(steps=40, learning_rate=1e-2, validate_every=60, spec_augment=False, normalization="measured")
        train = clips.select(range(9))
        features = store(train, config)
        Training(config, train, features, tmp_path, validation=None, validation_features=None, device="cpu").run()
        losses = [float(row["loss"]) for row in read_log(tmp_path)]
        assert np.mean(losses[-5:]) < 0.25 * losses[0]
        model = load_network(resolve(tmp_path / "model"))
        scores = score(train.targets, predict(model, features))
        assert scores["map"] > 0.95

    @pytest.mark.parametrize("killed_at", [1, 3, 4, 5])
    def test_resume_is_bit_equal(
        self, killed_at: int, whole: Path, clips: ClipSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config, update = WHOLE, Training._update

        def killed(self: Training, batch: Any) -> Any:
            if self.step == killed_at:
                raise KeyboardInterrupt
            return update(self, batch)

        with monkeypatch.context() as patch:
            patch.setattr(Training, "_update", killed)
            with pytest.raises(KeyboardInterrupt, match=f"interrupted at step {killed_at} of 7; run the same command"):
                run(config, clips, tmp_path / "parts")
        parts = training(config, clips, tmp_path / "parts")
        assert parts.step == {1: 0, 3: 3, 4: 4, 5: 4}[killed_at]
        parts.run()
        assert_same(states(whole), states(tmp_path / "parts"))
        assert read_log(whole) == read_log(tmp_path / "parts")
        assert [int(row["step"]) for row in read_log(whole)] == [3, 6, 7]
        for file in ("model/model.safetensors", "final/model.safetensors", "result.json"):
            assert (whole / file).read_bytes() == (tmp_path / "parts" / file).read_bytes()

    def test_a_finished_run_stays_as_it_is(self, whole: Path, clips: ClipSet) -> None:
        names = ("checkpoint.pt", "log.csv", "result.json", "model/model.safetensors", "final/model.safetensors")
        before = [(whole / name).read_bytes() for name in names]
        assert run(WHOLE, clips, whole).step == 7
        assert [(whole / name).read_bytes() for name in names] == before

    def test_the_best_model_and_the_plateau(
        self, clips: ClipSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        maps = iter([0.2, 0.5, 0.4, 0.5, 0.3, 0.3])
        kept: list[dict[str, torch.Tensor]] = []

        def judged(network: Any, *_: Any) -> dict[str, float]:
            kept.append({key: value.clone() for key, value in network.state_dict().items()})
            return {"map": next(maps), "mauc": 0.5, "d_prime": float("inf")}

        monkeypatch.setattr(loop, "validate", judged)
        made = run(tiny(validate_every=1, plateau_patience=1), clips, tmp_path)
        rates = [float(row["learning_rate"]) for row in read_log(tmp_path)]
        # 0.5 at step 2 is the best; the second validation in a row without a better one lowers the rate.
        np.testing.assert_allclose(rates, [1e-3, 1e-3, 1e-3, 8e-4, 8e-4, 6.4e-4])
        assert made.best == {"step": 2, "map": 0.5, "mauc": 0.5, "d_prime": float("inf")}
        for name, step in (("model", 2), ("final", 6)):
            saved = load_network(resolve(tmp_path / name)).state_dict()
            for key, value in saved.items():
                assert key.endswith("num_batches_tracked") or torch.equal(value, kept[step - 1][key]), (name, key)
        result = json.loads((tmp_path / "result.json").read_text())
        assert result["best"] == {"step": 2, "map": 0.5, "mauc": 0.5, "d_prime": None}

    def test_what_is_validated(self, clips: ClipSet, tmp_path: Path) -> None:
        run(tiny(), clips, tmp_path)
        rows = [row for row in read_log(tmp_path) if row["validation_map"]]
        assert [row["step"] for row in rows] == ["3", "6"]
        model = sedembed.load_model(tmp_path / "final", device="cpu")
        # By the public way: whole files, each on its own.
        probabilities = model.tag([str(path) for path in clips.paths[9:]])
        features = store(clips.select(range(9, 12)))
        found = predict(load_network(resolve(tmp_path / "final")), features, batch_size=2)
        np.testing.assert_allclose(found, probabilities, rtol=1e-4)
        scores = score(clips.targets[9:], probabilities)
        for name in ("map", "mauc"):
            assert float(rows[-1][f"validation_{name}"]) == pytest.approx(scores[name], abs=1e-5)

    def test_classes_without_positives_are_left_out(self) -> None:
        rng = np.random.default_rng(0)
        targets = (rng.random((40, 5)) < 0.3).astype(np.float32)
        targets[:, 3] = 0
        probabilities = rng.random((40, 5), np.float32)
        probabilities[7] = np.nan  # could not be decoded
        precisions, areas = [], []
        for c in (0, 1, 2, 4):
            rows = [i for i in range(40) if i != 7]
            hits = [i for i in rows if targets[i, c]]
            rank = {i: sum(probabilities[j, c] >= probabilities[i, c] for j in rows) for i in hits}
            above = {i: sum(probabilities[j, c] >= probabilities[i, c] for j in hits) for i in hits}
            precisions.append(np.mean([above[i] / rank[i] for i in hits]))
            pairs = [probabilities[i, c] > probabilities[j, c] for i in hits for j in rows if not targets[j, c]]
            areas.append(np.mean(pairs))
        found = score(targets, probabilities)
        assert found["map"] == pytest.approx(np.mean(precisions))
        assert found["mauc"] == pytest.approx(np.mean(areas))
        with pytest.raises(DatasetError, match="no validation clip"):
            score(np.zeros((40, 5), np.float32), probabilities)

    def test_nan_stops_and_leaves_the_last_good_checkpoint(self, clips: ClipSet, tmp_path: Path) -> None:
        config = tiny(batch_size=3, steps=9, balanced=False, checkpoint_every=1)
        good = store(clips, config)
        asked: list[int] = []

        def read(index: int) -> Any:
            asked.append(index)
            return good[index] * (np.nan if index == ShuffledOrder(12, config.seed).clip(7) else 1)

        made = Training(
            config, clips, fake_store(clips, config, read), tmp_path, validation=None, validation_features=None
        )
        with pytest.raises(DivergedError, match=r"stopped at step 3: loss nan.*last good state is in .*checkpoint\.pt"):
            made.run()
        assert isinstance(DivergedError(), FloatingPointError)
        state = states(tmp_path)
        assert state["step"] == 2
        assert all(value.isfinite().all() for value in state["network"].values())

    def test_weights_that_overflow_are_not_kept(self, clips: ClipSet, tmp_path: Path) -> None:
        made = training(tiny(steps=4, checkpoint_every=1), clips, tmp_path, validate=False)
        update = made._update

        def spoilt(batch: Any) -> Any:
            result = update(batch)
            if made.step == 2:
                with torch.no_grad():
                    made.network.b8.weight[0, 0] = torch.inf
            return result

        made._update = spoilt  # type: ignore[method-assign]
        with pytest.raises(DivergedError, match=r"b8\.weight"):
            made.run()
        assert states(tmp_path)["step"] == 2

    def test_other_runs_are_refused(self, clips: ClipSet, tmp_path: Path) -> None:
        run(tiny(steps=1), clips, tmp_path)
        with pytest.raises(DatasetError, match=r"other settings \(learning_rate, steps\)"):
            training(tiny(steps=2, learning_rate=0.1), clips, tmp_path)
        with pytest.raises(DatasetError, match=r"other data \(clips_sha256, validation_sha256\)"):
            training(tiny(steps=1), clips.with_targets(1 - clips.targets), tmp_path)
        with pytest.raises(DatasetError, match=r"other data \(clips, clips_sha256, validation_clips"):
            training(tiny(steps=1), clips, tmp_path, validate=False)
        with pytest.raises(DatasetError, match="another front end"):
            Training(
                tiny(), clips, store(clips, TrainConfig()), tmp_path / "a", validation=None, validation_features=None
            )
        part = clips.select([0])
        features, held_out = store(clips), store(part)
        with pytest.raises(DatasetError, match="1 clips are to train and to validate on"):
            Training(tiny(), clips, features, tmp_path / "b", validation=part, validation_features=held_out)
        with pytest.raises(ValueError, match="float16 needs a CUDA device"):
            training(tiny(precision="float16"), clips, tmp_path / "c")
        (tmp_path / "checkpoint.pt").write_bytes(b"PK")
        with pytest.raises(DatasetError, match="cannot be read"):
            training(tiny(steps=1), clips, tmp_path)

    def test_what_a_run_writes_about_itself(self, clips: ClipSet, tmp_path: Path) -> None:
        run(tiny(steps=1), clips, tmp_path)
        run(tiny(steps=1), clips, tmp_path)
        assert json.loads((tmp_path / "config.json").read_text())["network"] == TINY
        about = json.loads((tmp_path / "run.json").read_text())
        assert (about["clips"], about["validation_clips"], about["classes"]) == (9, 3, ["a", "b", "c"])
        first, second = about["starts"]
        assert first["versions"]["torch"] == torch.__version__.split("+")[0] or torch.__version__
        assert {"python", "numpy", "sedembed", "cuda", "torch"} <= first["versions"].keys()
        assert first["seed"] == second["seed"] == 15213
        revision = first["git_revision"]
        assert revision == "unknown" or len(revision.removesuffix("-dirty")) == 40

    def test_begins_from_another_model(self, clips: ClipSet, tmp_path: Path) -> None:
        run(tiny(steps=2), clips, tmp_path / "first")
        start = tmp_path / "first" / "final"
        second = training(tiny(seed=1), clips, tmp_path / "second", initial=start)
        for key, value in load_network(resolve(start)).state_dict().items():
            assert torch.equal(second.network.state_dict()[key], value)
        second.run()
        with pytest.raises(DatasetError, match="initial_sha256"):
            training(tiny(seed=1), clips, tmp_path / "second", initial=tmp_path / "second" / "final")
        with pytest.raises(DatasetError, match="another segment_channels"):
            training(tiny(network={**TINY, "segment_channels": 8}), clips, tmp_path / "a", initial=start)
        with pytest.raises(DatasetError, match="expected initial weights of a talnet of 3 classes, got a weanet of 3"):
            training(TrainConfig(), clips, tmp_path / "b", initial=start)

    def test_measured_normalisation(self, clips: ClipSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.nn.init, "orthogonal_", lambda tensor: tensor)  # slow, and of no use here
        made = training(tiny(normalization="measured"), clips, tmp_path / "a", validate=False)
        everything = np.concatenate([store(clips)[i] for i in range(12)]).astype(np.float64)
        assert made.network.config.mean == pytest.approx(everything.mean(), rel=1e-9)
        assert made.network.config.std == pytest.approx(everything.std(), rel=1e-9)
        config = TrainConfig(normalization="measured", batch_size=2)
        made = training(config, clips, tmp_path / "b", validate=False)
        everything = np.concatenate([store(clips, config)[i] for i in range(12)]).astype(np.float64)
        np.testing.assert_allclose(made.network.config.mean, everything.mean(0), rtol=1e-9)
        np.testing.assert_allclose(made.network.config.std, everything.std(0), rtol=1e-9)
        given = tiny(normalization="measured", network={**TINY, "mean": 3.0, "std": 2.0})
        assert training(given, clips, tmp_path / "c", validate=False).network.config.mean == 3.0

    def test_bfloat16(self, clips: ClipSet, tmp_path: Path) -> None:
        losses, gradients = [], []
        for precision in ("float32", "bfloat16"):
            settings = tiny(steps=1, spec_augment_fill=0.0, precision=precision)
            made = training(settings, clips, tmp_path / precision, validate=False)
            (batch,) = made._batches.batches(0, 1)
            losses.append(made._update(batch)[0])
            gradients.append([made.network.b7.conv.weight.grad.flatten(), made.network.b8.weight.grad.flatten()])
        # The last layers: below them batch normalisation over few values and maxima make more of rounding than a test
        # could bound.
        assert losses[1] == pytest.approx(losses[0], rel=1e-2)
        assert losses[1] != losses[0]
        for wide, narrow in zip(*gradients, strict=True):
            assert torch.nn.functional.cosine_similarity(wide, narrow, dim=0) > 0.98
        # Rounding moves the loss of six clips by up to 2.5 %, one way or the other; over twelve batches little is left.
        slow = {"steps": 12, "spec_augment_fill": 0.0, "learning_rate": 1e-4}
        run(tiny(**slow), clips, tmp_path / "full")
        run(tiny(**slow, precision="bfloat16"), clips, tmp_path / "half")
        full, half = (np.array([float(row["loss"]) for row in read_log(tmp_path / name)]) for name in ("full", "half"))
        assert half.mean() == pytest.approx(full.mean(), rel=1e-2)
        assert all(v.dtype != torch.bfloat16 for v in states(tmp_path / "half")["network"].values())

    def test_gradients_are_scaled_down(self, clips: ClipSet, tmp_path: Path) -> None:
        made = training(tiny(gradient_norm=1e-3), clips, tmp_path, validate=False)
        (batch,) = made._batches.batches(0, 1)
        _, norm = made._update(batch)
        squares = sum(p.grad.double().square().sum() for p in made.network.parameters() if p.grad is not None)
        assert norm > 1e-2
        assert float(squares) ** 0.5 == pytest.approx(1e-3, rel=1e-3)

    def test_unreadable_clips_are_listed(self, clips: ClipSet, tmp_path: Path) -> None:
        paths = tuple(tmp_path / "gone.wav" if i in (0, 3) else path for i, path in enumerate(clips.paths))
        damaged = ClipSet(clips.names, paths, clips.targets, clips.classes)
        run(tiny(), damaged, tmp_path / "run")
        with (tmp_path / "run" / "unreadable.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        assert [(row["path"], row["error"]) for row in rows] == [(str(tmp_path / "gone.wav"), "MissingFileError")]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Settings of a small and short training."""
    file = tmp_path / "small.json"
    settings = {k: v for k, v in tiny(steps=3).as_table().items() if k not in ("model", "validation", "sustain")}
    file.write_text(json.dumps(settings))
    return file


class TestCommand:
    def test_from_lists_to_model(
        self, audioset: Path, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out, cache = tmp_path / "run", tmp_path / "cache"
        command = ["train", "weanet", "--data", str(audioset), "--out", str(out), "--config", str(small)]
        command += ["--cache", str(cache), "--validation", "eval", "--workers", "1", "--device", "cpu"]
        assert main(command) == 1  # a clip cannot be decoded
        told = capsys.readouterr()
        best = json.loads((out / "result.json").read_text())["best"]
        assert told.out.startswith(f"MAP {best['map']:.4f}, MAUC {best['mauc']:.4f}, d' ")
        assert told.out.endswith(f"on 3 clips; the model is in {out / 'model'}\n")
        assert "2 clips are missing; they are listed in" in told.err
        assert "1 clips cannot be decoded and were left out; they are listed in" in told.err
        assert (out / "missing.txt").read_text().split() == [
            "balanced_train_segments/Y-missing_01.wav",
            "eval_segments/Y-missing_02.wav",
        ]
        assert str(audioset / "Y-bcdefgh_99.wav") in (out / "unreadable.csv").read_text()
        assert sorted(folder.name for folder in cache.iterdir()) == ["eval", "train"]
        model = sedembed.load_model(out / "model", device="cpu")
        assert model.tag(np.zeros(16_000, np.float32)).shape == (527,)
        # Once more: nothing left to do.
        assert main([*command, "--json"]) == 1
        again = json.loads(capsys.readouterr().out)
        assert again["best"] == best
        assert (again["training_clips"], again["missing_clips"], again["unreadable_clips"]) == (10, 2, 1)

    @pytest.mark.parametrize(
        ("settings", "options", "said"),
        [
            ({"min_share": 0.99}, [], "only 10 of the 11 clips of the part train are there"),
            ({"stepz": 3}, [], "unknown key 'stepz'"),
            ({"model": "talnet"}, [], "is for the model 'talnet', not 'weanet'"),
            ({}, ["--device", "nowhere"], "device must be such as cpu or cuda:0"),
            ({}, ["--workers", "0"], "--workers needs a whole number"),
            ({}, ["--stage", "1"], "--stage is for self-teaching"),
            ({"validation_share": 1e-9}, [], "leaves 10 to train on and 0 to validate on"),
        ],
    )
    def test_refusals(
        self,
        settings: dict[str, Any],
        options: list[str],
        said: str,
        audioset: Path,
        small: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        small.write_text(json.dumps({**json.loads(small.read_text()), **settings}))
        command = ["train", "weanet", "--data", str(audioset), "--out", str(tmp_path / "run"), "--config", str(small)]
        assert main([*command, *options]) == 2
        told = capsys.readouterr()
        assert said in told.err
        assert "Traceback" not in told.err

    def test_a_folder_that_is_no_audioset(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["train", "talnet", "--data", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
        assert "balanced_train_segments.csv is not there" in capsys.readouterr().err
