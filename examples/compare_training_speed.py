"""Time of a forward and backward pass of either network on a CPU: float32, with Winograd's algorithm, and bfloat16.

WEANet's first block is also tried in PyTorch's default memory order; everything else is in channels_last.

``python examples/compare_training_speed.py``: the ways take turns in one run, on the same made-up features, after one
pass of each that is not counted. A processor without bfloat16 instructions emulates them, slowly.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from importlib.resources import files

import torch

from sedembed.models.layers.winograd import use_winograd
from sedembed.models.talnet import TALNet, TALNetConfig
from sedembed.models.weanet import WEANet, WEANetConfig


def make(name: str) -> TALNet | WEANet:
    if name == "weanet":
        return WEANet(WEANetConfig())
    numbers = json.loads((files("sedembed") / "models" / "talnet_normalizer.json").read_text())
    return TALNet(TALNetConfig(mean=tuple(numbers["mu"]), std=tuple(numbers["sigma"])))


def seconds_of_a_pass(network: TALNet | WEANet, features: torch.Tensor, narrow: bool) -> float:
    network.zero_grad()
    begun = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        output = network.forward_normalised(features)
        loss = network.pool(output).float().sum() + output.frames.float().square().mean()
    loss.backward()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=("talnet", "weanet"), default=["talnet", "weanet"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=24, help="clips in a batch")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a clip")
    arguments = parser.parse_args()
    print("| network | way | s a pass | faster than float32 |")
    print("| --- | --- | --- | --- |")
    for name in arguments.models:
        torch.manual_seed(0)
        plain = make(name).train().to(memory_format=torch.channels_last)
        fast = copy.deepcopy(plain)
        use_winograd(fast)
        ways = {"float32": (plain, False), "float32, Winograd": (fast, False), "bfloat16": (plain, True)}
        if plain.contiguous_blocks:
            ordered = copy.deepcopy(plain)
            for block in ordered.contiguous_blocks:
                block.to(memory_format=torch.contiguous_format)
            ways |= {"bfloat16, default order": (ordered, True)}
        features = torch.randn(arguments.clips, round(arguments.seconds * plain.feature_rate), 64)
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(1 + arguments.rounds):
            for way, (network, narrow) in ways.items():
                taken[way].append(seconds_of_a_pass(network, features, narrow))
        medians = {way: statistics.median(times[1:]) for way, times in taken.items()}
        for way, median in medians.items():
            print(f"| {name} | {way} | {median:.2f} | {medians['float32'] / median:.2f} |")


if __name__ == "__main__":
    main()
