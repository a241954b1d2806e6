"""WEANet against independent float64 arithmetic, and through everything that a user does with a model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import sedembed
from sedembed.errors import WeightsError
from sedembed.models.base import NetworkOutput
from sedembed.models.layers.blocks import fold_batchnorm
from sedembed.models.layers.frozen_winograd import FrozenWinograd
from sedembed.models.weanet import WEANet, WEANetConfig
from sedembed.models.weights import load_config, load_network, resolve, save_pretrained
from tests.models.weanet_helpers import CPU, RATE, SMALL, make, network, reference_forward, relative  # noqa: F401

T = np.arange(10 * RATE) / RATE


TONES = (0.5 * np.sin(2 * np.pi * 440 * T) + 0.1 * np.sin(2 * np.pi * 3000 * T)).astype(np.float32)


CHIRP = (0.3 * np.sin(2 * np.pi * (50 * T + 387.5 * T**2))).astype(np.float32)


def slaney_filters(bins: int, points: int) -> np.ndarray:
    """Triangles of unit area, equally spaced on Slaney's scale, walked mel by mel: (bins, points // 2 + 1)."""

    def to_hz(mel: float) -> float:
        return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    top = 15 + 27 * np.log(8) / np.log(6.4)
    edges = [to_hz(top * i / (bins + 1)) for i in range(bins + 2)]
    hz = np.arange(points // 2 + 1) * RATE / points
    rows = []
    for low, mid, high in zip(edges, edges[1:], edges[2:], strict=False):
        up, down = (hz - low) / (mid - low), (high - hz) / (high - mid)
        rows.append(np.clip(np.minimum(up, down), 0, None) * 2 / (high - low))
    return np.array(rows)


def reference_log_mel(waveform: np.ndarray, config: WEANetConfig) -> np.ndarray:
    """The specification read literally: whole transforms, one frame at a time, in float64."""
    points, length = config.n_fft, config.win_length
    count = 1 + len(waveform) // config.hop_length
    hop = int(np.prod(config.pools))
    count = (count + hop - 1) // hop * hop
    padded = np.zeros(points // 2 + (count - 1) * config.hop_length + points)
    padded[points // 2 : points // 2 + len(waveform)] = waveform
    window = np.zeros(points)
    window[(points - length) // 2 : (points + length) // 2] = np.sin(np.pi * np.arange(length) / length) ** 2
    filters = slaney_filters(config.n_mels, points)
    rows = []
    for i in range(count):
        frame = padded[i * config.hop_length : i * config.hop_length + points]
        rows.append(filters @ np.abs(np.fft.rfft(frame * window)) ** config.power)
    decibels = 10 * np.log10(np.maximum(1e-10, np.array(rows)))
    return np.maximum(decibels, decibels.max() - config.top_db)


@pytest.fixture(scope="module")
def plain() -> WEANet:
    """The front end of the default configuration; the rest does not matter."""
    return WEANet(WEANetConfig(channels=(1, 1, 1, 1), segment_channels=1, hidden_channels=(1, 1), classes=1))


class TestFrontEnd:
    def test_golden_tones(self, plain: WEANet) -> None:
        """Values of librosa 0.11 in float64 on the sound with its padding."""
        mel = plain.features(torch.from_numpy(TONES)).numpy()
        assert mel.shape == (1024, 64)
        expected = [-42.6697, 13.8627, -41.4179, -62.6674, -65.8737, -62.4476, -65.8737, -65.8737]
        np.testing.assert_allclose(mel[500, ::8], expected, atol=1e-4)
        np.testing.assert_allclose(mel[0, :4], [-5.7615, -4.5854, -4.9490, -3.0976], atol=1e-4)
        np.testing.assert_allclose([mel.max(), mel.min(), mel.mean()], [14.126298, -65.873702, -48.928622], atol=1e-4)

    def test_golden_chirp(self, plain: WEANet) -> None:
        mel = plain.features(torch.from_numpy(CHIRP)).numpy()
        expected = [-69.35205] * 6 + [-7.2166, -69.35205]
        np.testing.assert_allclose(mel[500, ::8], expected, atol=1e-4)
        assert mel.max() == pytest.approx(10.64795, abs=1e-4)

    def test_silence(self, plain: WEANet) -> None:
        assert (plain.features(torch.zeros(20_000)) == -100).all()

    @pytest.mark.parametrize("samples", [1, 127, 128, 5_119, 5_120, 15_199, 15_200, 40_001])
    def test_against_float64(self, plain: WEANet, samples: int) -> None:
        waveform = np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32)
        waveform[: samples // 2] *= 1e-5
        mel = plain.features(torch.from_numpy(waveform)).numpy()
        assert mel.shape == (-(-(1 + samples // 160) // 32) * 32, 64)
        np.testing.assert_allclose(mel, reference_log_mel(waveform, plain.config), atol=1e-3)

    @pytest.mark.parametrize(
        "change", [{"power": 1.0}, {"n_fft": 1024, "win_length": 400}, {"hop_length": 320, "top_db": 30.0}]
    )
    def test_choices(self, plain: WEANet, change: dict[str, float]) -> None:
        network = WEANet(dataclasses.replace(plain.config, **change))
        waveform = np.random.default_rng(0).normal(0, 0.1, 20_000).astype(np.float32)
        waveform[:5_000] *= 1e-3
        mel = network.features(torch.from_numpy(waveform)).numpy()
        np.testing.assert_allclose(mel, reference_log_mel(waveform, network.config), atol=1e-3)

    def test_against_librosa(self, plain: WEANet) -> None:
        librosa = pytest.importorskip("librosa")
        waveform = np.random.default_rng(0).normal(0, 0.1, 95 * 160)  # 96 frames: nothing is added
        spectrum = librosa.stft(waveform, n_fft=512, hop_length=160, win_length=256, center=True, pad_mode="constant")
        mel = librosa.filters.mel(sr=RATE, n_fft=512, n_mels=64, dtype=np.float64) @ np.abs(spectrum) ** 2
        theirs = librosa.power_to_db(mel).T
        np.testing.assert_allclose(plain.features(torch.from_numpy(waveform).float()).numpy(), theirs, atol=1e-3)


OTHER = dataclasses.replace(SMALL, n_mels=48, pools=(2, 4, 2, 1), segment_steps=2, channels=(2, 3, 2, 4))


def log_mel(*shape: int, bins: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(-25, 12, (*shape, bins)).astype(np.float32))


def tensor_output(*shape: int, lengths: list[int] | None = None, seed: int = 0, scale: float = 3.0) -> NetworkOutput:
    """Some output of a network: (batch, segments, classes)."""
    generator = torch.Generator().manual_seed(seed)
    attention = scale * torch.randn(shape, generator=generator)
    probabilities = torch.rand(shape, generator=generator)
    return NetworkOutput(
        torch.zeros(shape), probabilities, None if lengths is None else torch.tensor(lengths), attention
    )


class TestForward:
    @pytest.mark.parametrize("frames", [96, 97, 127, 128, 150, 321])
    @pytest.mark.parametrize("config", [SMALL, OTHER], ids=["small", "other"])
    def test_against_float64(self, config: WEANetConfig, frames: int) -> None:
        network = make(config)
        mel = log_mel(frames, bins=config.n_mels, seed=frames)
        expected = reference_forward(network, mel.numpy())
        hop = int(np.prod(config.pools))
        for candidate in (network, fold_batchnorm(network), network.prepare(CPU)):
            with torch.inference_mode():
                output = candidate(mel[None])
                clip = candidate.pool(output)
            assert output.frames.shape == (1, frames // hop - config.segment_steps + 1, 9)
            assert output.lengths is None
            for ours, theirs in zip((output.frames[0], output.probabilities[0], clip[0]), expected, strict=True):
                assert ours.shape == theirs.shape
                assert relative(ours, theirs) < 1e-4

    def test_prepared_is_the_same_function(self, network: WEANet) -> None:
        mel = log_mel(3, 203, seed=1)
        fast = network.prepare(CPU)
        assert any(isinstance(module, FrozenWinograd) for module in fast.modules())
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fast.modules())
        with torch.inference_mode():
            plain, prepared = network(mel), fast(mel)
        for a, b in zip((*prepared[:2], prepared.attention), (*plain[:2], plain.attention), strict=True):
            assert relative(a, b) < 3e-5
        assert isinstance(network.get_submodule("b1.0.bn"), torch.nn.BatchNorm2d)

    def test_shapes_and_parameters(self) -> None:
        """The table of the architecture, for a window of 10 s."""
        network = WEANet(WEANetConfig())
        attention = sum(parameter.numel() for parameter in network.attention.parameters())
        assert sum(parameter.numel() for parameter in network.parameters()) - attention == 14_677_711
        assert attention == 527 * 1024 + 527
        shapes = {}
        for name in ("b1.1", "b2.1", "b3.1", "b4.1", "b5", "b6", "b7", "b8", "attention"):
            network.eval().get_submodule(name).register_forward_hook(
                lambda _, given, out, name=name: shapes.update({name: tuple(out.shape[1:])})
            )
        with torch.inference_mode():
            output = network(log_mel(1, 1024))
        assert shapes == {
            "b1.1": (64, 256, 16),
            "b2.1": (128, 128, 8),
            "b3.1": (256, 64, 4),
            "b4.1": (512, 32, 2),
            "b5": (2048, 30, 1),
            "b6": (1024, 30, 1),
            "b7": (1024, 30, 1),
            "b8": (30, 527),
            "attention": (30, 527),
        }
        assert output.frames.shape == (1, 30, 2048)
        assert output.probabilities.shape == output.attention.shape == (1, 30, 527)
        assert (network.embedding_size, network.frame_rate, network.min_frames) == (2048, 3.125, 96)
        assert (network.min_samples, network.sample_rate) == (15_200, 16_000)
        assert network.first_frame_time == pytest.approx(0.475)

    def test_probabilities_are_clamped(self) -> None:
        loud = make(SMALL)
        torch.nn.init.constant_(loud.b8.bias, 100.0)
        with torch.inference_mode():
            assert loud(log_mel(1, 96)).probabilities.max() == torch.tensor(1 - 1e-7)

    @pytest.mark.parametrize("fast", [False, True])
    def test_padding_never_reaches_a_valid_segment(self, network: WEANet, fast: bool) -> None:
        lengths = [321, 320, 319, 290, 200, 129, 128, 127, 97, 96]
        clips = [log_mel(n, seed=n) for n in lengths]
        padded = torch.full((len(clips), 321, 64), 1e4)  # what stands in the padding must not matter
        for row, clip in zip(padded, clips, strict=True):
            row[: len(clip)] = clip
        used = network.prepare(CPU) if fast else network
        with torch.inference_mode():
            batch = used(padded, torch.tensor(lengths))
            pooled = used.pool(batch)
            assert batch.lengths.tolist() == [n // 32 - 2 for n in lengths]
            for i, clip in enumerate(clips):
                alone = used(clip[None])
                n = alone.frames.shape[1]
                assert batch.lengths[i] == n
                for part in ("frames", "probabilities", "attention"):
                    assert relative(getattr(batch, part)[i, :n], getattr(alone, part)[0]) < 1e-5
                assert relative(pooled[i], used.pool(alone)[0]) < 1e-5

    def test_batches_are_normalised_alike_in_training(self) -> None:
        """Gradients reach every parameter, and padding gets none."""
        network = make(SMALL).train()
        mel = log_mel(2, 160).requires_grad_()
        network.pool(network(mel, torch.tensor([160, 100]))).sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
        assert mel.grad is not None
        assert mel.grad[1, :96].abs().max() > 0
        assert not mel.grad[1, 100:].any()

    def test_too_short(self, network: WEANet) -> None:
        with pytest.raises(ValueError, match=r"at least 96 feature frames, one segment, got 95; pad .* 15200 samples"):
            network(log_mel(1, 95))

    def test_initialisation(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = WEANet(WEANetConfig())
        bound = np.sqrt(2) * np.sqrt(6 / (9 * (128 + 256)))
        weight = network.get_submodule("b3.0.conv").weight
        assert 0.99 * bound < weight.abs().max() <= bound
        bound = np.sqrt(2) * np.sqrt(6 / (1024 + 527))
        assert 0.99 * bound < network.attention.weight.abs().max() <= bound
        biases = [p for name, p in network.named_parameters() if name.endswith("bias")]
        assert len(biases) == 2 * 11 + 2
        assert not any(bias.any() for bias in biases)

    def test_bfloat16(self, network: WEANet) -> None:
        mel = log_mel(2, 160)
        rough = network.prepare(CPU, torch.bfloat16)
        with torch.inference_mode():
            exact, output = network(mel), rough(mel)
        assert output.frames.dtype == output.probabilities.dtype == torch.float32
        assert rough.b8.weight.dtype == torch.float32
        assert 1e-6 < relative(output.frames, exact.frames) < 0.05


class TestPooling:
    def test_attention_sums_to_one_over_valid_segments(self, network: WEANet) -> None:
        output = tensor_output(4, 9, 7, lengths=[9, 5, 2, 1])
        ones = output._replace(probabilities=torch.ones(4, 9, 7))
        torch.testing.assert_close(network.pool(ones), torch.ones(4, 7))
        pooled = network.pool(output).double().numpy()
        attention, p = output.attention.double().numpy(), output.probabilities.double().numpy()
        for i, n in enumerate((9, 5, 2, 1)):
            for c in range(7):
                weights = np.exp(attention[i, :n, c]) / np.exp(attention[i, :n, c]).sum()
                assert weights.sum() == pytest.approx(1)
                assert pooled[i, c] == pytest.approx((weights * p[i, :n, c]).sum(), rel=1e-5)

    def test_each_class_has_an_attention_of_its_own(self, network: WEANet) -> None:
        output = tensor_output(1, 5, 7)
        changed = output.attention.clone()
        changed[:, 2, 3] += 2
        moved = (network.pool(output) - network.pool(output._replace(attention=changed)))[0]
        assert moved[3].abs() > 1e-4
        assert not moved[[0, 1, 2, 4, 5, 6]].any()


class TestConfig:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"classes": 0}, "classes must be a whole number of at least 1"),
            ({"channels": (1, 2, 3)}, "channels must be 4 whole numbers"),
            ({"pools": (4, 2, 2, 2, 1)}, "pools must be 4 whole numbers"),
            ({"pools": (4, 2, 0, 2)}, "pools must be 4 whole numbers of at least 1, got"),
            ({"hidden_channels": (10,)}, "hidden_channels must be 2 whole numbers"),
            ({"segment_steps": 0}, "segment_steps must be a whole number of at least 1"),
            ({"embedding_pooling": "median"}, "must be one of 'average', 'max', got 'median'"),
            ({"n_mels": 40}, "multiple of the product of pools, 32, got 40"),
            ({"win_length": 1024}, "even and at most n_fft"),
            ({"win_length": 255}, "even and at most n_fft"),
            ({"power": 3.0}, "power must be 1 or 2"),
            ({"top_db": 0.0}, "above 0"),
            ({"std": -1.0}, "above 0"),
            ({"std": float("nan")}, "above 0"),
            ({"mean": float("inf")}, "finite"),
        ],
    )
    def test_refuses(self, change: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(WEANetConfig(), **change)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"channels": [64, 128, 256, 512.0]}, "channels must be a list of whole numbers"),
            ({"pools": [4, 2, 2, True]}, "pools must be a list of whole numbers"),
            ({"hidden_channels": 1024}, "hidden_channels must be a list of whole numbers"),
            ({"power": "2"}, "power must be a finite number, got '2'"),
            ({"mean": float("nan")}, "mean must be a finite number, got nan"),
            ({"std": True}, "std must be a finite number above 0, got True"),
            ({"mean": 10**400}, "mean must be a finite number"),
            ({"segment_steps": 3.0}, "segment_steps must be a whole number"),
            ({"embedding_pooling": "linear"}, "embedding_pooling must be one of 'average', 'max'"),
            ({"pooling": "max"}, "unknown key 'pooling'; known are classes"),
            ({"n_mels": 40}, "n_mels must be a multiple"),
        ],
    )
    def test_file_refuses(self, change: dict[str, object], message: str, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps({**dataclasses.asdict(WEANetConfig()), **change}))
        with pytest.raises(WeightsError, match=message):
            load_config(tmp_path)

    def test_file_takes_whole_numbers_for_floats(self, tmp_path: Path) -> None:
        values = {**dataclasses.asdict(WEANetConfig()), "power": 2, "mean": 0, "std": 1, "top_db": 80}
        (tmp_path / "config.json").write_text(json.dumps(values))
        config = load_config(tmp_path)
        assert config == WEANetConfig()
        assert type(config.power) is float
        assert config.channels == (64, 128, 256, 512)


class TestWeights:
    def test_round_trip(self, network: WEANet, tmp_path: Path) -> None:
        resolved = resolve(save_pretrained(network, tmp_path / "mine"))
        loaded = load_network(resolved)
        assert isinstance(loaded, WEANet)
        assert loaded.config == SMALL
        assert (loaded.mean.item(), loaded.std.item()) == (-25.0, 12.0)
        mel = log_mel(2, 130)
        with torch.inference_mode():
            expected, output = network(mel), loaded(mel)
        for part in ("frames", "probabilities", "attention"):
            assert torch.equal(getattr(output, part), getattr(expected, part))

    def test_record(self, network: WEANet, tmp_path: Path) -> None:
        config = dataclasses.replace(OTHER, hop_length=200)
        record = resolve(save_pretrained(make(config), tmp_path / "mine")).record
        assert (record.name, record.architecture, record.source) == ("mine", "weanet", "local")
        assert (record.classes, record.embedding_size, record.frame_rate) == (7, 9, 5.0)
        assert record.min_samples == (2 * 16 - 1) * 200
        assert record.parameters == sum(parameter.numel() for parameter in make(config).parameters())
        assert record.paper != sedembed.describe_model("talnet").paper
        assert record.version == f"local-{record.sha256[:12]}"

    def test_half_precision_and_foreign_tensors(self, network: WEANet, tmp_path: Path) -> None:
        save_pretrained(network, tmp_path / "half", dtype=torch.float16)
        loaded = load_network(resolve(tmp_path / "half"))
        assert torch.equal(loaded.b5.conv.weight, network.b5.conv.weight.half().float())
        assert torch.equal(loaded.b5.bn.running_var, network.b5.bn.running_var)
        broken = make(SMALL)
        broken.register_module("b9", torch.nn.Linear(2, 2))
        with pytest.raises(WeightsError, match=r"'weanet': unexpected b9\.bias, b9\.weight"):
            save_pretrained(broken, tmp_path / "broken")
        with pytest.raises(WeightsError, match="does not fit the architecture 'weanet'"):
            save_pretrained(fold_batchnorm(network), tmp_path / "broken")
