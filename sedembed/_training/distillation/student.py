"""The network that learns from the teacher, and the map from its embedding to the teacher's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import numpy as np
import torch
from torch import nn

from sedembed._training.distillation.batches import Batch
from sedembed._training.distillation.collection import Collection
from sedembed._training.distillation.config import DistillConfig
from sedembed._training.distillation.losses import align_frames
from sedembed._utils.machine import has_bfloat16_tiles
from sedembed.models.base import Backbone
from sedembed.models.layers.blocks import ConvBlock, fold_batchnorm
from sedembed.models.registry import architecture_of

__all__ = ["Student", "fit_map", "freeze_blocks", "make_network", "update_average"]

CLASSES = 527

# Of the mean square of the embedding's numbers, added to each: what few batches cannot tell stays near zero.
_RIDGE = 1.0


class Student(nn.Module):
    """The network and the linear map from its embedding to the teacher's."""

    def __init__(self, network: Backbone, teacher_size: int) -> None:
        super().__init__()
        self.network = network
        self.to_teacher = nn.Linear(network.embedding_size, teacher_size)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Clip probabilities (batch, classes) and, for each frame, an estimate of the teacher's embedding there."""
        output = self.network.forward_normalised(features)
        return self.network.pool(output), self.to_teacher(output.frames)


def make_network(config: DistillConfig, collection: Collection) -> Backbone:
    """Make an untrained network; one with a single mean and deviation gets those of the recordings."""
    backbone = architecture_of(config.model)
    if backbone.normalizes_bins:
        network = backbone(backbone.default_config(CLASSES))
    else:
        mean, std = _measure_decibels(backbone, collection)
        network = backbone(backbone.default_config(CLASSES, ((mean,), (std,))))
    nn.init.constant_(network.event_layer.bias, config.output_bias)
    if network.attention_layer is not None:
        nn.init.zeros_(network.attention_layer.weight)  # all segments count alike at first
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if not (config.precision == "bfloat16" and has_bfloat16_tiles()):  # tiles want channels_last (measured)
        for block in network.contiguous_blocks:
            block.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return network


def _measure_decibels(backbone: type[Backbone], collection: Collection) -> tuple[float, float]:
    """Mean and deviation of a network's features over every twentieth recording, to a tenth of a decibel."""
    with torch.device("meta"):
        network = backbone(backbone.default_config(CLASSES))
    values = torch.cat(
        [network.features(torch.from_numpy(collection.waveform(i))).flatten() for i in collection.measured()]
    )
    return round(values.mean().item(), 1), round(values.std().item(), 1)


@torch.inference_mode()
def fit_map(student: Student, batches: Iterable[Batch], clip_weight: float, local_weight: float) -> None:
    """Fit the map of a trained network by ridge regression: a map that is learned anew disturbs the network meanwhile.

    Parameters
    ----------
    student : Student
        Its map is changed; the network runs as in use, with its statistics fixed.
    batches : iterable of Batch
        On the student's device.
    clip_weight, local_weight : float
        Of the squared errors of clips and of moments, as in the loss.
    """
    network = student.network.eval()
    size = network.embedding_size
    gram, cross = torch.zeros(size + 1, size + 1, dtype=torch.float64), torch.zeros(())
    for batch in batches:
        frames = network.forward_normalised(batch.features).frames
        times = network.first_frame_time + np.arange(frames.shape[1]) / network.frame_rate
        matrix = align_frames(times, batch.local.shape[1]).to(frames.device)
        heard = matrix.sum(1) > 0
        moments, targets = (matrix @ frames)[:, heard].flatten(0, 1), batch.local[:, heard].flatten(0, 1)
        for rows, wanted, weight in (
            (frames.mean(1), batch.embeddings, clip_weight / len(frames)),
            (moments, targets, local_weight / len(moments)),
        ):
            given = nn.functional.pad(rows, (0, 1), value=1.0).double().cpu()
            gram += weight * given.T @ given
            cross = cross + weight * given.T @ wanted.double().cpu()
    squares = gram.diagonal()[:-1]
    squares += _RIDGE * squares.mean()
    solution = torch.linalg.solve(gram, cross)
    student.to_teacher.weight.copy_(solution[:-1].T)
    student.to_teacher.bias.copy_(solution[-1])


def freeze_blocks(network: nn.Module, average: nn.Module, count: int) -> None:
    """Fix the first blocks of convolution at their average, so that they need no gradients and no statistics."""
    blocks, means = (
        [block for block in each.modules() if isinstance(block, ConvBlock)][:count] for each in (network, average)
    )
    for block, mean in zip(blocks, means, strict=True):
        folded = fold_batchnorm(mean)
        for each in (block, mean):
            each.conv.load_state_dict(folded.conv.state_dict())
            each.bn = _FoldedBatchNorm(cast(nn.BatchNorm2d, each.bn))
            each.requires_grad_(False)
            each.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@torch.no_grad()
def update_average(average: nn.Module, student: nn.Module, decay: float) -> None:
    """Move every weight and running statistic of the average towards the student's, by a share of 1 - decay."""
    for mean, value in zip(_floating_state(average), _floating_state(student), strict=True):
        mean.lerp_(value, 1.0 - decay)


def _floating_state(module: nn.Module) -> list[torch.Tensor]:
    return [value for value in module.state_dict().values() if value.is_floating_point()]


class _FoldedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation that was folded into its convolution: it passes its input on and keeps its keys."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, norm.eps)
        self.load_state_dict(norm.state_dict())
        self.weight, self.bias = norm.weight, norm.bias  # the optimisers hold these
        with torch.no_grad():
            self.weight.fill_(1.0)
            self.bias.zero_()
        assert self.running_mean is not None
        assert self.running_var is not None
        self.running_mean.zero_()
        self.running_var.fill_(1.0 - self.eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x
