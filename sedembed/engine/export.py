"""Write a network as an ONNX file, for programs without PyTorch."""

from __future__ import annotations

import io
import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sedembed._utils.files import write_atomic
from sedembed._utils.versions import list_versions
from sedembed.engine.windows import WINDOW_SECONDS
from sedembed.errors import InvalidArgumentError, MissingPackageError
from sedembed.models.base import Backbone
from sedembed.models.registry import ModelRecord

__all__ = ["export_onnx"]

_OPSET = 17
_OUTPUTS = ("frames", "embedding", "probabilities")


def export_onnx(network: Backbone, record: ModelRecord, file: str | os.PathLike[str]) -> Path:
    """Write a network as one ONNX file: log-mel features in, frames, embedding and probabilities out, in float32.

    The input ``log_mel`` has the shape (batch, feature frames, bins), in dB; both batch and length are dynamic, and the
    clips of a batch have one length. Outputs are ``frames`` (batch, frames, embedding size), ``embedding`` (batch,
    embedding size), pooled as `Embedder.embed` does for one window, and ``probabilities`` (batch, classes), pooled as
    `Embedder.tag` does.

    Parameters
    ----------
    network : Backbone
        In evaluation mode; left unchanged.
    record : ModelRecord
        What the weights are.
    file : path
        Ends in ``.onnx``; replaced in one step. Its metadata hold JSON texts: ``front_end`` (all that the features
        depend on), ``labels`` and ``model`` (name, version, sha256, licence).

    Returns
    -------
    Path
        The file.

    Raises
    ------
    MissingPackageError
        If onnx is not installed.
    InvalidArgumentError
        For another ending.
    WriteError
        If it cannot be written.
    """
    file = Path(file).expanduser()
    if file.suffix != ".onnx":
        raise InvalidArgumentError(f"Expected a file name that ends in .onnx, got {str(file)!r}.")
    try:
        import onnx
    except ImportError as error:
        raise MissingPackageError('Writing ONNX needs onnx: pip install "sedembed[onnx]".') from error
    model = onnx.load_from_string(_convert(network))
    texts = {
        "front_end": _describe_front_end(network),
        "labels": list(network.labels),
        "model": {name: getattr(record, name) for name in ("name", "version", "sha256", "licence", "provenance")},
    }
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in texts.items()})
    model.producer_name, model.producer_version = "sedembed", list_versions()["sedembed"]
    onnx.checker.check_model(model, full_check=True)
    write_atomic(file, model.SerializeToString())
    return file


def _describe_front_end(network: Backbone) -> dict[str, Any]:
    ten_seconds = torch.zeros(10 * network.sample_rate)
    return {
        "multiple": 1,
        **network.describe_front_end(),
        "sample_rate": network.sample_rate,
        "window": WINDOW_SECONDS,
        "frames_in_10_seconds": len(network.features(ten_seconds)),
    }


def _convert(network: Backbone) -> bytes:
    example = torch.zeros(1, 4 * round(network.feature_rate), network.n_mels)
    axes = {name: {0: "batch"} for name in ("log_mel", *_OUTPUTS)}
    axes["log_mel"][1], axes["frames"][1] = "feature_frames", "frames"
    data = io.BytesIO()
    # The exporter of torch.export cannot decompose a GRU of dynamic length (PyTorch 2.13), so the older one writes it.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            options: dict[str, Any] = {"f": data, "dynamo": False, "opset_version": _OPSET, "dynamic_axes": axes}
            torch.onnx.export(
                _Clip(network), (example,), input_names=["log_mel"], output_names=list(_OUTPUTS), **options
            )
    finally:
        logger.setLevel(level)
    return data.getvalue()


class _Clip(nn.Module):
    """A network with the pooling of a clip of one window."""

    def __init__(self, network: Backbone) -> None:
        super().__init__()
        self.network = network.traceable()
        self.eval()

    def forward(self, log_mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        output = self.network(log_mel)
        frames = output.frames
        embedding = frames.amax(1) if self.network.embedding_maximum else frames.mean(1)
        if self.network.unit_length:
            length = embedding.norm(dim=1, keepdim=True)
            embedding = embedding / torch.where(length == 0, torch.ones_like(length), length)  # zeros stay zeros
        return frames, embedding, self.network.pool(output)
