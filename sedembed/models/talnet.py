"""TALNet: ten convolutions, a bidirectional GRU and a pooled sigmoid layer over the 527 AudioSet classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import nn

from sedembed.models.frontend import FRAME_RATE, N_MELS, SAMPLE_RATE, log_mel
from sedembed.models.layers.blocks import PROBABILITY_FLOOR, ConvBlock, blank_beyond, prepare_convolutions
from sedembed.models.layers.gru import bidirectional_gru

__all__ = ["TALNet", "TALNetConfig", "TALNetOutput", "prepare"]

Pooling = Literal["max", "average", "linear", "exponential", "attention"]

CHANNELS = (1, 32, 32, 64, 64, 128, 128, 256, 256, 512, 512)
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
    classes: int = 527
    pooling: Pooling = "linear"
    architecture: Literal["talnet"] = "talnet"

    def __post_init__(self) -> None:
        if len(self.mean) != 64 or len(self.std) != 64:
            raise ValueError(
                f"mean and std need 64 numbers each, one per mel bin, got {len(self.mean)}, {len(self.std)}"
            )
        if not all(value > 0 for value in self.std):
            raise ValueError("std needs positive numbers only")
        if self.classes < 1:
            raise ValueError(f"classes must be at least 1, got {self.classes}")
        if self.pooling not in get_args(Pooling):
            raise ValueError(f"pooling must be one of {', '.join(get_args(Pooling))}, got {self.pooling!r}")


class TALNetOutput(NamedTuple):
    """What the network gives for a batch of windows.

    Attributes
    ----------
    frames : torch.Tensor, shape (batch, frames, 1024)
        Output of the GRU, ten frames a second: the frame embeddings.
    probabilities : torch.Tensor, shape (batch, frames, classes)
        Probability of each event in each frame, in [1e-7, 1 - 1e-7].
    lengths : torch.Tensor or None, int64, shape (batch,)
        Valid frames of each item where `lengths` were given; frames beyond are meaningless.
    """

    frames: torch.Tensor
    probabilities: torch.Tensor
    lengths: torch.Tensor | None


class TALNet(nn.Module):
    """The CRNN of Wang (2018), "Polyphonic sound event detection with weak labeling", trained on AudioSet.

    Parameters
    ----------
    config : TALNetConfig
        Normalisation, classes and pooling.
    """

    sample_rate = SAMPLE_RATE
    min_samples = 1200  # four feature frames: one frame of the GRU
    embedding_size = 1024
    n_mels = N_MELS
    feature_rate = FRAME_RATE  # feature frames per second
    embedding_maximum = unit_length = False  # a clip's embedding is the plain mean of its frames
    frame_rate = FRAME_RATE / 4
    first_frame_time = 1.5 / FRAME_RATE  # centre of the first four feature frames, in seconds
    # Sixteen windows of ten seconds: larger batches were not faster, and four windows of a minute stay under 2 GB.
    max_batch_frames = 16 * 401

    mean: torch.Tensor
    std: torch.Tensor
    steps_together = False  # set by `prepare`: the recurrence without gradients, faster on a CPU

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
    def pools_by_maximum(self) -> bool:
        """Whether a clip's probabilities are the highest of its frames."""
        return self.config.pooling == "max"

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
                for gate in parameter.chunk(3):
                    nn.init.orthogonal_(gate)
            else:
                nn.init.xavier_uniform_(parameter)

    @staticmethod
    def features(waveform: torch.Tensor) -> torch.Tensor:
        """Log-mel features of one window: `sedembed.models.frontend.log_mel`."""
        return log_mel(waveform)

    def forward(self, log_mel: torch.Tensor, lengths: torch.Tensor | None = None) -> TALNetOutput:
        """Frame embeddings and frame probabilities of a batch of windows.

        Parameters
        ----------
        log_mel : torch.Tensor, shape (batch, frames, 64)
            Log-mel features in dB as `sedembed.models.frontend.log_mel` gives them; at least 4 frames.
        lengths : torch.Tensor, int64, shape (batch,), optional
            Valid frames of each item, where shorter ones were padded. Padding never reaches a valid frame: it is set
            to zero after every block, as the border of a convolution is, and skipped in both directions of the GRU.

        Returns
        -------
        TALNetOutput
            Frames at a quarter of the input's rate.
        """
        return self.forward_normalised((log_mel - self.mean) / self.std, lengths)

    def forward_normalised(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> TALNetOutput:
        """`forward` for features that are normalised (and, in training, masked) already."""
        x = x[:, None].to(self._convolution_dtype)
        if lengths is not None:
            x = blank_beyond(x, lengths)
        for i in range(1, 11):
            x = self.get_submodule(f"conv{i}")(x)
            if lengths is not None:
                lengths = lengths // POOLS.get(i, (1, 1))[0]
                x = blank_beyond(x, lengths)
        # (batch, channel, frame, bin) -> (batch, frame, channel·2 + bin), the authors' order.
        x = x.permute(0, 2, 1, 3).flatten(2).to(self.fc_prob.weight.dtype)
        frames = self._recur(x, lengths)
        probabilities = torch.sigmoid(self.fc_prob(frames)).clamp(PROBABILITY_FLOOR, 1.0 - PROBABILITY_FLOOR)
        return TALNetOutput(frames, probabilities, lengths)

    def _recur(self, x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        if self.steps_together:
            return bidirectional_gru(self.gru, x, lengths)
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

    def pool(self, output: TALNetOutput) -> torch.Tensor:
        """Clip probabilities, shape (batch, classes), by the configured pooling over the valid frames."""
        numerator, denominator = self.pool_terms(output)
        return numerator / denominator

    def pool_terms(self, output: TALNetOutput) -> tuple[torch.Tensor, torch.Tensor]:
        """Numerator and denominator of `pool`.

        Both add up over the windows of a long clip, except under max pooling, where the numerator is a maximum and the
        denominator is one.
        """
        p = output.probabilities
        valid = torch.ones_like(p[..., :1])
        if output.lengths is not None:
            valid = (torch.arange(p.shape[1], device=p.device) < output.lengths[:, None])[..., None].to(p.dtype)
        if self.config.pooling == "max":
            return (p * valid).amax(1), torch.ones_like(p[:, 0])
        if self.config.pooling == "average":
            weight = valid.expand_as(p)
        elif self.config.pooling == "linear":
            weight = p * valid
        elif self.config.pooling == "exponential":
            weight = p.exp() * valid
        else:
            # No maximum is taken off, so that windows add up; double holds e^700.
            weight = self.fc_att(output.frames).double().exp() * valid
        return (p * weight).sum(1), weight.sum(1)


def prepare(network: TALNet, device: torch.device, convolutions: torch.dtype = torch.float32) -> TALNet:
    """Copy of a network made ready to embed on a device: the same function, to rounding, and faster.

    Parameters
    ----------
    network : TALNet
        Left unchanged.
    device : torch.device
        Where it will run.
    convolutions : torch.dtype
        Arithmetic of the convolutions; the recurrent layer stays in float32.

    Returns
    -------
    TALNet
        Batch normalisations folded; on a CPU in float32, wide convolutions by Winograd's algorithm and both directions
        of the GRU stepping together (measured 1.1e-6 relative).
    """
    prepared = prepare_convolutions(network, device, convolutions)
    prepared.steps_together = device.type == "cpu"
    return prepared
