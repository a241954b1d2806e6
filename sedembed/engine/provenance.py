"""What vectors were made with: the settings, weights and versions that a store keeps, and its fingerprint."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from sedembed._utils.versions import VECTOR_PACKAGES, list_versions
from sedembed.engine.runner import Runner
from sedembed.engine.windows import PART_SECONDS, WINDOW_SECONDS, Hops
from sedembed.store.layout import FORMAT_VERSION

__all__ = ["FRONT_END_VERSION", "describe_run", "describe_settings", "sha256_of_model"]

# To be raised by whatever changes vectors without changing weights: reading, resampling, windows, log-mel.
FRONT_END_VERSION = 1


def describe_settings(runner: Runner) -> dict[str, Any]:
    """Give the settings that every result of a network depends on."""
    settings = {
        "front_end_version": FRONT_END_VERSION,
        "model_version": runner.record.version,
        "model_sha256": sha256_of_model(runner),
        "precision": runner.precision,
    }
    # In float32 the engines agree within 1e-5, and their vectors may be mixed.
    return (
        settings if runner.engine == "torch" or runner.precision == "float32" else {**settings, "engine": runner.engine}
    )


def describe_run(
    runner: Runner,
    folder: Path,
    *,
    frames: bool = False,
    kind: str = "embeddings",
    hops: Hops | None = None,
    tags: bool = False,
    shard: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Contents of `run.json`; the fingerprint covers `settings`, which hold all that vectors depend on.

    Parameters
    ----------
    runner : Runner
        What makes the vectors.
    folder : Path
        Where the recordings are.
    frames : bool
        Whether frame embeddings are kept too.
    kind : {"embeddings", "probabilities"}
        What the vectors are.
    hops : Hops, optional
        Windows that get a row each; by default a recording has one.
    tags : bool
        Whether the probabilities of the events are kept too.
    shard : (int, int), optional
        Number of the part of a job that the store holds, from 0, and how many there are. It is no setting: the shards
        of a job have one fingerprint.
    """
    settings: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        **describe_settings(runner),
        "embedding_size": runner.network.embedding_size if kind == "embeddings" else runner.network.config.classes,
        "window_seconds": WINDOW_SECONDS,
        "frames": bool(frames),
    }
    if kind != "embeddings":
        settings["vectors"] = kind
    if hops is not None:
        settings |= {"window": hops.window, "hop": hops.hop}
    if tags:
        settings["tags"] = runner.network.config.classes
    if tags or kind != "embeddings":
        settings["part_seconds"] = PART_SECONDS
    part = {} if shard is None else {"shard": {"index": shard[0], "count": shard[1], "complete": False}}
    return {
        "format_version": FORMAT_VERSION,
        "fingerprint": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
        "settings": settings,
        "model": {"name": runner.record.name, "source": runner.record.source, "revision": runner.record.revision},
        "folder": str(folder.resolve()).encode(errors="backslashreplace").decode(),
        "device": str(runner.device),
        "engine": runner.engine,
        "versions": list_versions(*() if runner.engine == "torch" else (*VECTOR_PACKAGES, runner.engine)),
        **part,
    }


def sha256_of_model(runner: Runner) -> str:
    """Sha256 of the weights: the recorded one, or one of the configuration and the tensors of an unsaved network."""
    if runner.record.sha256:
        return runner.record.sha256
    network = runner.network
    digest = hashlib.sha256(repr(network.config).encode())
    for tensor in network.state_dict().values():
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
