"""Sequential self-teaching: targets, stages, what is kept on disk, outside teachers, and the experiment's noise."""

from __future__ import annotations

import csv
import importlib.util
import json
import logging
import shutil
import socket
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import safetensors.numpy
import torch

import sedembed
import sedembed._training.sustain as sustain_module
from sedembed._training.clips import ClipSet
from sedembed._training.distributed import join_processes
from sedembed._training.features import FeatureStore
from sedembed._training.loop import Training, predict
from sedembed._training.settings import TrainConfig
from sedembed._training.soft_labels import read_soft_labels
from sedembed._training.sustain import (
    Shares,
    SustainConfig,
    mix_targets,
    run_stages,
    stage_probabilities,
    stage_seed,
)
from sedembed.cli.main import main
from sedembed.errors import DatasetError
from sedembed.models.weights import load_network, resolve, save_pretrained

CLASSES = ("Dog", "Rain, drizzle", "Church bell")
CONFIG = TrainConfig.from_table(
    {
        "model": "weanet",
        "network": {
            "channels": [4, 4, 4, 4],
            "pools": [2, 2, 2, 2],
            "segment_channels": 8,
            "hidden_channels": [8, 8],
            "n_mels": 32,
        },
        "normalization": "measured",
        "batch_size": 4,
        "steps": 4,
        "checkpoint_every": 2,
        "seconds": 0.6,
        "learning_rate": 1e-2,
        "balanced": False,
        "spec_augment_bins": 4,
        "spec_augment_seconds": 0.1,
        "validation": "none",
        "seed": 3,
    }
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory, write_sounds) -> ClipSet:
    names = tuple(f"clip {i:02}.wav" for i in range(10))
    folder = write_sounds(tmp_path_factory.mktemp("sounds"), dict.fromkeys(names, 0.8))
    targets = (np.random.default_rng(0).random((10, 3)) < 0.5).astype(np.float32)
    return ClipSet(names, tuple(folder / name for name in names), targets, CLASSES)


@pytest.fixture(scope="module")
def features(clips, tmp_path_factory) -> FeatureStore:
    return FeatureStore.open(clips, CONFIG.build(3), tmp_path_factory.mktemp("cache") / "features", workers=1)


@pytest.fixture(scope="module")
def finished(clips, features, tmp_path_factory) -> Path:
    """Stages 0 to 2, each taught by the labels and the stage before; copy it before changing anything."""
    out = tmp_path_factory.mktemp("finished")
    run_stages(CONFIG, SustainConfig(stages=2), clips, features, out, device="cpu")
    return out


@pytest.fixture
def taught(monkeypatch) -> list[dict]:
    """What each training is given from now on."""
    seen: list[dict] = []

    class Spy(Training):
        def __init__(self, config, train, *arguments, **options):
            super().__init__(config, train, *arguments, **options)
            seen.append({"config": config, "targets": train.targets, "initial": options["initial"]})

    monkeypatch.setattr(sustain_module, "Training", Spy)
    return seen


@pytest.fixture
def predictions(monkeypatch) -> list[int]:
    """One entry for each time that a network predicts from now on."""
    made: list[int] = []

    def counting(network, features, **options):
        made.append(len(features))
        return predict(network, features, **options)

    monkeypatch.setattr(sustain_module, "predict", counting)
    return made


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def heard_alone(folder: Path, features: FeatureStore) -> np.ndarray:
    """Clip probabilities of a stage's network, one clip after the other, in float64."""
    network = load_network(resolve(folder / "model")).double()
    rows = []
    with torch.no_grad():
        for i in range(len(features)):
            rows.append(network.pool(network(torch.from_numpy(features[i])[None].double()))[0].numpy())
    return np.stack(rows)


