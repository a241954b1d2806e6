"""Fine-tuning: a network and a linear classifier trained together on anyone's labelled recordings."""

from __future__ import annotations

import copy
import hashlib
import logging
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from sedembed import metrics
from sedembed._training.augment import change_gain, mix, shift
from sedembed._training.averaging import average_into
from sedembed._training.batches import Batch, BatchMaker
from sedembed._training.checkpoint import find_nonfinite, load_checkpoint, save_checkpoint
from sedembed._training.clips import ClipSet
from sedembed._training.distributed import current_processes
from sedembed._training.features import FeatureStore
from sedembed._training.finetune_config import FinetuneConfig
from sedembed._training.finetune_head import calibrated_loss, fit_starting_probe, loss_of_scores
from sedembed._training.finetune_network import pool_embedding, trained_blocks
from sedembed._training.records import RunFolder, find_revision, fingerprint, training_versions
from sedembed._training.settings import TrainConfig
from sedembed._utils.machine import has_bfloat16, warn_of_slow_bfloat16
from sedembed._utils.schema import read_json_file
from sedembed.audio.listing import list_recordings
from sedembed.embedder import Embedder
from sedembed.engine.runner import pick_device
from sedembed.errors import DatasetError, InvalidArgumentError
from sedembed.loading import load_model
from sedembed.models.layers.winograd import use_winograd
from sedembed.models.weights import describe_network, load_network, resolve, save_pretrained
from sedembed.probe.fitting import Labels
from sedembed.probe.inputs import identity
from sedembed.probe.label_table import LabelTable, indicator, label_by_folder, read_labels
from sedembed.probe.probe import LinearProbe
from sedembed.probe.splits import inner_splits
from sedembed.probe.torch_head import ProbeHead

__all__ = ["FinetuneConfig", "Finetuned", "finetune"]

logger = logging.getLogger(__name__)

_COLUMNS = ("step", "epoch", "loss", "learning_rate", "gradient_norm", "validation_score", "validation_loss")
_RUN, _PROBE, _FEATURES = "training", "probe", "features"
# Narrower than in the training of the network: wider masks cost a probe more accuracy (docs/fine-tuning.md).
_MASKED_BINS, _MASKED_SECONDS = 8, 0.5
_CARD = """---
library_name: sedembed
tags: [audio, sound-event-detection]
---
{model}, fine-tuned with `sedembed finetune` on {clips} recordings of {classes} classes. Validation {metric} on
{held_out} other recordings: {before:.4f} before (a linear probe on the network as it was), {after:.4f} after epoch
{epoch}. The epoch was chosen by these recordings, so the figure is a little too good.

    import sedembed
    model = sedembed.load_model("path/to/this/directory")
    probe = sedembed.LinearProbe.load("path/to/this/directory/probe")
    probe.predict(model.embed(["recording.wav"]))

The layers that name AudioSet's sound events were not trained: use the original network for `tag` and `detect`.
"""


class Finetuned(NamedTuple):
    """Result of a fine-tuning.

    Attributes
    ----------
    model : Path
        Directory for `load_model`; the classifier is in `probe` below it.
    metric : str
        "accuracy", or "map" (mean average precision) where recordings have several labels.
    before, after : float
        Validation score of a linear probe on the network as it was, and of the result.
    epoch : int
        Epoch of the result; 0 if no epoch was better than the probe.
    epochs : int
        How many were trained.
    training, validation : int
        Recordings trained on, and held out.
    """

    model: Path
    metric: str
    before: float
    after: float
    epoch: int
    epochs: int
    training: int
    validation: int


