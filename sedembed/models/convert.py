"""Turn the authors' TALNet checkpoint into a directory that `load_model` takes, running no code from its pickles."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import pickletools
import re
import warnings
import zipfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sedembed._utils.files import refuse_file
from sedembed.errors import InvalidArgumentError, ModelNotFoundError, WeightsError
from sedembed.models.talnet import Pooling, TALNetConfig
from sedembed.models.weights import assemble, save_pretrained

__all__ = ["convert_checkpoint"]

_N_MELS = 64
_NORMALIZER_LIMIT = 1_000_000
_LEGACY_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_ZIP = b"PK\x03\x04"
_LEGACY_PICKLES = 5  # magic number, format version, machine, the object, order of the storages
_NUMPY_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}
_CARD = """---
library_name: sedembed
tags: [audio, sound-event-detection, audioset]
---
TALNet (Y. Wang, "Polyphonic sound event detection with weak labeling", PhD thesis, Carnegie Mellon University, 2018),
converted with `sedembed convert` from the authors' checkpoint `{name}`; their code is under the MIT licence.
Normalisation of the features: {normalizer}.
"""

_logger = logging.getLogger(__name__)


def convert_checkpoint(
    checkpoint: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    normalizer: str | os.PathLike[str] | None = None,
    pooling: Pooling | None = None,
) -> Path:
    """Convert a TALNet checkpoint of the authors' code (cmu-thesis) to safetensors.

    Parameters
    ----------
    checkpoint : path
        `TALNet.pt`: {"model": state_dict, "optimizer": ...} or a state_dict alone, as any PyTorch since 0.4 saved it,
        from Python 2 or 3, CPU or GPU; also ports that keep each convolution twice.
    out_dir : path
        Directory to write; made if missing.
    normalizer : path, optional
        The `normalizer.pkl` beside the checkpoint, a pickled pair (mean, standard deviation) of 64 numbers each. By
        default the values of the authors' AudioSet training set, which come with the package.
    pooling : {"linear", "max", "average", "exponential", "attention"}, optional
        How the network pools probabilities over time; a checkpoint does not say it. By default attention for a network
        with `fc_att`. For any other, linear softmax is assumed, and a warning says so.

    Returns
    -------
    Path
        `out_dir`, ready for `load_model`.

    Raises
    ------
    ModelNotFoundError
        If a file is not there.
    WeightsError
        If a file holds anything but tensors and plain values, or tensors that are not a TALNet's.
    """
    checkpoint, out_dir = Path(checkpoint).expanduser(), Path(out_dir).expanduser()
    refuse_file(out_dir)
    state = _canonical(_read_state(checkpoint), checkpoint)
    if normalizer is None:
        shipped = json.loads(files("sedembed.models").joinpath("talnet_normalizer.json").read_text(encoding="utf-8"))
        mean, std = tuple(shipped["mu"]), tuple(shipped["sigma"])
        _logger.info("No normalizer given: using the values of the authors' AudioSet training set.")
    else:
        mean, std = read_normalizer(normalizer)
    attends = any(key.startswith("fc_att.") for key in state)
    if pooling is not None and (pooling == "attention") != attends:
        raise InvalidArgumentError(
            f"pooling={pooling!r} does not fit {checkpoint}: it {'has' if attends else 'does not have'} the layer "
            "fc_att of attention pooling. Leave pooling out, or name the one that the network was trained with."
        )
    if pooling is None and not attends:
        _logger.warning(
            "%s does not say which pooling it was trained with; linear softmax is assumed. If it was another one, "
            "convert again with --pooling.",
            checkpoint,
        )
    pooling = pooling or ("attention" if attends else "linear")
    config = TALNetConfig(mean=mean, std=std, pooling=pooling)
    network = assemble(config, state, f"The checkpoint {checkpoint}")
    used = "the authors' AudioSet training set" if normalizer is None else f"`{Path(normalizer).name}`"
    return save_pretrained(network, out_dir, card=_CARD.format(name=checkpoint.name, normalizer=used))


def read_normalizer(path: str | os.PathLike[str]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the authors' `normalizer.pkl`, read without running anything in it.

    Parameters
    ----------
    path : path
        A pickle, Python 2 or 3, of two numpy arrays of 64 floating-point numbers.

    Returns
    -------
    mean, std : tuple of 64 float
        Per mel bin, in dB.

    Raises
    ------
    ModelNotFoundError
        If the file is not there.
    WeightsError
        If it holds anything else.
    """
    path = Path(path).expanduser()
    data = _read(path)
    try:
        if len(data) > _NORMALIZER_LIMIT:
            raise ValueError(f"the file has {len(data)} bytes")
        pair = _NumpyPickle(io.BytesIO(data), encoding="latin1").load()
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError("the file holds something else")
        mean, std = (_array(part) for part in pair)
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
            raise ValueError("its numbers must be finite, and the standard deviations positive")
    except Exception as error:  # a hostile or damaged pickle can raise anything
        raise WeightsError(
            f"Expected in {path} a pickled pair (mean, standard deviation) of {_N_MELS} numbers each, "
            f"but {str(error) or type(error).__name__}. Leave the normalizer out to use the AudioSet values."
        ) from error
    return tuple(mean.tolist()), tuple(std.tolist())