def interrupt_at(monkeypatch, step: int) -> None:
    """Make the optimiser's step number `step` from now on end as Ctrl-C does."""
    taken = []
    original = torch.optim.Adam.step

    def counting(self, *arguments, **options):
        taken.append(1)
        if len(taken) == step:
            raise KeyboardInterrupt
        return original(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", counting)


# --- targets -------------------------------------------------------------------------------------------------------


def test_targets_are_the_weighted_sum():
    rng = np.random.default_rng(1)
    labels = (rng.random((50, 7)) < 0.3).astype(np.float32)
    first, second = rng.random((2, 50, 7), np.float32)
    mixed = mix_targets(labels, 0.2, [(0.5, first), (0.3, second)])
    for row in range(50):
        for column in range(7):
            expected = (
                0.2 * float(labels[row, column]) + 0.5 * float(first[row, column]) + 0.3 * float(second[row, column])
            )
            assert mixed[row, column] == np.float32(expected)
    assert mixed.dtype == np.float32


def test_targets_of_more_rows_than_a_block_are_the_same(monkeypatch):
    rng = np.random.default_rng(2)
    labels, teacher = rng.random((2, 101, 3), np.float32)
    whole = mix_targets(labels, 0.4, [(0.6, teacher)])
    monkeypatch.setattr(sustain_module, "_BLOCK_ROWS", 10)
    np.testing.assert_array_equal(mix_targets(labels, 0.4, [(0.6, teacher)]), whole)


@pytest.mark.parametrize("alphas", [(0.3, 0.7), (0.1, 0.2, 0.7), (0.5, 0.5000009), (0.0, 1.0)])
def test_soft_labels_stay_between_zero_and_one(alphas):
    assert SustainConfig(stages=1, teachers=len(alphas) - 1, alphas=alphas)
    rng = np.random.default_rng(3)
    corners = [(rng.random((64, 5)) < 0.5).astype(np.float32) for _ in alphas]
    corners[1][0], corners[0][0] = 1.0, 1.0
    inner = [rng.random((64, 5), np.float32) for _ in alphas]
    for labels, *teachers in (corners, inner):
        mixed = mix_targets(labels, alphas[0], list(zip(alphas[1:], teachers, strict=True)))
        assert mixed.min() >= 0
        assert mixed.max() <= 1
        assert np.isfinite(mixed).all()


def test_labels_with_the_whole_share_stay_bit_for_bit():
    labels = np.random.default_rng(4).random((20, 5), np.float32)
    teacher = np.full_like(labels, 0.5)
    assert mix_targets(labels, 1.0, []).tobytes() == labels.tobytes()
    assert mix_targets(labels, 1.0, [(0.0, teacher)]).tobytes() == labels.tobytes()


def test_clip_that_a_teacher_could_not_hear_keeps_its_labels():
    labels = np.array([[1, 0], [0, 1]], np.float32)
    teacher = np.array([[0.5, 0.5], [np.nan, np.nan]], np.float32)
    np.testing.assert_allclose(mix_targets(labels, 0.5, [(0.5, teacher)]), [[0.75, 0.25], [0, 1]])


# --- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"alphas": [0.3, 0.6]}, r"must sum to 1, got \[0.3, 0.6\], which sum to 0.9"),
        ({"alphas": [0.3, 0.700002]}, "must sum to 1"),
        ({"alphas": [1.3, -0.3]}, "from 0 to 1, got 1.3"),
        ({"alphas": [float("nan"), 1.0]}, "from 0 to 1, got nan"),
        ({"alphas": [True, 0]}, "from 0 to 1, got True"),
        ({"alphas": [1.0]}, "needs 2 numbers .* got 1"),
        ({"alphas": []}, "must be a list"),
        ({"alphas": 0.3}, "must be a list"),
        ({"alphas": "0.3"}, "must be a list"),
        ({"alphas": [0.3, [0.7]]}, "not both"),
        ({"alphas": [[0.3, 0.7]], "stages": 2}, "one list for each stage from 1 to 2, got 1"),
        ({"alphas": [[0.3, 0.7], [0.3, 0.7]], "stages": 2, "teachers": 2}, "alphas of stage 2 needs 3 numbers"),
        ({"alphas": [0.3, 0.7], "soft_labels": "table.csv"}, "needs 3 numbers .*1 for the table of soft labels"),
        ({"stages": -1}, "stages must be a whole number"),
        ({"stages": 1.0}, "stages must be a whole number"),
        ({"teachers": "1"}, "teachers must be a whole number"),
        ({"carry_weights": 1}, "carry_weights must be true or false"),
        ({"soft_labels": ""}, "soft_labels must be the path"),
        ({"soft_labels_as": "labels"}, "one of 'teacher', 'stage-0', got 'labels'"),
        ({"alpha": [0.3, 0.7]}, "unknown key 'alpha'; known are stages"),
    ],
)
def test_settings_that_do_not_fit_are_refused(values, message):
    with pytest.raises(ValueError, match=f"sustain: .*{message}"):
        SustainConfig.from_table(values)


def test_shares_within_a_millionth_of_one_are_taken():
    assert SustainConfig(alphas=(0.3, 0.7000005)).shares(1).stages == ((0, 0.7000005),)


def test_newest_stages_teach_in_the_order_of_the_alphas():
    config = SustainConfig.from_table({"stages": 4, "teachers": 2, "alphas": [0.2, 0.5, 0.3]})
    assert config.shares(0) == Shares(1.0, (), 0.0)
    # The oldest there is takes the share of those that are not there.
    assert config.shares(1) == Shares(0.2, ((0, 0.8),), 0.0)
    assert config.shares(2) == Shares(0.2, ((1, 0.5), (0, 0.3)), 0.0)
    assert config.shares(4) == Shares(0.2, ((3, 0.5), (2, 0.3)), 0.0)


