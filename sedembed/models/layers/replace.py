"""Put other layers in the place of some of a network's."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

__all__ = ["replace_layers"]


def replace_layers(network: nn.Module, make: Callable[[nn.Module], nn.Module | None]) -> None:
    """Put another layer, where `make` gives one, in the place of each layer below a network."""
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            replacement = make(layer)
            if replacement is not None:
                setattr(parent, name, replacement)
