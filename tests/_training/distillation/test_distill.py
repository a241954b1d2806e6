"""The training: its parts against references, and a tiny run that falls, stops, continues and repeats."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sedembed import load_model
from sedembed._training.distillation.config import DistillConfig
from sedembed._training.distillation.distill import Trainer, _alignment
from tests._training.distillation.distill_helpers import data, write_folder  # noqa: F401


class TestAlignment:
    def test_interpolates_a_ramp(self):
        times = 0.475 + 0.32 * np.arange(14)
        matrix = _alignment(times, 16)
        assert matrix.shape == (16, 14)
        inner = matrix.sum(1) > 0.999
        # The first cell is before all segments and the last after them.
        assert inner.tolist() == [False] + [True] * 14 + [False]
        values = (matrix @ torch.from_numpy(times).float())[inner].numpy()
        np.testing.assert_allclose(values[1:-1], 0.32 * np.arange(2, 14), atol=1e-5)

    def test_averages_finer_frames(self):
        times = 0.0375 + 0.1 * np.arange(50)
        matrix = _alignment(times, 16)
        np.testing.assert_allclose(matrix.sum(1), 1.0, atol=1e-6)
        middle = (matrix @ torch.from_numpy(times).float())[1:-1].numpy()
        np.testing.assert_allclose(middle, 0.32 * np.arange(1, 15), atol=0.02)


TINY = {
    "steps": 4,
    "batch_size": 2,
    "seconds": 1.0,
    "held_out_share": 0.2,
    "validate_every": 10,
    "checkpoint_every": 2,
    "warmup_steps": 1,
    "optimizer": "muon",
}


def trainer(data: Path, out: Path, start: Path | None = None, **settings: object) -> Trainer:
    return Trainer(DistillConfig(**{**TINY, **settings}), data, out, data / "cache", start)


class TestRun:
    def test_resume_is_bit_equal(self, data, tmp_path, monkeypatch):
        trainer(data, tmp_path / "whole").run()
        update = Trainer._update

        def killed_at_three(self, batch):
            if self.step == 3:
                raise KeyboardInterrupt
            return update(self, batch)

        monkeypatch.setattr(Trainer, "_update", killed_at_three)
        with pytest.raises(KeyboardInterrupt):
            trainer(data, tmp_path / "parts").run()
        monkeypatch.undo()
        resumed = trainer(data, tmp_path / "parts")
        assert resumed.step == 2
        resumed.run()
        ends = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "parts")]
        for part in ("student", "average"):
            for key, value in ends[0][part].items():
                assert torch.equal(value, ends[1][part][key]), key
        assert ends[0]["step"] == ends[1]["step"] == 4
        assert load_model(tmp_path / "parts" / "model").embed(np.ones(2000, np.float32)).shape == (1024,)

    def test_inner_features_are_matched_where_asked(self, data, tmp_path):
        settings = {"local_weight": 1.0, "held_out_share": 0.4, "steps": 2}
        plain, rich = (trainer(data, tmp_path / str(w), inner_weight=w, **settings) for w in (0.0, 0.5))
        assert rich.student.to_teacher.out_features == 384 + 1504
        batches = [run.make_batch(0) for run in (plain, rich)]
        torch.testing.assert_close(batches[1].embeddings[:, :384], batches[0].embeddings)
        torch.testing.assert_close(batches[1].local[:, :, :384], batches[0].local)
        difference = torch.randn(2, 1888)
        expected = difference[:, :384].square().mean(1) + 0.5 * difference[:, 384:].square().mean(1)
        torch.testing.assert_close(rich._weigh(difference), expected)
        rich.run()
        assert np.isfinite(rich.validate()).all()

    def test_a_run_hears_further_folders(self, data, tmp_path):
        more = write_folder(tmp_path / "more", ["d/0", "d/1"])
        config = DistillConfig(**TINY)
        run = Trainer(config, [data, more], tmp_path / "run", tmp_path / "cache")
        alone = trainer(data, tmp_path / "alone")
        assert len(run.weights) == 8
        assert np.diff(run.weights)[-2:].min() > 0
        assert torch.equal(run.embedding_mean, alone.embedding_mean)
        run.run()

    def test_a_run_begins_from_the_end_of_another(self, data, tmp_path):
        trainer(data, tmp_path / "first").run()
        start = tmp_path / "first" / "checkpoint.pt"
        second = trainer(data, tmp_path / "second", start, learning_rate=0.5, seed=2)
        first = torch.load(start, weights_only=True)
        assert second.step == 0
        for key, value in second.student.state_dict().items():
            assert torch.equal(value, first["student"][key]), key
        assert second.optimizers[0].param_groups[0]["base_lr"] == 0.5
        assert second.optimizers[0].state_dict()["state"][0]["step"] == 4

    def test_a_run_begins_with_the_weights_of_a_model(self, data, tmp_path):
        trainer(data, tmp_path / "first").run()
        second = trainer(data, tmp_path / "second", tmp_path / "first" / "model", seed=2)
        assert second.step == 0
        first = torch.load(tmp_path / "first" / "checkpoint.pt", weights_only=True)["average"]
        for part in (second.student, second.average):
            assert not part.to_teacher.weight.any()
            for key, value in part.network.state_dict().items():
                torch.testing.assert_close(value, first[f"network.{key}"], atol=2e-3, rtol=1e-3)  # through float16
        assert np.isfinite(second._update(second.make_batch(0))).all()
        with pytest.raises(ValueError, match="another configuration"):
            trainer(data, tmp_path / "third", tmp_path / "first" / "model", model="weanet")

    def test_bfloat16_learns_as_float32_does(self, data, tmp_path):
        losses = {}
        for precision in ("float32", "bfloat16"):
            run = trainer(data, tmp_path / precision, precision=precision, warmup_steps=5, steps=40)
            batch = run.make_batch(0)
            losses[precision] = []
            for run.step in range(6):
                bce, mse, _ = run._update(batch)
                losses[precision].append(0.125 * bce + mse)
        np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.05)
        assert losses["bfloat16"][-1] < losses["bfloat16"][0]

    def test_frozen_blocks_stay_as_the_average_was(self, data, tmp_path):
        settings = {"optimizer": "adamw", "learning_rate": 0.1}
        trainer(data, tmp_path / "first", **settings).run()
        start = tmp_path / "first" / "checkpoint.pt"
        run = trainer(data, tmp_path / "second", start, frozen_blocks=4, **settings)
        run.run()
        first = trainer(data, tmp_path / "first", **settings)
        before, after = (each.average.network.eval() for each in (first, run))
        x = torch.randn(1, 1, 40, 64, generator=torch.Generator().manual_seed(0))
        for i in range(1, 11):
            old, new = before.get_submodule(f"conv{i}"), after.get_submodule(f"conv{i}")
            if i <= 4:
                # Batch normalisations are folded.
                torch.testing.assert_close(new(x), old(x), atol=1e-4, rtol=1e-4)
                x = old(x)
            else:
                assert not torch.allclose(new.conv.weight, old.conv.weight, atol=1e-3)
        again = trainer(data, tmp_path / "second", frozen_blocks=4, **settings)
        for key, value in run.average.state_dict().items():
            assert torch.equal(value, again.average.state_dict()[key]), key
        batch = run.make_batch(0)
        assert again._update(batch) == run._update(batch)

    def test_overfits_one_batch(self, data, tmp_path):
        run = trainer(data, tmp_path, steps=40, warmup_steps=5, optimizer="adamw")
        batch = run.make_batch(0)
        losses = []
        for run.step in range(14):
            losses.append(sum(run._update(batch)))
        assert losses[-1] < 0.5 * losses[0]

    def test_batches_depend_on_seed_and_step_only(self, data, tmp_path):
        run = trainer(data, tmp_path)
        a, b, other = run.make_batch(7), run.make_batch(7), run.make_batch(8)
        assert torch.equal(a.features, b.features)
        assert torch.equal(a.targets, b.targets)
        assert not torch.equal(a.features, other.features)

    def test_other_settings_in_the_same_folder_are_refused(self, data, tmp_path):
        trainer(data, tmp_path)
        with pytest.raises(ValueError, match="other settings"):
            trainer(data, tmp_path, seed=1)

    def test_nan_stops_with_a_message(self, data, tmp_path):
        run = trainer(data, tmp_path)
        batch = run.make_batch(0)
        run.student.to_teacher.weight.data.fill_(float("nan"))
        with pytest.raises(FloatingPointError, match="last good state"):
            run._update(batch)

    def test_schedules(self, data, tmp_path):
        run = trainer(data, tmp_path / "cosine", steps=100, warmup_steps=10)
        scales = []
        for run.step in (0, 9, 50, 99):
            scales.append(run._learning_scale())
        np.testing.assert_allclose(scales, [0.1, 0.980, 0.5, 0.0002], atol=1e-3)
        for schedule, expected in (("linear", [0.1, 0.91, 0.5, 0.01]), ("constant", [0.1, 1.0, 1.0, 1.0])):
            run = trainer(data, tmp_path / schedule, schedule=schedule, steps=100, warmup_steps=10)
            scales = []
            for run.step in (0, 9, 50, 99):
                scales.append(run._learning_scale())
            np.testing.assert_allclose(scales, expected, atol=1e-12)
        with pytest.raises(ValueError, match="schedule"):
            DistillConfig(schedule="cosin")
        run = trainer(data, tmp_path / "plateau", schedule="plateau", plateau_patience=1)
        for loss in (1.0, 0.9, 0.95, 0.95, 0.95, 0.95):
            run._plateau(loss)
        run.step = 50
        assert run._learning_scale() == pytest.approx(0.8**2)

    def test_log_and_validation(self, data, tmp_path):
        run = trainer(data, tmp_path, steps=10, validate_every=10, held_out_share=0.5, optimizer="adamw")
        run.run()
        with (tmp_path / "log.csv").open() as stream:
            (row,) = csv.DictReader(stream)
        assert row["step"] == "10"
        assert float(row["held_out_kl"]) > 0
        network, errors = run.average.network.eval(), []
        for features, _, embedding in run._held_out:
            with torch.no_grad():
                guess = run.average.to_teacher(network(features[None]).frames.mean(1))[0]
            errors.append(torch.nn.functional.mse_loss(guess, embedding).item())
        assert float(row["held_out_mse"]) == pytest.approx(np.mean(errors), rel=1e-3)

    def test_weanet_learns_and_continues(self, data, tmp_path):
        settings = {"model": "weanet", "local_weight": 0.5, "steps": 3, "checkpoint_every": 1, "warmup_steps": 1}
        run = trainer(data, tmp_path, **settings)
        assert run.student.network.config.std != 1.0  # measured on the recordings
        assert run.student.network.b1[0].conv.weight.is_contiguous()
        batch = run.make_batch(0)
        losses = []
        for run.step in range(3):
            bce, mse, local = run._update(batch)
            losses.append(0.125 * bce + mse + 0.5 * local)
        assert losses[-1] < losses[0]
        run.step = 2
        run._save(tmp_path / "checkpoint.pt")
        again = trainer(data, tmp_path, **settings)
        assert again.step == 2
        again.run()
        assert load_model(tmp_path / "model").embedding_size == 2048

    def test_the_local_loss_is_that_of_a_loop(self, data, tmp_path):
        run = trainer(data, tmp_path, local_weight=1.0)
        batch = run.make_batch(0)
        frames = {}
        run.student.to_teacher.register_forward_hook(lambda _, __, out: frames.update(out=out.detach().numpy()))
        local = run._update(batch)[2]
        times = [0.0375 + 0.1 * i for i in range(frames["out"].shape[1])]
        errors = []
        for item, cells in zip(frames["out"], batch.local.numpy(), strict=True):
            for k, target in enumerate(cells):
                weights = [max(0.0, 1 - abs(0.32 * k - time) / 0.32) for time in times]
                if sum(weights) > 0.5:
                    errors.append(((np.average(item, axis=0, weights=weights) - target) ** 2).mean())
        assert local == pytest.approx(np.mean(errors), rel=1e-4)

    def test_unknown_settings_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="strongly"):
            DistillConfig(rarity="strongly")
        with pytest.raises(ValueError, match="weenet"):
            DistillConfig(model="weenet")
        (tmp_path / "a.json").write_text(json.dumps({"stepz": 1}))
        with pytest.raises(ValueError, match="stepz"):
            DistillConfig.read(tmp_path / "a.json")
