"""Tests of sustain."""

from __future__ import annotations

import csv
import json
import logging
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import sedembed._training.sustain as sustain_module
from sedembed._training.loop import Training
from sedembed._training.sustain import (
    Shares,
    SustainConfig,
    mix_targets,
    run_stages,
    stage_probabilities,
    stage_seed,
)
from sedembed.errors import DatasetError
from sedembed.models.weights import load_network, resolve, save_pretrained
from tests._training.sustain_helpers import (  # noqa: F401
    CLASSES,
    CONFIG,
    clips,
    features,
    finished,
    predict_alone,
    predictions,
    shuffled_table,
    taught,
    teach,
    weights,
    write_table,
)


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


def test_clip_that_a_teacher_could_not_read_keeps_its_labels():
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
    expected = 0.4 * clips.targets + 0.6 * predict_alone(tmp_path / "stage-0", features)
    np.testing.assert_allclose(taught[1]["targets"], expected, atol=1e-6)
    assert np.abs(taught[1]["targets"] - clips.targets).max() > 0.05
    assert [one["config"].seed for one in taught] == [CONFIG.seed, stage_seed(CONFIG.seed, 1)]
    assert [one["initial"] for one in taught] == [None, None]
    record = json.loads((tmp_path / "stage-1" / "stage.json").read_text())
    assert record["alphas"] == {"labels": 0.4, "stage-0": 0.6, "soft_labels": 0.0}


def test_two_teachers(clips, features, taught, predictions, tmp_path):
    config = SustainConfig(stages=3, teachers=2, alphas=(0.2, 0.5, 0.3))
    run_stages(CONFIG, config, clips, features, tmp_path, device="cpu")
    alone = [predict_alone(tmp_path / f"stage-{i}", features) for i in range(3)]
    np.testing.assert_allclose(taught[1]["targets"], 0.2 * clips.targets + 0.8 * alone[0], atol=1e-6)
    for stage in (2, 3):
        expected = 0.2 * clips.targets + 0.5 * alone[stage - 1] + 0.3 * alone[stage - 2]
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
    with pytest.raises(ValueError, match=f"Expected only_stage from 0 to 1, got {only_stage}"):
        run_stages(CONFIG, SustainConfig(), clips, features, tmp_path, only_stage=only_stage, device="cpu")


PROGRAM = """
import os, sys, warnings
warnings.simplefilter("error")
os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
sys.path.insert(0, tests)
import torch
torch.set_num_threads(1)
import sustain_helpers
sustain_helpers.teach(settings, sounds, out)
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


def test_outside_teacher_teaches_beside_the_stages(clips, features, taught, tmp_path):
    table, soft = shuffled_table(tmp_path / "table.csv", clips)
    config = SustainConfig(alphas=(0.2, 0.3, 0.5), soft_labels=str(table))
    run_stages(CONFIG, config, clips, features, tmp_path / "run", device="cpu")
    np.testing.assert_array_equal(taught[0]["targets"], clips.targets)
    expected = 0.2 * clips.targets + 0.3 * predict_alone(tmp_path / "run" / "stage-0", features) + 0.5 * soft
    np.testing.assert_allclose(taught[1]["targets"], expected, atol=1e-6)


def test_outside_teacher_in_place_of_the_first_labels(clips, features, taught, tmp_path):
    table, soft = shuffled_table(tmp_path / "table.parquet", clips)
    config = SustainConfig(alphas=(0.4, 0.6), soft_labels=str(table), soft_labels_as="stage-0")
    run_stages(CONFIG, config, clips, features, tmp_path / "run", device="cpu")
    np.testing.assert_array_equal(taught[0]["targets"], soft)
    expected = 0.4 * clips.targets + 0.6 * predict_alone(tmp_path / "run" / "stage-0", features)
    np.testing.assert_allclose(taught[1]["targets"], expected, atol=1e-6)


def test_table_that_lacks_a_clip_stops_everything_first(clips, features, tmp_path):
    table = write_table(tmp_path / "table.csv", list(clips.names[1:]), list(CLASSES), np.full((9, 3), 0.5))
    config = SustainConfig(alphas=(0.2, 0.3, 0.5), soft_labels=str(table))
    with pytest.raises(DatasetError, match=r"1 of 10 missing: 'clip 00\.wav'"):
        run_stages(CONFIG, config, clips, features, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


# --- probabilities on disk -----------------------------------------------------------------------------------------


def test_teacher_is_run_once(clips, features, finished, predictions, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    run_stages(CONFIG, SustainConfig(stages=2), clips, features, tmp_path / "run", device="cpu")
    assert predictions == []
    for stage in range(2):
        kept = stage_probabilities(tmp_path / "run", stage, clips, features)
        np.testing.assert_allclose(kept, predict_alone(finished / f"stage-{stage}", features), atol=1e-6)
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
    np.testing.assert_allclose(found, predict_alone(tmp_path / "run" / "stage-0", features), atol=1e-6)


def test_kept_probabilities_of_other_clips_are_made_anew(clips, features, finished, predictions, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    turned = clips.select(np.arange(10)[::-1])
    found = stage_probabilities(tmp_path / "run", 0, turned, features.subset(turned))
    assert predictions == [10]
    np.testing.assert_allclose(found, predict_alone(finished / "stage-0", features)[::-1], atol=1e-6)


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
