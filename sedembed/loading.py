"""`load_model`, and `embed` with a model that is loaded on first use."""

from __future__ import annotations

import os

import numpy as np
import torch
from numpy.typing import NDArray

from sedembed._utils.checks import check_path, check_type
from sedembed._utils.memory import give_back_memory
from sedembed.embedder import Embedder
from sedembed.models.weights import load_network, resolve
from sedembed.types import AudioInput, Engine, Precision

__all__ = ["embed", "load_model"]


def load_model(
    name: str | os.PathLike[str] = "talnet",
    device: str | torch.device | None = None,
    precision: Precision = "float32",
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    *,
    engine: Engine = "torch",
) -> Embedder:
    """Load a network with its weights.

    Parameters
    ----------
    name : str or path
        A name from `list_models`, a directory or ``.safetensors`` file, or ``"hf://org/repo[@revision]"``.
    device : str or torch.device, optional
        Where the network runs; by default the first CUDA device, else the CPU.
    precision : {"float32", "bfloat16"}
        Arithmetic of the convolutions; the default is exact.
    cache_dir : path, optional
        Where downloads are kept, by default the hub's own cache.
    local_files_only : bool
        Never open a connection.
    engine : {"torch", "openvino", "auto"}
        What runs the network. OpenVINO (extra ``openvino``) runs on CPUs; in float32 its vectors are within 1e-5 of
        PyTorch's, relative to their length. "auto" takes it where it is installed and was measured to be faster.

    Returns
    -------
    Embedder
        Ready to embed.

    Raises
    ------
    ModelNotFoundError
        For an unknown name or a path that leads to nothing.
    WeightsError
        For weights that are damaged or do not fit.
    DownloadError, OfflineError
        For weights that could not be fetched, or are not here while offline.
    ValueError
        For an unknown precision or engine, a device that is not there or not the engine's, or an arithmetic that the
        processor lacks.
    MissingPackageError
        If OpenVINO was asked for and is not installed.
    """
    resolved = resolve(name, cache_dir=cache_dir, local_files_only=local_files_only)
    model = Embedder(load_network(resolved), resolved.record, device=device, precision=precision, engine=engine)
    give_back_memory()  # the network as it was read, which is not needed any more
    return model


_default_models: dict[str, Embedder] = {}


def embed(x: AudioInput, sample_rate: int | None = None, model: str | Embedder = "talnet") -> NDArray[np.float32]:
    """Embed clips with a model that is loaded on first use and kept.

    Parameters
    ----------
    x, sample_rate
        As for `Embedder.embed`.
    model : str or Embedder
        What `load_model` takes, or a loaded model.

    Returns
    -------
    ndarray of float32, shape (embedding size,) or (clips, embedding size)
        Clip embeddings.

    Raises
    ------
    AudioError, ModelNotFoundError, WeightsError, DownloadError
        As for `Embedder.embed` and `load_model`.
    """
    if isinstance(model, str):
        check_path(model, "the name of a model")
        if model not in _default_models:
            _default_models[model] = load_model(model)
        model = _default_models[model]
    check_type(model, Embedder, "model", "pass what load_model gives, or its name")
    return model.embed(x, sample_rate)
