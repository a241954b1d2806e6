"""Tests of fine-tuning."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import sedembed
from sedembed._training import finetune as module
from sedembed._training.finetune import finetune
from sedembed._training.finetune_config import FinetuneConfig
from sedembed._training.finetune_network import pool_embedding, trained_blocks
from sedembed.cli.main import main
from sedembed.errors import DatasetError, InvalidArgumentError, ProbeError

SHORT: dict[str, Any] = {
    "batch_size": 4,
    "epochs": 3,
    "validation_share": 0.25,
    "device": "cpu",
    "workers": 1,
    "learning_rate": 3e-3,
    # Steps are few and recordings tiny: nothing is varied, and the result is the last step's.
    "average": 0.0,
    "gain": 0.0,
    "shift": False,
    "spec_augment": False,
    "label_smoothing": 0.0,
    "precision": "float32",
}


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen tones of up to a second in a folder for each of two classes, one of them unreadable."""
    folder, rng = tmp_path_factory.mktemp("tones"), np.random.default_rng(0)
    for i in range(16):
        name, pitch = (("low", 300), ("high", 3000))[i % 2]
        (folder / name).mkdir(exist_ok=True)
        t = np.arange(8_000 + 500 * i) / 16_000
        soundfile.write(
            folder / name / f"{i}.wav", 0.3 * np.sin(2 * np.pi * pitch * t) + rng.normal(0, 0.01, len(t)), 16_000
        )
    (folder / "low" / "broken.wav").write_text("no sound")
    return folder


