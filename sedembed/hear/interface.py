"""What both modules of the HEAR interface share: a PyTorch module for a model, and the benchmark's two functions."""

from __future__ import annotations

import os

import numpy as np
import torch

from sedembed.embedder import Embedder
from sedembed.engine.even_frames import even_frames
from sedembed.engine.inputs import clip_blocks, list_clips
from sedembed.models.weights import load_network, resolve

__all__ = ["HearModel", "get_scene_embeddings", "get_timestamp_embeddings"]


class HearModel(torch.nn.Module):
    """A model as the HEAR benchmark wants it; `to` moves it to a device.

    Parameters
    ----------
    name : str or path
        What `sedembed.load_model` takes.
    hop : float, optional
        Milliseconds from timestamp to timestamp, a whole fraction of the network's own, which is the default. The
        benchmark advises 50 or less; a hop of 1/n costs n times as much.

    Attributes
    ----------
    sample_rate, scene_embedding_size, timestamp_embedding_size : int
        As the benchmark wants them.
    embedder : Embedder
        The model, on the device that this module was moved to.
    """

    def __init__(self, name: str | os.PathLike[str], hop: float | None = None) -> None:
        super().__init__()
        resolved = resolve(name)
        self._network, self._record = [load_network(resolved)], resolved.record  # in a list: no part of this module
        self.register_buffer("_place", torch.empty(0), persistent=False)
        self.embedder = Embedder(self._network[0], self._record, device="cpu")
        self.hop = hop
        self.sample_rate = self.embedder.sample_rate
        self.scene_embedding_size = self.timestamp_embedding_size = self.embedder.embedding_size

    def _apply(self, *args: object, **options: object) -> HearModel:
        super()._apply(*args, **options)  # type: ignore[no-untyped-call]
        device = self.get_buffer("_place").device
        if device != self.embedder.device:
            self.embedder = Embedder(self._network[0], self._record, device=device)
        return self


def get_scene_embeddings(audio: torch.Tensor, model: HearModel) -> torch.Tensor:
    """Clip embeddings, float32 (n, scene_embedding_size), of sounds (n, samples) in [-1, 1], on their device."""
    return torch.from_numpy(model.embedder.embed(list_clips(audio))).to(audio.device)


def get_timestamp_embeddings(audio: torch.Tensor, model: HearModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Frame embeddings of sounds (n, samples) in [-1, 1], and the centres of the frames in milliseconds.

    Returns
    -------
    embeddings : torch.Tensor of float32, shape (n, timestamps, timestamp_embedding_size)
        On the device of `audio`.
    timestamps : torch.Tensor of float32, shape (n, timestamps)
        At even distances, the same for all sounds.
    """
    rate, hop = model.sample_rate, None if model.hop is None else model.hop / 1000
    waves = [np.concatenate(list(clip_blocks(clip, None, rate))) for clip in list_clips(audio)]
    embeddings, times = even_frames(model.embedder.runner, waves, hop)
    timestamps = torch.from_numpy(1000 * times).float().expand(len(waves), -1)
    return torch.from_numpy(embeddings).to(audio.device), timestamps.to(audio.device)
