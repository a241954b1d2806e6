"""The network against an independent float64 forward written with numpy alone."""

from __future__ import annotations

import dataclasses
import json
from importlib.resources import files

import numpy as np
import pytest
import torch

from sedembed.models.layers.blocks import fold_batchnorm
from sedembed.models.talnet import TALNet, TALNetConfig

NUMBERS = json.loads(files("sedembed").joinpath("models/talnet_normalizer.json").read_text())
CONFIG = TALNetConfig(mean=tuple(NUMBERS["mu"]), std=tuple(NUMBERS["sigma"]))


@pytest.fixture(scope="module")
def network() -> TALNet:
    """Untrained, with batch-norm statistics that matter."""
    torch.manual_seed(0)
    network = TALNet(CONFIG)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.bias, 0.0, 0.2)
            torch.nn.init.uniform_(module.weight, 0.8, 1.6)
            torch.nn.init.normal_(module.running_mean, 0.0, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.3, 2.0)
        elif isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.bias, 0.0, 0.1)
    torch.nn.init.normal_(network.gru.bias_hh_l0, 0.0, 0.3)
    torch.nn.init.normal_(network.gru.bias_ih_l0_reverse, 0.0, 0.3)
    return network.eval()


def log_mel(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(-25, 12, (*shape, 64)).astype(np.float32))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def reference_forward(state: dict[str, np.ndarray], mel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One window, (frames, 64) → frame embeddings and frame probabilities; (channel, time, bin) inside."""
    pools = {2: (2, 2), 4: (2, 2), 6: (1, 2), 8: (1, 2), 10: (1, 2)}
    x = ((mel.astype(np.float64) - NUMBERS["mu"]) / NUMBERS["sigma"])[None]
    for i in range(1, 11):
        p = f"conv{i}."
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
        patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        x = np.einsum("ctfij,ocij->otf", patches, state[p + "conv.weight"], optimize=True)
        x += state[p + "conv.bias"][:, None, None]
        scale = state[p + "bn.weight"] / np.sqrt(state[p + "bn.running_var"] + 1e-5)
        x = (x - state[p + "bn.running_mean"][:, None, None]) * scale[:, None, None]
        x = np.maximum(x + state[p + "bn.bias"][:, None, None], 0)
        if i in pools:
            a, b = pools[i]
            c, t, f = x.shape
            x = x[:, : t // a * a, : f // b * b].reshape(c, t // a, a, f // b, b).max((2, 4))
    features = np.stack([x[:, t, :].ravel() for t in range(x.shape[1])])

    def run(steps: np.ndarray, suffix: str) -> np.ndarray:
        h, states = np.zeros(512), []
        for step in steps:
            gi = state["gru.weight_ih_l0" + suffix] @ step + state["gru.bias_ih_l0" + suffix]
            gh = state["gru.weight_hh_l0" + suffix] @ h + state["gru.bias_hh_l0" + suffix]
            r, z = sigmoid(gi[:512] + gh[:512]), sigmoid(gi[512:1024] + gh[512:1024])
            h = (1 - z) * np.tanh(gi[1024:] + r * gh[1024:]) + z * h
            states.append(h)
        return np.stack(states)

    frames = np.concatenate((run(features, ""), run(features[::-1], "_reverse")[::-1]), axis=1)
    probabilities = sigmoid(frames @ state["fc_prob.weight"].T + state["fc_prob.bias"])
    return frames, np.clip(probabilities, 1e-7, 1 - 1e-7)


def relative(a: torch.Tensor, b: np.ndarray) -> float:
    return float(np.linalg.norm(a.numpy() - b) / np.linalg.norm(b))


@pytest.mark.parametrize("frames", [4, 5, 7, 30, 101])
def test_against_float64(network, frames):
    mel = log_mel(frames, seed=frames)
    state = {key: value.double().numpy() for key, value in network.state_dict().items()}
    expected_frames, expected_probabilities = reference_forward(state, mel.numpy())
    for candidate in (network, fold_batchnorm(network), network.prepare(torch.device("cpu"))):
        with torch.inference_mode():
            output = candidate(mel[None])
        assert output.frames.shape == (1, frames // 4, 1024)
        assert relative(output.frames[0], expected_frames) < 1e-4
        assert relative(output.probabilities[0], expected_probabilities) < 1e-4


def test_prepared_is_the_same_function(network):
    mel = log_mel(3, 203, seed=1)
    with torch.inference_mode():
        plain, fast = network(mel), network.prepare(torch.device("cpu"))(mel)
    assert relative(fast.frames, plain.frames.numpy()) < 1e-5
    assert relative(fast.probabilities, plain.probabilities.numpy()) < 1e-5
    assert not network.in_pieces
    assert isinstance(network.get_submodule("conv1.bn"), torch.nn.BatchNorm2d)


def test_the_gru_under_autocast_is_the_same_to_bfloat16(network):
    x = torch.randn(3, 20, 1024, generator=torch.Generator().manual_seed(0)) / 4
    results = []
    for narrow in (False, True):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            frames = network._recur(x, None)
        frames.square().sum().backward()
        assert frames.dtype == torch.float32
        results.append([frames.detach(), *(parameter.grad.clone() for parameter in network.gru.parameters())])
    network.zero_grad()
    for exact, narrow in zip(*results, strict=True):
        assert not torch.equal(exact, narrow)
        assert (exact - narrow).norm() < 0.02 * exact.norm()


def test_shapes_and_parameters(network):
    assert sum(parameter.numel() for parameter in network.parameters()) == 9_980_527
    with torch.inference_mode():
        output = network(log_mel(2, 400))
    assert output.frames.shape == (2, 100, 1024)
    assert output.probabilities.shape == (2, 100, 527)


def test_probabilities_are_clamped(network):
    loud = TALNet(CONFIG).eval()
    torch.nn.init.constant_(loud.fc_prob.bias, 100.0)
    with torch.inference_mode():
        assert loud(log_mel(1, 8)).probabilities.max() == torch.tensor(1 - 1e-7)


@pytest.mark.parametrize("fast", [False, True])
def test_padding_never_reaches_a_valid_frame(network, fast):
    lengths = [101, 100, 99, 98, 60, 7, 6, 5, 4]
    clips = [log_mel(n, seed=n) for n in lengths]
    padded = torch.full((len(clips), 101, 64), 1e4)  # what stands in the padding must not matter
    for row, clip in zip(padded, clips, strict=True):
        row[: len(clip)] = clip
    folded = network.prepare(torch.device("cpu")) if fast else fold_batchnorm(network)
    with torch.inference_mode():
        batch = folded(padded, torch.tensor(lengths))
        pooled = folded.pool(batch)
        for i, clip in enumerate(clips):
            alone = folded(clip[None])
            n = alone.frames.shape[1]
            assert batch.lengths[i] == n
            assert relative(batch.frames[i, :n], alone.frames[0].numpy()) < 1e-5
            assert relative(pooled[i], folded.pool(alone)[0].numpy()) < 1e-5


POOLINGS = {
    "max": lambda p, a: p.max(0),
    "average": lambda p, a: p.mean(0),
    "linear": lambda p, a: (p**2).sum(0) / p.sum(0),
    "exponential": lambda p, a: (p * np.exp(p)).sum(0) / np.exp(p).sum(0),
    "attention": lambda p, a: (p * np.exp(a - a.max(0))).sum(0) / np.exp(a - a.max(0)).sum(0),
}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_poolings(pooling):
    torch.manual_seed(1)
    network = TALNet(dataclasses.replace(CONFIG, pooling=pooling)).eval()
    with torch.inference_mode():
        output = network(log_mel(1, 40))
        pooled = network.pool(output)[0].numpy()
    frames, p = output.frames[0].double().numpy(), output.probabilities[0].double().numpy()
    attention = None
    if pooling == "attention":
        attention = frames @ network.fc_att.weight.detach().double().numpy().T
    np.testing.assert_allclose(pooled, POOLINGS[pooling](p, attention), rtol=1e-5)


def test_initialisation_is_the_authors():
    torch.manual_seed(0)
    network = TALNet(CONFIG)
    for name in ("weight_hh_l0", "weight_ih_l0_reverse"):  # `orthogonal_` of the whole matrix: its columns
        matrix = getattr(network.gru, name)
        torch.testing.assert_close(matrix.T @ matrix, torch.eye(matrix.shape[1]), atol=1e-5, rtol=0)
    bound = np.sqrt(6 / (9 * (64 + 128)))
    weight = network.get_submodule("conv5.conv").weight
    assert 0.99 * bound < weight.abs().max() <= bound
    assert not network.gru.bias_ih_l0.any()
    assert not network.fc_prob.bias.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": (0.0,) * 63}, "64 numbers each"),
        ({"std": (0.0,) * 64}, "positive"),
        ({"classes": 0}, "at least 1"),
        ({"pooling": "median"}, "must be one of"),
    ],
)
def test_config_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)
