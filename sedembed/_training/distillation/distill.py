"""Train a network to give what a teacher gives: ``python -m sedembed._training.distillation.distill --help``.

Teacher and student get the same mixture of sounds, so no label is ever wrong.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import logging
import math
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import nn

from sedembed._training.checkpoint import load_checkpoint, save_checkpoint
from sedembed._training.distillation.collection import (
    SAMPLE_RATE,
    Collection,
    CropSettings,
    draw_mixture,
    open_collection,
)
from sedembed._training.distillation.config import DistillConfig
from sedembed._training.distillation.muon import Muon
from sedembed._training.distillation.teacher import TEACHER_CELL_SECONDS, TEACHER_SAMPLE_RATE, load_teacher
from sedembed._training.spec_augment import mask_features
from sedembed.errors import DivergedError, InvalidArgumentError
from sedembed.models.base import Backbone
from sedembed.models.layers.blocks import ConvBlock, fold_batchnorm
from sedembed.models.layers.winograd import use_winograd
from sedembed.models.registry import architecture_of
from sedembed.models.weights import load_network, resolve, save_pretrained

__all__ = ["Trainer", "main"]

logger = logging.getLogger(__name__)

SPEC_AUGMENT_SECONDS, SPEC_AUGMENT_BINS = 2.0, 16


@dataclass(frozen=True)
class Batch:
    """Features of one step, and what the teacher says about the same mixtures."""

    features: torch.Tensor  # (batch, frames, 64), normalised and masked
    targets: torch.Tensor  # (batch, 527) probabilities
    embeddings: torch.Tensor  # (batch, 384), standardised; 1 504 inner features more if they are asked for
    local: torch.Tensor  # (batch, cells, 384 or 1888), the same over time

    def to(self, device: torch.device) -> Batch:
        return Batch(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))


class Student(nn.Module):
    """The network and the linear map from its embedding to the teacher's."""

    def __init__(self, network: Backbone, teacher_size: int) -> None:
        super().__init__()
        self.network = network
        self.to_teacher = nn.Linear(network.embedding_size, teacher_size)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Clip probabilities (batch, classes) and, for each frame, a guess of the teacher's embedding there."""
        output = self.network.forward_normalised(features)
        return self.network.pool(output), self.to_teacher(output.frames)


def _new_network(config: DistillConfig, collection: Collection) -> Backbone:
    backbone = architecture_of(config.model)
    if backbone.normalizes_bins:
        network = backbone(backbone.default_config(527))
    else:
        mean, std = _measure_decibels(backbone, collection)
        network = backbone(backbone.default_config(527, ((mean,), (std,))))
    nn.init.constant_(network.event_layer.bias, config.output_bias)
    if network.attention_layer is not None:
        nn.init.zeros_(network.attention_layer.weight)  # all segments alike at first
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for block in network.contiguous_blocks:
        block.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return network


def _measure_decibels(backbone: type[Backbone], collection: Collection) -> tuple[float, float]:
    """Mean and deviation of a network's features over every twentieth recording, to a tenth of a decibel."""
    with torch.device("meta"):
        network = backbone(backbone.default_config(527))
    values = torch.cat(
        [
            network.features(torch.from_numpy(collection.waveform(index))).flatten()
            for index in range(0, len(collection.files) - collection.added, 20)
            if not collection.held_out[index]
        ]
    )
    return round(values.mean().item(), 1), round(values.std().item(), 1)


def _alignment(times: NDArray[np.float64], cells: int) -> torch.Tensor:
    """Matrix (cells, frames) that interpolates frames at `times` in seconds to the teacher's cells.

    Rows of cells that no frame is near to are zero.
    """
    distance = np.abs(TEACHER_CELL_SECONDS * np.arange(cells)[:, None] - times)
    weight = np.maximum(0.0, 1.0 - distance / TEACHER_CELL_SECONDS)
    total = weight.sum(1, keepdims=True)
    return torch.from_numpy(np.where(total > 0.5, weight / np.maximum(total, 0.5), 0.0)).float()


class _Folded(nn.BatchNorm2d):
    """Stands where a batch normalisation was folded into its convolution; its state is that of one without effect."""

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


