"""WEANet for the HEAR benchmark: one embedding every 320 ms, or at a finer hop."""

from __future__ import annotations

from sedembed.hear.interface import HearModel, get_scene_embeddings, get_timestamp_embeddings

__all__ = ["get_scene_embeddings", "get_timestamp_embeddings", "load_model"]


def load_model(model_file_path: str = "", hop: float | None = None) -> HearModel:
    """Load WEANet, or other weights by name, path or "hf://org/repo".

    Parameters
    ----------
    model_file_path : str
        By default the packaged weights.
    hop : float, optional
        Milliseconds from timestamp to timestamp: 320 (the default) divided by a whole number.

    Returns
    -------
    HearModel
        With `sample_rate`, `scene_embedding_size` and `timestamp_embedding_size`.
    """
    return HearModel(model_file_path or "weanet", hop)
