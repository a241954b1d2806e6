"""Sound-event-detection networks as general-purpose audio features.

``load_model("talnet").embed("recording.wav")`` gives a vector; `embed_folder` turns a folder into a store of them.
"""

from __future__ import annotations

import importlib
from typing import Any

# Loaded on first use: `import sedembed` must not cost what torch costs.
_PUBLIC = {
    "AudioError": "sedembed.errors",
    "Backbone": "sedembed.models.base",
    "EmbeddingStore": "sedembed.store.store",
    "Embedder": "sedembed.embedder",
    "Event": "sedembed.detection.events",
    "Frames": "sedembed.types",
    "Hit": "sedembed.store.rows",
    "LinearProbe": "sedembed.probe.probe",
    "ModelRecord": "sedembed.models.registry",
    "SedembedError": "sedembed.errors",
    "Finetuned": "sedembed._training.finetune",
    "Tag": "sedembed.types",
    "Windows": "sedembed.types",
    "describe_model": "sedembed.models.registry",
    "embed": "sedembed.loading",
    "embed_folder": "sedembed.batch.embed_folder",
    "finetune": "sedembed._training.finetune",
    "list_models": "sedembed.models.registry",
    "load_network": "sedembed.models.weights",
    "load_model": "sedembed.loading",
    "merge_stores": "sedembed.store.merge",
    "open_store": "sedembed.store.store",
    "push_to_hub": "sedembed.models.weights",
    "register_model": "sedembed.models.registry",
    "save_pretrained": "sedembed.models.weights",
    "show_versions": "sedembed._utils.machine",
}

# Modules that belong to the public names.
_MODULES = ("ray",)

__version__ = "0.1.0"
__all__ = [*sorted([*_PUBLIC, *_MODULES]), "__version__"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"sedembed.{name}")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'sedembed' has no attribute {name!r}; it has {', '.join(sorted(_PUBLIC))}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
