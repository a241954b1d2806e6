"""Training of a network on labelled clips: one run in one folder, continued wherever it was stopped."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from sedembed._training.batches import Batch, BatchMaker
from sedembed._training.checkpoint import find_nonfinite, load_checkpoint, save_checkpoint
from sedembed._training.clips import ClipSet
from sedembed._training.distributed import current_processes, share_batch_statistics
from sedembed._training.features import FeatureStore, UnreadableClipError
from sedembed._training.prediction import check_validation, predict, validate
from sedembed._training.records import RunFolder, find_revision, fingerprint, training_versions
from sedembed._training.settings import TrainConfig
from sedembed._utils.files import sha256_of
from sedembed._utils.machine import warn_of_slow_bfloat16
from sedembed._utils.schema import check_fields, from_table, read_json_file
from sedembed.errors import DatasetError, InvalidArgumentError
from sedembed.models.base import Backbone, Normalizer
from sedembed.models.layers.blocks import PROBABILITY_FLOOR
from sedembed.models.layers.replace import replace_layers
from sedembed.models.layers.winograd import use_winograd
from sedembed.models.registry import architecture_of
from sedembed.models.weights import load_network, resolve, save_pretrained

__all__ = ["Training", "predict"]

logger = logging.getLogger(__name__)

# Gradient scaling halves its factor until nothing overflows; below this the gradients themselves are not finite.
_SMALLEST_SCALE = 2.0**-10
_MOST_MEASURED = 5000
_CARD = """---
library_name: sedembed
tags: [audio, sound-event-detection]
---
A {architecture} network of {classes} sound events, trained with `sedembed train` on {clips} clips: step {step}{scores}.
Settings, versions and the log are in the folder of the run.

    import sedembed
    model = sedembed.load_model("path/to/this/directory")
