"""TALNet: ten convolutions, a bidirectional GRU and a pooled sigmoid layer over the 527 AudioSet classes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Any, Literal

import torch
from torch import nn

from sedembed._utils.schema import Range, check_fields
from sedembed.errors import InvalidArgumentError
from sedembed.models import papers
from sedembed.models.base import Backbone, NetworkOutput, Normalizer
from sedembed.models.frontend import FRAME_RATE, TALNET, frame_count, log_mel
from sedembed.models.layers.blocks import (
    PROBABILITY_FLOOR,
    ConvBlock,
    blank_beyond,
    prepare_convolutions,
    run_blocks,
    run_in_pieces,
)
from sedembed.models.layers.gru import FrozenGRU, TwoWayGRU

__all__ = ["TALNet", "TALNetConfig", "packaged_normalizer"]

Pooling = Literal["max", "average", "linear", "exponential", "attention"]

CHANNELS = (1, 32, 32, 64, 64, 128, 128, 256, 256, 512, 512)
# Feature frames of a piece: ten seconds, whose largest map takes 3 MB.
_PIECE = 402
# Of a batch of the other convolutions.
_CONVOLVED = 4 * 401
POOLS = {2: (2, 2), 4: (2, 2), 6: (1, 2), 8: (1, 2), 10: (1, 2)}


@dataclass(frozen=True)
class TALNetConfig:
    """Everything about a TALNet that its weights do not say.

    Parameters
    ----------
    mean, std : tuple of 64 float
        Per-bin normalisation of the log-mel features in dB, from the training set of the weights.
    classes : int
        Number of sound events.
    pooling : {"linear", "max", "average", "exponential", "attention"}
        How frame probabilities become a clip probability.
    architecture : str
        Always "talnet".
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: Annotated[int, Range(1)] = 527
    pooling: Pooling = "linear"
    architecture: Literal["talnet"] = "talnet"

    def __post_init__(self) -> None:
        check_fields(self)
        if len(self.mean) != 64 or len(self.std) != 64:
            raise InvalidArgumentError(
                f"mean and std need 64 numbers each, one per mel bin, got {len(self.mean)}, {len(self.std)}"
            )
        if not all(value > 0 for value in self.std):
            raise InvalidArgumentError("std needs positive numbers only")