def _freeze(network: nn.Module, average: nn.Module, count: int) -> None:
    """Fix the first blocks of convolution at their average, so that they need no gradients and no statistics."""
    blocks, means = (
        [block for block in each.modules() if isinstance(block, ConvBlock)][:count] for each in (network, average)
    )
    for block, mean in zip(blocks, means, strict=True):
        folded = fold_batchnorm(mean)
        for each in (block, mean):
            each.conv.load_state_dict(folded.conv.state_dict())
            each.bn = _Folded(cast(nn.BatchNorm2d, each.bn))
            each.requires_grad_(False)
            each.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class Trainer:
    """One run in one folder: config, log, checkpoint, result. Calling `run` again continues where it stopped.

    A run that begins from the checkpoint of another one (`start`) takes its networks and the state of its optimisers,
    and counts its own steps: constant runs can follow each other, with one that cools down after any of them. A run
    that begins from a model directory takes its weights only.
    """

    def __init__(
        self,
        config: DistillConfig,
        data: Path | Sequence[Path],
        out: Path,
        cache: Path,
        start: Path | None = None,
        device: str = "cpu",
    ) -> None:
        self.config, self.out, self.device = config, out, torch.device(device)
        out.mkdir(parents=True, exist_ok=True)
        self._check_or_write_config(out / "config.json")
        torch.manual_seed(config.seed)
        self.collection = open_collection(data, cache, config.held_out_share)
        folders = [data] if isinstance(data, Path) else list(data)
        self.teacher = load_teacher(folders[0] / "teacher" / "mn04_as.safetensors").to(self.device)
        logits = np.concatenate([np.load(folder / "teacher.npz")["logits"] for folder in folders])
        self.weights = _sampling_weights(logits, self.collection, config.rarity)
        # Of the first folder alone: targets stay the same when folders are added.
        embeddings = np.load(folders[0] / "teacher.npz")["embeddings"].astype(np.float32)
        self.embedding_mean = torch.from_numpy(embeddings.mean(0))
        self.embedding_std = torch.from_numpy(embeddings.std(0) + 1e-3)
        if config.inner_weight:
            mean, std = self._measure_inner()
            self.embedding_mean = torch.cat((self.embedding_mean, mean))
            self.embedding_std = torch.cat((self.embedding_std, std))
        network = _new_network(config, self.collection)
        if config.winograd and self.device.type == "cpu" and config.precision == "float32":
            use_winograd(network)
        self.student = Student(network, len(self.embedding_mean)).to(self.device)
        self.average = copy.deepcopy(self.student).requires_grad_(False)
        self.optimizers = _optimizers(self.student, config)
        self.step = 0
        self.scale = 1.0  # of the learning rate, by the plateau schedule
        self.best, self.bad = math.inf, 0
        self._held_out = self._prepare_held_out()
        if (out / "checkpoint.pt").exists():
            self._load(out / "checkpoint.pt")
            logger.info("continuing at step %d", self.step)
        elif start is not None and start.is_dir():
            self._begin_with_model(start)
        elif start is not None:
            self._load(start)
            self.step, self.scale, self.best, self.bad = 0, 1.0, math.inf, 0
        _freeze(self.student.network, self.average.network, config.frozen_blocks)

    def _check_or_write_config(self, path: Path) -> None:
        text = json.dumps(asdict(self.config), indent=2) + "\n"
        if path.exists() and path.read_text() != text:
            raise InvalidArgumentError(f"{path} holds other settings; use another --out, or the settings of that run")
        path.write_text(text)

    # --- data -----------------------------------------------------------------------------------------------------

    def make_batch(self, step: int) -> Batch:
        """Batch number `step`, the same whenever and wherever it is made."""
        config = self.config
        rng = np.random.default_rng((config.seed, step))
        settings = CropSettings(
            config.early_seconds if step < config.early_share * config.steps else config.seconds,
            config.mix_probability,
            config.mix_level_db,
            (config.gain_low_db, config.gain_high_db),
            config.speed_probability,
            config.speed_semitones,
            config.third_probability,
            config.equaliser_probability,
            config.equaliser_db,
            config.room_probability,
        )
        waveforms = [draw_mixture(self.collection, self.weights, settings, rng) for _ in range(config.batch_size)]
        network = self.student.network
        features = torch.stack([network.features(torch.from_numpy(waveform)) for waveform in waveforms])
        features = (features - network.mean.cpu()) / network.std.cpu()
        longest = round(SPEC_AUGMENT_SECONDS * network.feature_rate)
        for item in features:
            if rng.random() < config.spec_augment_probability:
                mask_features(item, longest, SPEC_AUGMENT_BINS, network.spec_augment_fill, rng)
        up = [soxr.resample(waveform, SAMPLE_RATE, TEACHER_SAMPLE_RATE, quality="HQ") for waveform in waveforms]
        return Batch(features, *self._ask_teacher(np.stack(up)))

    @torch.no_grad()
    def _ask_teacher(self, up: NDArray[np.float32]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Probabilities, and standardised embeddings of the clip and over time, of waveforms at the teacher's rate."""
        waveforms = torch.from_numpy(up).to(self.device)
        # A few clips at once stay in a CPU's cache, which is faster (measured).
        at_once = 8 if self.device.type == "cpu" else len(waveforms)
        outputs = [self.teacher(waveforms[i : i + at_once]) for i in range(0, len(waveforms), at_once)]
        logits, embeddings, local, inner, inner_local = (torch.cat(part).cpu() for part in zip(*outputs, strict=True))
        if self.config.inner_weight:
            embeddings, local = torch.cat((embeddings, inner), 1), torch.cat((local, inner_local), 2)
        embeddings, local = ((value - self.embedding_mean) / self.embedding_std for value in (embeddings, local))
        return torch.sigmoid(logits), embeddings, local

    @torch.no_grad()
    def _measure_inner(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of the teacher's inner features over every twentieth recording of the first folder."""
        values = []
        for index in range(0, len(self.collection.files) - self.collection.added, 20):
            if not self.collection.held_out[index]:
                waveform = np.resize(self.collection.waveform(index), 10 * SAMPLE_RATE)
                up = soxr.resample(waveform, SAMPLE_RATE, TEACHER_SAMPLE_RATE, quality="HQ")
                values.append(self.teacher(torch.from_numpy(up)[None].to(self.device)).inner[0].cpu())
        inner = torch.stack(values)
        return inner.mean(0), inner.std(0, correction=0) + 1e-3

    def _weigh(self, difference: torch.Tensor) -> torch.Tensor:
        """Squared error over the last axis: of the embedding, and of the inner features at their weight."""
        squares, size = difference.square(), self.teacher.embedding_size
        error = squares[..., :size].mean(-1)
        if self.config.inner_weight:
            error = error + self.config.inner_weight * squares[..., size:].mean(-1)
        return error

    def _batches(self, start: int) -> Iterator[Batch]:
        # Batches ahead: resampling and mixing run on one core while the network's small kernels leave it free.
        ahead = 1 if self.device.type == "cpu" else max(2, (os.cpu_count() or 2) - 2)
        with ThreadPoolExecutor(ahead, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            steps = iter(range(start, self.config.steps))
            pending = deque(pool.submit(self.make_batch, step) for step in islice(steps, ahead))
            while pending:
                batch = pending.popleft().result()
                pending.extend(pool.submit(self.make_batch, step) for step in islice(steps, 1))
                yield batch

    def _prepare_held_out(self) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Features of every held-out recording, whole, and the teacher's probabilities and standardised embedding."""
        prepared = []
        for index in np.flatnonzero(self.collection.held_out):
            waveform = np.resize(self.collection.waveform(int(index)), 10 * SAMPLE_RATE)
            up = soxr.resample(waveform, SAMPLE_RATE, TEACHER_SAMPLE_RATE, quality="HQ")
            probabilities, embeddings, _ = self._ask_teacher(up[None])
            features = self.student.network.features(torch.from_numpy(waveform))
            prepared.append((features, probabilities[0], embeddings[0]))
        return prepared

    # --- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the last step, then write the averaged network as a model directory."""
        config = self.config
        log_path = self.out / "log.csv"
        started, seconds = time.monotonic(), 0.0
        sums = np.zeros(3)
        for batch in self._batches(self.step):
            sums += self._update(batch.to(self.device))
            self.step += 1
            seconds += batch.features.shape[0] * batch.features.shape[1] / self.student.network.feature_rate
            if self.step % 10 == 0:
                row: dict[str, Any] = {
                    "step": self.step,
                    "learning_rate": f"{self._learning_scale():.5f}",
                    "bce": f"{sums[0] / 10:.4f}",
                    "embedding_mse": f"{sums[1] / 10:.4f}",
                    "local_mse": f"{sums[2] / 10:.4f}",
                    "audio_seconds_per_second": f"{seconds / (time.monotonic() - started):.1f}",
                    "held_out_bce": "",
                    "held_out_kl": "",
                    "held_out_mse": "",
                }
                sums[:] = 0.0
                if self.step % config.validate_every == 0 or self.step == config.steps:
                    loss, divergence, error = self.validate()
                    row["held_out_bce"], row["held_out_kl"] = f"{loss:.4f}", f"{divergence:.4f}"
                    row["held_out_mse"] = f"{error:.4f}"
                    self._plateau(loss)
                _append(log_path, row)
                logger.info(", ".join(f"{name} {value}" for name, value in row.items() if value))
            if self.step % config.checkpoint_every == 0 or self.step == config.steps:
                self._save(self.out / "checkpoint.pt")
        save_pretrained(self.average.network, self.out / "model", dtype=torch.float16)

    def _update(self, batch: Batch) -> tuple[float, float, float]:
        config = self.config
        scale = self._learning_scale()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * scale
            optimizer.zero_grad()
        self.student.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            probabilities, guesses = self.student(batch.features)
        bce = _clip_bce(probabilities.float(), batch.targets)
        mse = self._weigh(guesses.float().mean(1) - batch.embeddings).mean()
        loss = config.bce_scale * bce + config.embedding_weight * mse
        local = torch.zeros(())
        if config.local_weight:
            network = self.student.network
            times = network.first_frame_time + np.arange(guesses.shape[1]) / network.frame_rate
            matrix = _alignment(times, batch.local.shape[1]).to(self.device)
            error = self._weigh(matrix @ guesses.float() - batch.local).mean(0)
            local = error[matrix.sum(1) > 0].mean()
            loss = loss + config.local_weight * local
        if not torch.isfinite(loss):
            raise DivergedError(
                f"the loss became {loss.item()} at step {self.step}; the last good state is in "
                f"{self.out / 'checkpoint.pt'}; continue from it with a lower learning rate"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.student.parameters(), config.gradient_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        # A short memory at first, so that the average forgets the random start.
        decay = min(config.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, value in zip(_floating_state(self.average), _floating_state(self.student), strict=True):
                mean.lerp_(value, 1.0 - decay)
        return bce.item(), mse.item(), local.item()

    def _learning_scale(self) -> float:
        config = self.config
        warm = min(1.0, (self.step + 1) / max(1, config.warmup_steps))
        if config.schedule in ("plateau", "constant"):
            return warm * self.scale
        progress = min(1.0, self.step / config.steps)
        if config.schedule == "linear":
            return warm * (1.0 - progress)
        return warm * 0.5 * (1.0 + math.cos(math.pi * progress))

    def _plateau(self, loss: float) -> None:
        if self.config.schedule != "plateau":
            return
        if loss < self.best - 1e-4:
            self.best, self.bad = loss, 0
        else:
            self.bad += 1
        if self.bad > self.config.plateau_patience:
            self.scale, self.bad = self.scale * self.config.plateau_factor, 0

    @torch.inference_mode()
    def validate(self) -> tuple[float, float, float]:
        """How far the average is from the teacher on the held-out recordings.

        Binary cross-entropy and Kullback-Leibler divergence (nats a clip, all classes), and the squared error of the
        mapped embedding.
        """
        network = self.average.network.eval()
        losses, entropies, errors = [], [], []
        for features, targets, embedding in self._held_out:
            output = network(features[None].to(self.device))
            probabilities = network.pool(output).cpu()
            losses.append(_clip_bce(probabilities, targets[None]).item())
            entropies.append(_clip_bce(targets[None].clamp(1e-7, 1 - 1e-7), targets[None]).item())
            guess = self.average.to_teacher(output.frames[0].mean(0)).cpu()
            size = self.teacher.embedding_size
            errors.append((guess - embedding)[:size].square().mean().item())
        loss = float(np.mean(losses))
        return loss, loss - float(np.mean(entropies)), float(np.mean(errors))

    # --- state ----------------------------------------------------------------------------------------------------

    def _save(self, path: Path) -> None:
        state = {
            "step": self.step,
            "student": self.student.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "plateau": (self.scale, self.best, self.bad),
        }
        save_checkpoint(path, state)

    def _begin_with_model(self, directory: Path) -> None:
        """Take the weights of a finished model; what only a checkpoint holds begins anew."""
        model = load_network(resolve(directory))
        if model.config != self.student.network.config:
            raise InvalidArgumentError(
                f"{directory} holds a {model.config.architecture} of another configuration than this run's "
                f"{self.config.model}; begin from a model of the same architecture and normalisation"
            )
        for part in (self.student, self.average):
            part.network.load_state_dict(model.state_dict())
            # A random map would disturb the network before the map itself has been trained.
            nn.init.zeros_(part.to_teacher.weight)
            nn.init.zeros_(part.to_teacher.bias)

    def _load(self, path: Path) -> None:
        load_checkpoint(path, self._restore, self.device)

    def _restore(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.student.load_state_dict(state["student"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            settings = [(group["base_lr"], group["weight_decay"]) for group in optimizer.param_groups]
            optimizer.load_state_dict(saved)
            # The rates are the settings', which may differ from those of the run that the state comes from.
            for group, (rate, decay) in zip(optimizer.param_groups, settings, strict=True):
                group["base_lr"], group["weight_decay"] = rate, decay
        self.scale, self.best, self.bad = state["plateau"]


def _clip_bce(probabilities: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy, summed over the classes and averaged over the clips."""
    return nn.functional.binary_cross_entropy(probabilities, targets, reduction="sum") / len(targets)


def _floating_state(module: nn.Module) -> list[torch.Tensor]:
    return [value for value in module.state_dict().values() if value.is_floating_point()]


def _sampling_weights(logits: NDArray[np.float16], collection: Collection, rarity: str) -> NDArray[np.float64]:
    """Cumulative weights: rare events and long recordings are drawn more often; held-out ones never.

    "spread" adds up what a recording has of every event, each divided by how much of it there is, under a root;
    "strongest" counts the one event alone of which the recording holds the greatest part.
    """
    probabilities = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
    amounts = probabilities.sum(0)
    # Two recordings more, or an event that the teacher almost never finds would dominate.
    strongest = (probabilities / (amounts + 2.0)).max(1)
    rare = np.sqrt((probabilities / amounts).sum(1)) if rarity == "spread" else strongest
    weights = rare * np.sqrt(np.diff(collection.starts)) * ~collection.held_out
    return np.cumsum(weights)


def _optimizers(student: Student, config: DistillConfig) -> list[torch.optim.Optimizer]:
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for parameter in student.parameters():
        # Orthogonalising WEANet's B5 to B7 would take longer than the rest of a step.
        inner = parameter.ndim == 4 and parameter.shape[1] > 1 and parameter.shape[2:] == (3, 3)
        (matrices if inner and config.optimizer == "muon" else rest).append(parameter)
    decayed = [p for p in rest if p.ndim >= 2]
    plain = [p for p in rest if p.ndim < 2]
    adamw = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=config.learning_rate,
    )
    optimizers: list[torch.optim.Optimizer] = [adamw]
    if matrices:
        optimizers.append(Muon(matrices, lr=config.muon_learning_rate, weight_decay=config.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers


def _append(path: Path, row: dict[str, Any]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def main() -> None:
    """Command line of the training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="JSON file of settings")
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        help="folder with audio/, segments.csv, teacher.npz, teacher/; more folders for training only need no teacher/",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the decoded audio")
    parser.add_argument("--start", type=Path, help="checkpoint.pt of another run, or a model directory, to begin from")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = DistillConfig.read(arguments.config)
    Trainer(
        config,
        arguments.data,
        arguments.out,
        arguments.cache,
        arguments.start,
        arguments.device,
    ).run()


if __name__ == "__main__":
    main()
