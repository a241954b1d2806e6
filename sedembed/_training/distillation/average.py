"""Average the weights of models of one architecture: ``python -m sedembed._training.distillation.average --help``.

Runs that end alike, as two seeds from one checkpoint do, give a mean that is often better than each of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from sedembed.errors import InvalidArgumentError
from sedembed.models.base import Backbone
from sedembed.models.weights import load_network, resolve, save_pretrained

__all__ = ["average_models", "main"]


def average_models(models: Sequence[str | Path]) -> Backbone:
    """Average all weights and running statistics at equal parts.

    Parameters
    ----------
    models : sequence of str or Path
        Names or model directories, two or more.

    Returns
    -------
    Backbone
        In float32, otherwise as the first.

    Raises
    ------
    InvalidArgumentError
        If there are fewer than two, or if their configurations differ.
    """
    networks = [load_network(resolve(model)).float() for model in models]
    if len(networks) < 2:
        raise InvalidArgumentError(f"Expected two or more models to average, got {len(networks)}. Name more of them.")
    first = networks[0]
    for model, network in zip(models, networks, strict=True):
        if network.config != first.config:
            raise InvalidArgumentError(
                f"Expected models of one configuration, got another in {model} than in {models[0]}. "
                "Average runs that began from the same model."
            )
    # Not `update_average` one by one: its rounding would not repeat WEANet version 6 to the byte.
    states = [network.state_dict() for network in networks]
    mean = {
        key: torch.stack([state[key] for state in states]).mean(0) if value.is_floating_point() else value
        for key, value in states[0].items()
    }
    first.load_state_dict(mean)
    return first


def main() -> None:
    """Command line: models in, a model directory out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", help="names or model directories")
    parser.add_argument("--out", type=Path, required=True, help="new model directory, in float16")
    arguments = parser.parse_args()
    save_pretrained(average_models(arguments.models), arguments.out, dtype=torch.float16)


if __name__ == "__main__":
    main()
