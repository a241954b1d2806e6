"""Training batches: which clips, cropped where, with what masked — each a function of the seed and the position."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sedembed._training.clips import ClipSet
from sedembed._training.distributed import Processes
from sedembed._training.features import (
    FeatureStore,
    UnreadableClipError,
    count_frames,
    silence_under,
)
from sedembed._training.sampler import BalancedOrder, Order, ShuffledOrder, positions_of
from sedembed._training.settings import TrainConfig
from sedembed._training.spec_augment import mask_features
from sedembed._training.threads import map_ahead, open_threads
from sedembed.errors import DatasetError
from sedembed.models.base import Backbone

__all__ = ["Batch", "BatchMaker"]

_AHEAD = 2  # batches that are prepared while the network is busy
_ATTEMPTS = 100
_CROPS = 16  # a random stream of its own, apart from those of the sampler


@dataclass(frozen=True)
class Batch:
    """What one process has of one step.

    Attributes
    ----------
    features : torch.Tensor, float32, shape (clips, frames, 64)
        Normalised, cropped and masked.
    targets : torch.Tensor, float32, shape (clips, classes)
        In [0, 1].
    seconds : float
        Sound in the step, of all processes.
    lengths : torch.Tensor, int64, shape (clips,)
        Feature frames of each clip; silence follows.
    """

    features: torch.Tensor
    targets: torch.Tensor
    seconds: float
    lengths: torch.Tensor


class BatchMaker:
    """Makes the batches of a training.

    Parameters
    ----------
    config : TrainConfig
        Crops, masks, order.
    clips, features : ClipSet, FeatureStore
        What to train on.
    network : Backbone
        Its normalisation and front end.
    processes : Processes
        Who shares each batch.
    pad : bool
        Whether silence follows clips that are shorter than the crops; else a batch is as long as its longest clip.
    """

    def __init__(
        self,
        config: TrainConfig,
        clips: ClipSet,
        features: FeatureStore,
        network: Backbone,
        processes: Processes,
        *,
        pad: bool = True,
    ) -> None:
        if len(features) != len(clips):
            raise DatasetError(f"Expected features of the {len(clips)} training clips, got those of {len(features)}.")
        if processes.count > config.batch_size:
            raise DatasetError(
                f"A batch of {config.batch_size} clips cannot be shared by {processes.count} processes. Start fewer."
            )
        self.order: Order
        if config.balanced:
            self.order = BalancedOrder(clips.members, len(clips), config.seed)
        else:
            self.order = ShuffledOrder(len(clips), config.seed)
        self._config, self._clips, self._features, self._processes = config, clips, features, processes
        self._rate = network.feature_rate
        own, chosen = network.spec_augment_fill, config.spec_augment_fill
        self._fill: float | Literal["zero", "mean"] = own if chosen is None else chosen
        self._frames = None if config.seconds is None else count_frames(network, config.seconds)
        self._pad = pad and self._frames is not None
        self._mean = network.mean.detach().cpu().numpy()
        self._std = network.std.detach().cpu().numpy()

    def item(self, position: int) -> tuple[NDArray[np.float32], int, NDArray[np.float32]]:
        """Normalised features of one position, the index of its clip, and a normalised frame of silence."""
        config = self._config
        index, features = self._draw(position)
        rng = np.random.default_rng((config.seed, _CROPS, position))
        # The network's frame of silence follows a clip that is too short, as if zeros followed the sound.
        silence = np.full(features.shape[1], silence_under(features, self._features.spectrogram), np.float32)
        if self._frames is not None:
            start = int(rng.integers(max(0, len(features) - self._frames) + 1))
            features = features[start : start + self._frames]
            short = self._frames - len(features) if self._pad else 0
            features = np.concatenate((features, np.broadcast_to(silence, (short, len(silence)))))
        normalised = np.asarray((features - self._mean) / self._std, np.float32)
        if config.spec_augment:
            longest = round(config.spec_augment_seconds * self._rate)
            mask_features(normalised, longest, config.spec_augment_bins, self._fill, rng)
        return normalised, index, np.asarray((silence - self._mean) / self._std, np.float32)

    def _draw(self, position: int) -> tuple[int, NDArray[np.float32]]:
        """Clip at a position with its features; another one of its class stands in for one that is unreadable."""
        problem: UnreadableClipError | None = None
        for attempt in range(_ATTEMPTS):
            index = self.order.clip(position, attempt)
            try:
                return index, self._features[index]
            except UnreadableClipError as error:
                problem = error
        raise DatasetError(f"{_ATTEMPTS} clips in a row cannot be decoded. The last: {problem}")

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Give the batches of steps `start` to `stop`, made ahead by threads."""
        size, processes = self._config.batch_size, self._processes
        own = len(positions_of(0, size, processes.rank, processes.count))
        places = (
            int(p) for step in range(start, stop) for p in positions_of(step, size, processes.rank, processes.count)
        )
        with open_threads(self._features.workers) as pool:
            items = map_ahead(pool, self.item, places, _AHEAD * own)
            while batch := list(islice(items, own)):
                yield self.collate(batch)

    def collate(self, items: list[tuple[NDArray[np.float32], int, NDArray[np.float32]]]) -> Batch:
        """Put items of `item` into one batch, as long as the longest item of any process."""
        longest = max(len(features) for features, _, _ in items)
        if not self._pad:
            longest = max(self._processes.gather(longest))
        batch = np.empty((len(items), longest, items[0][0].shape[1]), np.float32)
        for row, (features, _, silence) in zip(batch, items, strict=True):
            row[: len(features)] = features
            row[len(features) :] = silence
        targets = self._clips.targets[[index for _, index, _ in items]]
        seconds = self._config.batch_size * longest / self._rate
        lengths = torch.tensor([len(features) for features, _, _ in items])
        return Batch(torch.from_numpy(batch), torch.from_numpy(targets), seconds, lengths)