def test_each_stage_can_have_its_own_alphas_and_an_outside_teacher():
    alphas = [[0.5, 0.3, 0.2], [0.1, 0.2, 0.3, 0.4]]
    config = SustainConfig(stages=2, teachers=2, alphas=alphas, soft_labels="table.csv")
    assert config.shares(1) == Shares(0.5, ((0, 0.3),), 0.2)
    assert config.shares(2) == Shares(0.1, ((1, 0.2), (0, 0.3)), 0.4)
    # In place of the first labels it needs no share.
    assert SustainConfig(soft_labels="table.csv", soft_labels_as="stage-0").shares(1) == Shares(0.3, ((0, 0.7),), 0.0)


def test_stages_have_seeds_of_their_own():
    assert stage_seed(7, 0) == 7
    assert len({stage_seed(seed, stage) for seed in range(5) for stage in range(5)}) == 25
    assert stage_seed(7, 2) == stage_seed(7, 2)


# --- stages --------------------------------------------------------------------------------------------------------


def test_second_stage_learns_from_labels_and_first_network(clips, features, taught, tmp_path):
    models = run_stages(CONFIG, SustainConfig(alphas=(0.4, 0.6)), clips, features, tmp_path, device="cpu")
    assert models == [tmp_path / "stage-0" / "model", tmp_path / "stage-1" / "model"]
    np.testing.assert_array_equal(taught[0]["targets"], clips.targets)
    expected = 0.4 * clips.targets + 0.6 * heard_alone(tmp_path / "stage-0", features)
    np.testing.assert_allclose(taught[1]["targets"], expected, atol=1e-6)
    assert np.abs(taught[1]["targets"] - clips.targets).max() > 0.05
    assert [one["config"].seed for one in taught] == [CONFIG.seed, stage_seed(CONFIG.seed, 1)]
    assert [one["initial"] for one in taught] == [None, None]
    record = json.loads((tmp_path / "stage-1" / "stage.json").read_text())
    assert record["alphas"] == {"labels": 0.4, "stage-0": 0.6, "soft_labels": 0.0}


def test_two_teachers(clips, features, taught, predictions, tmp_path):
    config = SustainConfig(stages=3, teachers=2, alphas=(0.2, 0.5, 0.3))
    run_stages(CONFIG, config, clips, features, tmp_path, device="cpu")
    heard = [heard_alone(tmp_path / f"stage-{i}", features) for i in range(3)]
    np.testing.assert_allclose(taught[1]["targets"], 0.2 * clips.targets + 0.8 * heard[0], atol=1e-6)
    for stage in (2, 3):
        expected = 0.2 * clips.targets + 0.5 * heard[stage - 1] + 0.3 * heard[stage - 2]
        np.testing.assert_allclose(taught[stage]["targets"], expected, atol=1e-6)
    assert predictions == [10, 10, 10]  # stages 0 and 1 teach twice, but predict once


def test_labels_alone_are_plain_training(clips, features, predictions, tmp_path):
    for name, config in (
        ("none", SustainConfig(teachers=0, alphas=(1.0,))),
        ("idle", SustainConfig(alphas=(1.0, 0.0))),
    ):
        run_stages(CONFIG, config, clips, features, tmp_path / name, device="cpu")
    assert predictions == []  # a teacher without a share is not asked
    for stage in range(2):
        plain = replace(CONFIG, seed=stage_seed(CONFIG.seed, stage))
        out = tmp_path / f"plain-{stage}"
        Training(plain, clips, features, out, validation=None, validation_features=None, device="cpu").run()
        assert weights(tmp_path / "none" / f"stage-{stage}") == weights(out)
        assert weights(tmp_path / "idle" / f"stage-{stage}") == weights(out)


def test_table_in_the_settings_does_not_change_a_stage(clips, features, finished, tmp_path):
    config = replace(CONFIG, sustain={"stages": 0})
    run_stages(config, SustainConfig(stages=0), clips, features, tmp_path, device="cpu")
    assert weights(tmp_path / "stage-0") == weights(finished / "stage-0")
    written = "config.json"
    assert (tmp_path / "stage-0" / written).read_bytes() == (finished / "stage-0" / written).read_bytes()


def test_stages_one_by_one_give_the_same_bits(clips, features, finished, tmp_path):
    config = SustainConfig(stages=2)
    for stage in range(3):
        models = run_stages(CONFIG, config, clips, features, tmp_path, only_stage=stage, device="cpu")
        assert models == [tmp_path / f"stage-{stage}" / "model"]
        assert weights(tmp_path / f"stage-{stage}") == weights(finished / f"stage-{stage}")
    assert len({weights(finished / f"stage-{stage}") for stage in range(3)}) == 3


