"""Tests of loop."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sedembed
from sedembed._training import loop
from sedembed._training.clips import ClipSet
from sedembed._training.loop import Training, predict
from sedembed._training.prediction import score
from sedembed._training.sampler import BalancedOrder, ShuffledOrder
from sedembed._training.settings import TrainConfig
from sedembed.errors import DatasetError, DivergedError
from sedembed.models.weights import load_network, resolve
from tests._training.train_helpers import TINY, WHOLE, clips, fake_store, run, store, tiny, training, whole  # noqa: F401


def read_log(out: Path) -> list[dict[str, str]]:
    with (out / "log.csv").open() as stream:
        return [{k: v for k, v in row.items() if k != "audio_seconds_per_second"} for row in csv.DictReader(stream)]


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
        with pytest.raises(DatasetError, match="No validation clip"):
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
        with pytest.raises(DatasetError, match="1 clips are both to train and to validate on"):
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
        with pytest.raises(DatasetError, match="Expected initial weights of a talnet of 3 classes, got a weanet of 3"):
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
        for damaged in ("{", "{}", '{"mu": 1, "sigma": [1]}', '{"mu": [NaN], "sigma": [1]}'):
            (tmp_path / "a" / "normalizer.json").write_text(damaged)
            with pytest.raises(DatasetError, match=r"normalizer\.json"):
                training(tiny(normalization="measured"), clips, tmp_path / "a", validate=False)
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
