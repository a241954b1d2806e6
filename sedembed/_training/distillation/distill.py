"""Train a network to give what a teacher gives: ``python -m sedembed._training.distillation.distill --help``.

Teacher and student get the same mixture of sounds, so no label is ever wrong.
"""

from __future__ import annotations

import argparse
import copy
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sedembed._training.checkpoint import find_nonfinite, load_checkpoint, save_checkpoint
from sedembed._training.distillation.batches import Batch, BatchMaker, LiveTeacher, sampling_weights
from sedembed._training.distillation.collection import open_collection
from sedembed._training.distillation.config import DistillConfig
from sedembed._training.distillation.losses import clip_bce, embedding_error, local_error
from sedembed._training.distillation.optimizers import Schedule, make_optimizers, restore_optimizer
from sedembed._training.distillation.student import Student, fit_map, freeze_blocks, make_network, update_average
from sedembed._training.records import RunFolder
from sedembed._utils.machine import warn_of_slow_bfloat16
from sedembed.errors import InvalidArgumentError
from sedembed.models.layers.winograd import use_winograd
from sedembed.models.weights import load_network, resolve, save_pretrained

__all__ = ["Trainer", "main"]

logger = logging.getLogger(__name__)

LOG_COLUMNS = (
    "step",
    "learning_rate",
    "bce",
    "embedding_mse",
    "local_mse",
    "audio_seconds_per_second",
    "held_out_bce",
    "held_out_kl",
    "held_out_mse",
)
_LOG_EVERY = 10


