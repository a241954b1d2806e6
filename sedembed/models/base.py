"""Backbone: the interface of all networks; the rest of the library never asks which network it has."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, TypeVar

import torch
from torch import nn

from sedembed.models.frontend import Spectrogram
from sedembed.models.labels import load_labels
from sedembed.models.layers.blocks import prepare_convolutions
from sedembed.types import Normalize, Precision

__all__ = ["Backbone", "NetworkOutput", "Normalizer"]

# Mean and standard deviation of features.
Normalizer: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]
_Backbone = TypeVar("_Backbone", bound="Backbone")


class NetworkOutput(NamedTuple):
    """What a network gives for a batch of windows.

    Attributes
    ----------
    frames : torch.Tensor, shape (batch, frames, embedding size)
        Frame embeddings.
    probabilities : torch.Tensor, shape (batch, frames, classes)
        Probability of each event in each frame.
    lengths : torch.Tensor or None, int64, shape (batch,)
        Valid frames of each item, where `lengths` were given; frames beyond them are meaningless.
    attention : torch.Tensor or None, shape (batch, frames, classes)
        Logits whose softmax over the valid frames weighs the probabilities, where the network has an attention.
    """

    frames: torch.Tensor
    probabilities: torch.Tensor
    lengths: torch.Tensor | None = None
    attention: torch.Tensor | None = None


class Backbone(nn.Module, ABC):
    """Base class of the networks.

    A subclass sets the class variables, gives the abstract properties and methods, and is registered with
    `sedembed.register_model`. Its constructor takes its configuration and must not depend on anything else. The
    buffers `mean` and `std` that it registers normalise features before the first layer.

    Attributes
    ----------
    architecture : str
        Name under which it is registered.
    config_class : type
        Its configuration: a frozen dataclass of all that the weights do not say. Among its fields are `classes`, the
        number of sound events, and `architecture`, a `Literal` with the name above as default. Values are numbers,
        strings, or tuples of one kind of number, because they are kept as JSON. Its `__post_init__` checks them and
        raises `ValueError`.
    paper : str
        Reference for the architecture.
    default_normalize : str
        What a linear probe does to clip embeddings before its classifier, as the paper does for this network.
    embedding_maximum : bool
        Whether a clip's embedding is the maximum over its frames instead of the mean.
    unit_length : bool
        Whether a clip's embedding is scaled to unit length.
    spec_augment_fill : {"zero", "mean"}
        What training puts into the holes of SpecAugment: zero after normalisation, or the mean of the clip's features.
    normalizes_bins : bool
        Whether `mean` and `std` hold one number for each bin instead of one for all.
    faster_in_openvino : tuple of {"float32", "bfloat16"}
        Precisions in which OpenVINO was measured to run it faster than PyTorch, so that ``engine="auto"`` takes it.
    """

    architecture: ClassVar[str]
    config_class: ClassVar[type[Any]]
    paper: ClassVar[str] = "not stated"
    default_normalize: ClassVar[Normalize] = "standardize+l2"
    spec_augment_fill: ClassVar[Literal["zero", "mean"]] = "mean"
    normalizes_bins: ClassVar[bool] = False
    faster_in_openvino: ClassVar[tuple[Precision, ...]] = ()

    config: Any
    mean: torch.Tensor
    std: torch.Tensor

    # --- sizes and rates -------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def spectrogram(self) -> Spectrogram:
        """The log-mel front end; it fixes the feature rate and the number of bins."""

    @property
    @abstractmethod
    def embedding_size(self) -> int:
        """Length of an embedding."""

    @property
    @abstractmethod
    def frame_rate(self) -> float:
        """Frame embeddings per second, in Hz."""

    @property
    @abstractmethod
    def first_frame_time(self) -> float:
        """Centre of the first frame, in seconds from the start of the window."""

    @property
    @abstractmethod
    def min_samples(self) -> int:
        """Shortest input in samples."""

    @property
    @abstractmethod
    def max_batch_frames(self) -> int:
        """Most feature frames, padding included, of a batch: a bound on memory."""

    @property
    def sample_rate(self) -> int:
        """Sampling rate of the front end in Hz."""
        return self.spectrogram.sample_rate

    @property
    def feature_rate(self) -> float:
        """Feature frames per second, in Hz."""
        return self.spectrogram.sample_rate / self.spectrogram.hop_length

    @property
    def n_mels(self) -> int:
        """Bins of a feature frame."""
        return self.spectrogram.n_mels

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the sound events, in the order of the probabilities: AudioSet's, or numbers for another count."""
        names = load_labels()
        return names if self.config.classes == len(names) else tuple(map(str, range(self.config.classes)))

    # --- pooling ---------------------------------------------------------------------------------------------------

    @property
    def embedding_maximum(self) -> bool:
        """Whether a clip's embedding is the maximum over its frames instead of the mean."""
        return False

    @property
    def unit_length(self) -> bool:
        """Whether a clip's embedding is scaled to unit length."""
        return False

    # --- the function ----------------------------------------------------------------------------------------------

    def features(self, waveform: torch.Tensor) -> torch.Tensor:
        """Log-mel features of one window in dB, before normalisation: (samples,) → (feature frames, bins)."""
        return self.spectrogram(waveform)

    def frame_count(self, samples: int) -> int:
        """Count the feature frames of a window of so many samples."""
        return 1 + samples // self.spectrogram.hop_length

    def forward(self, log_mel: torch.Tensor, lengths: torch.Tensor | None = None) -> NetworkOutput:
        """Frame embeddings and frame probabilities of a batch of windows.

        Parameters
        ----------
        log_mel : torch.Tensor, shape (batch, feature frames, bins)
            In dB, as `features` gives them.
        lengths : torch.Tensor, int64, shape (batch,), optional
            Valid feature frames of each item, where shorter ones were padded. Padding must never reach a valid frame.

        Returns
        -------
        NetworkOutput
            With `lengths`, the valid frames of each item.
        """
        return self.forward_normalised((log_mel - self.mean) / self.std, lengths)

    def forward_frames(
        self, log_mel: torch.Tensor, lengths: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Frame embeddings of `forward` and their valid lengths; a network may leave out what only events need."""
        output = self(log_mel, lengths)
        return output.frames, output.lengths

    @abstractmethod
    def forward_normalised(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> NetworkOutput:
        """`forward` for features that are already normalised (and, in training, masked)."""

    @abstractmethod
    def pool(self, output: NetworkOutput) -> torch.Tensor:
        """Clip probabilities, shape (batch, classes), pooled over the valid frames."""

    def prepare(self: _Backbone, device: torch.device, convolutions: torch.dtype = torch.float32) -> _Backbone:
        """Copy of the network made ready to embed on a device: the same function to rounding, and faster.

        Parameters
        ----------
        device : torch.device
            Where it will run.
        convolutions : torch.dtype
            Arithmetic of the convolutions. The other layers stay in float32.
        """
        return prepare_convolutions(self, device, convolutions)

    def traceable(self: _Backbone) -> _Backbone:
        """Copy on the CPU, in evaluation mode, that other engines can convert: same function, no packed sequences."""
        return copy.deepcopy(self).cpu().float().eval().requires_grad_(False)

    # --- events, analysis and training -----------------------------------------------------------------------------

    @property
    @abstractmethod
    def event_layer(self) -> nn.Linear:
        """Last layer, which gives the logits of the sound events."""

    @property
    def embedding_feeds_events(self) -> bool:
        """Whether the event layer acts on the embedding itself, so that its rows are directions among embeddings."""
        return self.event_layer.in_features == self.embedding_size

    @property
    def attention_layer(self) -> nn.Linear | None:
        """Layer that gives the logits of the attention, if there is one."""
        return None

    @property
    def contiguous_blocks(self) -> tuple[nn.Module, ...]:
        """Blocks whose training is faster in PyTorch's default memory order than in channels_last, but for AMX."""
        return ()

    @classmethod
    def default_config(cls, classes: int, measured: Normalizer | None = None, **fields: Any) -> Any:
        """Make the configuration of an untrained network.

        Parameters
        ----------
        classes : int
            Number of sound events.
        measured : tuple of two tuples of float, optional
            Mean and standard deviation of the training features in dB, one number for each bin or one in all, as
            `normalizes_bins` says. By default the architecture's own normalisation.
        **fields
            Other fields of the configuration; they go before the measured ones.

        Raises
        ------
        TypeError, ValueError
            For a field that there is not, or a value that is not allowed.
        """
        values: dict[str, Any] = {}
        if measured is not None:
            mean, std = measured
            values = {"mean": mean, "std": std} if cls.normalizes_bins else {"mean": mean[0], "std": std[0]}
        return cls.config_class(**{"classes": classes, **values, **fields})

    def describe_front_end(self) -> dict[str, Any]:
        """All that features depend on besides the sound; a cache of features keeps it."""
        return {"network": self.architecture, "min_samples": self.min_samples, **asdict(self.spectrogram)}
