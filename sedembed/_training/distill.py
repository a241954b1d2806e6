"""Train TALNet to give what a teacher gives: ``python -m sedembed._training.distill --help``.

The teacher hears the very mixture that the student hears, so no label is ever wrong.
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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import nn

from sedembed._training.collection import (
    SAMPLE_RATE,
    Collection,
    CropSettings,
    draw_mixture,
    open_collection,
    spec_augment_bounds,
)
from sedembed._training.muon import Muon
from sedembed._training.teacher import TEACHER_SAMPLE_RATE, load_teacher
from sedembed.models.frontend import FRAME_RATE, N_MELS, log_mel
from sedembed.models.talnet import TALNet, TALNetConfig
from sedembed.models.weights import save_pretrained
from sedembed.models.winograd import use_winograd

__all__ = ["DistillConfig", "Trainer", "main"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DistillConfig:
    """Settings of one training run; the JSON file of a run holds exactly these keys."""

    steps: int = 2000
    batch_size: int = 32
    seconds: float = 5.0
    early_seconds: float = 5.0  # length of the crops in the first `early_share` of the steps
    early_share: float = 0.0
    mix_probability: float = 0.7
    mix_level_db: float = 10.0
    gain_low_db: float = -9.0
    gain_high_db: float = 3.0
    spec_augment_probability: float = 0.5
    optimizer: str = "adamw"  # "adamw", or "muon" for the inner convolutions with adamw for the rest
    learning_rate: float = 1.5e-3
    muon_learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    warmup_steps: int = 200
    schedule: str = (
        "cosine"  # "cosine" or "linear" to zero over all steps, "constant", or "plateau" on the held-out loss
    )
    plateau_factor: float = 0.8
    plateau_patience: int = 3
    gradient_norm: float = 5.0
    ema_decay: float = 0.999
    bce_scale: float = 0.125
    embedding_weight: float = 1.0
    output_bias: float = -4.0
    held_out_share: float = 0.02
    validate_every: int = 250
    checkpoint_every: int = 50
    precision: str = "float32"  # or "bfloat16": autocast over the convolutions
    winograd: bool = True
    seed: int = 15213

    @classmethod
    def read(cls, path: Path) -> DistillConfig:
        """Read a JSON file; unknown keys are refused."""
        values = json.loads(path.read_text())
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"{path}: unknown settings {sorted(unknown)}; known are {[f.name for f in fields(cls)]}")
        return cls(**values)

    def __post_init__(self) -> None:
        if self.schedule not in ("cosine", "linear", "constant", "plateau"):
            raise ValueError(f"schedule must be cosine, linear, constant or plateau, got {self.schedule!r}")


@dataclass(frozen=True)
class Batch:
    """Features of one step, and what the teacher says about the same mixtures."""

    features: torch.Tensor  # (batch, frames, 64), normalised and masked
    targets: torch.Tensor  # (batch, 527) probabilities
    embeddings: torch.Tensor  # (batch, 384), standardised


class Student(nn.Module):
    """The network and the linear map from its embedding to the teacher's."""

    def __init__(self, network: TALNet, teacher_size: int) -> None:
        super().__init__()
        self.network = network
        self.to_teacher = nn.Linear(network.embedding_size, teacher_size)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.network.forward_normalised(features)
        return self.network.pool(output), self.to_teacher(output.frames.mean(1))


