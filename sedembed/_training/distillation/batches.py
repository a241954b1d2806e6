"""Training batches of a distillation: mixtures of sounds, and what the teacher says about each of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import block_diag

from sedembed._training.distillation.collection import SAMPLE_RATE, Collection, CropSettings, draw_mixture
from sedembed._training.distillation.config import DistillConfig
from sedembed._training.distillation.losses import even_out
from sedembed._training.distillation.teacher import load_teacher, to_teacher_rate
from sedembed._training.spec_augment import mask_features
from sedembed._training.threads import map_ahead, open_threads
from sedembed.models.base import Backbone

__all__ = ["Batch", "BatchMaker", "HeldOut", "LiveTeacher", "sampling_weights"]

SPEC_AUGMENT_SECONDS, SPEC_AUGMENT_BINS = 2.0, 16


@dataclass(frozen=True)
class Batch:
    """Features of one step, and what the teacher says about the same mixtures.

    Attributes
    ----------
    features : Tensor, shape (batch, frames, bins)
        Normalised and masked.
    targets : Tensor, shape (batch, 527)
        Probabilities.
    embeddings : Tensor, shape (batch, 384 or 1888)
        Standardised; with inner features where they are asked for.
    local : Tensor, shape (batch, cells, 384 or 1888)
        The same over time.
    """

    features: torch.Tensor
    targets: torch.Tensor
    embeddings: torch.Tensor
    local: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return Batch(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))


class HeldOut(NamedTuple):
    """A held-out recording: features of the whole, and the teacher's probabilities and standardised embedding."""

    features: torch.Tensor
    targets: torch.Tensor
    embedding: torch.Tensor


class LiveTeacher:
    """The teacher, asked about sounds while the student is trained.

    Parameters
    ----------
    folder : Path
        Holds ``teacher/mn04_as.safetensors`` and ``teacher.npz``, whose embeddings give the standardisation.
    collection : Collection
        Recordings, to measure inner features on.
    inner : bool
        Whether inner features follow the embedding.
    device : torch.device
        Where it runs; answers are on the CPU.
    """

    def __init__(self, folder: Path, collection: Collection, inner: bool, device: torch.device) -> None:
        self._network = load_teacher(folder / "teacher" / "mn04_as.safetensors").to(device)
        self._inner, self._device = inner, device
        self.embedding_size = self._network.embedding_size
        embeddings = np.load(folder / "teacher.npz")["embeddings"].astype(np.float32)
        self.mean = torch.from_numpy(embeddings.mean(0))
        self.std = torch.from_numpy(embeddings.std(0) + 1e-3)
        if inner:
            mean, std = self._measure_inner(collection)
            self.mean, self.std = torch.cat((self.mean, mean)), torch.cat((self.std, std))

    @torch.no_grad()
    def ask(self, waveforms: NDArray[np.float32]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Probabilities, and standardised embeddings of the clip and over time, of waveforms (batch, samples)."""
        sound = to_teacher_rate(waveforms, SAMPLE_RATE).to(self._device)
        # A few clips at once stay in a CPU's cache, which is faster (measured).
        at_once = 8 if self._device.type == "cpu" else len(sound)
        outputs = [self._network(sound[i : i + at_once]) for i in range(0, len(sound), at_once)]
        logits, embeddings, local, inner, inner_local = (torch.cat(part).cpu() for part in zip(*outputs, strict=True))
        if self._inner:
            embeddings, local = torch.cat((embeddings, inner), 1), torch.cat((local, inner_local), 2)
        embeddings, local = ((value - self.mean) / self.std for value in (embeddings, local))
        return torch.sigmoid(logits), embeddings, local

    @torch.no_grad()
    def even_out(self, collection: Collection, power: float) -> torch.Tensor:
        """Make the matrix of `losses.even_out` from each moment of every twentieth recording of the first folder.

        Returns
        -------
        Tensor, shape (numbers, numbers)
            Embedding and inner features each by themselves.
        """
        moments = np.concatenate([self.ask(collection.repeated(index)[None])[2][0] for index in collection.measured()])
        parts = moments[:, : self.embedding_size], moments[:, self.embedding_size :]
        even: NDArray[np.float64] = block_diag(*(even_out(part, power) for part in parts if part.size))
        return torch.from_numpy(even).float().to(self._device)

    @torch.no_grad()
    def _measure_inner(self, collection: Collection) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of the inner features over every twentieth recording of the first folder."""
        values = []
        for index in collection.measured():
            sound = to_teacher_rate(collection.repeated(index)[None], SAMPLE_RATE)
            values.append(self._network(sound.to(self._device)).inner[0].cpu())
        inner = torch.stack(values)
        return inner.mean(0), inner.std(0, correction=0) + 1e-3


class BatchMaker:
    """Makes the batches of a distillation, each a function of the seed and the step.

    Parameters
    ----------
    config : DistillConfig
        Crops, mixtures, masks.
    collection : Collection
        The recordings.
    weights : ndarray of float64, shape (recordings,)
        Cumulative, by `sampling_weights`.
    teacher : LiveTeacher
        Gives the targets.
    network : Backbone
        Its front end and normalisation.
    """

    def __init__(
        self,
        config: DistillConfig,
        collection: Collection,
        weights: NDArray[np.float64],
        teacher: LiveTeacher,
        network: Backbone,
    ) -> None:
        self._config, self._collection, self._weights = config, collection, weights
        self._teacher, self._network = teacher, network

    def make(self, step: int) -> Batch:
        """Batch number `step`, the same whenever and wherever it is made."""
        config, network = self._config, self._network
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
            config.silence_probability,
        )
        waveforms = [draw_mixture(self._collection, self._weights, settings, rng) for _ in range(config.batch_size)]
        features = torch.stack([network.features(torch.from_numpy(waveform)) for waveform in waveforms])
        features = (features - network.mean.cpu()) / network.std.cpu()
        longest = round(SPEC_AUGMENT_SECONDS * network.feature_rate)
        for item in features:
            if rng.random() < config.spec_augment_probability:
                mask_features(item, longest, SPEC_AUGMENT_BINS, network.spec_augment_fill, rng)
        return Batch(features, *self._teacher.ask(np.stack(waveforms)))

    def batches(self, start: int, stop: int, device: torch.device) -> Iterator[Batch]:
        """Give the batches of steps `start` to `stop`, made ahead by threads."""
        # Resampling and mixing run on one core while the network's small kernels leave it free.
        ahead = 1 if device.type == "cpu" else max(2, (os.cpu_count() or 2) - 2)
        with open_threads(ahead) as pool:
            yield from map_ahead(pool, self.make, range(start, stop), ahead)

    def held_out(self) -> list[HeldOut]:
        """All held-out recordings, repeated or cut to ten seconds."""
        prepared = []
        for index in np.flatnonzero(self._collection.held_out):
            waveform = self._collection.repeated(int(index))
            probabilities, embeddings, _ = self._teacher.ask(waveform[None])
            prepared.append(
                HeldOut(self._network.features(torch.from_numpy(waveform)), probabilities[0], embeddings[0])
            )
        return prepared


def sampling_weights(logits: NDArray[np.float16], collection: Collection, rarity: str) -> NDArray[np.float64]:
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
