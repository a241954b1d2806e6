"""WEANet against independent float64 arithmetic, and through everything that a user does with a model."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import sedembed
from sedembed import Embedder, LinearProbe
from sedembed._analysis.timeline import draw_timeline, read_timeline
from sedembed._analysis.weight_vectors import estimate_event_rows, event_rows
from sedembed.cli.main import main
from sedembed.detection.detect import run_windows
from sedembed.detection.events import EventRules
from sedembed.engine.windows import WindowResult
from sedembed.errors import ProbeError, WeightsError
from sedembed.models.base import NetworkOutput
from sedembed.models.layers.blocks import fold_batchnorm
from sedembed.models.layers.winograd import WinogradConv2d
from sedembed.models.weanet import WEANet, WEANetConfig
from sedembed.models.weights import load_config, load_network, resolve, save_pretrained

ROOT = Path(__file__).parents[2]
RATE = 16_000
HOP = 5_120  # samples from one segment to the next
CPU = torch.device("cpu")


# --- the front end -------------------------------------------------------------------------------------------------

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


# --- the network ---------------------------------------------------------------------------------------------------

SMALL = WEANetConfig(
    classes=7, channels=(3, 4, 5, 128), segment_channels=9, hidden_channels=(8, 6), mean=-25.0, std=12.0
)
OTHER = dataclasses.replace(SMALL, n_mels=48, pools=(2, 4, 2, 1), segment_steps=2, channels=(2, 3, 2, 4))


def make(config: WEANetConfig) -> WEANet:
    """Untrained, with biases and batch-norm statistics that matter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = WEANet(config)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.normal_(module.bias, 0.0, 0.2)
                torch.nn.init.uniform_(module.weight, 0.8, 1.6)
                torch.nn.init.normal_(module.running_mean, 0.0, 0.3)
                torch.nn.init.uniform_(module.running_var, 0.3, 2.0)
            elif isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                torch.nn.init.normal_(module.bias, 0.0, 0.3)
    return network.eval()


@pytest.fixture(scope="module")
def network() -> WEANet:
    return make(SMALL)


def log_mel(*shape: int, bins: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(-25, 12, (*shape, bins)).astype(np.float32))


