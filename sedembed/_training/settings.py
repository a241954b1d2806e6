"""The settings of a training on labelled clips, as a configuration file holds them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from sedembed.models.base import Backbone
from sedembed.models.talnet import TALNet, TALNetConfig, packaged_normalizer
from sedembed.models.weanet import WEANet, WEANetConfig

__all__ = ["Network", "TrainConfig", "make_settings", "packaged_normalizer"]

ModelName = Literal["talnet", "weanet"]
Precision = Literal["float32", "bfloat16", "float16", "float64"]
Normalization = Literal["default", "measured"]
Validation = Literal["held-out", "eval", "none"]
Network: TypeAlias = Backbone

_Settings = TypeVar("_Settings")

_WHOLE = ("batch_size", "steps", "validate_every", "checkpoint_every", "log_every", "validation_batch_size")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a training gives; a configuration file holds any of these keys as JSON.

    The defaults are those of TALNet's authors, with the SpecAugment of the paper's retraining. For WEANet they are a
    reconstruction: the paper does not print its own.

    Parameters
    ----------
    model : {"talnet", "weanet"}
        Architecture.
    network : mapping
        Fields of `TALNetConfig` or `WEANetConfig` that differ from their defaults; the number of classes follows from
        the clips.
    normalization : {"default", "measured"}
        "default": TALNet takes the AudioSet values that come with the package, WEANet none. "measured": mean and
        standard deviation of the training clips' features, for each bin (TALNet) or over all bins (WEANet). What
        `network` holds as mean and std goes before both.
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
    spec_augment_fill : float or None
        What is put there, after normalisation. None: the mean of the clip, which sounds like neither silence nor noise
        whatever the normalisation.
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
        Clips that the network hears at once in validation.
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

    model: ModelName = "talnet"
    network: Mapping[str, Any] = field(default_factory=dict)
    normalization: Normalization = "default"
    batch_size: int = 250
    steps: int = 30_000
    validate_every: int = 1000
    checkpoint_every: int = 250
    log_every: int = 50
    seconds: float | None = 10.0
    learning_rate: float = 1e-3
    gradient_norm: float | None = None
    balanced: bool = True
    spec_augment: bool = True
    spec_augment_bins: int = 16
    spec_augment_seconds: float = 2.0
    spec_augment_fill: float | None = None
    output_bias: float = 0.0
    even_attention: bool = False
    plateau_factor: float = 0.8
    plateau_patience: int = 3
    plateau_threshold: float = 1e-4
    precision: Precision = "float32"
    winograd: bool = True
    validation: Validation = "held-out"
    validation_share: float = 0.01
    validation_batch_size: int = 64
    min_share: float = 0.5
    seed: int = 15213
    sustain: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name, allowed in (
            ("model", get_args(ModelName)),
            ("normalization", get_args(Normalization)),
            ("precision", get_args(Precision)),
            ("validation", get_args(Validation)),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in _WHOLE:
            _check(
                name,
                type(getattr(self, name)) is int and getattr(self, name) >= 1,
                "a whole number of at least 1",
                self,
            )
        for name in ("spec_augment_bins", "plateau_patience", "seed"):
            _check(
                name,
                type(getattr(self, name)) is int and getattr(self, name) >= 0,
                "a whole number of at least 0",
                self,
            )
        for name in ("balanced", "spec_augment", "even_attention", "winograd"):
            _check(name, type(getattr(self, name)) is bool, "true or false", self)
        for name in ("seconds", "gradient_norm"):
            value = getattr(self, name)
            _check(name, value is None or (_is_number(value) and value > 0), "a positive number or null", self)
        _check("learning_rate", _is_number(self.learning_rate) and self.learning_rate > 0, "a positive number", self)
        for name in ("spec_augment_seconds", "plateau_threshold"):
            _check(name, _is_number(getattr(self, name)) and getattr(self, name) >= 0, "a number of at least 0", self)
        fill = self.spec_augment_fill
        _check("spec_augment_fill", fill is None or _is_number(fill), "a finite number or null", self)
        _check("output_bias", _is_number(self.output_bias), "a finite number", self)
        for name in ("plateau_factor", "validation_share"):
            _check(name, _is_number(getattr(self, name)) and 0 < getattr(self, name) < 1, "between 0 and 1", self)
        _check("min_share", _is_number(self.min_share) and 0 <= self.min_share <= 1, "from 0 to 1", self)
        for name in ("network", "sustain"):
            value = getattr(self, name)
            _check(name, isinstance(value, Mapping) or (name == "sustain" and value is None), "a table", self)
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
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a JSON file ({error}); write the settings as one JSON object") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path}: expected a JSON object of settings, got {type(values).__name__}")
        if "model" in values and values["model"] != overrides.get("model", values["model"]):
            raise ValueError(
                f"{path} is for the model {values['model']!r}, not {overrides['model']!r}; use another file"
            )
        return cls.from_table({**values, **overrides}, str(path))

    @classmethod
    def from_table(cls, values: Mapping[str, Any], where: str = "the settings") -> TrainConfig:
        """Make a configuration of plain values; `where` begins the errors."""
        return make_settings(cls, values, where)

    def as_table(self) -> dict[str, Any]:
        """All settings as plain values for JSON."""
        plain = replace(self, network={}, sustain=None)
        table = {item.name: getattr(plain, item.name) for item in fields(plain)}
        table["network"] = {name: _plain(value) for name, value in self.network.items()}
        table["sustain"] = None if self.sustain is None else {k: _plain(v) for k, v in self.sustain.items()}
        return table

    def network_config(
        self, classes: int, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None
    ) -> TALNetConfig | WEANetConfig:
        """Make the configuration of the network for clips of so many classes.

        Parameters
        ----------
        classes : int
            Columns of the targets.
        mean, std : tuple of float, optional
            Measured normalisation: 64 numbers for TALNet, one for WEANet. By default that of the architecture.

        Raises
        ------
        ValueError
            If `network` holds unknown fields, or values that the architecture does not allow.
        """
        kind: type[TALNetConfig] | type[WEANetConfig] = TALNetConfig if self.model == "talnet" else WEANetConfig
        known = {item.name: item for item in fields(kind) if item.name not in ("architecture", "classes")}
        unknown = sorted(set(self.network) - set(known))
        if unknown:
            raise ValueError(f"network: unknown fields {', '.join(unknown)}; known are {', '.join(known)}")
        values: dict[str, Any] = {"classes": classes}
        if self.model == "talnet":
            shipped = packaged_normalizer()
            values["mean"], values["std"] = (mean, std) if mean and std else shipped
        elif mean and std:
            values["mean"], values["std"] = mean[0], std[0]
        for name, value in self.network.items():
            default = known[name].default
            if isinstance(value, list | tuple):
                value = tuple(value)
                good = all(_is_number(item) for item in value) and (default is MISSING or isinstance(default, tuple))
                good = good and (default is MISSING or all(type(item) is int for item in value))
            elif isinstance(default, float):
                good = _is_number(value)
                value = float(value) if good else value
            else:
                good = default is not MISSING and type(value) is type(default)
            if not good:
                raise ValueError(f"network: {name} cannot be {value!r}; its default is {_shown(default)}")
            values[name] = value
        try:
            return kind(**values)
        except ValueError as error:
            raise ValueError(f"network: {error}") from error

    def build(
        self, classes: int, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None
    ) -> Network:
        """Make an untrained network; its weights depend on the seed alone."""
        import torch

        config = self.network_config(classes, mean, std)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = TALNet(config) if isinstance(config, TALNetConfig) else WEANet(config)
        output = network.b8 if isinstance(network, WEANet) else network.fc_prob
        torch.nn.init.constant_(output.bias, self.output_bias)
        attention = network.attention if isinstance(network, WEANet) else getattr(network, "fc_att", None)
        if self.even_attention and attention is not None:
            torch.nn.init.zeros_(attention.weight)
        return network


def make_settings(kind: type[_Settings], values: Mapping[str, Any], where: str) -> _Settings:
    """Make a data class of plain values, unknown keys refused; `where` begins the errors."""
    known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{where}: unknown settings {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _check(name: str, good: bool, expected: str, config: TrainConfig) -> None:
    if not good:
        raise ValueError(f"{name} must be {expected}, got {getattr(config, name)!r}")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _shown(default: Any) -> str:
    return "64 numbers" if default is MISSING else repr(default)
