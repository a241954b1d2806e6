"""The teacher of the first weights: EfficientAT mn04_as, a MobileNetV3 trained on AudioSet.

Schmid, Koutini & Widmer (2023), "Efficient large-scale audio tagging via transformer-to-CNN knowledge distillation".
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

__all__ = ["TEACHER_CELL_SECONDS", "TEACHER_SAMPLE_RATE", "Teacher", "TeacherOutput", "load_teacher", "to_teacher_rate"]

TEACHER_SAMPLE_RATE = 32_000
TEACHER_CELL_SECONDS = 0.32  # five strides of two over frames of 10 ms; the first cell is centred on the first frame
_N_FFT, _WINDOW, _HOP, _MELS, _TOP_HZ = 1024, 800, 320, 128, 15_000.0

# kernel, expanded channels, output channels, squeeze-and-excitation, hard-swish, stride: MobileNetV3-large at width 1
_BLOCKS = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)
_INNER_BLOCKS = 5


def _to_eights(channels: float) -> int:
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class _ConvNorm(nn.Sequential):
    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        activation: type[nn.Module] | None = None,
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(cin, cout, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
            nn.BatchNorm2d(cout, eps=0.001),
        ]
        if activation is not None:
            layers.append(activation())
        super().__init__(*layers)

    def fold(self) -> None:
        """Let the convolution do what the batch normalisation does."""
        convolution, norm = self[0], self[1]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            self[0], self[1] = nn.utils.fusion.fuse_conv_bn_eval(convolution, norm), nn.Identity()


class _Excitation(nn.Module):
    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, squeezed)
        self.fc2 = nn.Linear(squeezed, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = torch.sigmoid(self.fc2(functional.relu(self.fc1(x.mean((2, 3))))))
        return scale[:, :, None, None] * x


class _Excitations(nn.Module):
    """The released model's wrapper: one excitation over the channels, kept for its key names."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.conc_se_layers = nn.ModuleList([_Excitation(channels, squeezed)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conc_se_layers[0](x)
        return y