@pytest.fixture(scope="module")
def result(tones: Path, small_weanet_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> module.Finetuned:
    return finetune(tones, "folder", tmp_path_factory.mktemp("whole") / "out", small_weanet_dir, **SHORT)


class TestResult:
    def test_scores_are_those_of_the_written_model(self, result: module.Finetuned, tones: Path) -> None:
        assert (result.metric, result.training, result.validation) == ("accuracy", 12, 4)
        assert result.after > result.before
        model = sedembed.load_model(result.model, device="cpu")
        probe = sedembed.LinearProbe.load(result.model / "probe")
        probe.check_model(model)
        assert probe.classes_.tolist() == ["high", "low"]
        names = sorted(str(path.relative_to(tones)) for path in tones.rglob("*.wav") if path.stem != "broken")
        right = probe.predict(model.embed([tones / name for name in names])) == [name.split("/")[0] for name in names]
        assert (1.0 - result.after) * result.validation <= (~right).sum() <= 1

    def test_the_backbone_is_trained_and_statistics_stay(
        self, result: module.Finetuned, small_weanet_dir: Path
    ) -> None:
        assert result.epoch > 0
        old, new = (sedembed.load_network(path).state_dict() for path in (small_weanet_dir, result.model))
        moved = {key for key in old if not torch.equal(old[key], new[key])}
        assert any(key.endswith("conv.weight") or ".0.weight" in key for key in moved)
        assert not {key for key in moved if "running" in key}
        # What names events has no part in the embedding.
        assert torch.equal(
            sedembed.load_network(result.model).event_layer.weight,
            sedembed.load_network(small_weanet_dir).event_layer.weight,
        )

    def test_the_log_and_what_could_not_be_read(self, result: module.Finetuned) -> None:
        run = result.model / "training"
        rows = list(csv.DictReader((run / "log.csv").read_text().splitlines()))
        assert [int(row["epoch"]) for row in rows] == list(range(1, result.epochs + 1))
        assert "broken.wav" in (run / "unreadable.csv").read_text()
        assert not (run / "checkpoint.pt").exists()
        assert not (run / "features").exists()

    def test_a_finished_run_is_returned(
        self, result: module.Finetuned, tones: Path, small_weanet_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module._Finetuning, "_prepare", lambda self: pytest.fail("trained again"))
        assert finetune(tones, "folder", result.model, small_weanet_dir, **SHORT) == result
        with pytest.raises(DatasetError, match="other settings"):
            finetune(tones, "folder", result.model, small_weanet_dir, **{**SHORT, "epochs": 4})


def test_an_interrupted_run_goes_on_to_the_same_result(
    result: module.Finetuned, tones: Path, small_weanet_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FinetuneConfig, "checkpoint_every", 1)
    update, calls = module._Finetuning._update, []

    def interrupted(self: Any, batch: Any) -> Any:
        calls.append(self.step)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return update(self, batch)

    monkeypatch.setattr(module._Finetuning, "_update", interrupted)
    settings = {**SHORT, "checkpoint_every": 1}
    with pytest.raises(KeyboardInterrupt, match="at step 4 of 9; run the same command again"):
        finetune(tones, "folder", tmp_path / "out", small_weanet_dir, **settings)
    again = finetune(tones, "folder", tmp_path / "out", small_weanet_dir, **settings)
    assert calls[4:6] == [4, 4]
    assert again[1:] == result[1:]
    for name in ("model.safetensors", "probe/probe.safetensors"):
        assert (again.model / name).read_bytes() == (result.model / name).read_bytes()


def test_the_probe_is_the_result_if_no_epoch_is_better(
    tones: Path, small_weanet_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes: list[sedembed.LinearProbe] = []

    def keep(probe: sedembed.LinearProbe, embeddings: Any, y: Any) -> sedembed.LinearProbe:
        probes.extend((probe, sedembed.LinearProbe(1e-3, progress=False).fit(embeddings, y)))
        return probes[1]

    scores = iter([(0.9, 0.3), (0.9, 0.4), (0.8, 0.2)])
    monkeypatch.setattr(module, "fit_starting_probe", keep)
    monkeypatch.setattr(module._Finetuning, "_score", lambda self, head: next(scores))
    done = finetune(tones, "folder", tmp_path / "out", small_weanet_dir, **{**SHORT, "epochs": 2})
    assert (done.epoch, done.before, done.after) == (0, 0.9, 0.9)
    saved = sedembed.LinearProbe.load(done.model / "probe")
    np.testing.assert_array_equal(saved.coef_, probes[0].coef_)
    assert np.abs(saved.coef_ - probes[1].coef_).max() > 0
    old, new = (sedembed.load_network(path).state_dict() for path in (small_weanet_dir, done.model))
    assert all(torch.equal(old[key], new[key]) for key in old)


def test_several_labels_and_groups(tones: Path, small_weanet_dir: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    names = sorted(str(path.relative_to(tones)) for path in tones.rglob("*.wav") if path.stem != "broken")
    lines = [f"{name},{name.split('/')[0]}{';tone' if i % 2 else ''},{i // 2}" for i, name in enumerate(names)]
    table.write_text("\n".join(["path,label,tape", *lines, "absent.wav,low;tone,9"]) + "\n")
    done = finetune(tones, table, tmp_path / "out", small_weanet_dir, group="tape", **{**SHORT, "epochs": 1})
    assert (done.metric, done.training + done.validation) == ("map", 16)
    assert done.validation % 2 == 0
    probe = sedembed.LinearProbe.load(done.model / "probe")
    assert probe.classes_.tolist() == ["high", "low", "tone"]
    assert probe.multilabel_


def test_defaults_and_frozen_blocks(tones: Path, small_weanet_dir: Path, tmp_path: Path) -> None:
    done = finetune(
        tones, "folder", tmp_path / "out", small_weanet_dir, epochs=2, frozen_blocks=2, batch_size=4, device="cpu",
        workers=1, validation_share=0.25, learning_rate=3e-3, mixup=0.3, label_smoothing=0.1, spec_augment=True,
    )  # fmt: skip
    assert done.epoch > 0
    old, new = (sedembed.load_network(path).state_dict() for path in (small_weanet_dir, done.model))
    moved = {key.split(".")[0] for key in old if not torch.equal(old[key], new[key])}
    assert moved == {"b3", "b4", "b5"}


@pytest.mark.parametrize(
    ("model", "blocks"),
    [
        ("small_weanet_dir", ["b1", "b2", "b3", "b4", "b5"]),
        ("untrained_model_dir", [*(f"conv{i}" for i in range(1, 11)), "gru"]),
    ],
)
def test_blocks_that_make_the_embedding(model: str, blocks: list[str], request: pytest.FixtureRequest) -> None:
    network = sedembed.load_network(request.getfixturevalue(model))
    names = {block: name for name, block in network.named_children()}
    assert [names[block] for block in trained_blocks(network)] == blocks


def test_rates_of_blocks(small_weanet_dir: Path) -> None:
    run = object.__new__(module._Finetuning)
    run.network, run.head = sedembed.load_network(small_weanet_dir), torch.nn.Linear(24, 2)
    run.config = FinetuneConfig(learning_rate=1e-3, head_learning_rate=1e-2, frozen_blocks=1)
    groups = run._make_optimizer().param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    found = [rates.get(id(next(block.parameters()))) for block in trained_blocks(run.network)]
    assert found == [None, 1e-3, 1e-3, 1e-3, 1e-3]
    assert rates[id(run.head.weight)] == 1e-2
    run.config = FinetuneConfig(frozen_blocks=5)
    with pytest.raises(InvalidArgumentError, match="less than the 5 blocks of this network, got 5"):
        run._make_optimizer()


@pytest.mark.parametrize(
    ("model", "samples"),
    [("small_weanet_dir", (20_000, 14_000, 17_000)), ("untrained_model_dir", (4_000, 2_000, 3_100))],
)
def test_embeddings_with_gradients_are_those_of_the_embedder(
    model: str, samples: tuple[int, ...], request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(model)
    rng, network = np.random.default_rng(0), sedembed.load_network(path)
    sounds = [rng.normal(0, 0.1, length).astype(np.float32) for length in samples]
    features = [network.features(torch.from_numpy(sound)) for sound in sounds]
    lengths = torch.tensor([len(item) for item in features])
    output = network(torch.nn.utils.rnn.pad_sequence(features, batch_first=True), lengths)
    pooled = pool_embedding(network, output.frames, output.lengths)
    np.testing.assert_allclose(pooled.detach().numpy(), sedembed.load_model(path, "cpu").embed(sounds), atol=2e-5)


class TestRefusals:
    def test_settings(self, tones: Path, tmp_path: Path) -> None:
        with pytest.raises(InvalidArgumentError, match="Unknown setting 'epoch'"):
            finetune(tones, "folder", tmp_path / "out", epoch=3)
        with pytest.raises(InvalidArgumentError, match="epochs"):
            finetune(tones, "folder", tmp_path / "out", epochs=0)

    def test_folders(self, tones: Path, tmp_path: Path) -> None:
        with pytest.raises(ProbeError, match="a folder for each class"):
            finetune(tones / "low", "folder", tmp_path / "out")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.txt").touch()
        with pytest.raises(DatasetError, match="something other"):
            finetune(tones, "folder", tmp_path / "out")

    def test_too_few(self, tones: Path, small_weanet_dir: Path, tmp_path: Path) -> None:
        (tmp_path / "labels.csv").write_text("path,label\nlow/0.wav,low\nhigh/1.wav,high\n")
        with pytest.raises(DatasetError, match=r"too few|part that is held out"):
            finetune(tones, tmp_path / "labels.csv", tmp_path / "out", small_weanet_dir, **SHORT)


def test_command(tones: Path, small_weanet_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["finetune", tones, "--labels", "folder", "-o", tmp_path / "out", "--model", small_weanet_dir, "--json"]
    command += ["--epochs", 1, "--batch-size", 8, "--device", "cpu", "--seed", 3, "--workers", 1]
    assert main([str(part) for part in command]) == 1  # one recording cannot be decoded
    told = capsys.readouterr()
    assert "unreadable.csv" in told.err
    assert json.loads(told.out)["training"] + json.loads(told.out)["validation"] == 16
    assert json.loads((tmp_path / "out" / "training" / "config.json").read_text())["seed"] == 3