@pytest.mark.parametrize("only_stage", [None, 1])
def test_interrupted_stage_continues_to_the_same_bits(clips, features, finished, tmp_path, monkeypatch, only_stage):
    config = SustainConfig(stages=2)
    shutil.copytree(finished / "stage-0", tmp_path / "stage-0")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)  # of stage 1, after its first checkpoint
        with pytest.raises(KeyboardInterrupt):
            run_stages(CONFIG, config, clips, features, tmp_path, device="cpu")
    assert not (tmp_path / "stage-1" / "model").exists()
    run_stages(CONFIG, config, clips, features, tmp_path, only_stage=only_stage, device="cpu")
    assert weights(tmp_path / "stage-1") == weights(finished / "stage-1")
    assert (tmp_path / "stage-2").exists() == (only_stage is None)


def test_stages_can_be_added_later(clips, features, finished, tmp_path):
    run_stages(CONFIG, SustainConfig(stages=0), clips, features, tmp_path, device="cpu")
    run_stages(CONFIG, SustainConfig(stages=1), clips, features, tmp_path, device="cpu")
    assert weights(tmp_path / "stage-1") == weights(finished / "stage-1")


def test_carried_weights_are_those_of_the_stage_before(clips, features, taught, tmp_path):
    # So small a step leaves the weights as they began; only running statistics move.
    still = replace(CONFIG, steps=1, learning_rate=1e-12)
    run_stages(still, SustainConfig(carry_weights=True), clips, features, tmp_path / "carried", device="cpu")
    run_stages(still, SustainConfig(carry_weights=False), clips, features, tmp_path / "anew", device="cpu")
    assert [one["initial"] for one in taught] == [None, tmp_path / "carried" / "stage-0" / "model", None, None]

    def filters(folder: Path) -> np.ndarray:
        return load_network(resolve(folder / "model")).b5.conv.weight.detach().numpy()

    np.testing.assert_allclose(filters(tmp_path / "carried" / "stage-1"), filters(tmp_path / "carried" / "stage-0"))
    assert np.abs(filters(tmp_path / "anew" / "stage-1") - filters(tmp_path / "anew" / "stage-0")).max() > 0.1


@pytest.mark.parametrize("carry", [False, True])
def test_stages_begin_with_initial_weights(clips, features, finished, taught, tmp_path, carry):
    start = finished / "stage-2" / "model"
    config = SustainConfig(carry_weights=carry)
    run_stages(CONFIG, config, clips, features, tmp_path, initial=start, device="cpu")
    assert [one["initial"] for one in taught] == [start, tmp_path / "stage-0" / "model" if carry else start]


def test_needed_stage_that_is_missing_is_named(clips, features, tmp_path):
    with pytest.raises(
        DatasetError, match=r"Stage 2 needs the model of stage 1, but .* is not there\. Train stage 1 first"
    ):
        run_stages(CONFIG, SustainConfig(stages=2), clips, features, tmp_path, only_stage=2, device="cpu")
    assert not (tmp_path / "stage-2").exists()


def test_carried_weights_need_the_stage_before(clips, features, tmp_path):
    config = SustainConfig(teachers=0, alphas=(1.0,), carry_weights=True)
    with pytest.raises(DatasetError, match="Stage 1 needs the model of stage 0"):
        run_stages(CONFIG, config, clips, features, tmp_path, only_stage=1, device="cpu")


def test_unfinished_or_changed_stage_teaches_nobody(clips, features, finished, tmp_path):
    def attempt(out: Path) -> None:
        run_stages(CONFIG, SustainConfig(stages=2), clips, features, out, only_stage=1, device="cpu")

    shutil.copytree(finished / "stage-0", tmp_path / "unfinished" / "stage-0")
    record = tmp_path / "unfinished" / "stage-0" / "stage.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "model": None}))
    with pytest.raises(DatasetError, match=r"is not finished\. Train stage 0 first"):
        attempt(tmp_path / "unfinished")

    shutil.copytree(finished / "stage-0", tmp_path / "changed" / "stage-0")
    shutil.copy(finished / "stage-1" / "model" / "model.safetensors", tmp_path / "changed" / "stage-0" / "model")
    with pytest.raises(DatasetError, match="is another one than its training ended with"):
        attempt(tmp_path / "changed")


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("validated", [False, True])
def test_exchanged_weights_of_a_finished_stage_are_refused(clips, features, finished, tmp_path, stage, validated):
    out, options, config = tmp_path / "run", {}, CONFIG
    if validated:  # then a finished training does not write its best model again
        held_out = clips.select([8, 9])
        options = {"validation": held_out, "validation_features": features.subset(held_out)}
        config = replace(CONFIG, validation="held-out")
        train = clips.select(range(8))
        data = train, features.subset(train)
        run_stages(config, SustainConfig(stages=2), *data, out, device="cpu", **options)
    else:
        data = clips, features
        shutil.copytree(finished, out)
    model = out / f"stage-{stage}" / "model" / "model.safetensors"
    good = model.read_bytes()
    shutil.copy(out / f"stage-{(stage + 1) % 3}" / "model" / "model.safetensors", model)
    exchanged = model.read_bytes()
    for only_stage in (None, stage):
        with pytest.raises(DatasetError, match=f"stage-{stage}.* is another one than its training ended with"):
            run_stages(config, SustainConfig(stages=2), *data, out, only_stage=only_stage, device="cpu", **options)
    assert model.read_bytes() == exchanged
    model.unlink()
    with pytest.raises(DatasetError, match=f"stage-{stage}.* is not there"):
        run_stages(config, SustainConfig(stages=2), *data, out, device="cpu", **options)
    model.write_bytes(good)
    run_stages(config, SustainConfig(stages=2), *data, out, device="cpu", **options)
    assert model.read_bytes() == good


