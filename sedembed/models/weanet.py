"""WEANet: a fully convolutional network with class-specific attention over segments.

What the paper states: 64 log-mel bins at 100 frames a second; B1 to B4 of two convolutions and max-pooling each; B5 to
B8 of convolutions only, whose output is segment-level; class-specific attention; an embedding of 2048 numbers from B5,
averaged or maximised over time, of unit length. Everything else is a reconstruction from the paper, the first author's
released predecessor and the geometry; each such choice is a field of `WEANetConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import nn
from torch.nn import functional

from sedembed._utils.schema import Range, check_fields
from sedembed.errors import InvalidArgumentError
from sedembed.models import papers
from sedembed.models.base import Backbone, NetworkOutput
from sedembed.models.frontend import Spectrogram
from sedembed.models.layers.blocks import PROBABILITY_FLOOR, ConvBlock, blank_beyond, run_blocks, run_in_pieces

__all__ = ["WEANet", "WEANetConfig"]

# Feature frames of a piece: two seconds, of which the largest map takes 3 MB.
_PIECE = 200

EmbeddingPooling = Literal["average", "max"]


@dataclass(frozen=True)
class WEANetConfig:
    """Everything about a WEANet that its weights do not say. All defaults but `n_mels` are a reconstruction.

    Parameters
    ----------
    classes : int
        Number of sound events.
    embedding_pooling : {"average", "max"}
        How the segments' embeddings become a clip's; the paper has both.
    channels : tuple of 4 int
        Of the two 3x3 convolutions in each of B1 to B4.
    pools : tuple of 4 int
        Max-pooling after each of B1 to B4, the same in time and frequency.
    segment_channels : int
        Of B5: the size of an embedding.
    segment_steps : int
        Length of B5's kernel in time; in frequency it spans what pooling leaves of `n_mels`.
    hidden_channels : tuple of 2 int
        Of the 1x1 convolutions B6 and B7.
    n_fft, win_length, hop_length, n_mels : int
        Front end at 16 kHz: Fourier transform, Hann window and hop in samples, Slaney filters up to 8 kHz.
    power, top_db : float
        Exponent of the magnitude, 1 or 2, and range of the decibels below the maximum of the window.
    mean, std : float
        The decibels are normalised to (x - mean) / std. 0 and 1: no normalisation.
    architecture : str
        Always "weanet".
    """

    classes: Annotated[int, Range(1)] = 527
    embedding_pooling: EmbeddingPooling = "average"
    channels: tuple[int, ...] = (64, 128, 256, 512)
    pools: tuple[int, ...] = (4, 2, 2, 2)
    segment_channels: Annotated[int, Range(1)] = 2048
    segment_steps: Annotated[int, Range(1)] = 3
    hidden_channels: tuple[int, ...] = (1024, 1024)
    n_fft: Annotated[int, Range(1)] = 512
    win_length: Annotated[int, Range(1)] = 256
    hop_length: Annotated[int, Range(1)] = 160
    n_mels: Annotated[int, Range(1)] = 64
    power: float = 2.0
    top_db: Annotated[float, Range(0, open=True)] = 80.0
    mean: float = 0.0
    std: Annotated[float, Range(0, open=True)] = 1.0
    architecture: Literal["weanet"] = "weanet"

    def __post_init__(self) -> None:
        check_fields(self)
        for name, count in (("channels", 4), ("pools", 4), ("hidden_channels", 2)):
            numbers = getattr(self, name)
            if len(numbers) != count or min(numbers) < 1:
                raise InvalidArgumentError(f"{name} must be {count} whole numbers of at least 1, got {numbers}")
        if self.n_mels % self.segment_hop:
            raise InvalidArgumentError(
                f"n_mels must be a multiple of the product of pools, {self.segment_hop}, got {self.n_mels}"
            )
        if self.win_length > self.n_fft or self.win_length % 2:
            raise InvalidArgumentError(f"win_length must be even and at most n_fft, got {self.win_length}")
        if self.power not in (1.0, 2.0):
            raise InvalidArgumentError(f"power must be 1 or 2, got {self.power}")

    @property
    def segment_hop(self) -> int:
        """Feature frames from one segment to the next."""
        hop = 1
        for pool in self.pools:
            hop *= pool
        return hop

    @property
    def spectrogram(self) -> Spectrogram:
        """The front end."""
        return Spectrogram(self.n_fft, self.win_length, self.hop_length, self.n_mels, self.power, self.top_db)


class WEANet(Backbone):
    """WEANet of Kumar et al. (2021), reconstructed.

    Parameters
    ----------
    config : WEANetConfig
        Sizes, front end and pooling.
    """

    architecture = "weanet"
    config_class = WEANetConfig
    paper = papers.WEANET
    default_normalize = "l2"
    spec_augment_fill = "mean"  # its features are bare decibels, among which 0 dB is loud

    unit_length = True
    config: WEANetConfig
    in_pieces = False  # set by `prepare`: B1 on two seconds at a time, to stay in a CPU's cache

    def __init__(self, config: WEANetConfig) -> None:
        super().__init__()
        self.config = config
        channels = (1, *config.channels)
        for i in range(1, 5):
            pool = (config.pools[i - 1], config.pools[i - 1])
            block = nn.Sequential(ConvBlock(channels[i - 1], channels[i]), ConvBlock(channels[i], channels[i], pool))
            self.add_module(f"b{i}", block)
        left = config.n_mels // config.segment_hop
        size, (hidden, last) = config.segment_channels, config.hidden_channels
        self.b5 = ConvBlock(channels[4], size, kernel=(config.segment_steps, left), padding=0)
        self.b6 = ConvBlock(size, hidden, kernel=(1, 1), padding=0)
        self.b7 = ConvBlock(hidden, last, kernel=(1, 1), padding=0)
        self.b8 = nn.Linear(last, config.classes)
        self.attention = nn.Linear(last, config.classes)
        # Of the configuration, not of the weights.
        self.register_buffer("mean", torch.tensor(config.mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(config.std, dtype=torch.float32), persistent=False)
        self._initialise()

    @property
    def embedding_size(self) -> int:
        """Length of an embedding."""
        return self.config.segment_channels

    @property
    def spectrogram(self) -> Spectrogram:
        """The log-mel front end of the configuration."""
        return self.config.spectrogram

    @property
    def embedding_maximum(self) -> bool:
        """Whether a clip's embedding is the maximum, not the mean, of its segments'."""
        return self.config.embedding_pooling == "max"

    @property
    def frame_rate(self) -> float:
        """Segments per second."""
        return self.feature_rate / self.config.segment_hop

    @property
    def min_frames(self) -> int:
        """Feature frames of the shortest input: one segment."""
        return self.config.segment_hop * self.config.segment_steps

    @property
    def min_samples(self) -> int:
        """Shortest input in samples."""
        return (self.min_frames - 1) * self.config.hop_length

    @property
    def max_batch_frames(self) -> int:
        """Most feature frames of a batch: two maps of B1 and the copy that blanks padding then take 128 MiB."""
        return 2**27 // (3 * 4 * self.config.channels[0] * self.config.n_mels)

    @property
    def first_frame_time(self) -> float:
        """Centre of the first segment's feature frames, in seconds."""
        return (self.min_frames - 1) / 2 / self.feature_rate

    @property
    def _convolution_dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def _initialise(self) -> None:
        gain = nn.init.calculate_gain("relu")
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight, gain)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def features(self, waveform: torch.Tensor) -> torch.Tensor:
        """Log-mel features of one window in dB; zeros follow the sound up to a whole number of segment hops."""
        return self.config.spectrogram(waveform, self.frame_count(waveform.shape[-1]))

    def frame_count(self, samples: int) -> int:
        """Count the feature frames of a window: a multiple of the segments' hop."""
        hop = self.config.segment_hop
        return -(-(1 + samples // self.config.hop_length) // hop) * hop

    def forward_normalised(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> NetworkOutput:
        """`forward` for features that are already normalised (and, in training, masked).

        A segment starts every 32 feature frames; the last two hops start none. Padding never reaches a valid segment:
        it is set to zero after every block, as the border of a convolution is.

        Raises
        ------
        ValueError
            For fewer feature frames than one segment spans, 96.
        """
        if x.shape[1] < self.min_frames:
            raise InvalidArgumentError(
                f"expected at least {self.min_frames} feature frames, one segment, got {x.shape[1]}; pad the sound "
                f"with zeros to {self.min_samples} samples"
            )
        x = x[:, None].to(self._convolution_dtype)
        if lengths is not None:
            x = blank_beyond(x, lengths)
        for i in range(1, 5):
            blocks = list(self.get_submodule(f"b{i}").children())
            if i == 1 and self.in_pieces:
                x, lengths = run_in_pieces(blocks, x, lengths, _PIECE)
            else:
                x, lengths = run_blocks(blocks, x, lengths)
        x = self.b5(x)
        frames = x[..., 0].transpose(1, 2).to(self.b8.weight.dtype)
        hidden = self.b7(self.b6(x))[..., 0].transpose(1, 2).to(self.b8.weight.dtype)
        probabilities = torch.sigmoid(self.b8(hidden)).clamp(PROBABILITY_FLOOR, 1.0 - PROBABILITY_FLOOR)
        valid = None if lengths is None else lengths - (self.config.segment_steps - 1)
        return NetworkOutput(frames, probabilities, valid, self.attention(hidden))

    def pool(self, output: NetworkOutput) -> torch.Tensor:
        """Clip probabilities, shape (batch, classes): each class weighs the valid segments by its own attention."""
        attention = self._attention_of(output)
        if output.lengths is not None:
            beyond = torch.arange(attention.shape[1], device=attention.device) >= output.lengths[:, None]
            attention = attention.masked_fill(beyond[..., None], -torch.inf)
        return (functional.softmax(attention, 1) * output.probabilities).sum(1)

    @staticmethod
    def _attention_of(output: NetworkOutput) -> torch.Tensor:
        if output.attention is None:
            raise InvalidArgumentError("Expected the output of a WEANet, got one without attention.")
        return output.attention

    @property
    def event_layer(self) -> nn.Linear:
        """Linear layer B8; between the embedding (B5) and it lie B6 and B7."""
        return self.b8

    @property
    def embedding_feeds_events(self) -> bool:
        """Always false, also where B5 and B7 happen to be of one size."""
        return False

    @property
    def attention_layer(self) -> nn.Linear | None:
        """Linear layer of the class-specific attention."""
        return self.attention

    @property
    def contiguous_blocks(self) -> tuple[nn.Module, ...]:
        """B1: gradients of its 64 wide channels took a third of the time (oneDNN, measured)."""
        return (self.get_submodule("b1"),)

    def prepare(self, device: torch.device, convolutions: torch.dtype = torch.float32) -> WEANet:
        """`Backbone.prepare`; on a CPU the first block runs in pieces."""
        prepared = super().prepare(device, convolutions)
        prepared.in_pieces = device.type == "cpu"
        return prepared

    def describe_front_end(self) -> dict[str, Any]:
        """`Backbone.describe_front_end`, with the multiple of frames to which features are extended."""
        return {**super().describe_front_end(), "multiple": self.config.segment_hop}