class TALNet(Backbone):
    """The CRNN of Wang (2018), "Polyphonic sound event detection with weak labeling", trained on AudioSet.

    Parameters
    ----------
    config : TALNetConfig
        Normalisation, classes and pooling.
    """

    architecture = "talnet"
    config_class = TALNetConfig
    paper = papers.TALNET
    spec_augment_fill = "zero"
    normalizes_bins = True
    faster_in_openvino = ("bfloat16",)

    spectrogram = TALNET
    embedding_size = 1024
    frame_rate = FRAME_RATE / 4
    first_frame_time = 1.5 / FRAME_RATE  # centre of the first four feature frames, in seconds
    min_samples = 1200  # four feature frames: one frame of the GRU
    max_batch_frames = 16 * 401  # larger batches were not faster

    config: TALNetConfig
    in_pieces = False  # set by `prepare`: the first four blocks on some seconds at a time, to stay in a CPU's cache

    def __init__(self, config: TALNetConfig) -> None:
        super().__init__()
        self.config = config
        for i in range(1, 11):
            self.add_module(f"conv{i}", ConvBlock(CHANNELS[i - 1], CHANNELS[i], POOLS.get(i)))
        self.gru = nn.GRU(1024, 512, batch_first=True, bidirectional=True)
        self.fc_prob = nn.Linear(1024, config.classes)
        if config.pooling == "attention":
            self.fc_att = nn.Linear(1024, config.classes)
        # Of the configuration, not of the weights: not persistent, so checkpoints keep the authors' keys.
        self.register_buffer("mean", torch.tensor(config.mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(config.std, dtype=torch.float32), persistent=False)
        self._initialise()

    @property
    def _convolution_dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if ".bn." in name:
                continue
            if parameter.ndim == 1:
                nn.init.zeros_(parameter)
            elif name.startswith("gru."):
                nn.init.orthogonal_(parameter)
            else:
                nn.init.xavier_uniform_(parameter)

    def features(self, waveform: torch.Tensor) -> torch.Tensor:
        """Log-mel features of one window in dB: `sedembed.models.frontend.log_mel`."""
        return log_mel(waveform)

    def frame_count(self, samples: int) -> int:
        """Count the feature frames of a window: `sedembed.models.frontend.frame_count`."""
        return frame_count(samples)

    def forward_normalised(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> NetworkOutput:
        """`forward` for features that are already normalised (and, in training, masked).

        Frames come at a quarter of the features' rate; at least 4 feature frames are needed. Padding never reaches a
        valid frame: it is set to zero after every block, as the border of a convolution is, and both directions of the
        GRU skip it.
        """
        frames, lengths = self._recurrent_frames(x, lengths)
        probabilities = torch.sigmoid(self.fc_prob(frames)).clamp(PROBABILITY_FLOOR, 1.0 - PROBABILITY_FLOOR)
        return NetworkOutput(frames, probabilities, lengths)

    def forward_frames(
        self, log_mel: torch.Tensor, lengths: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`Backbone.forward_frames`, without the last layer."""
        return self._recurrent_frames((log_mel - self.mean) / self.std, lengths)

    def _recurrent_frames(
        self, x: torch.Tensor, lengths: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Output of the GRU for normalised features, and valid frames."""
        # Convolutions are fastest in batches that stay in the cache, the GRU in large ones, which share its weights.
        items = max(1, _CONVOLVED // x.shape[1]) if self.in_pieces else len(x)
        valid = [None] * len(x) if lengths is None else torch.split(lengths, items)
        parts = [self._convolve(part, length) for part, length in zip(torch.split(x, items), valid, strict=False)]
        convolved = parts[0] if len(parts) == 1 else torch.cat(parts)
        if lengths is not None:
            lengths = lengths // POOLS[2][0] // POOLS[4][0]
        return self._recur(convolved, lengths), lengths

    def _convolve(self, x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Input of the GRU, shape (batch, frames, 1024)."""
        x = x[:, None].to(self._convolution_dtype)
        if lengths is not None:
            x = blank_beyond(x, lengths)
        blocks = [self.get_submodule(f"conv{i}") for i in range(1, 11)]
        if self.in_pieces:
            for pair in (blocks[:2], blocks[2:4]):
                x, lengths = run_in_pieces(pair, x, lengths, _PIECE)
            blocks = blocks[4:]
        x, _ = run_blocks(blocks, x, lengths)
        # (batch, channel, frame, bin) -> (batch, frame, channel·2 + bin), the authors' order.
        return x.permute(0, 2, 1, 3).flatten(2).to(self.fc_prob.weight.dtype)

    def _recur(self, x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        if isinstance(self.gru, (FrozenGRU, TwoWayGRU)):
            recurred: torch.Tensor = self.gru(x, lengths)
            return recurred
        if lengths is None and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            return self._recur_narrow(x, torch.get_autocast_dtype("cpu"))
        if lengths is None:
            return self.gru(x)[0]  # type: ignore[no-any-return]
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        output, _ = self.gru(packed)
        return nn.utils.rnn.pad_packed_sequence(output, batch_first=True, total_length=x.shape[1])[0]

    def _recur_narrow(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Run the GRU in bfloat16, which autocast does on CUDA but not on a CPU."""
        state = x.new_zeros(2, len(x), self.gru.hidden_size, dtype=dtype)
        weights = [weight.to(dtype) for weight in self.gru.parameters()]
        frames: torch.Tensor = torch.gru(x.to(dtype), state, weights, True, 1, 0.0, self.training, True, True)[0]
        return frames.float()

    def pool(self, output: NetworkOutput) -> torch.Tensor:
        """Clip probabilities, shape (batch, classes), by the pooling of the configuration."""
        p = output.probabilities
        valid = torch.ones_like(p[..., :1])
        if output.lengths is not None:
            valid = (torch.arange(p.shape[1], device=p.device) < output.lengths[:, None])[..., None].to(p.dtype)
        if self.config.pooling == "max":
            return (p * valid).amax(1)
        if self.config.pooling == "average":
            weight = valid.expand_as(p)
        elif self.config.pooling == "linear":
            weight = p * valid
        elif self.config.pooling == "exponential":
            weight = p.exp() * valid
        else:
            weight = torch.softmax(self.fc_att(output.frames).masked_fill(valid == 0, -torch.inf), 1)
        return (p * weight).sum(1) / weight.sum(1)

    def prepare(self, device: torch.device, convolutions: torch.dtype = torch.float32) -> TALNet:
        """Copy made ready to embed on a device: the same function to rounding (measured 1.1e-6 relative), and faster.

        Batch normalisations are folded. On a CPU, both directions of the GRU step together, and in float32 wide
        convolutions run by Winograd's algorithm. The recurrent layer stays in float32.
        """
        prepared = prepare_convolutions(self, device, convolutions)
        prepared.in_pieces = device.type == "cpu"
        if device.type == "cpu" and isinstance(prepared.gru, nn.GRU):
            prepared.gru = FrozenGRU(prepared.gru)  # type: ignore[assignment]
        return prepared

    def traceable(self) -> TALNet:
        """Copy whose GRU is two one-way ones, because tracing loses packed sequences."""
        copied = super().traceable()
        copied.gru = TwoWayGRU(copied.gru)  # type: ignore[assignment]
        return copied

    @property
    def event_layer(self) -> nn.Linear:
        """Linear layer from the GRU's output to the logits of the events."""
        return self.fc_prob

    @property
    def attention_layer(self) -> nn.Linear | None:
        """Linear layer of the attention, under attention pooling."""
        return getattr(self, "fc_att", None)

    @classmethod
    def default_config(cls, classes: int, measured: Normalizer | None = None, **fields: Any) -> TALNetConfig:
        """`Backbone.default_config`; the default normalisation is that of the authors' AudioSet training set."""
        config: TALNetConfig = super().default_config(classes, measured or packaged_normalizer(), **fields)
        return config


def packaged_normalizer() -> Normalizer:
    """Mean and standard deviation of TALNet's features over the authors' AudioSet training set, 64 numbers each, dB."""
    numbers = json.loads(files("sedembed.models").joinpath("talnet_normalizer.json").read_text(encoding="utf-8"))
    return tuple(numbers["mu"]), tuple(numbers["sigma"])