def test_stage_begun_otherwise_is_not_continued(clips, features, finished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    before = {stage: weights(out / f"stage-{stage}") for stage in range(3)}
    with pytest.raises(DatasetError, match="stage-1 was begun with other alphas, targets than now"):
        run_stages(CONFIG, SustainConfig(stages=2, alphas=(0.5, 0.5)), clips, features, out, device="cpu")
    with pytest.raises(DatasetError, match="stage-1 was begun with other initial than now"):
        run_stages(CONFIG, SustainConfig(stages=2, carry_weights=True), clips, features, out, device="cpu")
    with pytest.raises(DatasetError, match="stage-0 was begun with other seed than now"):
        run_stages(replace(CONFIG, seed=4), SustainConfig(stages=2), clips, features, out, device="cpu")
    other = clips.with_targets(1 - clips.targets)
    with pytest.raises(DatasetError, match="stage-0 was begun with other targets than now"):
        run_stages(CONFIG, SustainConfig(stages=2), other, features, out, device="cpu")
    for damaged in ("{", "[]", "[" * 100_000):
        (out / "stage-0" / "stage.json").write_text(damaged)
        with pytest.raises(DatasetError, match=r"stage\.json is damaged"):
            run_stages(CONFIG, SustainConfig(stages=2), clips, features, out, device="cpu")
    assert {stage: weights(out / f"stage-{stage}") for stage in range(3)} == before


@pytest.mark.parametrize("only_stage", [-1, 2])
def test_stage_that_there_is_none_of(clips, features, tmp_path, only_stage):
    with pytest.raises(ValueError, match=f"only_stage must be from 0 to 1, got {only_stage}"):
        run_stages(CONFIG, SustainConfig(), clips, features, tmp_path, only_stage=only_stage, device="cpu")


def teach(settings: dict, sounds: Path, out: Path) -> None:
    """What each of several processes does."""
    config, paths = TrainConfig.from_table(settings), tuple(sorted(sounds.glob("*.wav")))
    clips = ClipSet(tuple(path.name for path in paths), paths, np.tile(np.eye(3, dtype=np.float32), (3, 1)), CLASSES)
    with join_processes("cpu") as device:
        store = FeatureStore.open(clips, config.build(3), workers=1)
        run_stages(config, SustainConfig(), clips, store, out, device=device)


PROGRAM = """
import os, sys, warnings
warnings.simplefilter("error")
os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
sys.path.insert(0, tests)
import torch
torch.set_num_threads(1)
import test_sustain
test_sustain.teach(settings, sounds, out)
"""


def test_two_processes_teach_as_one_does(start_process, write_sounds, tmp_path):
    sounds = write_sounds(tmp_path / "sounds", {f"{i}.wav": 0.8 for i in range(9)})
    settings = {**CONFIG.as_table(), "log_every": 1, "precision": "float64"}
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    variables = {"port": port, "tests": str(Path(__file__).parent), "settings": settings, "sounds": sounds}
    processes = [start_process(PROGRAM, rank=rank, out=tmp_path / "two", **variables) for rank in range(2)]
    teach(settings, sounds, tmp_path / "one")
    for process in processes:
        process.join(120)
        if process.is_alive():
            process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    for stage in ("stage-0", "stage-1"):
        losses = []
        for name in ("one", "two"):
            with (tmp_path / name / stage / "log.csv").open() as stream:
                losses.append([float(row["loss"]) for row in csv.DictReader(stream)])
        assert len(losses[0]) == CONFIG.steps
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


@pytest.fixture
def audioset(tmp_path, clips) -> Path:
    """Copy of AudioSet: seven clips to train on, one of them broken, one to evaluate on."""
    text = files("sedembed.models").joinpath("class_labels_indices.csv").read_text(encoding="utf-8")
    mids = [row["mid"] for row in csv.DictReader(text.splitlines())]
    data = tmp_path / "audioset"
    data.mkdir()
    rows = []
    for i in range(8):
        video = f"abcdefghi_{i}"
        shutil.copy(clips.paths[i], data / f"Y{video}.wav")
        rows.append(f'{video}, 0.000, 10.000, "{mids[i % 3]}"\n')
    (data / "Yabcdefghi_6.wav").write_bytes(b"RIFF" + bytes(100))
    header = "# one\n# two\n# YTID, start_seconds, end_seconds, positive_labels\n"
    (data / "balanced_train_segments.csv").write_text(header + "".join(rows[:7]))
    (data / "eval_segments.csv").write_text(header + rows[7])
    return data


def test_command_trains_stages(audioset, tmp_path, capsys):
    out, settings = tmp_path / "run", tmp_path / "settings.json"
    table = {**CONFIG.as_table(), "sustain": {"stages": 1, "alphas": [0.3, 0.7]}}
    settings.write_text(json.dumps(table))
    command = ["train", "weanet", "--data", str(audioset), "--config", str(settings), "--workers", "1"]
    command += ["--device", "cpu", "--out"]
    assert main([*command, str(out)]) == 1  # one clip is broken
    kept = safetensors.numpy.load_file(out / "stage-0" / "probabilities.safetensors")["probabilities"]
    assert kept.shape == (7, 527)
    np.testing.assert_array_equal(np.isnan(kept).all(1), [i == 6 for i in range(7)])
    model = sedembed.load_model(out / "stage-1" / "model", device="cpu")
    assert model.tag(np.zeros(16_000, np.float32)).shape == (527,)
    first = weights(out / "stage-1")
    shutil.rmtree(out / "stage-1")
    assert main([*command, str(out), "--stage", "1"]) == 1
    assert weights(out / "stage-1") == first
    capsys.readouterr()
    assert main([*command, str(tmp_path / "other"), "--stage", "1"]) == 2
    assert "Stage 1 needs the model of stage 0" in capsys.readouterr().err
    settings.write_text(json.dumps({**table, "sustain": {"alpha": [0.3, 0.7]}}))
    assert main([*command, str(tmp_path / "other")]) == 2
    assert "sustain: unknown key 'alpha'" in capsys.readouterr().err


# --- probabilities on disk -----------------------------------------------------------------------------------------


def test_teacher_is_run_once(clips, features, finished, predictions, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    run_stages(CONFIG, SustainConfig(stages=2), clips, features, tmp_path / "run", device="cpu")
    assert predictions == []
    for stage in range(2):
        kept = stage_probabilities(tmp_path / "run", stage, clips, features)
        np.testing.assert_allclose(kept, heard_alone(finished / f"stage-{stage}", features), atol=1e-6)
    assert predictions == []
    stage_probabilities(tmp_path / "run", 2, clips, features)
    stage_probabilities(tmp_path / "run", 2, clips, features)
    assert predictions == [10]


def test_kept_probabilities_of_other_weights_are_made_anew(clips, features, finished, predictions, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    network = CONFIG.build(3).eval()
    save_pretrained(network, tmp_path / "run" / "stage-0" / "model")
    found = stage_probabilities(tmp_path / "run", 0, clips, features)
    assert predictions == [10]
    np.testing.assert_allclose(found, heard_alone(tmp_path / "run" / "stage-0", features), atol=1e-6)


def test_kept_probabilities_of_other_clips_are_made_anew(clips, features, finished, predictions, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    turned = clips.select(np.arange(10)[::-1])
    found = stage_probabilities(tmp_path / "run", 0, turned, features.subset(turned))
    assert predictions == [10]
    np.testing.assert_allclose(found, heard_alone(finished / "stage-0", features)[::-1], atol=1e-6)


def test_damaged_probabilities_are_made_anew(clips, features, finished, predictions, tmp_path, caplog):
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / "stage-0" / "probabilities.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:-5])
    with caplog.at_level(logging.WARNING):
        stage_probabilities(tmp_path / "run", 0, clips, features)
    assert "is damaged" in caplog.text
    assert predictions == [10]
    assert path.read_bytes() == good


# --- outside teachers ----------------------------------------------------------------------------------------------


def write_table(path: Path, names: list[str], classes: list[str], values: np.ndarray) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["clip", *classes])
            writer.writerows([name, *map(repr, map(float, row))] for name, row in zip(names, values, strict=True))
    elif path.suffix == ".parquet":
        columns = {"clip": names, **{name: values[:, i] for i, name in enumerate(classes)}}
        parquet.write_table(pa.table(columns), path)
    else:
        np.savez(path, clips=names, classes=classes, probabilities=values)
    return path


def shuffled_table(path: Path, clips: ClipSet) -> tuple[Path, np.ndarray]:
    """Table with rows and columns in another order and more of both than needed; what of it belongs to the clips."""
    rng = np.random.default_rng(5)
    names, classes = [*clips.names, "other.wav"], [*clips.classes, "Cat"]
    values = rng.random((11, 4), np.float32)
    rows, columns = rng.permutation(11), rng.permutation(4)
    table = write_table(path, [names[i] for i in rows], [classes[i] for i in columns], values[np.ix_(rows, columns)])
    return table, values[:10, :3]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_table_is_matched_by_name(clips, tmp_path, suffix):
    table, expected = shuffled_table(tmp_path / f"table{suffix}", clips)
    found = read_soft_labels(table, clips.names, clips.classes)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_table_that_does_not_fit_is_refused(clips, tmp_path, suffix):
    names, classes, values = list(clips.names), list(clips.classes), np.full((10, 3), 0.5)
    path = tmp_path / f"table{suffix}"

    def refused(match: str, names=names, classes=classes, values=values) -> None:
        write_table(path, names, classes, values)
        with pytest.raises(DatasetError, match=match):
            read_soft_labels(path, clips.names, clips.classes)

    refused("4 of 10 missing: 'clip 06.wav', 'clip 07.wav'", names=names[:6], values=values[:6])
    refused("8 of 10 missing: .* and 3 more;", names=names[:2], values=values[:2])
    refused(
        "column for each class .* 1 of 3 missing: 'Rain, drizzle'", classes=["Dog", "Church bell"], values=values[:, :2]
    )
    refused("several for 'clip 00.wav'", names=[names[0], *names], values=np.full((11, 3), 0.5))
    if suffix != ".parquet":  # pyarrow's tables cannot be built so from a dict
        refused("several for 'Dog'", classes=["Dog", *classes], values=np.full((10, 4), 0.5))
    for bad in (-0.1, 1.1, np.nan, np.inf):
        wrong = values.copy()
        wrong[4, 1] = bad
        refused("got 1 others, the first .* for the class 'Rain, drizzle' of the clip 'clip 04.wav'", values=wrong)
    path.write_bytes(b"\x00\xff no table")
    with pytest.raises(DatasetError, match=r"table\.\w+: "):
        read_soft_labels(path, clips.names, clips.classes)
    path.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"table\.\w+: "):
        read_soft_labels(path, clips.names, clips.classes)
    path.unlink()
    with pytest.raises(DatasetError, match="no such table"):
        read_soft_labels(path, clips.names, clips.classes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip,a\nx,0.5\ny,\n", "got 1 others, the first nan"),
        ("clip,a\nx,0.5\ny,high\n", "cannot be read as CSV"),
        ("clip,a\nx,0.5\ny\n", "cannot be read as CSV"),
        ("clip\nx\ny\n", "expected a column of clip names"),
        ("a,clip\n0.5,x\n0.5,y\n", "it is the class 'a'"),
        ("clip,clip,a\nx,x,0.5\ny,y,0.5\n", "got several"),
    ],
)
def test_csv_that_is_no_table_of_soft_labels(tmp_path, text, message):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_soft_labels(tmp_path / "table.csv", ["x", "y"], ["a"])


def test_csv_with_a_byte_order_mark_and_quotes(tmp_path):
    (tmp_path / "table.csv").write_text('\ufeff"clip","a, b"\r\n"x, y",1\r\n', encoding="utf-8")
    np.testing.assert_array_equal(read_soft_labels(tmp_path / "table.csv", ["x, y"], ["a, b"]), [[1.0]])


def test_archive_that_is_no_table_of_soft_labels(tmp_path):
    path = tmp_path / "table.npz"
    good = {"clips": ["x"], "classes": ["a"], "probabilities": [[0.5]]}
    for change, message in (
        ({"probabilities": [[0.5, 0.5]]}, r"expected probabilities of shape \(1, 1\).* got \(1, 2\)"),
        ({"probabilities": [["high"]]}, "expected probabilities to be numbers"),
        ({"clips": np.array(["x"], object)}, "cannot be read as an archive of plain arrays"),
    ):
        np.savez(path, **{**good, **change})
        with pytest.raises(DatasetError, match=message):
            read_soft_labels(path, ["x"], ["a"])
    np.savez(path, clips=["x"], classes=["a"])
    with pytest.raises(DatasetError, match="probabilities missing"):
        read_soft_labels(path, ["x"], ["a"])


def test_table_of_another_format_is_refused(tmp_path):
    (tmp_path / "table.xlsx").touch()
    with pytest.raises(DatasetError, match=r"ends in \.csv, \.parquet or \.npz"):
        read_soft_labels(tmp_path / "table.xlsx", ["x"], ["a"])


def test_outside_teacher_teaches_beside_the_stages(clips, features, taught, tmp_path):
    table, soft = shuffled_table(tmp_path / "table.csv", clips)
    config = SustainConfig(alphas=(0.2, 0.3, 0.5), soft_labels=str(table))
    run_stages(CONFIG, config, clips, features, tmp_path / "run", device="cpu")
    np.testing.assert_array_equal(taught[0]["targets"], clips.targets)
    expected = 0.2 * clips.targets + 0.3 * heard_alone(tmp_path / "run" / "stage-0", features) + 0.5 * soft
    np.testing.assert_allclose(taught[1]["targets"], expected, atol=1e-6)


def test_outside_teacher_in_place_of_the_first_labels(clips, features, taught, tmp_path):
    table, soft = shuffled_table(tmp_path / "table.parquet", clips)
    config = SustainConfig(alphas=(0.4, 0.6), soft_labels=str(table), soft_labels_as="stage-0")
    run_stages(CONFIG, config, clips, features, tmp_path / "run", device="cpu")
    np.testing.assert_array_equal(taught[0]["targets"], soft)
    expected = 0.4 * clips.targets + 0.6 * heard_alone(tmp_path / "run" / "stage-0", features)
    np.testing.assert_allclose(taught[1]["targets"], expected, atol=1e-6)


def test_table_that_lacks_a_clip_stops_everything_first(clips, features, tmp_path):
    table = write_table(tmp_path / "table.csv", list(clips.names[1:]), list(CLASSES), np.full((9, 3), 0.5))
    config = SustainConfig(alphas=(0.2, 0.3, 0.5), soft_labels=str(table))
    with pytest.raises(DatasetError, match=r"1 of 10 missing: 'clip 00\.wav'"):
        run_stages(CONFIG, config, clips, features, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


# --- the experiment ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def example() -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / "self_teaching.py"
    spec = importlib.util.spec_from_file_location("self_teaching", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["self_teaching"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_noise_is_exactly_its_share_and_never_the_true_class(example, share):
    true = np.repeat(np.arange(50), 32)
    given = example.corrupt(true, 50, share, 1)
    assert (given != true).sum() == round(1600 * share)
    assert given.min() >= 0
    assert given.max() < 50
    np.testing.assert_array_equal(given, example.corrupt(true, 50, share, 1))
    if share:
        assert (given != example.corrupt(true, 50, share, 2)).any()


def test_noise_takes_every_other_class_equally(example):
    true = np.full(49_000, 7)
    given = example.corrupt(true, 50, 1.0, 0)
    counts = np.bincount(given, minlength=50)
    assert counts[7] == 0
    others = np.delete(counts, 7)
    assert ((others - 1000) ** 2 / 1000).sum() < 90  # chi-squared with 48 degrees of freedom: p < 0.0003


def test_score_of_predictions(example):
    true, given = np.array([0, 1, 2, 3]), np.array([0, 1, 3, 0])
    found = example.score(np.array([0, 2, 2, 0]), true, given)
    assert found == {
        "train_accuracy_true": 0.5,
        "train_accuracy_given": 0.5,
        "corrupted_found_true": 0.5,
        "corrupted_kept_wrong": 0.5,
    }


@pytest.fixture
def esc50(tmp_path, write_esc50) -> Path:
    return write_esc50(tmp_path / "esc50", seconds=3.0)


def test_experiment_runs_and_continues(example, esc50, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["--data", str(esc50), "--out", str(out), "--noise", "0.5", "--seeds", "1", "--steps", "2"]
    example.main([*command, "--stages", "1", "--no-control"])
    first = (out / "results.csv").read_text()
    example.main([*command, "--stages", "1"])
    rows = example.read_table(out / "results.csv")
    assert (out / "results.csv").read_text().startswith(first)
    assert [(row["training"], row["stage"], row["steps"]) for row in rows] == [
        ("self-taught", "0", "2"),
        ("self-taught", "1", "2"),
        ("labels alone", "0", "4"),
    ]
    assert {(row["clips"], row["corrupted"], row["test_clips"]) for row in rows} == {("16", "8", "4")}
    capsys.readouterr()
    example.main(["--out", str(out), "--report"])
    printed = capsys.readouterr().out
    assert "8 of 16 labels wrong (50%)" in printed
    assert printed.count("\n| stage ") == 2
    # Nobody is trained on fold 5.
    names = {path.name for path in example.read_esc50(esc50)[0].paths}
    assert len(names) == 16
    assert not any(name.startswith("5-") for name in names)


def test_report_compares_seeds_in_pairs(example):
    def row(seed, training, stage, accuracy):
        values = dict.fromkeys(example.COLUMNS, "0")
        return {**values, "noise": "0.3", "seed": seed, "training": training, "stage": stage, "test_accuracy": accuracy}

    rows = [row("0", "self-taught", "0", "0.4"), row("1", "self-taught", "0", "0.6")]
    rows += [row("0", "self-taught", "1", "0.45"), row("1", "self-taught", "1", "0.61")]
    lines = example.report(rows).splitlines()
    assert lines[4].startswith("| stage 0 | 2 | 0 | 50.0 ± 14.1 |  |")
    assert lines[5].startswith("| stage 1 | 2 | 0 | 53.0 ± 11.3 | +3.0 ± 2.8 |")
