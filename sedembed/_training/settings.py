"""The settings of a training on labelled clips, as a configuration file holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from sedembed._utils.schema import Range, check_fields, from_table, read_json_file
from sedembed.errors import InvalidArgumentError
from sedembed.models.base import Backbone, Normalizer
from sedembed.models.registry import architecture_of, list_architectures

__all__ = ["TrainConfig"]

_Count = Annotated[int, Range(1)]
_Whole = Annotated[int, Range(0)]
_Positive = Annotated[float, Range(0, open=True)]
_Share = Annotated[float, Range(0, 1, open=True)]


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a training gives; a configuration file holds any of these keys as JSON.

    The defaults are those of TALNet's authors, with the SpecAugment of the paper's retraining. For WEANet they are a
    reconstruction, because the paper does not print its own.

    Parameters
    ----------
    model : str
        Architecture: "talnet", "weanet" or another registered one.
    network : mapping
        Fields of the network's configuration that differ from its defaults. The number of classes follows from the
        clips.
    normalization : {"default", "measured"}
        "default": the network's own (TALNet: the authors' AudioSet values; WEANet: none). "measured": mean and standard
        deviation of the training clips' features, for each bin or over all bins, as the network has them. `mean` and
        `std` in `network` override both.
    batch_size : int
        Clips of one step, of all processes together.
    steps : int
        Steps of the whole training.
    validate_every, checkpoint_every, log_every : int
        Steps from one validation, checkpoint or line of the log to the next.
    seconds : float or None
        Clips are cropped at random to this length, shorter ones followed by silence. None: whole clips; a batch is as
        long as its longest.
    learning_rate : float
        Of Adam, at the start.
    gradient_norm : float or None
        Larger gradients are scaled down to this norm. None: never.
    balanced : bool
        Every class gives one clip in turn. False: all clips in a new random order each time round.
    spec_augment : bool
        Mask one band of bins and one interval of time in each training clip.
    spec_augment_bins : int
        Greatest height of the band; heights are uniform from 0.
    spec_augment_seconds : float
        Greatest length of the interval; lengths are uniform from 0.
    spec_augment_fill : float, "mean" or None
        Value of the masked features, after normalisation; "mean" is the mean of the clip. None: the network's own
        (TALNet: 0; WEANet: "mean", because its features are not normalised by default and 0 dB is loud).
    output_bias : float
        Of the layer that gives the events' probabilities, at the start.
    even_attention : bool
        Let the weights of the attention, where there is one, start at zero: all segments count alike at first.
    plateau_factor, plateau_patience, plateau_threshold : float, int, float
        The learning rate is multiplied by the factor after more than `patience` validations whose MAP is not above the
        best by the relative threshold. Without validation it stays as it is.
    precision : {"float32", "bfloat16", "float16", "float64"}
        bfloat16 and float16: where autocast allows it; float16, on CUDA only, with scaled gradients. float64 is for
        comparisons: slow, and free of the rounding that makes two float32 runs part ways.
    winograd : bool
        Compute wide convolutions by Winograd's algorithm, on a CPU in float32.
    validation : {"held-out", "eval", "none"}
        Clips that validate: some of the training clips, by a hash of the video id; the evaluation list; or none.
    validation_share : float
        Share of the training clips for "held-out".
    validation_batch_size : int
        Clips of one validation batch.
    min_share : float
        A training is refused if a smaller share of the clips is there and readable.
    seed : int
        Of the initial weights, the order of the clips, crops and masks.
    sustain : mapping or None
        Sequential self-teaching; see `sedembed._training.sustain`.

    Raises
    ------
    ValueError
        If a value is out of its range.
    """

    model: str = "talnet"
    network: Mapping[str, Any] = field(default_factory=dict)
    normalization: Literal["default", "measured"] = "default"
    batch_size: _Count = 250
    steps: _Count = 30_000
    validate_every: _Count = 1000
    checkpoint_every: _Count = 250
    log_every: _Count = 50
    seconds: _Positive | None = 10.0
    learning_rate: _Positive = 1e-3
    gradient_norm: _Positive | None = None
    balanced: bool = True
    spec_augment: bool = True
    spec_augment_bins: _Whole = 16
    spec_augment_seconds: Annotated[float, Range(0)] = 2.0
    spec_augment_fill: float | Literal["mean"] | None = None
    output_bias: float = 0.0
    even_attention: bool = False
    plateau_factor: _Share = 0.8
    plateau_patience: _Whole = 3
    plateau_threshold: Annotated[float, Range(0)] = 1e-4
    precision: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    winograd: bool = True
    validation: Literal["held-out", "eval", "none"] = "held-out"
    validation_share: _Share = 0.01
    validation_batch_size: _Count = 64
    min_share: Annotated[float, Range(0, 1)] = 0.5
    seed: _Whole = 15213
    sustain: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("network", "sustain"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, MappingProxyType(dict(value)))
        self.network_config(1)

    @classmethod
    def read(cls, path: Path, **overrides: Any) -> TrainConfig:
        """Read a JSON file.

        Parameters
        ----------
        path : Path
            Holds an object of any of the keys.
        **overrides
            Go before what the file holds; the model may not differ from it.

        Raises
        ------
        ValueError
            If the file is not such an object, a key is unknown or a value is not allowed.
        """
        values = read_json_file(path)
        if "model" in values and values["model"] != overrides.get("model", values["model"]):
            raise InvalidArgumentError(
                f"{path} is for the model {values['model']!r}, not {overrides['model']!r}. Use another file."
            )
        return cls.from_table({**values, **overrides}, str(path))

    @classmethod
    def from_table(cls, values: Mapping[str, Any], where: str = "the settings") -> TrainConfig:
        """Make a configuration of plain values; `where` begins the errors."""
        return from_table(cls, values, where)

    def as_table(self) -> dict[str, Any]:
        """All settings as plain values for JSON."""
        plain = replace(self, network={}, sustain=None)
        table = {item.name: getattr(plain, item.name) for item in fields(plain)}
        table["network"] = {name: _plain(value) for name, value in self.network.items()}
        table["sustain"] = None if self.sustain is None else {k: _plain(v) for k, v in self.sustain.items()}
        return table

    def network_config(self, classes: int, measured: Normalizer | None = None) -> Any:
        """Make the configuration of the network for clips of so many classes.

        Parameters
        ----------
        classes : int
            Columns of the targets.
        measured : tuple of two tuples of float, optional
            Measured normalisation, as for `Backbone.default_config`.

        Raises
        ------
        ValueError
            If `network` holds unknown fields, or values that the architecture does not allow.
        """
        if self.model not in list_architectures():
            raise InvalidArgumentError(f"model must be one of {', '.join(list_architectures())}, got {self.model!r}")
        backbone = architecture_of(self.model)
        known = [item.name for item in fields(backbone.config_class) if item.name not in ("architecture", "classes")]
        unknown = sorted(set(self.network) - set(known))
        if unknown:
            raise InvalidArgumentError(f"network: unknown fields {', '.join(unknown)}; known are {', '.join(known)}")
        try:
            return backbone.default_config(classes, measured, **self.network)
        except ValueError as error:
            raise InvalidArgumentError(f"network: {error}") from error

    def build(self, classes: int, measured: Normalizer | None = None) -> Backbone:
        """Make an untrained network; its weights depend on the seed alone."""
        import torch

        config = self.network_config(classes, measured)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = architecture_of(self.model)(config)
        if network.event_layer.bias is not None:
            torch.nn.init.constant_(network.event_layer.bias, self.output_bias)
        if self.even_attention and network.attention_layer is not None:
            torch.nn.init.zeros_(network.attention_layer.weight)
        return network


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
