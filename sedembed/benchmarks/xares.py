"""The encoder of the X-ARES benchmark: ``python -m xares.run sedembed/benchmarks/xares.py TASK.py``."""

from __future__ import annotations

import os

import torch

from sedembed.hear.interface import HearModel, get_timestamp_embeddings

__all__ = ["SedembedEncoder"]  # the only name that ends in "Encoder": the benchmark looks for it


class SedembedEncoder(HearModel):
    """Frame embeddings of a model at even distances, for sounds of any length.

    Parameters
    ----------
    name : str or path, optional
        What `sedembed.load_model` takes; by default the environment variable SEDEMBED_MODEL, else "talnet". The
        benchmark makes its encoder without arguments.
    hop : float, optional
        Milliseconds from frame to frame; as for `HearModel`.

    Attributes
    ----------
    sampling_rate, output_dim : int
        Rate of the sounds in Hz, and length of an embedding.
    hop_size_in_ms : float
        Milliseconds from frame to frame.
    """

    def __init__(self, name: str | os.PathLike[str] | None = None, hop: float | None = None) -> None:
        super().__init__(name or os.environ.get("SEDEMBED_MODEL") or "talnet", hop)
        self.sampling_rate, self.output_dim = self.sample_rate, self.embedder.embedding_size
        self.hop_size_in_ms = hop or 1000 / self.embedder.frame_rate

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        """Map sounds (B, T) or (T,) in [-1, 1] to frame embeddings (B, frames, output_dim), float32."""
        return get_timestamp_embeddings(audio[None] if audio.ndim == 1 else audio, self)[0]