def reference_forward(network: WEANet, mel: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One window, (frames, bins), in float64 → segment embeddings, probabilities and clip probabilities."""
    state = {key: value.double().numpy() for key, value in network.state_dict().items()}

    def block(x: np.ndarray, name: str, padding: int) -> np.ndarray:
        weight = state[f"{name}.conv.weight"]
        x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
        height, width = weight.shape[2:]
        out_time, out_bins = x.shape[1] - height + 1, x.shape[2] - width + 1
        out = np.zeros((len(weight), out_time, out_bins)) + state[f"{name}.conv.bias"][:, None, None]
        for i in range(height):
            for j in range(width):
                out += np.einsum("oc,ctf->otf", weight[:, :, i, j], x[:, i : i + out_time, j : j + out_bins])
        mean, variance = state[f"{name}.bn.running_mean"], state[f"{name}.bn.running_var"]
        out = (out - mean[:, None, None]) / np.sqrt(variance + 1e-5)[:, None, None]
        return np.maximum(0, out * state[f"{name}.bn.weight"][:, None, None] + state[f"{name}.bn.bias"][:, None, None])

    config = network.config
    x = ((mel.astype(np.float64) - config.mean) / config.std)[None]
    for i, pool in enumerate(config.pools, start=1):
        x = block(block(x, f"b{i}.0", 1), f"b{i}.1", 1)
        time, bins = x.shape[1] // pool, x.shape[2] // pool
        pooled = np.full((len(x), time, bins), -np.inf)
        for a in range(pool):
            for b in range(pool):
                pooled = np.maximum(pooled, x[:, a : time * pool : pool, b : bins * pool : pool])
        x = pooled
    x = block(x, "b5", 0)
    hidden = block(block(x, "b6", 0), "b7", 0)[:, :, 0].T
    logits = hidden @ state["b8.weight"].T + state["b8.bias"]
    probabilities = np.clip(1 / (1 + np.exp(-logits)), 1e-7, 1 - 1e-7)
    attention = np.exp(hidden @ state["attention.weight"].T + state["attention.bias"])
    clip = (attention * probabilities).sum(0) / attention.sum(0)
    return x[:, :, 0].T, probabilities, clip


def relative(a: torch.Tensor | np.ndarray, b: torch.Tensor | np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(np.asarray(b)))


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
        assert any(isinstance(module, WinogradConv2d) for module in fast.modules())
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
            numerator, denominator = used.pool_terms(batch)
            assert batch.lengths.tolist() == [n // 32 - 2 for n in lengths]
            for i, clip in enumerate(clips):
                alone = used(clip[None])
                n = alone.frames.shape[1]
                assert batch.lengths[i] == n
                for part in ("frames", "probabilities", "attention"):
                    assert relative(getattr(batch, part)[i, :n], getattr(alone, part)[0]) < 1e-5
                assert relative(pooled[i], used.pool(alone)[0]) < 1e-5
                assert relative(numerator[i] / denominator[i], used.pool(alone)[0]) < 1e-5

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

    @pytest.mark.parametrize("scale", [1.0, 100.0])
    def test_windows_add_up(self, network: WEANet, scale: float) -> None:
        whole = tensor_output(1, 12, 7, scale=scale)
        cuts = [(0, 5), (5, 6), (6, 12)]
        parts = [
            NetworkOutput(whole.frames[:, a:b], whole.probabilities[:, a:b], attention=whole.attention[:, a:b])
            for a, b in cuts
        ]
        terms = [network.pool_terms(part) for part in parts]
        joined = sum(term[0] for term in terms) / sum(term[1] for term in terms)
        torch.testing.assert_close(joined.float(), network.pool(whole), rtol=1e-5, atol=1e-7)


# --- configuration and weights -------------------------------------------------------------------------------------


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


# --- the embedder --------------------------------------------------------------------------------------------------


def embedder(network: WEANet, directory: Path, **changes: object) -> Embedder:
    """The same weights with another configuration."""
    changed = WEANet(dataclasses.replace(network.config, **changes))
    changed.load_state_dict(network.state_dict())
    return sedembed.load_model(save_pretrained(changed.eval(), directory), device="cpu")


@pytest.fixture(scope="module")
def model(small_weanet_dir: Path) -> Embedder:
    return sedembed.load_model(small_weanet_dir, device="cpu")


@pytest.fixture(scope="module")
def maximum(small_weanet: WEANet, tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    return embedder(small_weanet, tmp_path_factory.mktemp("models") / "max", embedding_pooling="max")


def noise(samples: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    swell = 0.02 + 0.2 * np.abs(np.sin(np.arange(samples) / 9_000 + rng.uniform(0, 6)))
    return (swell * rng.standard_normal(samples)).astype(np.float32)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)


class TestEmbedder:
    def test_attributes(self, model: Embedder) -> None:
        assert (model.sample_rate, model.embedding_size, model.frame_rate) == (16_000, 24, 3.125)
        assert len(model.labels) == 527
        assert model.record.architecture == "weanet"

    @pytest.mark.parametrize("samples", [16_000, 80_001, 160_000])
    def test_average_and_maximum(self, small_weanet: WEANet, model: Embedder, maximum: Embedder, samples: int) -> None:
        wave = noise(samples)
        features = model.runner.features(wave).numpy()
        frames, _, clip = reference_forward(small_weanet, features)
        np.testing.assert_allclose(model.embed(wave), unit(frames.mean(0)), atol=1e-5)
        np.testing.assert_allclose(maximum.embed(wave), unit(frames.max(0)), atol=1e-5)
        np.testing.assert_allclose(model.tag(wave), clip, rtol=1e-4)
        raw = model.embed_frames(wave)
        assert relative(raw.embeddings, frames) < 1e-4
        assert np.linalg.norm(raw.embeddings, axis=1).max() != pytest.approx(1, abs=1e-3)
        np.testing.assert_allclose(raw.times, 0.475 + 0.32 * np.arange(len(frames)))
        assert np.linalg.norm(model.embed(wave)) == pytest.approx(1, abs=1e-6)
        assert relative(model.embed(wave), maximum.embed(wave)) > 1e-3

    @pytest.mark.parametrize("pooling", ["average", "max"])
    def test_a_long_clip_is_the_sum_of_its_windows(self, model: Embedder, maximum: Embedder, pooling: str) -> None:
        used = model if pooling == "average" else maximum
        wave = noise(125 * RATE)
        windows = [wave[: 60 * RATE], wave[60 * RATE : 120 * RATE], wave[120 * RATE :]]
        outputs = [plain_output(used, window) for window in windows]
        frames = np.concatenate([output.frames[0].double().numpy() for output in outputs])
        expected = unit(frames.mean(0) if pooling == "average" else frames.max(0))
        np.testing.assert_allclose(used.embed(wave), expected, atol=1e-5)
        attention = np.concatenate([output.attention[0].double().numpy() for output in outputs])
        p = np.concatenate([output.probabilities[0].double().numpy() for output in outputs])
        weight = np.exp(attention) / np.exp(attention).sum(0)
        np.testing.assert_allclose(used.tag(wave), (weight * p).sum(0), rtol=1e-4)

        found = used.embed_frames(wave)
        assert relative(found.embeddings, frames) < 1e-4
        counts = [output.frames.shape[1] for output in outputs]
        times = [60 * i + 0.475 + 0.32 * np.arange(count) for i, count in enumerate(counts)]
        np.testing.assert_allclose(found.times, np.concatenate(times))
        streamed = list(used.stream((wave[i : i + 70_001] for i in range(0, len(wave), 70_001)), RATE))
        np.testing.assert_array_equal(np.concatenate([part.embeddings for part in streamed]), found.embeddings)
        np.testing.assert_array_equal(np.concatenate([part.times for part in streamed]), found.times)

    def test_a_short_remainder_joins_the_window_before(self, model: Embedder) -> None:
        assert len(list(model.stream([noise(60 * RATE + 15_199)], RATE))) == 1
        assert len(list(model.stream([noise(60 * RATE + 15_200)], RATE))) == 2

    def test_same_sound_same_vector(self, model: Embedder, maximum: Embedder) -> None:
        lengths = [1, 160, 9_000, 15_199, 15_200, 15_201, 16_000, 20_479, 20_480, 30_000, 80_000, 79_000, 160_000]
        clips = [noise(n, seed=n) for n in lengths] * 2
        for used in (model, maximum):
            alone = np.stack([used.embed(clip) for clip in clips])
            tags = np.stack([used.tag(clip) for clip in clips])
            np.testing.assert_allclose(used.embed(clips), alone, atol=1e-5)
            np.testing.assert_allclose(used.embed(clips[::-1])[::-1], alone, atol=1e-5)
            np.testing.assert_allclose(used.tag(clips), tags, rtol=1e-4)

    @pytest.mark.parametrize("samples", [1, 160, 15_199])
    def test_short_clips_are_padded(self, model: Embedder, samples: int) -> None:
        wave = noise(samples)
        padded = np.pad(wave, (0, 15_200 - samples))
        np.testing.assert_array_equal(model.embed(wave), model.embed(padded))
        assert model.embed_frames(wave).embeddings.shape == (1, 24)
        np.testing.assert_allclose(model.embed_frames(wave).times, [0.475])

    def test_a_vector_without_direction_stays_zero(self, small_weanet: WEANet, tmp_path: Path) -> None:
        silent = WEANet(small_weanet.config)
        silent.load_state_dict(small_weanet.state_dict())
        torch.nn.init.constant_(silent.b5.bn.bias, -1e3)
        for pooling in ("average", "max"):
            used = embedder(silent, tmp_path / pooling, embedding_pooling=pooling)
            assert not used.embed(noise(20_000)).any()
        assert np.isfinite(used.embed(np.zeros(20_000))).all()

    def test_batches_are_bounded(self, model: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
        assert WEANet(WEANetConfig()).max_batch_frames == pytest.approx(16 * 1024, rel=0.5)
        monkeypatch.setattr(type(model.runner.network), "max_batch_frames", 512)
        sizes: list[list[int]] = []
        run_batch = model.runner._run_batch

        def run(features: list[torch.Tensor], probabilities: bool) -> list[WindowResult]:
            sizes.append([len(item) for item in features])
            return run_batch(features, probabilities)

        monkeypatch.setattr(model.runner, "_run_batch", run)
        clips = [noise(n) for n in [20_000] * 7 + [100_000, 79_000]]
        vectors = model.embed(clips)
        assert sorted(map(len, sizes)) == [1, 1, 3, 4]
        assert all(len(size) == 1 or len(size) * max(size) <= 512 for size in sizes)
        monkeypatch.undo()
        np.testing.assert_allclose(vectors, model.embed(clips), atol=1e-5)

    def test_bfloat16(self, model: Embedder, small_weanet_dir: Path) -> None:
        rough = sedembed.load_model(small_weanet_dir, device="cpu", precision="bfloat16")
        wave = noise(40_000)
        assert 0.995 < float(rough.embed(wave) @ model.embed(wave)) < 1 - 1e-9
        assert rough.embed(wave).dtype == np.float32


def plain_output(model: Embedder, wave: np.ndarray) -> NetworkOutput:
    with torch.inference_mode():
        output: NetworkOutput = model.runner.network(model.runner.features(wave)[None])
    return output


# --- folders -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sounds(write_sounds, tmp_path_factory: pytest.TempPathFactory) -> Path:
    lengths = [0.3, 0.95, 1.0, 1.5, 2.0, 2.3, 3.1, 5.0, 10.0, 61.0] + [1.2] * 12
    return write_sounds(tmp_path_factory.mktemp("sounds"), {f"{i:02}.wav": s for i, s in enumerate(lengths)})


@pytest.fixture(scope="module")
def store(sounds: Path, model: Embedder, tmp_path_factory: pytest.TempPathFactory) -> sedembed.EmbeddingStore:
    out = tmp_path_factory.mktemp("stores") / "vectors"
    return sedembed.embed_folder(sounds, out, model, frames=True, progress=False)


class TestFolders:
    def test_vectors_are_those_of_embed(self, store, sounds: Path, model: Embedder, maximum: Embedder, tmp_path: Path):
        assert store.failures.num_rows == 0
        expected = np.stack([model.embed(sounds / path) for path in store.paths])
        np.testing.assert_allclose(store.vectors, expected, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(store.vectors, axis=1), 1, atol=1e-6)
        largest = sedembed.embed_folder(sounds, tmp_path / "max", maximum, workers=1, batch_size=3, progress=False)
        expected = np.stack([maximum.embed(sounds / path) for path in largest.paths])
        np.testing.assert_allclose(largest.vectors, expected, atol=1e-5)

    def test_frames(self, store, sounds: Path, model: Embedder) -> None:
        for path in ("00.wav", "08.wav", "09.wav"):
            stored, found = store.frames(path), model.embed_frames(sounds / path)
            np.testing.assert_allclose(stored.times, found.times)
            assert relative(stored.embeddings, found.embeddings) < 1e-5

    def test_search_and_map(self, store, model: Embedder, small_weanet_dir: Path, tmp_path: Path, capsys) -> None:
        ((best, cosine),) = store.search(model.embed(Path(store.run["folder"]) / "07.wav"), 1)
        assert (best, cosine) == ("07.wav", pytest.approx(1))
        again = sedembed.open_store(store.directory)
        assert again.embedding_size == 24
        page = tmp_path / "map.html"
        arguments = ["map", str(store.directory), "-o", str(page), "--method", "pca", "--model", str(small_weanet_dir)]
        assert main(arguments) == 0
        assert "coloured by folder" in capsys.readouterr().err  # no layer of WEANet tags a clip's embedding
        assert page.stat().st_size > 1000

    def test_other_pooling_is_another_model(self, store, sounds: Path, maximum: Embedder) -> None:
        with pytest.raises(sedembed.SedembedError, match="sha256"):
            sedembed.embed_folder(sounds, store.directory, maximum, frames=True, progress=False)

    def test_networks_without_a_file_are_told_apart(self, small_weanet: WEANet, model: Embedder) -> None:
        from sedembed.engine.provenance import describe_run

        record = dataclasses.replace(model.record, sha256="")
        runs = []
        for pooling in ("average", "max", "average"):
            network = WEANet(dataclasses.replace(small_weanet.config, embedding_pooling=pooling))
            network.load_state_dict(small_weanet.state_dict())
            runs.append(describe_run(Embedder(network.eval(), record, device="cpu").runner, Path())["fingerprint"])
        assert runs[0] == runs[2] != runs[1]


# --- sound events in time ------------------------------------------------------------------------------------------


@pytest.fixture
def loudness(model: Embedder, monkeypatch: pytest.MonkeyPatch) -> Embedder:
    """A model whose segments are all sounds at once where the middle of their middle 0.32 s is loud."""

    def probabilities(features: torch.Tensor) -> np.ndarray:
        hops = features.reshape(-1, 32, 64)
        loud = (hops[1:-1, 14:18].amax((1, 2)) > -40).float()
        return loud[:, None].expand(-1, 527).numpy()

    monkeypatch.setattr(model.runner, "frame_probabilities", probabilities)
    return model


def bursts(seconds: float, *spans: tuple[float, float]) -> np.ndarray:
    wave = np.zeros(round(seconds * RATE), np.float32)
    for onset, offset in spans:
        part = slice(round(onset * RATE), round(offset * RATE))
        wave[part] = np.random.default_rng(0).normal(0, 0.2, part.stop - part.start)
    return wave


class TestDetect:
    SPANS = ((1.0, 2.0), (7.7, 9.5), (12.3, 31.7), (33.0, 33.9), (36.0, 36.9))

    def test_onsets_to_half_a_segment(self, loudness: Embedder) -> None:
        """A boundary is found at the edge of the grid that is nearest, across all windows."""
        events = loudness.detect(bursts(38.13, *self.SPANS), labels="Speech")
        assert [event.label for event in events] == ["Speech"] * len(self.SPANS)
        np.testing.assert_allclose([event[1:3] for event in events], self.SPANS, atol=0.18)
        grid = np.array([event[1:3] for event in events]) / 0.32
        np.testing.assert_allclose(grid, np.round(grid), atol=1e-6)

    def test_a_segment_stands_for_the_time_around_its_centre(self, model: Embedder, monkeypatch) -> None:
        """One segment after the other is active alone: its event holds its time in `Frames.times`."""
        wave = noise(6 * RATE)
        times = model.embed_frames(wave).times
        assert len(times) == 17
        for n, time in enumerate(times):
            track = np.zeros((len(times), 527), np.float32)
            track[n] = 1
            monkeypatch.setattr(model.runner, "frame_probabilities", lambda _, track=track: track)
            (event,) = model.detect(wave, labels="Dog")
            assert event.onset < time < event.offset
            begin, end = 0.32 * (n + 1), 0.32 * (n + 2)
            expected = (0.0 if n == 0 else begin, 6.0 if n == len(times) - 1 else end)
            assert event[1:3] == pytest.approx(expected)

    @pytest.mark.parametrize(
        "seconds", [0.05, 0.5, 0.96, 1.28, 5.12, 9.99, 10.0, 10.24, 10.25, 18.0, 18.56, 26.0, 35.2]
    )
    def test_a_sound_throughout(self, loudness: Embedder, seconds: float) -> None:
        (event,) = loudness.detect(bursts(max(seconds, 0.7), (0, max(seconds, 0.7))), labels=["Speech"])
        assert (event.onset, event.offset) == (0.0, max(seconds, 0.7))

    @pytest.mark.parametrize("seconds", [0.05, 1.0, 5.12, 10.0, 38.13])
    def test_stretches_cover_the_clip_once(self, loudness: Embedder, seconds: float) -> None:
        wave = bursts(seconds, (0, seconds))
        stretches = list(run_windows(loudness.runner, np.array_split(wave, 3)))
        starts = [s.start + i * 0.32 for s in stretches for i in range(len(s.probabilities))]
        np.testing.assert_allclose(starts, 0.32 * np.arange(np.ceil(seconds / 0.32 - 1e-9)), atol=1e-9)
        np.testing.assert_allclose([s.end for s in stretches[:-1]], [s.start for s in stretches[1:]])
        assert stretches[-1].end == pytest.approx(seconds)
        assert sum(len(s.features) for s in stretches) == 1 + len(wave) // 160
        whole = loudness.runner.features(wave[: 10 * RATE]).numpy()[:900]
        heard = np.concatenate([s.features for s in stretches])[: min(900, len(wave) // 160)]
        np.testing.assert_allclose(heard, whole[: len(heard)], atol=1e-3)

    def test_windows_hear_what_the_network_hears(self, model: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a replaced network: frames of a window are those of that piece of sound alone."""
        wave = noise(20 * RATE)
        stretches = list(run_windows(model.runner, [wave]))
        hop, edge, window = 26, 3, 32
        assert len(stretches) == 3
        for k, stretch in enumerate(stretches):
            piece = wave[k * hop * HOP : (k * hop + window) * HOP]
            alone = plain_output(model, piece).probabilities[0].numpy()
            first = edge if k else 1
            last = window - edge if k < 2 else len(alone) + 1
            expected = alone[first - 1 : last - 1]
            found = stretch.probabilities[0 if k else 1 :][: len(expected)]
            np.testing.assert_allclose(found, expected, atol=1e-6)
            assert stretch.start == pytest.approx((k * hop + (edge if k else 0)) * 0.32)

    def test_however_the_sound_arrives(self, loudness: Embedder) -> None:
        wave = bursts(38.13, *self.SPANS)
        expected = loudness.detect(wave, labels=["Speech", "Dog"])
        for block in (997, 64_000, 10_000_000):
            blocks = (wave[i : i + block] for i in range(0, len(wave), block))
            streamed = loudness.detect_stream(blocks, RATE, labels=["Speech", "Dog"])
            assert sorted(streamed, key=lambda e: (e.onset, e.offset, e.label)) == expected

    def test_picture(self, model: Embedder, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        wave = noise(7 * RATE + 80)
        soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
        rules = EventRules.check(model.labels, model.frame_rate)
        read = read_timeline(model, tmp_path / "a.wav", rules)
        assert read.events == model.detect(tmp_path / "a.wav")
        assert read.spectrogram.shape == (701, 64)
        assert read.spectrogram_step == read.feature_step == pytest.approx(0.01)
        assert read.probabilities.shape == (22, 527)
        assert (read.probability_step, read.probability_start) == (pytest.approx(0.32), 0.0)
        np.testing.assert_allclose(read.spectrogram, model.runner.features(wave).numpy()[:701], atol=1e-3)
        spectrum, strips = (axes.get_images()[0].get_extent() for axes in draw_timeline(read).axes[:2])
        assert spectrum[:2] == pytest.approx([-0.005, 7.005])
        assert strips[:2] == pytest.approx([0, 22 * 0.32])

    def test_command(self, small_weanet_dir: Path, model: Embedder, tmp_path: Path, capsys) -> None:
        soundfile.write(tmp_path / "a.wav", noise(4 * RATE), RATE)
        assert main(["detect", str(tmp_path / "a.wav"), "--model", str(small_weanet_dir), "--device", "cpu"]) == 0
        rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
        events = model.detect(tmp_path / "a.wav")
        assert len(events) > 0
        assert [row["label"] for row in rows] == [event.label for event in events]


# --- probes, target tasks, analysis --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def esc50(tmp_path_factory: pytest.TempPathFactory, write_esc50: Callable[..., Path]) -> Path:
    return write_esc50(tmp_path_factory.mktemp("data") / "esc50")


class TestEvaluate:
    def test_command(self, esc50: Path, small_weanet_dir: Path, tmp_path: Path) -> None:
        out = tmp_path / "results"
        arguments = ["evaluate", "esc50", "--data", str(esc50), "--model", str(small_weanet_dir), "--partial"]
        assert main([*arguments, "-o", str(out), "--device", "cpu"]) == 0
        result = json.loads((out / f"esc50-{small_weanet_dir.name}.json").read_text())
        assert result["normalize"] == "l2"
        assert result["paper"] == 0.941
        assert result["score"] >= 0.9  # noise against tones
        assert result["model_version"].startswith("local-")

    def test_the_name_does_not_decide(self, small_weanet: WEANet, model: Embedder) -> None:
        record = dataclasses.replace(model.record, name="better-than-talnet")
        assert Embedder(small_weanet, record, device="cpu").default_normalize == "l2"
        assert sedembed.load_model("talnet", device="cpu").default_normalize == "standardize+l2"


class TestAnalysis:
    def test_event_rows_are_estimated(self, model: Embedder, store, sounds: Path) -> None:
        with pytest.raises(ProbeError, match="WEANet does not feed its event layer"):
            event_rows(model)
        rows = estimate_event_rows(model, store)
        assert rows.rows.shape == (527, 24)
        assert rows.recordings == len(store)

    def test_probe_on_a_store(self, store) -> None:
        labels = np.array(["long" if int(path[:2]) in range(4, 10) else "short" for path in store.paths])
        probe = LinearProbe(normalize="l2").fit(store, labels)
        assert probe.coef_.shape[1] == 24


class TestFinetune:
    @pytest.fixture
    def finetune(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
        spec = importlib.util.spec_from_file_location("finetune", ROOT / "examples" / "finetune.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "finetune", module)
        spec.loader.exec_module(module)
        return module

    def test_embeddings_with_gradients(self, finetune, small_weanet, model, maximum, tmp_path: Path) -> None:
        clips = [noise(n, seed=n) for n in (40_000, 33_000, 700)]
        for used, pooling in ((model, "average"), (maximum, "max")):
            network = WEANet(dataclasses.replace(small_weanet.config, embedding_pooling=pooling))
            network.load_state_dict(small_weanet.state_dict())
            vectors = finetune.embed_batch(network.eval(), finetune.read_features(network, clips))
            np.testing.assert_allclose(vectors.detach().numpy(), used.embed(clips), atol=1e-5)
            vectors[0, 0].backward()
            assert network.get_submodule("b1.0.conv").weight.grad.abs().max() > 0
            assert network.b8.weight.grad is None

    def test_training_leaves_the_tagging_layers(self, finetune, small_weanet_dir: Path) -> None:
        network = load_network(resolve(small_weanet_dir))
        before = {key: value.clone() for key, value in network.state_dict().items()}
        features = finetune.read_features(network, [noise(20_000, seed=i) for i in range(4)])
        with torch.random.fork_rng():
            head = torch.nn.Linear(24, 2)
        options = {"epochs": 2, "learning_rate": 1e-3, "batch_size": 2, "device": CPU}
        finetune.train(network, head, features, np.array([0, 1, 0, 1]), **options)
        same = {key for key, value in network.state_dict().items() if torch.equal(value, before[key])}
        assert not same & {f"b{i}.{j}.conv.weight" for i in range(1, 5) for j in (0, 1)}
        assert {"b6.conv.weight", "b8.weight", "attention.weight", "b3.0.bn.running_mean"} <= same
