"""Fixtures and helpers that several test files share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sedembed.models.weanet import WEANet, WEANetConfig

RATE = 16_000


CPU = torch.device("cpu")


SMALL = WEANetConfig(
    classes=7, channels=(3, 4, 5, 128), segment_channels=9, hidden_channels=(8, 6), mean=-25.0, std=12.0
)


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
