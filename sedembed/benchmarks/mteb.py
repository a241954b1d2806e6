"""The encoder of the MTEB benchmark: ``mteb.evaluate(SedembedEncoder("talnet"), tasks)``."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedembed.embedder import Embedder
from sedembed.errors import InvalidArgumentError, MissingPackageError
from sedembed.loading import load_model

try:
    from mteb.models import ModelMeta
    from mteb.models.abs_encoder import AbsEncoder
except ImportError as error:
    raise MissingPackageError('The package "mteb" is not installed: pip install "mteb[audio]"') from error

__all__ = ["SedembedEncoder"]


class SedembedEncoder(AbsEncoder):  # type: ignore[misc, unused-ignore]  # of a package without types
    """Clip embeddings of a model for the audio tasks of MTEB.

    Parameters
    ----------
    model_name : str or path
        What `sedembed.load_model` takes.
    revision : str, optional
        Commit of a hub repository, for "hf://org/repo".
    device : str, optional
        By default the first CUDA device, else the CPU.
    """

    def __init__(
        self, model_name: str | os.PathLike[str] = "talnet", revision: str | None = None, device: str | None = None
    ) -> None:
        name = os.fspath(model_name)
        pinned = f"{name}@{revision}" if revision and name.startswith("hf://") else name
        self.model: Embedder = load_model(pinned, device=device)
        record = self.model.record
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": f"sedembed/{record.name.replace('/', '__')}",
                "revision": record.version,
                "n_parameters": record.parameters,
                "memory_usage_mb": record.parameters * 4 / 2**20,
                "embed_dim": record.embedding_size,
                "similarity_fn_name": "cosine",
                "framework": ["PyTorch"],
                "modalities": ["audio"],
                "open_weights": True,
            }
        )

    def encode(
        self, inputs: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, prompt_type: Any = None, **options: Any
    ) -> NDArray[np.float32]:
        """Map the batches of a `DataLoader` to embeddings (clips, embedding size), in the order given.

        Each batch holds ``audio``: mappings of ``array`` and ``sampling_rate``. Task and prompt change nothing.
        """
        found = []
        for batch in inputs:
            if "audio" not in batch:
                raise InvalidArgumentError(f"Expected batches with audio, got {sorted(batch)}; run audio tasks only.")
            found.append(self.model.embed([_clip(item) for item in batch["audio"]]))
        return np.concatenate(found)


def _clip(item: Any) -> dict[str, Any]:
    return {"array": np.asarray(item["array"], np.float32).squeeze(), "sampling_rate": int(item["sampling_rate"])}