class Trainer:
    """One run in one folder: config, log, checkpoint, result. Calling `run` again continues where it stopped.

    A run that begins from the checkpoint of another one (`start`) takes its networks and the state of its optimisers,
    and counts its own steps: constant runs can follow each other, with one that cools down after any of them. A run
    that begins from a model directory takes its weights only.

    Parameters
    ----------
    config : DistillConfig
        All settings.
    data : Path or sequence of Path
        Folders as `open_collection` takes them, each with a ``teacher.npz``; the first with the teacher itself.
    out : Path
        Folder of the run.
    cache : Path
        Folder of the decoded audio.
    start : Path, optional
        ``checkpoint.pt`` of another run, or a model directory.
    device : str
        Where networks and teacher run.

    Raises
    ------
    DatasetError
        If the folder holds a run with other settings, or a checkpoint cannot be read.
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
        if config.precision == "bfloat16":
            warn_of_slow_bfloat16(self.device)
        self._folder = RunFolder(out, columns=LOG_COLUMNS)
        if not self._folder.check_settings(config):
            self._folder.write_settings(config)
        torch.manual_seed(config.seed)
        folders = [data] if isinstance(data, Path) else list(data)
        collection = open_collection(folders, cache, config.held_out_share)
        self.teacher = LiveTeacher(folders[0], collection, config.inner_weight > 0, self.device)
        self._even = self.teacher.even_out(collection, config.whitening) if config.whitening else None
        network = make_network(config, collection)
        if config.winograd and self.device.type == "cpu" and config.precision == "float32":
            use_winograd(network)
        self.student = Student(network, len(self.teacher.mean)).to(self.device)
        self.average = copy.deepcopy(self.student).requires_grad_(False)
        self.optimizers = make_optimizers(self.student, config)
        self.schedule = Schedule(config)
        self.step = 0
        self._sums, self._steps = np.zeros(3), 0  # of the losses since the last line of the log
        logits = np.concatenate([np.load(folder / "teacher.npz")["logits"] for folder in folders])
        weights = sampling_weights(logits, collection, config.rarity)
        self.batches = BatchMaker(config, collection, weights, self.teacher, network)
        self.held_out = self.batches.held_out()
        if self._checkpoint.exists():
            self._load(self._checkpoint)
            logger.info("continuing at step %d", self.step)
        elif start is not None and start.is_dir():
            self._begin_with_model(start)
        elif start is not None:
            self._load(start)
            self.step, self.schedule = 0, Schedule(config)
            self._sums, self._steps = np.zeros(3), 0
        freeze_blocks(self.student.network, self.average.network, config.frozen_blocks)

    # --- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the last step, then write the averaged network as a model directory.

        Raises
        ------
        DivergedError
            If loss, gradients or weights become NaN or infinite; the last good checkpoint stays.
        """
        config = self.config
        self._folder.rewind(self.step)
        began, seconds = time.monotonic(), 0.0
        for batch in self.batches.batches(self.step, config.steps, self.device):
            self._sums += self._update(batch.to(self.device))
            self._steps += 1
            self.step += 1
            seconds += batch.features.shape[0] * batch.features.shape[1] / self.student.network.feature_rate
            row = self._validation_row() if self.held_out and self._is_due(config.validate_every) else {}
            if row or self.step % _LOG_EVERY == 0:
                self._log({**row, "audio_seconds_per_second": f"{seconds / (time.monotonic() - began):.1f}"})
            if self._is_due(config.checkpoint_every):
                self._save()
        save_pretrained(self.average.network, self.out / "model", dtype=torch.float16)

    def _is_due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.config.steps

    def _update(self, batch: Batch) -> tuple[float, float, float]:
        """One step of the optimisers; the losses of clip probabilities, clip embeddings and embeddings over time."""
        config, network = self.config, self.student.network
        factor = self.schedule.factor(self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            optimizer.zero_grad()
        self.student.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            probabilities, guesses = self.student(batch.features)
        weighting = self.teacher.embedding_size, config.inner_weight, self._even
        bce = clip_bce(probabilities.float(), batch.targets)
        mse = embedding_error(guesses.float().mean(1) - batch.embeddings, *weighting).mean()
        loss = config.bce_scale * bce + config.embedding_weight * mse
        local = torch.zeros(())
        if config.local_weight:
            times = network.first_frame_time + np.arange(guesses.shape[1]) / network.frame_rate
            local = local_error(guesses.float(), batch.local, times, *weighting)
            loss = loss + config.local_weight * local
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.student.parameters(), config.gradient_norm)
        if not torch.isfinite(loss) or not torch.isfinite(norm):
            raise self._folder.diverged(self.step + 1, f"loss {loss.item():g}, norm of the gradient {norm.item():g}")
        for optimizer in self.optimizers:
            optimizer.step()
        # A short memory at first, so that the average forgets the random start.
        update_average(self.average, self.student, min(config.ema_decay, (1 + self.step) / (10 + self.step)))
        return bce.item(), mse.item(), local.item()

    def _log(self, row: dict[str, Any]) -> None:
        losses = (f"{value:.4f}" for value in self._sums / self._steps)
        rate = {"step": self.step, "learning_rate": f"{self.schedule.factor(self.step):.5f}"}
        self._folder.log({**rate, **dict(zip(("bce", "embedding_mse", "local_mse"), losses, strict=True)), **row})
        self._sums, self._steps = np.zeros(3), 0

    def _validation_row(self) -> dict[str, str]:
        loss, divergence, error = self.validate()
        self.schedule.observe(loss)
        return {"held_out_bce": f"{loss:.4f}", "held_out_kl": f"{divergence:.4f}", "held_out_mse": f"{error:.4f}"}

    @torch.inference_mode()
    def validate(self) -> tuple[float, float, float]:
        """How far the average is from the teacher on the held-out recordings.

        Binary cross-entropy and Kullback-Leibler divergence (nats a clip, all classes), and the squared error of the
        mapped embedding.
        """
        network = self.average.network.eval()
        losses, entropies, errors = [], [], []
        for features, targets, embedding in self.held_out:
            output = network(features[None].to(self.device))
            probabilities = network.pool(output).cpu()
            losses.append(clip_bce(probabilities, targets[None]).item())
            entropies.append(clip_bce(targets[None].clamp(1e-7, 1 - 1e-7), targets[None]).item())
            guess = self.average.to_teacher(output.frames[0].mean(0)).cpu()
            errors.append(embedding_error(guess - embedding, self.teacher.embedding_size, 0.0).item())
        loss = float(np.mean(losses))
        return loss, loss - float(np.mean(entropies)), float(np.mean(errors))

    # --- state ----------------------------------------------------------------------------------------------------

    @property
    def _checkpoint(self) -> Path:
        return self._folder.checkpoint

    def _save(self) -> None:
        student = self.student.state_dict()
        broken = find_nonfinite(student)
        if broken is not None:
            raise self._folder.diverged(self.step, broken)
        state = {
            "step": self.step,
            "student": student,
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "plateau": self.schedule.state,
            "losses": (self._sums.tolist(), self._steps),
        }
        save_checkpoint(self._checkpoint, state)

    def _begin_with_model(self, directory: Path) -> None:
        """Take the weights of a finished model; what only a checkpoint holds begins anew."""
        model = load_network(resolve(directory))
        if model.config != self.student.network.config:
            raise InvalidArgumentError(
                f"{directory} holds a {model.config.architecture} of another configuration than this run's "
                f"{self.config.model}. Begin from a model of the same architecture and normalisation."
            )
        for part in (self.student, self.average):
            part.network.load_state_dict(model.state_dict())
            # A random map would disturb the network before the map itself has been trained.
            nn.init.zeros_(part.to_teacher.weight)
            nn.init.zeros_(part.to_teacher.bias)
        config = self.config
        if config.map_batches:  # others than those of the training
            made = self.batches.batches(config.steps, config.steps + config.map_batches, self.device)
            weights = config.embedding_weight, config.local_weight
            fit_map(self.average, (batch.to(self.device) for batch in made), *weights)
            self.student.to_teacher.load_state_dict(self.average.to_teacher.state_dict())

    def _load(self, path: Path) -> None:
        load_checkpoint(path, self._restore, self.device)

    def _restore(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.student.load_state_dict(state["student"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            restore_optimizer(optimizer, saved)
        self.schedule.state = state["plateau"]
        # Checkpoints of earlier versions were written together with a line of the log, and hold no sums.
        sums, self._steps = state.get("losses", ([0.0, 0.0, 0.0], 0))
        self._sums = np.array(sums)


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
