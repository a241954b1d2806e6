"""Tests of distill: a tiny run that learns, stops, continues and repeats."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sedembed import load_model
from sedembed._training.distillation import distill
from sedembed._training.distillation.config import DistillConfig
from sedembed._training.distillation.distill import Trainer
from sedembed.errors import DatasetError, DivergedError
from tests._training.distillation.distill_helpers import TINY, data, trainer, write_folder  # noqa: F401


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

    def test_a_run_takes_further_folders(self, data, tmp_path):
        more = write_folder(tmp_path / "more", ["d/0", "d/1"])
        config = DistillConfig(**TINY)
        run = Trainer(config, [data, more], tmp_path / "run", tmp_path / "cache")
        alone = trainer(data, tmp_path / "alone")
        weights = run.batches._weights
        assert len(weights) == 8
        assert np.diff(weights)[-2:].min() > 0
        assert torch.equal(run.teacher.mean, alone.teacher.mean)
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
        assert np.isfinite(second._update(second.batches.make(0))).all()
        with pytest.raises(ValueError, match="another configuration"):
            trainer(data, tmp_path / "third", tmp_path / "first" / "model", model="weanet")

    def test_bfloat16_learns_as_float32_does(self, data, tmp_path):
        losses = {}
        for precision in ("float32", "bfloat16"):
            run = trainer(data, tmp_path / precision, precision=precision, warmup_steps=5, steps=40)
            batch = run.batches.make(0)
            losses[precision] = []
            for run.step in range(6):
                bce, mse, _ = run._update(batch)
                losses[precision].append(0.125 * bce + mse)
        np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.05)
        assert losses["bfloat16"][-1] < losses["bfloat16"][0]

    def test_overfits_one_batch(self, data, tmp_path):
        run = trainer(data, tmp_path, steps=40, warmup_steps=5, optimizer="adamw")
        batch = run.batches.make(0)
        losses = []
        for run.step in range(14):
            losses.append(sum(run._update(batch)))
        assert losses[-1] < 0.5 * losses[0]

    def test_other_settings_in_the_same_folder_are_refused(self, data, tmp_path):
        trainer(data, tmp_path)
        with pytest.raises(ValueError, match="other settings"):
            trainer(data, tmp_path, seed=1)

    def test_settings_from_before_a_key_existed_continue_the_run(self, data, tmp_path):
        trainer(data, tmp_path).run()
        file = tmp_path / "config.json"
        old = {key: value for key, value in json.loads(file.read_text()).items() if key != "inner_weight"}
        file.write_text(json.dumps(old))
        assert trainer(data, tmp_path).step == 4
        with pytest.raises(DatasetError, match=r"other settings \(inner_weight\)"):
            trainer(data, tmp_path, inner_weight=0.5)

    def test_checkpoints_of_earlier_versions_are_read(self, data, tmp_path):
        trainer(data, tmp_path).run()
        file = tmp_path / "checkpoint.pt"
        state = torch.load(file, weights_only=True)
        assert state.keys() == {"step", "student", "average", "optimizers", "plateau", "losses"}
        del state["losses"]
        torch.save(state, file)
        again = trainer(data, tmp_path)
        assert again.step == 4
        for key, value in again.average.state_dict().items():
            assert torch.equal(value, state["average"][key]), key

    def test_a_checkpoint_of_another_optimizer_is_refused_with_the_reason(self, data, tmp_path):
        trainer(data, tmp_path / "first").run()
        with pytest.raises(DatasetError, match=r"cannot be read .*parameter group"):
            trainer(data, tmp_path / "second", tmp_path / "first" / "checkpoint.pt", optimizer="adamw")

    def test_nan_stops_and_leaves_the_last_good_checkpoint(self, data, tmp_path):
        run = trainer(data, tmp_path)
        batch = run.batches.make(0)
        weight = run.student.to_teacher.weight
        good = weight.detach().clone()
        weight.data.fill_(float("nan"))
        with pytest.raises(DivergedError, match=r"stopped at step 1: loss nan.* No checkpoint had been written yet"):
            run._update(batch)
        assert issubclass(DivergedError, FloatingPointError)
        weight.data.copy_(good)
        run.run()
        before = (tmp_path / "checkpoint.pt").read_bytes()
        run.student.network.event_layer.weight.data[0, 0] = torch.inf
        with pytest.raises(DivergedError, match=r"event|fc_prob\.weight.* last good state is in .*checkpoint\.pt"):
            run._save()
        assert (tmp_path / "checkpoint.pt").read_bytes() == before

    def test_a_resumed_log_is_that_of_a_whole_run(self, data, tmp_path, monkeypatch):
        monkeypatch.setattr(distill, "_LOG_EVERY", 5)
        settings = {"steps": 7, "checkpoint_every": 3, "validate_every": 4, "held_out_share": 0.4, "batch_size": 1}
        settings |= {"optimizer": "adamw", "seconds": 0.5}

        def read_log(out: Path) -> list[dict[str, str]]:
            with (out / "log.csv").open() as stream:
                rows = list(csv.DictReader(stream))
            return [{key: value for key, value in row.items() if "per_second" not in key} for row in rows]

        trainer(data, tmp_path / "whole", **settings).run()
        update = Trainer._update

        def killed_at_six(self, batch):
            if self.step == 6:
                raise KeyboardInterrupt
            return update(self, batch)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_update", killed_at_six)
            with pytest.raises(KeyboardInterrupt):
                trainer(data, tmp_path / "parts", **settings).run()
        assert [row["step"] for row in read_log(tmp_path / "parts")] == ["4", "5"]
        trainer(data, tmp_path / "parts", **settings).run()
        whole = read_log(tmp_path / "whole")
        assert [row["step"] for row in whole] == ["4", "5", "7"]
        assert [bool(row["held_out_kl"]) for row in whole] == [True, False, True]
        assert read_log(tmp_path / "parts") == whole

    def test_log_and_validation(self, data, tmp_path):
        run = trainer(data, tmp_path, steps=10, validate_every=10, held_out_share=0.5, optimizer="adamw")
        run.run()
        with (tmp_path / "log.csv").open() as stream:
            (row,) = csv.DictReader(stream)
        assert row["step"] == "10"
        assert float(row["held_out_kl"]) > 0
        network, errors = run.average.network.eval(), []
        for features, _, embedding in run.held_out:
            with torch.no_grad():
                guess = run.average.to_teacher(network(features[None]).frames.mean(1))[0]
            errors.append(torch.nn.functional.mse_loss(guess, embedding).item())
        error = run.validate()[2]
        assert error == pytest.approx(np.mean(errors), rel=1e-4)
        assert row["held_out_mse"] == f"{error:.4f}"

    def test_weanet_learns_and_continues(self, data, tmp_path):
        settings = {"model": "weanet", "local_weight": 0.5, "steps": 3, "checkpoint_every": 1, "warmup_steps": 1}
        run = trainer(data, tmp_path, **settings)
        assert run.student.network.config.std != 1.0  # measured on the recordings
        assert run.student.network.b1[0].conv.weight.is_contiguous()
        batch = run.batches.make(0)
        losses = []
        for run.step in range(3):
            bce, mse, local = run._update(batch)
            losses.append(0.125 * bce + mse + 0.5 * local)
        assert losses[-1] < losses[0]
        run.step = 2
        run._save()
        again = trainer(data, tmp_path, **settings)
        assert again.step == 2
        again.run()
        assert load_model(tmp_path / "model").embedding_size == 2048