class _Residual(nn.Module):
    def __init__(self, cin: int, kernel: int, hidden: int, cout: int, excite: bool, hard: bool, stride: int) -> None:
        super().__init__()
        activation = nn.Hardswish if hard else nn.ReLU
        layers: list[nn.Module] = []
        if hidden != cin:
            layers.append(_ConvNorm(cin, hidden, 1, activation=activation))
        layers.append(_ConvNorm(hidden, hidden, kernel, stride, hidden, activation))
        if excite:
            layers.append(_Excitations(hidden, _to_eights(hidden / 4)))
        layers.append(_ConvNorm(hidden, cout, 1))
        self.block = nn.Sequential(*layers)
        self.skip = stride == 1 and cin == cout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_inner(x)[0]

    def forward_inner(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Output, and the input of the squeeze-and-excitation layer if there is one."""
        y, inner = x, None
        for layer in self.block:
            if isinstance(layer, _Excitations):
                inner = y
            y = layer(y)
        return (y + x if self.skip else y), inner


class TeacherOutput(NamedTuple):
    """Answers of the teacher.

    Attributes
    ----------
    logits : Tensor, shape (batch, 527)
    embeddings : Tensor, shape (batch, 384)
        Mean of `frames`.
    frames : Tensor, shape (batch, cells, 384)
        One every `TEACHER_CELL_SECONDS`.
    inner : Tensor, shape (batch, 1504)
        Inputs of the last five squeeze-and-excitation layers, as these layers average them.
    inner_frames : Tensor, shape (batch, cells, 1504)
        The same, averaged over frequency only.
    """

    logits: torch.Tensor
    embeddings: torch.Tensor
    frames: torch.Tensor
    inner: torch.Tensor
    inner_frames: torch.Tensor


class Teacher(nn.Module):
    """MobileNetV3-large of width 0.4 on 128 mel bins; classes in the order of `class_labels_indices.csv`."""

    _window: torch.Tensor
    _filters: torch.Tensor

    def __init__(self, width: float = 0.4, classes: int = 527) -> None:
        super().__init__()
        first = channels = _to_eights(16 * width)
        layers: list[nn.Module] = [_ConvNorm(1, first, 3, 2, activation=nn.Hardswish)]
        for kernel, hidden, out, excite, hard, stride in _BLOCKS:
            cout = _to_eights(out * width)
            layers.append(_Residual(channels, kernel, _to_eights(hidden * width), cout, excite, hard, stride))
            channels = cout
        self.embedding_size = 6 * channels
        self.inner_size = sum(_to_eights(hidden * width) for _, hidden, *_ in _BLOCKS[-_INNER_BLOCKS:])
        layers.append(_ConvNorm(channels, self.embedding_size, 1, activation=nn.Hardswish))
        self.features = nn.Sequential(*layers)
        hidden_size = _to_eights(1280 * width)
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(self.embedding_size, hidden_size),
            nn.Hardswish(),
            nn.Dropout(0.2),
            nn.Linear(hidden_size, classes),
        )
        self.register_buffer("_window", torch.hann_window(_WINDOW, periodic=False), persistent=False)
        self.register_buffer("_filters", _kaldi_filters(), persistent=False)

    def log_mel(self, waveform: torch.Tensor) -> torch.Tensor:
        """(batch, samples) at 32 kHz → (batch, 1, 128, frames)."""
        emphasised = waveform[:, 1:] - 0.97 * waveform[:, :-1]
        spectrum = torch.stft(
            emphasised, _N_FFT, _HOP, _WINDOW, self._window, center=True, normalized=False, return_complex=True
        )
        power = spectrum.real.square() + spectrum.imag.square()
        return ((self._filters @ power + 1e-5).log() + 4.5).div(5.0)[:, None]

    def forward(self, waveform: torch.Tensor) -> TeacherOutput:
        """(batch, samples) at 32 kHz → answers."""
        return self.classify(self.log_mel(waveform))

    def classify(self, log_mel: torch.Tensor) -> TeacherOutput:
        """(batch, 1, 128, frames) → answers."""
        x = log_mel.contiguous(memory_format=torch.channels_last)
        inner: list[torch.Tensor] = []
        for layer in self.features:
            if isinstance(layer, _Residual):
                x, part = layer.forward_inner(x)
                if part is not None:
                    inner.append(part.mean(2))
            else:
                x = layer(x)
        frames = x.mean(2).transpose(1, 2)
        pooled = frames.mean(1)
        last = inner[-_INNER_BLOCKS:]
        # Two of the five have twice the frame rate.
        at_cells = [part if part.shape[2] == frames.shape[1] else _halve(part) for part in last]
        return TeacherOutput(
            self.classifier[2:](pooled),
            pooled,
            frames,
            torch.cat([part.mean(2) for part in last], 1),
            torch.cat(at_cells, 1).transpose(1, 2),
        )


def _halve(part: torch.Tensor) -> torch.Tensor:
    """(batch, channels, frames) at half the frame rate, centred as a convolution with a stride of two is."""
    return functional.avg_pool1d(part, 3, 2, 1, count_include_pad=False)


def _kaldi_filters() -> torch.Tensor:
    """Triangles in the mel domain, 1127·ln(1 + f/700), over the bins below the Nyquist frequency."""

    def to_mel(hz: torch.Tensor) -> torch.Tensor:
        return 1127.0 * torch.log1p(hz / 700.0)

    step = TEACHER_SAMPLE_RATE / _N_FFT
    top = 1127.0 * math.log1p(_TOP_HZ / 700.0)
    edges = torch.linspace(0.0, top, _MELS + 2, dtype=torch.float64)[:, None]
    mel = to_mel(step * torch.arange(_N_FFT // 2, dtype=torch.float64))[None]
    rising = (mel - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel) / (edges[2:] - edges[1:-1])
    triangles = torch.minimum(rising, falling).clamp_min(0.0)
    return functional.pad(triangles, (0, 1)).float()


def load_teacher(path: str | Path) -> Teacher:
    """Read `mn04_as.safetensors`, fold its batch normalisations and freeze it."""
    teacher = Teacher()
    teacher.load_state_dict(load_file(str(path)))
    teacher.eval().requires_grad_(False)
    for module in list(teacher.modules()):
        if isinstance(module, _ConvNorm):
            module.fold()
    teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return teacher


def to_teacher_rate(waveforms: NDArray[np.float32], sample_rate: int) -> torch.Tensor:
    """Resample waveforms (batch, samples) to what the teacher takes."""
    rates = sample_rate, TEACHER_SAMPLE_RATE
    return torch.from_numpy(np.stack([soxr.resample(waveform, *rates, quality="HQ") for waveform in waveforms]))
