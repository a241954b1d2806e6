"""One frozen record per published weight: where it is, what it expects, what it reached."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sedembed.errors import ModelNotFoundError

__all__ = ["PAPERS", "ModelRecord", "describe_model", "list_models"]

_PAPER = (
    "A. Kumar, Y. Wang, V. K. Ithapu, C. Fuegen: Do sound event representations generalize to other audio tasks? "
    "A case study in audio transfer learning. 2021."
)
# Reference of each architecture.
PAPERS: Mapping[str, str] = MappingProxyType(
    {
        "talnet": (
            f"{_PAPER} Network: Y. Wang: Polyphonic sound event detection with weak labeling. PhD thesis, "
            "Carnegie Mellon University, 2018."
        ),
        "weanet": (
            f"{_PAPER} Network: A. Kumar, V. K. Ithapu: A sequential self teaching approach for improving "
            "generalization in sound event recognition. ICML 2020; reconstructed, see docs/model.md."
        ),
    }
)


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
        "package:NAME" (inside the wheel), "hf://org/repo" or "local".
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


_RECORDS: Mapping[str, ModelRecord] = MappingProxyType(
    {
        "talnet": ModelRecord(
            name="talnet",
            version="4",
            architecture="talnet",
            source="package:talnet",
            revision="",
            sha256="28a3c7423db8364d0a99157c697de0212e24d457de063e81883e6784e78c566c",
            bytes=20_010_532,
            sample_rate=16_000,
            embedding_size=1024,
            frame_rate=10.0,
            classes=527,
            parameters=9_980_527,
            min_samples=1200,
            licence="CC-BY-NC-4.0",
            paper=PAPERS["talnet"],
            provenance=(
                "Trained by the sedembed project to give what EfficientAT mn04_as gives on mixtures of 13.3 hours of "
                "openly published recordings; not trained on AudioSet, not the published weights. Those are no longer "
                "offered anywhere; a copy of them can be converted with `sedembed convert`."
            ),
            metrics=MappingProxyType(
                {
                    "esc50_accuracy": 0.9115,
                    "esc50_accuracy_untrained": 0.496,
                    "esc50_accuracy_log_mel": 0.3595,
                    "held_out_correlation": 0.873,
                    "held_out_top1_agreement": 0.842,
                    "held_out_map": 0.933,
                    "held_out_kl": 1.238,
                }
            ),
        ),
        "weanet": ModelRecord(
            name="weanet",
            version="3",
            architecture="weanet",
            source="package:weanet",
            revision="",
            sha256="2e2605fea5fe767ece60240d30ba5e920e658a71b3f2ee47557683395a7234b5",
            bytes=30_528_040,
            sample_rate=16_000,
            embedding_size=2048,
            frame_rate=3.125,
            classes=527,
            parameters=15_217_886,
            min_samples=15_200,
            licence="CC-BY-NC-4.0",
            paper=PAPERS["weanet"],
            provenance=(
                "A reconstruction of the architecture, trained by the sedembed project to give what EfficientAT "
                "mn04_as gives on mixtures of 13.3 hours of openly published recordings; not trained on AudioSet, not "
                "the weights of its authors."
            ),
            metrics=MappingProxyType(
                {
                    "esc50_accuracy": 0.899,
                    "held_out_correlation": 0.876,
                    "held_out_top1_agreement": 0.825,
                    "held_out_map": 0.93,
                    "held_out_kl": 1.234,
                }
            ),
        ),
    }
)


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
    try:
        return _RECORDS[name]
    except KeyError:
        close = difflib.get_close_matches(name.lower(), _RECORDS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ModelNotFoundError(
            f"No model is called {name!r}.{hint} Registered: {', '.join(list_models())}. "
            "Other weights load from a directory, a .safetensors file or hf://org/repo[@revision]."
        ) from None
