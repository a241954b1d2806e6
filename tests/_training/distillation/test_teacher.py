"""Tests of teacher."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

from sedembed._training.distillation.teacher import TEACHER_CELL_SECONDS, Teacher, _halve, load_teacher
from tests._training.distillation.distill_helpers import data  # noqa: F401

SHARED = Path(__file__).parents[4] / "shared" / "data"


class TestTeacher:
    def test_inner_features_are_what_the_excitation_layers_average(self):
        torch.manual_seed(0)
        teacher, seen = Teacher().eval(), []
        for name, module in teacher.named_modules():
            if name.endswith("conc_se_layers.0.fc1"):
                module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        with torch.no_grad():
            output = teacher(0.1 * torch.randn(2, 64_000))
        assert [part.shape[1] for part in seen[-5:]] == [192, 272, 272, 384, 384]
        torch.testing.assert_close(output.inner, torch.cat(seen[-5:], 1))
        assert output.inner_frames.shape == (2, output.frames.shape[1], teacher.inner_size)
        # Three layers have the frames of the embedding: their mean over time is that of the clip.
        torch.testing.assert_close(output.inner_frames[:, :, 464:].mean(1), output.inner[:, 464:])

    def test_frames_at_half_the_rate_keep_their_centres(self):
        ramp = torch.arange(9.0)[None, None]
        torch.testing.assert_close(_halve(ramp)[0, 0], torch.tensor([0.5, 2.0, 4.0, 6.0, 7.5]))

    @pytest.mark.shared
    def test_golden_outputs(self):
        folder = SHARED / "open-audio" / "teacher"
        if not folder.exists():
            pytest.skip("the teacher's weights are not beside the repository")
        teacher, golden = load_teacher(folder / "mn04_as.safetensors"), np.load(folder / "golden.npz")
        noises = iter(golden["noise"])
        for i, name in enumerate(golden["files"]):
            if name == "noise":
                waveform = next(noises)
            else:
                waveform = np.resize(soundfile.read(SHARED / "esc50" / "audio" / name, dtype="float32")[0], 160_000)
            up = torch.from_numpy(soxr.resample(waveform, 16_000, 32_000, quality="HQ"))[None]
            mel = teacher.log_mel(up)
            output = teacher.classify(mel)
            np.testing.assert_allclose(mel[0, 0, :, ::50], golden["mel"][i], atol=1e-4)
            np.testing.assert_allclose(output.logits[0], golden["logits"][i], atol=1e-3)
            np.testing.assert_allclose(output.embeddings[0], golden["embeddings"][i], atol=1e-4)

    def test_parameters(self):
        assert sum(p.numel() for p in Teacher().parameters()) == 983_599

    def test_cells_lie_where_they_are_said_to(self):
        torch.manual_seed(0)
        teacher = Teacher().eval()
        mel = torch.zeros(1, 1, 128, 801)
        with torch.no_grad():
            silent = teacher.classify(mel)
            mel[..., 480 : 480 + 1] = 20.0  # 10 ms at 4.8 s: cell 15
            loud = teacher.classify(mel)
        change = (loud.frames - silent.frames)[0].square().sum(1)
        assert change.shape == (26,)
        assert change.argmax() == round(4.8 / TEACHER_CELL_SECONDS) == 15
        torch.testing.assert_close(loud.frames.mean(1), loud.embeddings)