"""


class Training:
    """One training in one folder; calling `run` on the same folder again continues it, with the same result.

    The folder holds `config.json`, `run.json` (versions, seed, git revision, numbers of clips, classes), `log.csv`,
    `unreadable.csv` if there were such clips, `checkpoint.pt`, `model/`, `final/` and `result.json`.

    Parameters
    ----------
    config : TrainConfig
        All settings.
    train : ClipSet
        Clips to train on.
    train_features : FeatureStore
        Their features.
    out : Path
        Folder of the run; made if missing.
    validation, validation_features : ClipSet and FeatureStore, or None
        Clips whose MAP steers the learning rate and chooses the best model. Targets of at least 0.5 are positives.
    initial : Path, optional
        Model directory to begin from instead of random weights; its configuration is taken over.
    device : str or torch.device, optional
        By default the first CUDA device, else the CPU; within `join_processes` give the one that it yields.
    tensorboard : bool
        Write events for TensorBoard as well.
    progress : bool, optional
        Show a bar; by default on a terminal.

    Raises
    ------
    DatasetError
        If clips, features and the folder do not fit each other.
    """

    def __init__(
        self,
        config: TrainConfig,
        train: ClipSet,
        train_features: FeatureStore,
        out: Path,
        *,
        validation: ClipSet | None,
        validation_features: FeatureStore | None,
        initial: Path | None = None,
        device: str | torch.device | None = None,
        tensorboard: bool = False,
        progress: bool | None = None,
    ) -> None:
        self.config, self.train, self.validation = config, train, validation
        self._train_features, self._validation_features = train_features, validation_features
        self._processes = current_processes()
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._dtype = torch.float64 if config.precision == "float64" else torch.float32
        if config.precision == "float16" and self.device.type != "cuda":
            raise InvalidArgumentError("float16 needs a CUDA device. Choose precision bfloat16 or float32.")
        if config.precision == "bfloat16":
            warn_of_slow_bfloat16(self.device)
        if (validation is None) != (validation_features is None):
            raise InvalidArgumentError("Give validation clips and their features together.")
        if validation is not None:
            check_validation(validation, train)
        self._folder = RunFolder(out, self._processes.first, tensorboard=tensorboard)
        self._hide_bar = True if not self._processes.first else None if progress is None else not progress
        starting = None if initial is None else load_network(resolve(initial))
        self.network_class = architecture_of(config.model)
        self._check_or_write_run(initial)
        self.network = self._make_network(starting)
        self._batches = BatchMaker(config, train, train_features, self.network, self._processes)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate)
        self._scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer,
            mode="max",
            factor=config.plateau_factor,
            patience=config.plateau_patience,
            threshold=config.plateau_threshold,
        )
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "float16")
        self.step = 0
        self.best: dict[str, float] | None = None
        self._losses: list[float] = []  # since the last line of the log
        if self._folder.checkpoint.exists():
            self._load()
            logger.info("continuing at step %d", self.step)
        classifier: nn.Module = Classifier(self.network)
        if self._processes.count > 1:
            ids = [self.device] if self.device.type == "cuda" else None
            classifier = DistributedDataParallel(classifier, device_ids=ids)
        self._classifier = classifier

    # --- the run --------------------------------------------------------------------------------------------------

    def run(self) -> Path:
        """Train, or continue where the folder's checkpoint is, to the last step.

        Returns
        -------
        Path
            Directory `model` of the best network by validation MAP; without validation, of the last one. `final`
            beside it holds the last one.

        Raises
        ------
        DivergedError
            If loss or gradients become NaN or infinite; the last good checkpoint stays.
        DatasetError
            If too many clips cannot be decoded.
        """
        config = self.config
        self._folder.rewind(self.step)
        began, seconds = time.monotonic(), 0.0
        try:
            with tqdm(total=config.steps, initial=self.step, unit="step", disable=self._hide_bar) as bar:
                for batch in self._batches.batches(self.step, config.steps):
                    loss, norm = self._update(batch)
                    self.step += 1
                    seconds += batch.seconds
                    self._losses.append(loss)
                    row: dict[str, Any] = {}
                    if self._is_due(config.validate_every) and self.validation is not None:
                        row = {f"validation_{name}": value for name, value in self._validate().items()}
                    if row or self._is_due(config.log_every):
                        speed = seconds / (time.monotonic() - began)
                        self._log({**row, "gradient_norm": norm, "audio_seconds_per_second": speed})
                    if row or self._is_due(config.checkpoint_every):
                        self._save()
                    bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
                    bar.update()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted at step {self.step} of {config.steps}; run the same command again to continue"
            ) from None
        finally:
            self._folder.close()
        return self._finish()

    def _is_due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.config.steps

    def _update(self, batch: Batch) -> tuple[float, float]:
        """One step of the optimiser; the mean loss over the batch of all processes, and the norm of the gradient."""
        config, device, processes = self.config, self.device, self._processes
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        dtype = torch.float16 if config.precision == "float16" else torch.bfloat16
        with torch.autocast(device.type, dtype, enabled=config.precision in ("bfloat16", "float16")):
            probabilities = self._classifier(batch.features.to(device, self._dtype))
        bounded = probabilities.to(self._dtype).clamp(PROBABILITY_FLOOR, 1.0 - PROBABILITY_FLOOR)
        targets = batch.targets.to(device, self._dtype)
        # PyTorch's own cross-entropy ends the process on NaN, on CUDA with all that is on the device.
        entropies = targets * bounded.log() + (1.0 - targets) * torch.log1p(-bounded)
        part = -entropies.sum() / (config.batch_size * len(self.train.classes))
        # Gradients are averaged over the processes; parts of unequal size add up to the mean over the whole batch.
        self._scaler.scale(part * processes.count).backward()
        self._scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), config.gradient_norm or math.inf)
        loss, gradient = float(processes.sum(part.detach())), float(norm)
        finite = math.isfinite(loss) and (math.isfinite(gradient) or config.precision == "float16")
        if finite:
            self._scaler.step(self.optimizer)
            self._scaler.update()
            finite = not self._scaler.is_enabled() or self._scaler.get_scale() >= _SMALLEST_SCALE
        if not finite:
            raise self._folder.diverged(self.step + 1, f"loss {loss:g}, norm of the gradient {gradient:g}")
        return loss, gradient

    def _validate(self) -> dict[str, float]:
        assert self.validation is not None
        assert self._validation_features is not None
        size = self.config.validation_batch_size
        scores = validate(self.network, self.validation, self._validation_features, size, self._processes)
        if not math.isfinite(scores["map"]):
            raise self._folder.diverged(self.step, "a probability of a validation clip")
        if self.best is None or scores["map"] > self.best["map"]:
            self.best = {"step": self.step, **scores}
            self._write_model("model", scores)
        self._scheduler.step(scores["map"])
        return scores

    def _log(self, row: dict[str, Any]) -> None:
        rate = self.optimizer.param_groups[0]["lr"]
        mean = math.fsum(self._losses) / len(self._losses)
        self._folder.log({"step": self.step, "loss": mean, "learning_rate": rate, **row})
        self._losses = []

    def _finish(self) -> Path:
        self._write_model("final", None)
        if self.validation is None:
            self._write_model("model", None)
        # JSON knows no infinity, which d' is if MAUC is 1.
        best = {name: value if math.isfinite(value) else None for name, value in (self.best or {}).items()}
        result = {"steps": self.step, "best": best or None, "validation_clips": len(self.validation or ())}
        self._folder.write("result.json", result)
        self._write_failures()
        self._processes.wait()
        return self._path("model")

    # --- making -------------------------------------------------------------------------------------------------

    def _make_network(self, starting: Backbone | None) -> Backbone:
        config, classes = self.config, len(self.train.classes)
        if starting is not None:
            self._check_starting(starting)
            network = starting.requires_grad_(True)
        elif config.normalization == "measured":
            network = config.build(classes, self._measure())
        else:
            network = config.build(classes)
        described = network.describe_front_end()
        for features in (self._train_features, self._validation_features):
            if features is not None and features.front_end != described:
                raise DatasetError(
                    "The features are of another front end than the network's. Open them for this network."
                )
        network.to(device=self.device, dtype=self._dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        replace_layers(network, lambda layer: _FullLinear.like(layer) if type(layer) is nn.Linear else None)
        if config.winograd and self.device.type == "cpu" and config.precision == "float32":
            use_winograd(network)
        if self._processes.count > 1:
            share_batch_statistics(network, self.device)
        return network

    def _check_starting(self, starting: Backbone) -> None:
        classes, found = len(self.train.classes), starting.config
        if found.architecture != self.config.model or found.classes != classes:
            raise DatasetError(
                f"Expected initial weights of a {self.config.model} of {classes} classes, got a "
                f"{found.architecture} of {found.classes}."
            )
        wanted = self.config.network_config(classes)
        other = [name for name in self.config.network if getattr(wanted, name) != getattr(found, name)]
        if other:
            raise DatasetError(f"The initial weights have another {', '.join(other)} than the settings. Leave it out.")

    def _measure(self) -> Normalizer:
        """Mean and deviation of the training features, over evenly spaced clips if there are many; kept on disk."""
        file = self._path("normalizer.json")
        if self._processes.first and not file.exists():
            total = squares = np.zeros(1)
            frames = 0
            for index in np.unique(
                np.linspace(0, len(self.train) - 1, min(_MOST_MEASURED, len(self.train)), dtype=int)
            ):
                try:
                    features = self._train_features[int(index)].astype(np.float64)
                except UnreadableClipError:
                    continue
                total, squares = total + features.sum(0), squares + np.square(features).sum(0)
                frames += len(features)
            if not frames:
                raise DatasetError("No training clip can be decoded. See the log for the reasons.")
            if not self.network_class.normalizes_bins:
                total, squares, frames = total.sum(), squares.sum(), frames * len(total)
            mean = np.atleast_1d(total / frames)
            std = np.sqrt(np.maximum(np.atleast_1d(squares / frames) - mean**2, 1e-6))
            self._folder.write("normalizer.json", {"mu": mean.tolist(), "sigma": std.tolist()})
        self._processes.wait()
        measured = from_table(_Measured, read_json_file(file, DatasetError), str(file), DatasetError)
        return measured.mu, measured.sigma

    def _check_or_write_run(self, initial: Path | None) -> None:
        data = {
            "clips": len(self.train),
            "clips_sha256": fingerprint(self.train),
            "validation_clips": len(self.validation or ()),
            "validation_sha256": fingerprint(self.validation),
            "initial_sha256": None if initial is None else sha256_of(resolve(initial).weights),
            "classes": list(self.train.classes),
        }
        about = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "seed": self.config.seed,
            "git_revision": find_revision(),
            "versions": training_versions(),
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "processes": self._processes.count,
            "cached_features": self._train_features.cached,
        }
        # All look before the first one writes.
        self._processes.wait()
        if not self._processes.first:
            self._folder.check_or_write(self.config, data, about)
        self._processes.wait()
        if self._processes.first:
            self._folder.check_or_write(self.config, data, about)
        self._processes.wait()

    # --- state ----------------------------------------------------------------------------------------------------

    def _path(self, name: str) -> Path:
        return self._folder.path / name

    def _save(self) -> None:
        self._write_failures()
        state = self.network.state_dict()
        broken = find_nonfinite(state)
        if broken is not None:
            raise self._folder.diverged(self.step, broken)
        if self._processes.first:
            everything = {
                "step": self.step,
                "network": state,
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self._scheduler.state_dict(),
                "scaler": self._scaler.state_dict(),
                "best": self.best,
                "losses": self._losses,
            }
            save_checkpoint(self._folder.checkpoint, everything)

    def _load(self) -> None:
        load_checkpoint(self._folder.checkpoint, self._restore)

    def _restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._scheduler.load_state_dict(state["scheduler"])
        self._scaler.load_state_dict(state["scaler"])
        self.step, self.best, self._losses = state["step"], state["best"], list(state["losses"])

    def _write_model(self, name: str, scores: dict[str, float] | None) -> None:
        if not self._processes.first:
            return
        shown = "" if scores is None else f", validation MAP {scores['map']:.4f}"
        config = self.network.config
        card = _CARD.format(
            architecture=config.architecture,
            classes=config.classes,
            clips=len(self.train),
            step=self.step,
            scores=shown,
        )
        save_pretrained(self.network, self._path(name), card=card)

    def _write_failures(self) -> None:
        own: dict[str, tuple[str, str]] = {}
        for features in (self._train_features, self._validation_features):
            if features is not None:
                own.update({str(features.clips.paths[index]): why for index, why in list(features.failures.items())})
        merged = {path: why for part in self._processes.gather(own) for path, why in part.items()}
        if self._processes.first and merged:
            self._folder.write_failures(merged)


@dataclass(frozen=True)
class _Measured:
    """What `normalizer.json` holds."""

    mu: tuple[float, ...]
    sigma: tuple[float, ...]

    def __post_init__(self) -> None:
        check_fields(self)


class Classifier(nn.Module):
    """A network from normalised features to clip probabilities, as `DistributedDataParallel` needs it."""

    def __init__(self, network: Backbone) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, frames, 64) → (batch, classes)."""
        return self.network.pool(self.network.forward_normalised(features))


class _FullLinear(nn.Linear):
    """A linear layer in float32 even under autocast: in bfloat16 a probability near 1 is 1, and has no gradient."""

    @classmethod
    def like(cls, layer: nn.Module) -> _FullLinear:
        """Layer that shares the parameters of a linear one."""
        assert isinstance(layer, nn.Linear)
        with torch.device("meta"):
            made = cls(layer.in_features, layer.out_features, bias=layer.bias is not None)
        made.weight, made.bias = layer.weight, layer.bias
        return made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return nn.functional.linear(x.to(self.weight.dtype), self.weight, self.bias)
