"""The training: its parts against references, and a tiny run that falls, stops, continues and repeats."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import soundfile
import soxr
import torch
from safetensors.torch import save_file
from sklearn.metrics import average_precision_score

from sedembed import load_model
from sedembed._training.distillation.augment import draw_equaliser, draw_room, filter_sound
from sedembed._training.distillation.collection import (
    Collection,
    CropSettings,
    draw_crop,
    draw_mixture,
    open_collection,
    spec_augment_bounds,
)
from sedembed._training.distillation.config import DistillConfig
from sedembed._training.distillation.distill import Trainer, _alignment, _sampling_weights
from sedembed._training.distillation.held_out import compare
from sedembed._training.distillation.muon import Muon, orthogonalise
from sedembed._training.distillation.teacher import TEACHER_CELL_SECONDS, Teacher, _halve, load_teacher
from sedembed.models.layers.winograd import WinogradConv2d, use_winograd

SHARED = Path(__file__).parents[4] / "shared" / "data"


class TestWinograd:
    @pytest.mark.parametrize("shape", [(2, 5, 8, 4), (1, 3, 9, 7), (3, 4, 1, 1), (2, 2, 50, 2)])
    def test_equals_the_direct_sum_in_both_directions(self, shape):
        torch.manual_seed(0)
        batch, channels, time, bins = shape
        direct = torch.nn.Conv2d(channels, 6, 3, padding=1)
        fast = WinogradConv2d(channels, 6, 3, padding=1)
        fast.load_state_dict(direct.state_dict())
        results = []
        for module in (direct, fast):
            x = torch.linspace(-1, 1, batch * channels * time * bins).sin().view(shape).requires_grad_()
            y = module(x)
            (y * torch.arange(y.numel()).view(y.shape).cos()).sum().backward()
            results.append((y, x.grad, module.weight.grad, module.bias.grad))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, atol=3e-5, rtol=3e-5)

    def test_only_wide_3x3_convolutions_change(self):
        wide = torch.nn.Conv2d(8, 128, 3, padding=1)
        others = [torch.nn.Conv2d(1, 64, 3, padding=1), torch.nn.Conv2d(64, 128, 1), torch.nn.Conv2d(8, 128, 3)]
        network = torch.nn.Sequential(*others, torch.nn.Conv2d(8, 128, 3, padding=1, stride=2), wide)
        use_winograd(network)
        assert [type(layer).__name__ for layer in network] == ["Conv2d"] * 4 + ["WinogradConv2d"]
        assert network[4].weight is wide.weight


class TestMuon:
    @pytest.mark.parametrize("shape", [(16, 40), (40, 16), (24, 24)])
    def test_singular_values_come_near_one_and_vectors_stay(self, shape):
        matrix = torch.from_numpy(np.random.default_rng(0).normal(size=shape)).float()
        result = orthogonalise(matrix)
        values = torch.linalg.svdvals(result)
        # A direction with less than a 250th of the norm needs more than five iterations.
        within_reach = torch.linalg.svdvals(matrix / matrix.norm()) > 1 / 250
        assert within_reach.sum() >= len(values) - 1
        assert 0.6 < values[within_reach].min() <= values.max() < 1.3
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        rotated = u.T @ result @ v.T
        assert (rotated - torch.diag(rotated.diag())).abs().max() < 1e-3

    def test_step_has_the_stated_size_and_descends(self):
        torch.manual_seed(0)
        kernel = torch.nn.Parameter(torch.randn(8, 4, 3, 3))
        target = torch.randn_like(kernel)
        optimizer = Muon([kernel], lr=0.1)
        before = kernel.detach().clone()
        for step in range(60):
            loss = (kernel - target).square().sum()
            optimizer.zero_grad()
            loss.backward()
            if step == 0:
                first = loss.item()
            optimizer.step()
            if step == 0:
                size = (kernel - before).square().mean().sqrt().item()
                assert size == pytest.approx(0.2 * 0.1, rel=0.2)
        assert loss.item() < 0.3 * first


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


class TestHeldOut:
    def test_figures_against_scipy_and_scikit_learn(self):
        rng = np.random.default_rng(0)
        ours, theirs = rng.random((12, 7)), rng.random((12, 7))
        figures = compare(ours, theirs, 0.5)
        correlation = np.mean([scipy.stats.pearsonr(a, b).statistic for a, b in zip(ours, theirs, strict=True)])
        assert figures["correlation"] == pytest.approx(correlation)
        divergence = np.mean(
            [
                sum(scipy.stats.entropy([b, 1 - b], [a, 1 - a]) for a, b in zip(p, q, strict=True))
                for p, q in zip(ours, theirs, strict=True)
            ]
        )
        assert figures["kl"] == pytest.approx(divergence)
        assert figures["map"] == pytest.approx(average_precision_score(theirs >= 0.5, ours, average="macro"))
        assert figures["top1_agreement"] == (ours.argmax(1) == theirs.argmax(1)).mean()
        assert compare(theirs, theirs, 0.5)["kl"] == pytest.approx(0.0, abs=1e-12)


def write_folder(folder: Path, names: list[str]) -> Path:
    """A folder of recordings of one second, as `data` is, without a teacher."""
    rng = np.random.default_rng(5)
    for name in names:
        path = folder / "audio" / f"{name}.ogg"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.normal(0, 0.1, 16_000), 16_000)
    rows = "".join(f"{name}.ogg,{name[0]},1.0,cut\n" for name in names)
    (folder / "segments.csv").write_text("file,collection,seconds,how\n" + rows)
    count = len(names)
    np.savez(
        folder / "teacher.npz",
        logits=rng.normal(-4, 2, (count, 527)).astype(np.float16),
        embeddings=rng.normal(size=(count, 384)).astype(np.float16),
    )
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A training set of six recordings in three collections, with an untrained teacher."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    rows = []
    for i, name in enumerate(["a/0", "a/1", "b/0", "b/1", "b/2", "c/0"]):
        seconds = (0.5, 1.5, 2.0, 1.2, 3.0, 1.0)[i]
        t = np.arange(round(16_000 * seconds)) / 16_000
        wave = 0.3 * np.sin(2 * np.pi * 200 * (i + 1) * t) + rng.normal(0, 0.02, len(t))
        path = folder / "audio" / f"{name}.ogg"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, wave, 16_000)
        rows.append({"file": f"{name}.ogg", "collection": name[0], "seconds": seconds, "how": "cut"})
    with (folder / "segments.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    torch.manual_seed(0)
    teacher = Teacher()
    (folder / "teacher").mkdir()
    save_file(teacher.state_dict(), folder / "teacher" / "mn04_as.safetensors")
    logits = rng.normal(-4, 2, (6, 527)).astype(np.float16)
    np.savez(folder / "teacher.npz", logits=logits, embeddings=rng.normal(size=(6, 384)).astype(np.float16))
    return folder


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


class TestCollection:
    def test_recordings_and_held_out_part(self, data):
        collection = open_collection(data, data / "cache", 0.2)
        assert len(collection.waveform(4)) == 48_000
        kept = {name.split("/")[0] for name, out in zip(collection.files, collection.held_out, strict=True) if not out}
        gone = {name.split("/")[0] for name, out in zip(collection.files, collection.held_out, strict=True) if out}
        assert not kept & gone

    def test_further_folders_are_trained_on_and_leave_the_held_out_part_alone(self, data, tmp_path):
        more = write_folder(tmp_path / "more", ["d/0", "d/1"])
        one, two = (open_collection(folders, tmp_path / "cache", 0.4) for folders in (data, [data, more]))
        assert two.added == 2
        np.testing.assert_array_equal(two.held_out, [*one.held_out, False, False])
        np.testing.assert_array_equal(two.waveform(0), one.waveform(0))
        expected = soundfile.read(more / "audio" / "d" / "1.ogg", dtype="int16")[0]
        np.testing.assert_array_equal(two.waveform(7), expected / np.float32(32768))

    def test_further_folders_must_not_hold_what_is_held_out(self, data, tmp_path):
        gone = open_collection(data, data / "cache", 0.4)
        name = next(file for file, out in zip(gone.files, gone.held_out, strict=True) if out)[0]
        more = write_folder(tmp_path / "more", [f"{name}/9"])
        with pytest.raises(ValueError, match=f"collection {name}"):
            open_collection([data, more], tmp_path / "cache", 0.4)

    def test_crops(self, data):
        collection = open_collection(data, data / "cache", 0.0)
        rng = np.random.default_rng(0)
        short = draw_crop(collection, 0, 16_000, rng)  # half a second, repeated and rolled
        np.testing.assert_array_equal(np.sort(short), np.sort(np.tile(collection.waveform(0), 2)))
        long = draw_crop(collection, 4, 16_000, rng)
        whole = collection.waveform(4)
        assert any(np.array_equal(long, whole[i : i + 16_000]) for i in range(32_001))

    def test_mixtures(self, data):
        collection = open_collection(data, data / "cache", 0.0)
        weights = np.cumsum([0, 0, 0, 0, 1.0, 0])  # one recording only
        rng = np.random.default_rng(0)
        plain = draw_mixture(collection, weights, CropSettings(1.0, 0.0, 10.0, (0.0, 0.0)), rng)
        assert plain.shape == (16_000,)
        assert plain.dtype == np.float32
        quiet = draw_mixture(collection, weights, CropSettings(1.0, 0.0, 10.0, (-20.0, -20.0)), rng)
        assert np.std(quiet) == pytest.approx(np.std(plain) / 10, rel=0.05)
        mixed = draw_mixture(collection, weights, CropSettings(1.0, 1.0, 0.0, (0.0, 0.0)), rng)
        # Two parts of equal level at half the power each: the level of one, but for what they have in common.
        assert np.std(mixed) == pytest.approx(np.std(plain), rel=0.5)

    def test_a_faster_sound_is_higher(self):
        tone = np.sin(2 * np.pi * 1000 * np.arange(64_000) / 16_000)
        collection = Collection(
            (20_000 * tone).astype(np.int16), np.array([0, 64_000]), ["tone.ogg"], np.zeros(1, bool)
        )
        rng = np.random.default_rng(0)
        settings = CropSettings(2.0, 0.0, 10.0, (0.0, 0.0), speed_probability=1.0, speed_semitones=12.0)
        peaks = []
        for _ in range(20):
            sound = draw_mixture(collection, np.ones(1), settings, rng)
            assert sound.shape == (32_000,)
            peaks.append(np.abs(np.fft.rfft(sound * np.hanning(32_000))).argmax() / 2.0)
        assert 500 <= min(peaks) < 750
        assert 1400 < max(peaks) <= 2000

    def test_without_other_speeds_the_crops_are_those_of_before(self, data):
        collection = open_collection(data, data / "cache", 0.0)
        weights, settings = np.cumsum(np.ones(6)), CropSettings(1.0, 0.0, 10.0, (0.0, 0.0))
        mixture = draw_mixture(collection, weights, settings, np.random.default_rng(3))
        rng = np.random.default_rng(3)
        first = int(np.searchsorted(weights, rng.random(2) * 6)[0])
        np.testing.assert_array_equal(mixture, draw_crop(collection, first, 16_000, rng))

    def test_a_third_sound_joins_at_a_level_of_its_own(self):
        tones = [np.sin(2 * np.pi * hz * np.arange(16_000) / 16_000) for hz in (500, 1500, 3000)]
        samples = (8_000 * np.concatenate(tones)).astype(np.int16)
        collection = Collection(samples, np.arange(0, 64_000, 16_000), list("abc"), np.zeros(3, bool))
        settings = CropSettings(1.0, 1.0, 6.0, (0.0, 0.0), third_probability=1.0)
        rng = np.random.default_rng(1)
        heard = []
        for _ in range(60):
            mixture = draw_mixture(collection, np.cumsum(np.ones(3)), settings, rng)
            power = np.abs(np.fft.rfft(mixture))[[500, 1500, 3000]] ** 2
            heard.append(int((power > 1e-3 * power.max()).sum()))
            if heard[-1] == 3:
                assert np.std(mixture) == pytest.approx(np.std(samples / 32768), rel=0.01)
        assert set(heard) == {1, 2, 3}  # the same recording may come twice or three times

    def test_filters_apply_where_asked(self, data):
        collection = open_collection(data, data / "cache", 0.0)
        weights, plain = np.cumsum(np.ones(6)), CropSettings(1.0, 0.0, 10.0, (0.0, 0.0))
        without = draw_mixture(collection, weights, plain, np.random.default_rng(5))
        for name in ("equaliser_probability", "room_probability"):
            settings = CropSettings(1.0, 0.0, 10.0, (0.0, 0.0), **{name: 1.0})
            changed = draw_mixture(collection, weights, settings, np.random.default_rng(5))
            assert changed.dtype == np.float32
            assert not np.allclose(changed, without, atol=1e-3)
            assert np.linalg.norm(changed) == pytest.approx(np.linalg.norm(without), rel=1e-4)

    def test_rare_events_are_drawn_more_often(self):
        collection = Collection(
            np.zeros(4000, np.int16), np.arange(0, 5000, 1000), list("abcd"), np.array([False, False, False, True])
        )
        probabilities = np.array([[0.9, 0.01, 0.05], [0.9, 0.01, 0.05], [0.1, 0.8, 0.05], [0.1, 0.01, 0.9]])
        logits = np.log(probabilities / (1 - probabilities))
        drawn = np.diff(_sampling_weights(logits, collection, "strongest"), prepend=0.0) / np.sqrt(1000)
        # Each recording's strongest event over all there is of it and two: 0.9 / 4.0, 0.8 / 2.83.
        np.testing.assert_allclose(drawn, [0.225, 0.225, 0.8 / 2.83, 0.0], rtol=1e-6, atol=1e-12)
        spread = np.diff(_sampling_weights(logits, collection, "spread"), prepend=0.0) / np.sqrt(1000)
        expected = [0.45 + 0.01 / 0.83 + 0.05 / 1.05, 0.05 + 0.8 / 0.83 + 0.05 / 1.05]
        np.testing.assert_allclose(spread[1:3], np.sqrt(expected), rtol=1e-6)

    def test_spec_augment_widths(self):
        rng = np.random.default_rng(0)
        bounds = [spec_augment_bounds(400, 64, 80, 16, rng) for _ in range(4000)]
        times = np.array([part.stop - part.start for part, _ in bounds])
        bands = np.array([band.stop - band.start for _, band in bounds])
        assert (times.min(), times.max(), bands.min(), bands.max()) == (0, 80, 0, 16)
        assert times.mean() == pytest.approx(40, abs=2)
        assert bands.mean() == pytest.approx(8, abs=0.5)
        assert max(part.stop for part, _ in bounds) <= 400
        assert max(band.stop for _, band in bounds) <= 64


class TestFilters:
    def test_equaliser_is_drawn_at_octaves_and_interpolated_between(self):
        knots = np.array([50.0, 100, 200, 400, 800, 1600, 3200, 6400])
        between = np.sqrt(knots[:-1] * knots[1:])
        at = 20 * np.log10(draw_equaliser(knots, 9.0, np.random.default_rng(0)))
        np.testing.assert_allclose(at, np.random.default_rng(0).uniform(-9, 9, 8), atol=1e-5)
        middle = 20 * np.log10(draw_equaliser(between, 9.0, np.random.default_rng(0)))
        np.testing.assert_allclose(middle, (at[:-1] + at[1:]) / 2, atol=1e-5)
        edges = 20 * np.log10(draw_equaliser(np.array([0.0, 8000.0]), 9.0, np.random.default_rng(0)))
        np.testing.assert_allclose(edges, at[[0, -1]], atol=1e-5)

    def test_rooms_decay_by_60_db(self):
        rng = np.random.default_rng(0)
        lengths, ratios = [], []
        for _ in range(200):
            response = draw_room(16_000, rng).astype(np.float64)
            assert response[0] == 1.0
            tail = response[1:]
            lengths.append(len(response) / 16_000)
            ratios.append(-10 * np.log10(np.square(tail).sum()))
            tenth = len(tail) // 10
            fall = 10 * np.log10(np.square(tail[:tenth]).mean() / np.square(tail[-tenth:]).mean())
            assert fall == pytest.approx(54.0, abs=5.0)  # from the middle of the first to that of the last tenth
        assert 0.1 <= min(lengths) < 0.15
        assert 0.8 < max(lengths) <= 1.0
        assert -3.0 <= min(ratios) < -2.0
        assert 9.0 < max(ratios) <= 10.0

    def test_a_room_is_a_convolution_at_the_same_level(self):
        waveform = np.random.default_rng(1).normal(0, 0.1, 8_000).astype(np.float32)
        result = filter_sound(waveform, 16_000, np.random.default_rng(2), equaliser_db=None, room=True)
        reference = np.convolve(waveform.astype(np.float64), draw_room(16_000, np.random.default_rng(2)))[:8_000]
        reference *= np.linalg.norm(waveform) / np.linalg.norm(reference)
        np.testing.assert_allclose(result, reference, atol=1e-6)

    def test_an_equaliser_scales_each_frequency(self):
        waveform = np.random.default_rng(1).normal(0, 0.1, 8_000).astype(np.float32)
        result = filter_sound(waveform, 16_000, np.random.default_rng(2), equaliser_db=6.0, room=False)
        gains = draw_equaliser(np.fft.rfftfreq(8_000, 1 / 16_000), 6.0, np.random.default_rng(2))
        ratio = np.abs(np.fft.rfft(result)) / np.abs(np.fft.rfft(waveform)) / gains
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)
        assert np.linalg.norm(result) == pytest.approx(np.linalg.norm(waveform), rel=1e-5)

    def test_silence_stays_silence(self):
        silence = np.zeros(1000, np.float32)
        np.testing.assert_array_equal(
            filter_sound(silence, 16_000, np.random.default_rng(0), equaliser_db=6.0, room=True), silence
        )


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