def finetune(
    folder: str | os.PathLike[str],
    labels: str | os.PathLike[str],
    out: str | os.PathLike[str],
    model: str | os.PathLike[str] = "talnet",
    *,
    group: str | None = None,
    device: str | torch.device | None = None,
    workers: int | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> Finetuned:
    """Train a network further on labelled recordings, together with a linear classifier.

    The classifier at the start is a `LinearProbe` on the network's embeddings, with a smaller C than the best one. Then
    both are trained, the network with a low learning rate, on recordings that are varied; batch normalisations keep
    their statistics. After each epoch the recordings that were held out are classified. The best epoch is kept, and
    training stops when there was no better one for a while. If no epoch is better than a probe, the result is the
    network as it was, with its probe.

    Running the same call again continues where it was interrupted, with the same result.

    Parameters
    ----------
    folder : path
        Where the recordings are.
    labels : "folder" or path
        "folder": the class of a recording is the first folder of its path. Else a CSV with the columns ``path,label``,
        paths relative to `folder`, several labels separated by ``;``.
    out : path
        Directory of the result: new, empty, or of an interrupted call.
    model : str or path
        What `load_model` takes.
    group : str, optional
        Column of the CSV. Recordings with the same value, such as parts of one tape, are all trained on or all held
        out; without it, validation figures of such recordings are too good.
    device : str or torch.device, optional
        By default the first CUDA device, else the CPU.
    workers : int, optional
        Threads that decode.
    progress : bool, optional
        Show bars; by default on a terminal.
    **settings
        Fields of `FinetuneConfig`, such as ``epochs=5`` or ``learning_rate=5e-5``.

    Returns
    -------
    Finetuned
        Where the result is, and its validation scores.

    Raises
    ------
    DatasetError
        If there are too few recordings to hold some out, or `out` holds something else.
    ProbeError
        For labels that do not fit the recordings.
    ValueError
        For a setting out of its range.
    DivergedError
        If the loss becomes NaN or infinite.
    """
    config = _check_settings(settings)
    folder, out = Path(folder).expanduser(), Path(out).expanduser()
    table, paths = _read_labels(folder, labels, out)
    groups = None if group is None else np.array(table.column(group))
    clips = _make_clips(folder, table, paths)
    return _Finetuning(config, clips, groups, table.multilabel, out, model, device, workers, progress).run()


def _check_settings(settings: Mapping[str, Any]) -> FinetuneConfig:
    known = [item.name for item in fields(FinetuneConfig)]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise InvalidArgumentError(f"Unknown setting {unknown[0]!r}. Settings are {', '.join(known)}.")
    try:
        return FinetuneConfig(**settings)
    except ValueError as error:
        raise InvalidArgumentError(f"{error}.") from error


def _read_labels(folder: Path, labels: str | os.PathLike[str], out: Path) -> tuple[LabelTable, list[str]]:
    """Labelled recordings that are there: the table reduced to them, and their paths on disk."""
    listing = list_recordings(folder, skip=out)
    listing.refuse_empty(folder)
    if labels == "folder":
        table = label_by_folder(listing.files)
        return table, table.paths
    table = read_labels(labels)
    aligned = table.align(listing.files)
    if aligned.absent:
        logger.warning(
            "%d labelled recordings are not in %s, such as %s", len(aligned.absent), folder, aligned.absent[0]
        )
    if aligned.unlabelled:
        logger.warning("%d recordings have no label and are left out", len(aligned.unlabelled))
    columns = {name: [column[i] for i in aligned.entries] for name, column in table.columns.items()}
    paths = [listing.files[row] for row in aligned.rows]
    return LabelTable(paths, aligned.labels, table.multilabel, columns, table.file), paths


def _make_clips(folder: Path, table: LabelTable, paths: list[str]) -> ClipSet:
    classes = tuple(table.classes)
    if len(classes) < 2:
        raise DatasetError(f"Expected recordings of at least two classes, got {', '.join(classes) or 'none'}.")
    targets = indicator(table.labels, classes).astype(np.float32)
    return ClipSet(tuple(paths), tuple(folder / path for path in paths), targets, classes)


class _Finetuning:
    """One fine-tuning in one folder."""

    def __init__(
        self,
        config: FinetuneConfig,
        clips: ClipSet,
        groups: NDArray[Any] | None,
        multilabel: bool,
        out: Path,
        model: str | os.PathLike[str],
        device: str | torch.device | None,
        workers: int | None,
        progress: bool | None,
    ) -> None:
        self.config, self.multilabel, self.out = config, multilabel, out
        self.device = pick_device(device)
        self._hide_bar = None if progress is None else not progress
        self._progress = progress
        resolved = resolve(model)
        self._name = resolved.record.name
        if out.exists() and any(out.iterdir()) and not (out / _RUN / "config.json").exists():
            raise DatasetError(f"{out} holds something other than a fine-tuning. Choose an empty directory.")
        self._folder = RunFolder(out / _RUN, columns=_COLUMNS)
        data = {
            "clips": fingerprint(clips),
            "groups": None if groups is None else hashlib.sha256("\0".join(groups.tolist()).encode()).hexdigest(),
            "model": resolved.record.sha256,
        }
        about = {"versions": training_versions(), "revision": find_revision(), "device": str(self.device)}
        self._folder.check_or_write(config, data, about)
        self.network = load_network(model)
        features = FeatureStore.open(clips, self.network, out / _RUN / _FEATURES, workers=workers, progress=progress)
        self._failures = {clips.names[index]: why for index, why in features.failures.items()}
        self._folder.write_failures(self._failures)
        readable = np.array([index for index in range(len(clips)) if index not in features.failures], np.int64)
        clips, groups = clips.select(readable), None if groups is None else groups[readable]
        train, held_out = self._split(clips, groups)
        self.train, self.held_out = clips.select(train), clips.select(held_out)
        self._train_groups = None if groups is None else groups[train]
        self._features = features.subset(self.train)
        self.metric = "map" if multilabel else "accuracy"

    def _split(self, clips: ClipSet, groups: NDArray[Any] | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        y = clips.targets >= 0.5 if self.multilabel else clips.targets.argmax(1)
        known = Labels(y, len(clips.classes), np.ones(len(clips)))
        parts = max(2, round(1.0 / self.config.validation_share))
        pairs = inner_splits(known, groups, parts, once=False, random_state=self.config.seed)
        if not pairs:
            raise DatasetError(
                f"{len(clips)} recordings are too few to hold some out. Give more, at least two of some class."
            )
        for train, held_out in pairs:
            absent = ~clips.targets[train].any(0)
            if not absent.any():
                return train, held_out
        raise DatasetError(
            f"All recordings of {clips.classes[int(absent.argmax())]!r} are in the part that is held out. Give more "
            "recordings or groups of it, or another seed."
        )

    # --- the run ------------------------------------------------------------------------------------------------

    def run(self) -> Finetuned:
        """Train, or continue, or return the result of a run that is complete."""
        result = self.out / _RUN / "result.json"
        if result.exists():
            values = read_json_file(result, DatasetError)
            return Finetuned(self.out, **{name: values[name] for name in Finetuned._fields[1:]})
        self._prepare()
        config = self.config
        try:
            with tqdm(total=config.epochs * self._steps, initial=self.step, unit="step", disable=self._hide_bar) as bar:
                bar.set_postfix_str(self._say(), refresh=False)
                for batch in self._batches.batches(self.step, config.epochs * self._steps):
                    loss, norm = self._update(batch)
                    self.step += 1
                    self._losses.append(loss)
                    if self.step % self._steps == 0:
                        self._end_epoch(norm)
                        bar.set_postfix_str(self._say(), refresh=False)
                    elif self.step % config.checkpoint_every == 0:
                        self._save()
                    bar.update()
                    if self._is_over():
                        break
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted at step {self.step} of {config.epochs * self._steps}; run the same command again to "
                "continue"
            ) from None
        finally:
            self._folder.close()
        return self._finish()

    def _prepare(self) -> None:
        """Make the classifier of a new run, or restore an interrupted one."""
        config, network = self.config, self.network
        self.step, self._losses, self.best = 0, list[float](), dict[str, float]()
        self.before = math.nan
        if self._folder.checkpoint.exists():
            self.probe = start = LinearProbe.load(self.out / _PROBE)
        else:
            self.probe, start = self._fit_probes()
        self.head = start.to_torch()
        network.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.head.to(self.device)
        if config.precision == "bfloat16":
            warn_of_slow_bfloat16(self.device)
        self._bfloat16 = has_bfloat16(self.device) if config.precision == "auto" else config.precision == "bfloat16"
        if self.device.type == "cpu" and not self._bfloat16:
            use_winograd(network)
        self._steps = -(-len(self.train) // config.batch_size)
        settings = TrainConfig(
            model=network.architecture,
            batch_size=config.batch_size,
            steps=config.epochs * self._steps,
            seconds=config.seconds,
            balanced=False,
            spec_augment=config.spec_augment,
            spec_augment_bins=_MASKED_BINS,
            spec_augment_seconds=_MASKED_SECONDS,
            seed=config.seed,
        )
        self._batches = BatchMaker(settings, self.train, self._features, network, current_processes(), pad=False)
        self.optimizer = self._make_optimizer()
        # What is scored and kept.
        self.average = copy.deepcopy(network).requires_grad_(False)
        self.average_head = copy.deepcopy(self.head).requires_grad_(False)
        if self._folder.checkpoint.exists():
            load_checkpoint(self._folder.checkpoint, self._restore)
            logger.info("continuing at step %d", self.step)
        else:
            head = self.probe.to_torch().to(self.device)
            score, loss = self._score(head)
            self.before = score
            self._keep(0, score, loss, head)
            self._save()
        self._folder.rewind(self.step)

    def _fit_probes(self) -> tuple[LinearProbe, LinearProbe]:
        """Fit the probe to compare with, and the one that training starts with."""
        embedder = Embedder(self.network, describe_network(self.network), device=self.device)
        probe = LinearProbe(normalize=self.network.default_normalize, progress=self._progress)
        y: NDArray[Any] = self.train.targets >= 0.5
        if not self.multilabel:
            y = np.array(self.train.classes)[self.train.targets.argmax(1)]
        embeddings = self._embed(embedder, self.train)
        probe.fit(embeddings, y, groups=self._train_groups)
        start = fit_starting_probe(probe, embeddings, y)
        if self.multilabel:
            probe.classes_ = np.array(self.train.classes)
        return probe, start

    def _embed(self, embedder: Embedder, clips: ClipSet) -> NDArray[np.float32]:
        with tqdm(total=len(clips), unit="clip", desc="embedding", disable=self._hide_bar, leave=False) as bar:
            rows = []
            for first in range(0, len(clips), 64):
                paths = list(clips.paths[first : first + 64])
                rows.append(embedder.embed(paths))
                bar.update(len(paths))
        return np.concatenate(rows)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        config, groups = self.config, []
        blocks = trained_blocks(self.network)
        if config.frozen_blocks >= len(blocks):
            raise InvalidArgumentError(
                f"frozen_blocks must be less than the {len(blocks)} blocks of this network, got {config.frozen_blocks}."
            )
        self.network.requires_grad_(False)
        trained = [(block, config.learning_rate) for block in blocks[config.frozen_blocks :]]
        for module, rate in (*trained, (self.head, config.head_learning_rate)):
            module.requires_grad_(True)
            for matrices in (True, False):
                chosen = [p for p in module.parameters() if (p.ndim >= 2) == matrices]
                decay = config.weight_decay if matrices else 0.0
                groups.append({"params": chosen, "lr": rate, "base_lr": rate, "weight_decay": decay})
        return torch.optim.AdamW([group for group in groups if group["params"]])

    def _update(self, batch: Batch) -> tuple[float, float]:
        """One step; its loss and the norm of the gradient."""
        config, device = self.config, self.device
        self._set_rates()
        self.network.train()
        for module in self.network.modules():
            # Statistics of small batches would be worse than those of the large training.
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        self.optimizer.zero_grad(set_to_none=True)
        if config.shift:
            batch = shift(batch, config.seed, self.step)
        batch = change_gain(batch, self.network, config.gain, config.seed, self.step)
        batch = mix(batch, config.mixup, config.seed, self.step)
        lengths = batch.lengths.to(device)
        equal = bool((batch.lengths == batch.features.shape[1]).all())
        with torch.autocast(device.type, torch.bfloat16, enabled=self._bfloat16):
            output = self.network.forward_normalised(batch.features.to(device), None if equal else lengths)
        embeddings = pool_embedding(self.network, output.frames.float(), output.lengths)
        scores = self.head(embeddings)
        loss = loss_of_scores(scores, batch.targets, multilabel=self.multilabel, smoothing=config.label_smoothing)
        torch.autograd.backward(loss)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = float(nn.utils.clip_grad_norm_(parameters, config.gradient_norm))
        value = float(loss.detach())
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise self._folder.diverged(self.step + 1, f"loss {value:g}, norm of the gradient {norm:g}")
        self.optimizer.step()
        average_into(self.average, self.network, config.average, self.step + 1)
        average_into(self.average_head, self.head, config.average, self.step + 1)
        return value, norm

    def _set_rates(self) -> None:
        total = self.config.epochs * self._steps
        warm = min(1.0, (self.step + 1) / self._steps)
        factor = warm * 0.5 * (1.0 + math.cos(math.pi * self.step / total))
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["base_lr"]

    # --- epochs -------------------------------------------------------------------------------------------------

    def _end_epoch(self, norm: float) -> None:
        epoch = self.step // self._steps
        broken = find_nonfinite(self.network.state_dict())
        if broken is not None:
            raise self._folder.diverged(self.step, broken)
        score, loss = self._score(self.average_head)
        rate = self.optimizer.param_groups[0]["lr"]
        mean = math.fsum(self._losses) / len(self._losses)
        self._losses = []
        row = {"step": self.step, "epoch": epoch, "loss": mean, "learning_rate": rate, "gradient_norm": norm}
        if (score, -loss) > (self.best["score"], -self.best["loss"]):
            self._keep(epoch, score, loss, self.average_head)
        self._save()
        self._folder.log({**row, "validation_score": score, "validation_loss": loss})

    def _score(self, head: ProbeHead) -> tuple[float, float]:
        """Compute validation score and loss, with embeddings as `Embedder.embed` gives them."""
        embedder = Embedder(self.average, describe_network(self.average), device=self.device)
        with torch.inference_mode():
            scores = head(torch.from_numpy(self._embed(embedder, self.held_out)).to(self.device)).float().cpu()
        loss = calibrated_loss(scores, torch.from_numpy(self.held_out.targets), multilabel=self.multilabel)
        found = scores.numpy()
        if self.multilabel:
            return metrics.compute("map", self.held_out.targets >= 0.5, found), loss
        return float((found.argmax(1) == self.held_out.targets.argmax(1)).mean()), loss

    def _keep(self, epoch: int, score: float, loss: float, head: ProbeHead) -> None:
        """Write the network and a classifier as the best so far."""
        self.best = {"epoch": epoch, "score": score, "loss": loss}
        card = _CARD.format(
            model=self._name,
            clips=len(self.train),
            classes=len(self.train.classes),
            metric=self.metric,
            held_out=len(self.held_out),
            before=self.before,
            after=score,
            epoch=epoch,
        )
        save_pretrained(self.average, self.out, card=card)
        probe, linear = copy.copy(self.probe), head.linear
        probe.coef_, probe.intercept_ = (v.detach().cpu().numpy().copy() for v in (linear.weight, linear.bias))
        probe.model_ = identity(load_model(self.out, "cpu"))
        probe.save(self.out / _PROBE)

    def _is_over(self) -> bool:
        epoch, at_end = divmod(self.step, self._steps)
        return not at_end and epoch - self.best["epoch"] >= self.config.patience

    def _say(self) -> str:
        return f"best {self.metric} {self.best['score']:.4f} (epoch {self.best['epoch']:.0f}), before {self.before:.4f}"

    def _finish(self) -> Finetuned:
        result = Finetuned(
            self.out,
            self.metric,
            self.before,
            self.best["score"],
            int(self.best["epoch"]),
            self.step // self._steps,
            len(self.train),
            len(self.held_out),
        )
        self._folder.write("result.json", {**result._asdict(), "model": str(self._name)})
        self._folder.checkpoint.unlink(missing_ok=True)
        shutil.rmtree(self.out / _RUN / _FEATURES, ignore_errors=True)
        return result

    # --- state --------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        state = {
            "step": self.step,
            "network": self.network.state_dict(),
            "head": self.head.state_dict(),
            "average": self.average.state_dict(),
            "average_head": self.average_head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "before": self.before,
            "losses": self._losses,
        }
        save_checkpoint(self._folder.checkpoint, state)

    def _restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.head.load_state_dict(state["head"])
        self.average.load_state_dict(state["average"])
        self.average_head.load_state_dict(state["average_head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.best, self.before = state["step"], state["best"], state["before"]
        self._losses = list(state["losses"])