class _Part:
    """Stands for whatever numpy's pickles name: remembers arguments and state, and does nothing."""

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()) -> None:
        self.name = name
        self.arguments = arguments
        self.state: Any = None

    def __call__(self, *arguments: Any) -> _Part:
        return _Part(self.name, arguments)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _NumpyPickle(pickle._Unpickler):
    """Knows the names of `_NUMPY_NAMES` only. Not C's unpickler: that reserves memory for any memo index it meets."""

    def find_class(self, module: str, name: str) -> _Part:
        if (module, name) not in _NUMPY_NAMES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs")
        return _Part(name)


def _array(part: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    if not isinstance(part, _Part) or part.name != "_reconstruct":
        raise ValueError("the pair holds something other than arrays")
    _, shape, kind, _, raw = part.state
    if shape != (_N_MELS,) or kind.name != "dtype" or kind.arguments[0] not in ("f4", "f8"):
        raise ValueError(f"an array has shape {shape!r} or is not of floating-point numbers")
    if isinstance(raw, _Part):  # bytes as Python 3 writes them in protocol 2
        raw = raw.arguments[0]
    content = raw.encode("latin1") if isinstance(raw, str) else raw
    dtype = np.dtype(("<" if kind.state[1] == "<" else ">") + kind.arguments[0])
    if len(content) != _N_MELS * dtype.itemsize:
        raise ValueError(f"an array has {len(content)} bytes")
    return np.frombuffer(content, dtype).astype(np.float64)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelNotFoundError(f"Cannot read {path}: {error.strerror}. Give the path of the file.") from error


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    data = _read(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns of sparse tensors, which are refused below
            content = torch.load(io.BytesIO(_modernised(data)), map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile or damaged pickle can raise anything
        if _is_cut_short(data, error):
            raise WeightsError(
                f"Expected in {path} a whole PyTorch checkpoint, got one that is cut short after {len(data)} bytes; "
                "copy or download it again."
            ) from error
        found = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it asks for {found[1]}" if found else f"reading it failed with {type(error).__name__}"
        # Not the reader's own words: they advise to switch its safety off.
        raise WeightsError(
            f"Expected in {path} a PyTorch checkpoint of tensors and plain values, but {reason}. "
            "Nothing in it was run; use the file as the authors published it."
        ) from error
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) and value.layout == torch.strided and value.is_cpu
        for key, value in content.items()
    ):
        raise WeightsError(f"Expected in {path} a state_dict, or one under the key 'model'; it holds something else.")
    return content


def _is_cut_short(data: bytes, error: Exception) -> bool:
    """Whether a checkpoint ends before it is complete: a zip archive since PyTorch 1.6, pickles before."""
    if data.startswith(_ZIP):
        return not zipfile.is_zipfile(io.BytesIO(data))
    if data.startswith(_LEGACY_MAGIC):
        source = io.BytesIO(data)
        try:
            for _ in range(_LEGACY_PICKLES):
                for _ in pickletools.genops(source):
                    pass
        except Exception:  # in a whole file, all pickles can be parsed
            return source.tell() == len(data)
        return isinstance(error, EOFError) or "EOF" in str(error)
    return _ZIP.startswith(data) or _LEGACY_MAGIC.startswith(data)  # of a few bytes, or none


def _modernised(data: bytes) -> bytes:
    """Rewrite the text integers of Python 2, which PyTorch's safe reader does not know, as binary ones.

    Python 2 wrote whole numbers beyond 32 bits as text, and the optimizer's entry is full of them: memory addresses.
    """
    if not data.startswith(_LEGACY_MAGIC):
        return data
    source, result = io.BytesIO(data), bytearray()
    for _ in range(_LEGACY_PICKLES):
        operations = [
            (opcode.name, argument, position or 0) for opcode, argument, position in pickletools.genops(source)
        ]
        ends = [position for _, _, position in operations[1:]] + [source.tell()]
        for (name, argument, start), end in zip(operations, ends, strict=True):
            if name == "INT":
                number = pickle.encode_long(int(argument or 0))
                result += pickle.LONG1 + bytes([len(number)]) + number
            else:
                result += data[start:end]
    return bytes(result) + data[source.tell() :]


def _canonical(state: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Rename to the authors' keys: no `module.`, each convolution once, no counters."""
    result: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        key = key.removeprefix("module.")
        if key.endswith(".num_batches_tracked"):
            continue
        # Ports register the authors' list of layers too: conv.0 is conv1.
        key = re.sub(r"^conv\.(\d)\.", lambda match: f"conv{int(match[1]) + 1}.", key)
        if key in result and not torch.equal(result[key], tensor):
            raise WeightsError(f"{path} holds {key} twice with different values; which is right cannot be told.")
        result[key] = tensor
    return result
