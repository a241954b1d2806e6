"""Which networks and which weights there are: a class for each architecture, a frozen record for each weight."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from sedembed._utils.checks import check_type
from sedembed.errors import InvalidArgumentError, InvalidTypeError, ModelNotFoundError
from sedembed.models import papers

if TYPE_CHECKING:
    from sedembed.models.base import Backbone

__all__ = ["ModelRecord", "architecture_of", "describe_model", "list_architectures", "list_models", "register_model"]


@dataclass(frozen=True)
class ModelRecord:
    """What is known about a weight before it is opened.

    Attributes
    ----------
    name : str
        Registered name, name of the directory, or "org/repo".
    version : str
        Changes whenever vectors change. "local-" or "hub-" and the start of the sha256 for weights that are not
        registered.
    architecture : str
        Network that the weight belongs to.
    source : str
        "package:NAME" (inside the wheel), "hf://org/repo", or "local". In a record of one's own also the path of a
        directory that `save_pretrained` wrote.
    revision : str
        Commit of a hub repository; empty for other sources.
    sha256 : str
        Of `model.safetensors`, 64 hexadecimal digits.
    bytes : int
        Size of `model.safetensors`.
    sample_rate : int
        Hz that the network expects.
    embedding_size : int
        Numbers per embedding.
    frame_rate : float
        Frame embeddings per second.
    classes : int
        Sound events that the network tags.
    parameters : int
        Trainable numbers in the network.
    min_samples : int
        Shortest input in samples; shorter clips are zero-padded to it.
    licence : str
        Of the weight, not of the code.
    paper : str
        Reference for the architecture.
    provenance : str
        Who trained it on what.
    metrics : mapping of str to float
        Measured figures of this very file.
    """

    name: str
    version: str
    architecture: str
    source: str
    revision: str
    sha256: str
    bytes: int
    sample_rate: int
    embedding_size: int
    frame_rate: float
    classes: int
    parameters: int
    min_samples: int
    licence: str
    paper: str
    provenance: str
    metrics: Mapping[str, float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", MappingProxyType(dict(self.metrics)))

    def __reduce__(self) -> tuple[Any, ...]:
        # A view of a mapping cannot be pickled; its contents can.
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return _make_record, ({**values, "metrics": dict(self.metrics)},)


def _make_record(values: dict[str, Any]) -> ModelRecord:
    return ModelRecord(**values)


# Module and class for those that come with the library: listing models must not import PyTorch.
_ARCHITECTURES: dict[str, type[Backbone] | tuple[str, str]] = {
    "talnet": ("sedembed.models.talnet", "TALNet"),
    "weanet": ("sedembed.models.weanet", "WEANet"),
}
_RECORDS: dict[str, ModelRecord] = {
    "talnet": ModelRecord(
        name="talnet",
        version="6",
        architecture="talnet",
        source="package:talnet",
        revision="",
        sha256="0a442b0ff15551eec05aee9ffacf5bf94fdf660cccacb895bf76adadc00e23b7",
        bytes=20_010_532,
        sample_rate=16_000,
        embedding_size=1024,
        frame_rate=10.0,
        classes=527,
        parameters=9_980_527,
        min_samples=1200,
        licence="CC-BY-NC-4.0",
        paper=papers.TALNET,
        provenance=(
            "Trained by the sedembed project to give what EfficientAT mn04_as gives on mixtures of 30.9 hours of "
            "openly published recordings; not trained on AudioSet, not the published weights. Those are no longer "
            "offered anywhere; a copy of them can be converted with `sedembed convert`."
        ),
        metrics={
            "esc50_accuracy": 0.9205,
            "esc50_accuracy_untrained": 0.4925,
            "esc50_accuracy_log_mel": 0.359,
            "held_out_correlation": 0.894,
            "held_out_top1_agreement": 0.842,
            "held_out_map": 0.922,
            "held_out_kl": 1.053,
        },
    ),
    "weanet": ModelRecord(
        name="weanet",
        version="6",
        architecture="weanet",
        source="package:weanet",
        revision="",
        sha256="df27096ab7a5e3766f2fd13426afff28dabb1edfaf7facc8d019ee0e32d956d4",
        bytes=30_528_040,
        sample_rate=16_000,
        embedding_size=2048,
        frame_rate=3.125,
        classes=527,
        parameters=15_217_886,
        min_samples=15_200,
        licence="CC-BY-NC-4.0",
        paper=papers.WEANET,
        provenance=(
            "A reconstruction of the architecture, trained by the sedembed project to give what EfficientAT "
            "mn04_as gives on mixtures of 42.6 hours of openly published recordings; not trained on AudioSet, not "
            "the weights of its authors."
        ),
        metrics={
            "esc50_accuracy": 0.917,
            "held_out_correlation": 0.919,
            "held_out_top1_agreement": 0.895,
            "held_out_map": 0.93,
            "held_out_kl": 0.874,
        },
    ),
}


def list_models() -> list[str]:
    """Names that `load_model` takes without a path, sorted.

    Returns
    -------
    list of str
        Registered names.

    Examples
    --------
    >>> "talnet" in list_models()
    True
    """
    return sorted(_RECORDS)


def describe_model(name: str) -> ModelRecord:
    """Record of a registered model: sizes, rates, licence, provenance, sha256, measured figures.

    Parameters
    ----------
    name : str
        One of `list_models()`.

    Returns
    -------
    ModelRecord
        The frozen record; nothing is opened or fetched.

    Raises
    ------
    ModelNotFoundError
        If no model of that name is registered.

    Examples
    --------
    >>> describe_model("talnet").embedding_size
    1024
    """
    check_type(name, str, "the name of a model", "list_models() gives those that there are")
    try:
        return _RECORDS[name]
    except KeyError:
        close = difflib.get_close_matches(name.lower(), _RECORDS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ModelNotFoundError(
            f"No model is called {name!r}.{hint} Registered: {', '.join(list_models())}. "
            "Other weights load from a directory, a .safetensors file or hf://org/repo[@revision]."
        ) from None


def register_model(backbone: type[Backbone], record: ModelRecord | None = None) -> None:
    """Make a network of one's own known to the whole library.

    Afterwards `load_model` opens weights of this architecture, and embedding, tagging, detection, probes, evaluation,
    analysis and training take it like the two networks that come with the library. The registration holds for this
    process.

    Parameters
    ----------
    backbone : subclass of Backbone
        The architecture. A class that is registered already may be given again.
    record : ModelRecord, optional
        A weight of this architecture that `load_model` then finds by the record's name. Without it, weights are loaded
        by their directory.

    Raises
    ------
    TypeError
        If `backbone` is not a complete subclass of `Backbone`, or its configuration does not name the architecture.
    ValueError
        If another class or weight has that name, or the record is of another architecture.
    """
    from sedembed.models.base import Backbone

    if not (isinstance(backbone, type) and issubclass(backbone, Backbone)):
        raise InvalidTypeError(f"Expected a subclass of sedembed.Backbone, got {backbone!r}.")
    needed = {name for name in ("architecture", "config_class") if not hasattr(backbone, name)}
    missing = sorted(backbone.__abstractmethods__ | needed)
    if missing:
        raise InvalidTypeError(
            f"Expected a complete Backbone; {backbone.__name__} does not define {', '.join(missing)}."
        )
    name = backbone.architecture
    hint = get_type_hints(backbone.config_class).get("architecture")
    if get_origin(hint) is not Literal or get_args(hint) != (name,):
        raise InvalidTypeError(
            f"Expected a field `architecture: Literal[{name!r}] = {name!r}` in {backbone.config_class.__name__}, got "
            f"{hint!r}. Configurations on disk are told apart by it."
        )
    if name in _ARCHITECTURES and architecture_of(name) is not backbone:
        raise InvalidArgumentError(
            f"The architecture {name!r} is another class, {architecture_of(name)!r}; choose another name."
        )
    if record is not None:
        if record.architecture != name:
            raise InvalidArgumentError(f"The record is of the architecture {record.architecture!r}, expected {name!r}.")
        if _RECORDS.get(record.name, record) != record:
            raise InvalidArgumentError(
                f"Another model is registered as {record.name!r}; choose another name for the record."
            )
        _RECORDS[record.name] = record
    _ARCHITECTURES[name] = backbone


def list_architectures() -> list[str]:
    """Names of the registered architectures, sorted."""
    return sorted(_ARCHITECTURES)


def architecture_of(name: str) -> type[Backbone]:
    """Class of a registered architecture.

    Raises
    ------
    ModelNotFoundError
        If none has that name.
    """
    if name not in _ARCHITECTURES:
        raise ModelNotFoundError(
            f"No architecture is called {name!r}. Registered: {', '.join(list_architectures())}. "
            "Register another one with sedembed.register_model."
        )
    found = _ARCHITECTURES[name]
    if isinstance(found, tuple):
        found = _ARCHITECTURES[name] = getattr(importlib.import_module(found[0]), found[1])
    return found
