"""Clip probabilities of a network for many clips, and the scores of a validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from sedembed import metrics
from sedembed._training.clips import ClipSet
from sedembed._training.distributed import Processes
from sedembed._training.features import FeatureStore, UnreadableClipError
from sedembed._training.threads import map_ahead, open_threads
from sedembed.errors import DatasetError
from sedembed.models.base import Backbone

__all__ = ["check_validation", "predict", "score", "validate"]

_AHEAD = 2  # batches that are read while the network is busy


def predict(
    network: Backbone,
    features: FeatureStore,
    *,
    batch_size: int = 64,
    device: str | torch.device | None = None,
) -> NDArray[np.float32]:
    """Clip probabilities of every clip of a store, each in one window.

    Parameters
    ----------
    network : Backbone
        Run in evaluation mode and left in the mode it was in.
    features : FeatureStore
        Made for a network of the same front end.
    batch_size : int
        Clips in a batch; it changes the result by rounding only.
    device : str or torch.device, optional
        Where the network is moved first; by default it stays where it is.

    Returns
    -------
    ndarray of float32, shape (clips, classes)
        In [0, 1]; NaN for clips that cannot be decoded, which `features.failures` then lists.
    """
    if device is not None:
        network.to(device)
    return _predict(network, features, np.arange(len(features)), batch_size)


def validate(
    network: Backbone, clips: ClipSet, features: FeatureStore, batch_size: int, processes: Processes
) -> dict[str, float]:
    """MAP, MAUC and d' of a network; several processes share the work and get the same numbers."""
    own = processes.share(range(len(features)))
    parts = processes.gather(_predict(network, features, own, batch_size))
    probabilities = np.empty((len(clips), len(clips.classes)), np.float32)
    for rank, part in enumerate(parts):
        probabilities[rank :: processes.count] = part
    return score(clips.targets, probabilities)


def score(targets: NDArray[np.float32], probabilities: NDArray[np.float32]) -> dict[str, float]:
    """MAP, MAUC and d' over the classes that have positives.

    Parameters
    ----------
    targets : ndarray, shape (clips, classes)
        A class counts as present where its target is at least 0.5.
    probabilities : ndarray, shape (clips, classes)
        Clips that are NaN throughout are left out.
    """
    readable = ~np.isnan(probabilities).all(axis=1)
    truth, scores = targets[readable] >= 0.5, probabilities[readable]
    if not truth.any():
        raise DatasetError("No validation clip that can be decoded carries a class. Choose other clips to validate on.")
    if not np.isfinite(scores).all():
        return {"map": float("nan"), "mauc": float("nan"), "d_prime": float("nan")}
    found = {"map": metrics.compute("map", truth, scores)}
    for name in ("mauc", "d_prime"):
        try:
            found[name] = metrics.compute(name, truth, scores)
        except metrics.UndefinedMetricError:
            found[name] = float("nan")
    return found


def check_validation(clips: ClipSet, train: ClipSet) -> None:
    """Refuse validation clips of other classes, or on which MAP is not defined."""
    if clips.classes != train.classes:
        raise DatasetError(
            "The validation clips have other classes than the training clips. Use the same classes in the same order."
        )
    if not (clips.targets >= 0.5).any():
        raise DatasetError(
            f"None of the {len(clips)} validation clips carries a class. Choose other clips to validate on."
        )
    both = set(clips.names) & set(train.names)
    if both:
        raise DatasetError(
            f"{len(both)} clips are both to train and to validate on, such as {min(both)}. Take them out of one part."
        )


def _predict(
    network: Backbone, features: FeatureStore, rows: Sequence[int] | NDArray[np.int64], batch_size: int
) -> NDArray[np.float32]:
    result = np.full((len(rows), network.config.classes), np.nan, np.float32)
    training = network.training
    device = next(network.parameters()).device
    network.eval()
    try:
        with torch.no_grad():
            for places, batch, lengths in _batches(features, rows, batch_size):
                x = batch.to(device)
                output = network(x, None if lengths is None else lengths.to(device))
                result[places] = network.pool(output).float().cpu().numpy()
    finally:
        network.train(training)
    return result


def _batches(
    features: FeatureStore, rows: Sequence[int] | NDArray[np.int64], batch_size: int
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor | None]]:
    def read(row: int) -> NDArray[np.float32] | None:
        try:
            return features[row]
        except UnreadableClipError:
            return None

    with open_threads(features.workers) as pool:
        results = map_ahead(pool, read, map(int, rows), _AHEAD * batch_size)
        for start in range(0, len(rows), batch_size):
            items = enumerate(islice(results, batch_size), start)
            found = {place: item for place, item in items if item is not None}
            if not found:
                continue
            lengths = [len(item) for item in found.values()]
            batch = np.zeros((len(found), max(lengths), next(iter(found.values())).shape[1]), np.float32)
            for row, item in zip(batch, found.values(), strict=True):
                row[: len(item)] = item
            same = min(lengths) == max(lengths)
            yield list(found), torch.from_numpy(batch), None if same else torch.tensor(lengths)
