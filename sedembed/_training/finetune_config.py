"""The settings of a fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from sedembed._utils.schema import Range, check_fields

__all__ = ["FinetuneConfig"]


@dataclass(frozen=True)
class FinetuneConfig:
    """What decides the result of a fine-tuning, apart from the recordings and the network.

    Parameters
    ----------
    epochs : int
        Most passes over the recordings.
    patience : int
        Training stops after so many epochs without a better validation score.
    validation_share : float
        Share of the recordings that is held out to choose the epoch.
    batch_size : int
        Recordings of one step.
    seconds : float
        Longer recordings are cropped at random to this length.
    learning_rate, head_learning_rate : float
        Of AdamW for the network and for the classifier, after a warm-up of one epoch; then half a cosine down to zero.
    frozen_blocks : int
        So many first blocks of the network stay as they are, which also saves their gradients.
    weight_decay : float
        Of AdamW, for the matrices.
    gradient_norm : float
        Larger gradients are scaled down to this norm.
    average : float
        The result is the running average of the weights; this is the weight of the average in each step. 0: none.
    gain : float
        Recordings are made louder or softer by up to so many decibels.
    shift : bool
        Recordings begin at a random moment; what was before that follows the end.
    mixup : float
        Pairs of recordings of a batch are mixed, features and targets alike, with weights of the beta distribution with
        both parameters so; 0: never.
    label_smoothing : float
        Share of each target that all classes get alike; recordings with several labels keep theirs.
    spec_augment : bool
        Mask one band of up to 8 bins and up to half a second in each recording.
    precision : {"auto", "float32", "bfloat16"}
        bfloat16: where autocast allows it. The classifier stays in float32. "auto": bfloat16 where the device has
        instructions for it.
    checkpoint_every : int
        Steps from one checkpoint to the next.
    seed : int
        Of the held-out part, the order, crops, gains and masks.

    Raises
    ------
    ValueError
        If a value is out of its range.
    """

    epochs: Annotated[int, Range(1)] = 10
    patience: Annotated[int, Range(1)] = 3
    validation_share: Annotated[float, Range(0, 0.5, open=True)] = 0.1
    batch_size: Annotated[int, Range(1)] = 16
    seconds: Annotated[float, Range(0, open=True)] = 10.0
    learning_rate: Annotated[float, Range(0, open=True)] = 3e-4
    head_learning_rate: Annotated[float, Range(0, open=True)] = 1e-3
    frozen_blocks: Annotated[int, Range(0)] = 0
    weight_decay: Annotated[float, Range(0)] = 1e-4
    gradient_norm: Annotated[float, Range(0, open=True)] = 1.0
    average: Annotated[float, Range(0, 1)] = 0.98
    gain: Annotated[float, Range(0)] = 6.0
    shift: bool = True
    mixup: Annotated[float, Range(0)] = 0.0
    label_smoothing: Annotated[float, Range(0, 1)] = 0.1
    spec_augment: bool = True
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    checkpoint_every: Annotated[int, Range(1)] = 100
    seed: Annotated[int, Range(0)] = 0

    def __post_init__(self) -> None:
        check_fields(self)

    def as_table(self) -> dict[str, Any]:
        """All settings as plain values for JSON."""
        return {item.name: getattr(self, item.name) for item in fields(self)}