class Trainer:
    """One run in one folder: config, log, checkpoint, result. Calling `run` again continues where it stopped.

    A run that begins from the checkpoint of another one (`start`) takes its networks and the state of its optimisers,
    and counts its own steps: constant runs can follow each other, with one that cools down after any of them.
    """

    def __init__(
        self, config: DistillConfig, data: Path, out: Path, normalizer: Path, cache: Path, start: Path | None = None
    ) -> None:
        self.config, self.out = config, out
        out.mkdir(parents=True, exist_ok=True)
        self._hold_config(out / "config.json")
        torch.manual_seed(config.seed)
        self.collection = open_collection(data, cache, config.held_out_share)
        self.teacher = load_teacher(data / "teacher" / "mn04_as.safetensors")
        known = np.load(data / "teacher.npz")
        self.weights = _sampling_weights(known["logits"], self.collection)
        embeddings = known["embeddings"].astype(np.float32)
        self.embedding_mean = torch.from_numpy(embeddings.mean(0))
        self.embedding_std = torch.from_numpy(embeddings.std(0) + 1e-3)
        numbers = json.loads(normalizer.read_text())
        network = TALNet(TALNetConfig(mean=tuple(numbers["mu"]), std=tuple(numbers["sigma"])))
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.constant_(network.fc_prob.bias, config.output_bias)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.winograd:
            use_winograd(network)
        self.student = Student(network, self.teacher.embedding_size)
        self.average = copy.deepcopy(self.student).requires_grad_(False)
        self.optimizers = _optimizers(self.student, config)
        self.step = 0
        self.scale = 1.0  # of the learning rate, by the plateau schedule
        self.best, self.bad = math.inf, 0
        self._held_out = self._prepare_held_out()
        if (out / "checkpoint.pt").exists():
            self._load(out / "checkpoint.pt")
            logger.info("continuing at step %d", self.step)
        elif start is not None:
            self._load(start)
            self.step, self.scale, self.best, self.bad = 0, 1.0, math.inf, 0

    def _hold_config(self, path: Path) -> None:
        text = json.dumps(asdict(self.config), indent=2) + "\n"
        if path.exists() and path.read_text() != text:
            raise ValueError(f"{path} holds other settings; use another --out, or the settings of that run")
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
        )
        waveforms = [draw_mixture(self.collection, self.weights, settings, rng) for _ in range(config.batch_size)]
        network = self.student.network
        features = torch.stack([log_mel(torch.from_numpy(waveform)) for waveform in waveforms])
        features = (features - network.mean) / network.std
        for item in features:
            if rng.random() < config.spec_augment_probability:
                time_part, band = spec_augment_bounds(features.shape[1], N_MELS, min(80, features.shape[1]), 16, rng)
                item[time_part] = 0.0
                item[:, band] = 0.0
        targets, embeddings = self._ask_teacher(waveforms)
        return Batch(features, targets, embeddings)

    @torch.no_grad()
    def _ask_teacher(self, waveforms: list[NDArray[np.float32]]) -> tuple[torch.Tensor, torch.Tensor]:
        up = [soxr.resample(waveform, SAMPLE_RATE, TEACHER_SAMPLE_RATE, quality="HQ") for waveform in waveforms]
        output = self.teacher(torch.from_numpy(np.stack(up)))
        return torch.sigmoid(output.logits), (output.embeddings - self.embedding_mean) / self.embedding_std

    def _batches(self, start: int) -> Iterator[Batch]:
        # One batch ahead: resampling and mixing run on one core while the network's small kernels leave it free.
        with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            pending = pool.submit(self.make_batch, start)
            for step in range(start, self.config.steps):
                batch = pending.result()
                if step + 1 < self.config.steps:
                    pending = pool.submit(self.make_batch, step + 1)
                yield batch

    def _prepare_held_out(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Features and teacher probabilities of every held-out recording, whole."""
        prepared = []
        for index in np.flatnonzero(self.collection.held_out):
            waveform = np.resize(self.collection.waveform(int(index)), 10 * SAMPLE_RATE)
            probabilities, _ = self._ask_teacher([waveform])
            prepared.append((log_mel(torch.from_numpy(waveform)), probabilities[0]))
        return prepared

    # --- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the last step, then write the averaged network as a model directory."""
        config = self.config
        log_path = self.out / "log.csv"
        started, heard = time.monotonic(), 0.0
        bce_sum = mse_sum = 0.0
        for batch in self._batches(self.step):
            bce, mse = self._update(batch)
            self.step += 1
            bce_sum, mse_sum = bce_sum + bce, mse_sum + mse
            heard += batch.features.shape[0] * batch.features.shape[1] / FRAME_RATE
            if self.step % 10 == 0:
                row: dict[str, Any] = {
                    "step": self.step,
                    "learning_rate": f"{self._learning_scale():.5f}",
                    "bce": f"{bce_sum / 10:.4f}",
                    "embedding_mse": f"{mse_sum / 10:.4f}",
                    "audio_seconds_per_second": f"{heard / (time.monotonic() - started):.1f}",
                    "held_out_bce": "",
                    "held_out_kl": "",
                }
                bce_sum = mse_sum = 0.0
                if self.step % config.validate_every == 0 or self.step == config.steps:
                    loss, divergence = self.validate()
                    row["held_out_bce"], row["held_out_kl"] = f"{loss:.4f}", f"{divergence:.4f}"
                    self._plateau(loss)
                _append(log_path, row)
                logger.info(", ".join(f"{name} {value}" for name, value in row.items() if value))
            if self.step % config.checkpoint_every == 0 or self.step == config.steps:
                self._save(self.out / "checkpoint.pt")
        save_pretrained(self.average.network, self.out / "model", dtype=torch.float16)

    def _update(self, batch: Batch) -> tuple[float, float]:
        config = self.config
        scale = self._learning_scale()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * scale
            optimizer.zero_grad()
        self.student.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bfloat16"):
            probabilities, embeddings = self.student(batch.features)
        bce = _clip_bce(probabilities.float(), batch.targets)
        mse = (embeddings.float() - batch.embeddings).square().mean()
        loss = config.bce_scale * bce + config.embedding_weight * mse
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss became {loss.item()} at step {self.step}; the last good state is in "
                f"{self.out / 'checkpoint.pt'}; continue from it with a lower learning rate"
            )
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), config.gradient_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        # A short memory at first, or the average would drag the random start along.
        decay = min(config.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, value in zip(_floating_state(self.average), _floating_state(self.student), strict=True):
                mean.lerp_(value, 1.0 - decay)
        return bce.item(), mse.item()

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
    def validate(self) -> tuple[float, float]:
        """BCE and Kullback-Leibler divergence (nats a clip, all classes) to the teacher on the held-out recordings."""
        network = self.average.network.eval()
        losses, entropies = [], []
        for features, targets in self._held_out:
            probabilities = network.pool(network(features[None]))
            losses.append(_clip_bce(probabilities, targets[None]).item())
            entropies.append(_clip_bce(targets[None].clamp(1e-7, 1 - 1e-7), targets[None]).item())
        loss = float(np.mean(losses))
        return loss, loss - float(np.mean(entropies))

    # --- state ----------------------------------------------------------------------------------------------------

    def _save(self, path: Path) -> None:
        state = {
            "step": self.step,
            "student": self.student.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "plateau": (self.scale, self.best, self.bad),
        }
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)

    def _load(self, path: Path) -> None:
        state = torch.load(path, map_location="cpu", weights_only=True)
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


def _sampling_weights(logits: NDArray[np.float16], collection: Collection) -> NDArray[np.float64]:
    """Cumulative weights: rare events and long recordings are drawn more often; held-out ones never."""
    probabilities = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
    rarity = np.sqrt((probabilities / probabilities.sum(0)).sum(1))
    weights = rarity * np.sqrt(np.diff(collection.starts)) * ~collection.held_out
    return np.cumsum(weights)


def _optimizers(student: Student, config: DistillConfig) -> list[torch.optim.Optimizer]:
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for parameter in student.parameters():
        inner = parameter.ndim == 4 and parameter.shape[1] > 1
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
        "--data", type=Path, required=True, help="folder with audio/, segments.csv, teacher.npz, teacher/"
    )
    parser.add_argument("--normalizer", type=Path, required=True, help="JSON file with mu and sigma, 64 numbers each")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the decoded audio")
    parser.add_argument("--start", type=Path, help="checkpoint.pt of another run to begin from")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = DistillConfig.read(arguments.config)
    Trainer(config, arguments.data, arguments.out, arguments.normalizer, arguments.cache, arguments.start).run()


if __name__ == "__main__":
    main()
