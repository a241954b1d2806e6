"""Find, check, load and save weights: a directory of `config.json`, `model.safetensors` and a model card.

Only JSON and safetensors are read, so loading never runs code from a file. A directory that `save_pretrained` wrote can
be shared as it is, and `push_to_hub` does so; others then load it with `hf://org/repo@revision`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors

from sedembed._utils.checks import check_path, check_type
from sedembed._utils.files import make_folder, sha256_of, write_atomic
from sedembed._utils.isolation import isolated
from sedembed._utils.schema import from_table, read_json_object
from sedembed.errors import InvalidArgumentError, ModelNotFoundError, WeightsError
from sedembed.models import hub, registry
from sedembed.models.base import Backbone
from sedembed.models.card import Figures, format_card
from sedembed.models.registry import ModelRecord, architecture_of, describe_model, list_architectures

__all__ = ["Resolved", "describe_network", "load_config", "load_network", "push_to_hub", "resolve", "save_pretrained"]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"

_BUFFERS = (".running_mean", ".running_var", ".num_batches_tracked")
_PICKLES = {".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt"}
_CARD = """# {name}

A {architecture} network of {classes} sound events, for the Python library sedembed:

    import sedembed
    model = sedembed.load_model("hf://org/repo")  # or the path of this directory
"""


@dataclass(frozen=True)
class Resolved:
    """Weights that are on this machine and were checked, not yet loaded.

    Attributes
    ----------
    record : ModelRecord
        The registered record, or one made from the files.
    config : dataclass
        The network's configuration, of the class that its architecture names.
    weights : Path
        The safetensors file.
    """

    record: ModelRecord
    config: Any
    weights: Path

    @property
    def directory(self) -> Path:
        """Directory of the weights."""
        return self.weights.parent


def resolve(
    name: str | os.PathLike[str], *, cache_dir: str | os.PathLike[str] | None = None, local_files_only: bool = False
) -> Resolved:
    """Find the files of a model, fetching them where they are not on this machine, and check them.

    Parameters
    ----------
    name : str or path
        A registered name; "hf://org/repo" or "hf://org/repo@revision"; a directory; or a `.safetensors` file with
        its `config.json` beside it or its configuration inside. A registered name wins over a directory of the same
        name: write "./talnet" for the directory.
    cache_dir : path, optional
        Cache for downloads; default is huggingface_hub's.
    local_files_only : bool
        Make no connection; so do the environment variables HF_HUB_OFFLINE=1 and SEDEMBED_OFFLINE=1.

    Returns
    -------
    Resolved
        Record, configuration and path.

    Raises
    ------
    ModelNotFoundError
        If the name or path leads to nothing.
    WeightsError
        If a file is damaged, of the wrong kind, or not the one that the record pins.
    DownloadError, OfflineError
        If files are missing here and could not, or may not, be fetched.

    Notes
    -----
    Files of a hub repository that are in the cache are used without any connection, also for a revision that moves,
    such as "main": name a commit to say which one is meant.
    """
    where = check_path(name, "the name of a model")
    text = os.fspath(name)
    if text.startswith("hf://"):
        return _from_hub(text, None, cache_dir, local_files_only)
    path = where
    like_path = bool(path.suffix) or len(path.parts) > 1 or not isinstance(name, str)
    if text not in registry._RECORDS and (like_path or path.exists()):
        return _from_path(path)
    record = describe_model(text)
    if not record.source.startswith(("hf://", "package:")):
        return _checked(Path(record.source).expanduser() / WEIGHTS_FILE, record, cure="Save the model again.")
    if record.source.startswith("hf://"):
        return _from_hub(f"{record.source}@{record.revision}", record, cache_dir, local_files_only)
    weights = _packaged(text)
    if not weights.is_file():
        raise ModelNotFoundError(
            f"The weights of {text!r} belong to the package, but {weights} is missing. Install sedembed again."
        )
    return _checked(weights, record, cure="Install sedembed again.")


def load_config(path: str | os.PathLike[str]) -> Any:
    """Read a `config.json`: every key of the architecture's configuration must be there, and no other.

    Parameters
    ----------
    path : path
        The file, or the directory that holds it.

    Returns
    -------
    dataclass
        The configuration, of the class that its `architecture` names.

    Raises
    ------
    WeightsError
        If the file is missing, is not JSON, or a key is missing, unknown or of the wrong type.
    """
    file = check_path(path, "path")
    file = file / CONFIG_FILE if file.is_dir() else file
    try:
        text = file.read_bytes()
    except OSError as error:
        raise WeightsError(f"Expected a configuration at {file}: {error.strerror}.") from error
    return _parse_config(text, str(file))


def load_network(name: str | os.PathLike[str] | Resolved = "talnet") -> Backbone:
    """Load the network itself: float32, in evaluation mode, on the CPU, trainable after `requires_grad_(True)`.

    `load_model` gives an `Embedder`, whose network is made ready to run and can no longer be trained. This is for
    fine-tuning; `save_pretrained` writes the result, and ``Embedder(network)`` embeds with it.

    Parameters
    ----------
    name : str, path or Resolved
        What `load_model` takes, or what `resolve` returned.

    Returns
    -------
    Backbone
        The network.

    Raises
    ------
    WeightsError
        If a tensor is missing, unexpected, of the wrong shape or type, or holds NaN or infinity.
    ModelNotFoundError, DownloadError
        As for `load_model`.
    """
    resolved = name if isinstance(name, Resolved) else resolve(name)
    try:
        with isolated():  # older safetensors would read to the caller's default device
            state = load_file(resolved.weights)
    except (SafetensorError, OSError) as error:
        raise _damaged(resolved.weights, error) from error
    return assemble(resolved.config, state, str(resolved.weights))


def describe_network(network: Backbone, **known: Any) -> ModelRecord:
    """Record of a network that is not registered.

    Parameters
    ----------
    network : Backbone
        The network.
    **known
        Fields of `ModelRecord` that are known; by default those of a network that was never saved.
    """
    values: dict[str, Any] = {
        "name": f"unsaved {network.architecture}",
        "version": "unsaved",
        "architecture": network.architecture,
        "source": "local",
        "revision": "",
        "sha256": "",
        "bytes": 0,
        "sample_rate": network.sample_rate,
        "embedding_size": network.embedding_size,
        "frame_rate": network.frame_rate,
        "classes": network.config.classes,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "min_samples": network.min_samples,
        "licence": "not stated",
        "paper": network.paper,
        "provenance": "Not a registered weight.",
        "metrics": {},
    }
    return ModelRecord(**{**values, **known})


def save_pretrained(
    network: Backbone,
    directory: str | os.PathLike[str],
    *,
    card: str | None = None,
    dtype: torch.dtype = torch.float32,
    figures: Figures | None = None,
    licence: str = "",
) -> Path:
    """Write a network as a directory that `load_model` takes and that can be uploaded as it is.

    Parameters
    ----------
    network : Backbone
        Its batch normalisation not folded.
    directory : path
        Made if missing. Each file is replaced in one step: a reader never meets half of one.
    card : str, optional
        Text of the model card `README.md`; by default an existing one stays, else a minimal one is written.
    dtype : torch.float32 or torch.float16
        Type of matrices in the file. Vectors stay float32: they are few, and running variances overflow float16.
    figures : mapping, optional
        Measured figures for the ``model-index`` of the default card: ``{"ESC-50": {"accuracy": 0.9}}``.
    licence : str
        For the default card, as the hub writes it: "cc-by-nc-4.0".

    Returns
    -------
    Path
        The directory.

    Raises
    ------
    WeightsError
        If the network holds NaN or infinity, overflows float16, or its tensors are not those of its architecture.

    Notes
    -----
    The same network always gives the same bytes. `num_batches_tracked` is not kept: it only matters in training.
    """
    if not isinstance(dtype, torch.dtype) or dtype not in (torch.float32, torch.float16):
        raise InvalidArgumentError(f"dtype must be torch.float32 or torch.float16, got {dtype}")
    check_type(network, Backbone, "network", "pass one that load_network gave")
    check_type(card, (str, type(None)), "card", "pass the text of the model card")
    if card is not None and not card.isascii():
        try:
            card.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(
                f"Expected a model card of Unicode text, got one that is not ({error})."
            ) from error
    config = network.config
    state = {
        key: tensor.detach().to("cpu", dtype if tensor.ndim > 1 else torch.float32, copy=True).contiguous()
        for key, tensor in network.state_dict().items()
        if not key.endswith(".num_batches_tracked")
    }
    assemble(config, state, "The network to save")
    text = json.dumps(dataclasses.asdict(config), indent=2) + "\n"
    # One metadata key only: safetensors writes several in an order that changes from run to run.
    data = to_safetensors(state, metadata={"config": json.dumps(dataclasses.asdict(config))})
    directory = check_path(directory, "directory")
    make_folder(directory)
    write_atomic(directory / WEIGHTS_FILE, data)
    write_atomic(directory / CONFIG_FILE, text)
    if card is not None or not (directory / CARD_FILE).exists():
        body = _CARD.format(name=directory.name, architecture=config.architecture, classes=config.classes)
        tags = ("sound-event-detection", "audioset", "embeddings")
        write_atomic(
            directory / CARD_FILE,
            card or format_card(directory.name, body, tags=tags, licence=licence, figures=figures),
        )
    return directory


def push_to_hub(
    network: Backbone | str | os.PathLike[str],
    repo: str,
    *,
    private: bool = False,
    message: str = "Upload a network with sedembed",
    token: str | None = None,
    **options: Any,
) -> str:
    """Publish a network on a Hugging Face hub: config.json, model.safetensors and the model card, in one commit.

    Parameters
    ----------
    network : Backbone, or path
        A network, or a directory that `save_pretrained` wrote.
    repo : str
        "org/repo"; made if it is not there.
    private : bool
        Whether a repository that is made is private.
    message : str
        Message of the commit.
    token : str, optional
        Access token; by default that of `hf auth login`.
    **options
        Of `save_pretrained`, for a network: card, dtype, figures, licence.

    Returns
    -------
    str
        "hf://org/repo@commit", which `load_model` takes.

    Raises
    ------
    WeightsError
        If the directory holds no network, or the network cannot be saved.
    UploadError, OfflineError
        If publishing failed, or is not allowed.
    """
    if not isinstance(network, Backbone):
        directory = Path(network).expanduser()
        _from_path(directory)  # nothing that `load_model` would refuse is published
        names = [name for name in (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE) if (directory / name).is_file()]
        return hub.push_folder(directory, repo, *names, private=private, message=message, token=token)
    with tempfile.TemporaryDirectory() as place:
        directory = save_pretrained(network, Path(place) / repo.split("@")[0].rpartition("/")[2], **options)
        names = [CONFIG_FILE, WEIGHTS_FILE, CARD_FILE]
        return hub.push_folder(directory, repo, *names, private=private, message=message, token=token)


def assemble(config: Any, state: Mapping[str, torch.Tensor], where: str) -> Backbone:
    """Network of a configuration filled with tensors that must be exactly its own; `where` begins the error."""
    with isolated(), torch.inference_mode(False):
        return _assemble(config, state, where)


def _assemble(config: Any, state: Mapping[str, torch.Tensor], where: str) -> Backbone:
    network = _outline(config)
    expected = network.state_dict()
    counters = {key for key in expected if key.endswith(".num_batches_tracked")}
    missing = sorted(expected.keys() - counters - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    problems = [
        f"{word} {', '.join(keys[:4])}{f' and {len(keys) - 4} more' if len(keys) > 4 else ''}"
        for word, keys in (("missing", missing), ("unexpected", unexpected))
        if keys
    ]
    filled = {key: torch.zeros((), dtype=torch.long) for key in counters}
    for key in sorted((expected.keys() & state.keys()) - counters):
        tensor = state[key]
        if tensor.shape != expected[key].shape:
            problems.append(f"{key} has shape {tuple(tensor.shape)}, expected {tuple(expected[key].shape)}")
        elif not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.is_meta:
            problems.append(f"{key} holds {tensor.dtype}, expected floating-point numbers")
        else:
            # A copy: tensors mapped from a file are aligned as its header fell, and kernels round accordingly.
            filled[key] = tensor.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
            if not filled[key].isfinite().all():
                problems.append(f"{key} holds NaN or infinity")
    if problems:
        rest = f"; and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise WeightsError(
            f"{where} does not fit the architecture {config.architecture!r}: {'; '.join(problems[:6])}{rest}. "
            "Use weights that were saved for this architecture and configuration."
        )
    network.load_state_dict(filled, assign=True)
    for key, buffer in list(network.named_buffers()):
        if buffer.is_meta:  # not in the file: a constant that the configuration holds under the same name
            setattr(network, key, torch.tensor(getattr(config, key), dtype=buffer.dtype))
    return network.eval()


def _outline(config: Any) -> Backbone:
    """Network without numbers: 25 times faster, and the caller's random state is left alone."""
    with torch.device("meta"):
        return architecture_of(config.architecture)(config)


def _packaged(name: str) -> Path:
    return Path(str(files("sedembed"))) / "weights" / name / WEIGHTS_FILE


def _from_path(path: Path) -> Resolved:
    if path.suffix.lower() in _PICKLES:
        _refuse_pickle(path)
    if path.is_dir():
        pickles = [file for file in sorted(path.iterdir()) if file.suffix.lower() in _PICKLES]
        if pickles and not (path / WEIGHTS_FILE).exists():
            _refuse_pickle(pickles[0])
        return _checked(path / WEIGHTS_FILE, None)
    if not path.exists():
        raise ModelNotFoundError(
            f"There is no file or directory {path}. Repositories of the hub are written hf://org/repo[@revision]."
        )
    if path.suffix.lower() != ".safetensors":
        raise WeightsError(f"Expected a .safetensors file or a directory that holds {WEIGHTS_FILE}, got {path}.")
    return _checked(path, None)


def _refuse_pickle(path: Path) -> NoReturn:
    raise WeightsError(
        f"{path} is a pickle, which can run code when opened; expected safetensors. "
        f"For a TALNet checkpoint run: sedembed convert {path} -o DIRECTORY"
    )


def _damaged(path: Path, error: Exception) -> WeightsError:
    return WeightsError(f"{path} is not a readable safetensors file ({error}). Fetch or save it again.")


def _checked(
    weights: Path,
    record: ModelRecord | None,
    *,
    name: str = "",
    source: str = "local",
    revision: str = "",
    sha256: str = "",
    cure: str = "",
) -> Resolved:
    """Hold the files against what is pinned, and make a record from them where none is registered."""
    try:
        got = sha256_of(weights)
    except OSError as error:
        raise WeightsError(f"Expected weights at {weights}: {error.strerror}.") from error
    pinned = record.sha256 if record and record.sha256 else sha256
    if pinned and pinned != got:
        raise WeightsError(f"{weights} is not the expected file: sha256 should be {pinned}, got {got}. {cure}")
    try:
        # A slice knows its shape from the header alone.
        with safe_open(weights, framework="pt") as opened:
            inside = (opened.metadata() or {}).get("config")
            shapes = {key: opened.get_slice(key).get_shape() for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _damaged(weights, error) from error
    beside = weights.with_name(CONFIG_FILE)
    if inside is None:
        config = load_config(beside)
    else:
        config = _parse_config(inside, f"The configuration inside {weights}")
        # Catches a directory whose saving was interrupted between its two files.
        if beside.is_file() and load_config(beside) != config:
            raise WeightsError(
                f"{beside} and the configuration inside {weights.name} differ: the two files are not of one model. "
                f"Save the model again, or delete {CONFIG_FILE} to use the one inside."
            )
    if record is None:
        record = describe_network(
            _outline(config),
            name=name or weights.resolve().parent.name,
            version=f"{'local' if source == 'local' else 'hub'}-{got[:12]}",
            source=source,
            revision=revision,
            sha256=got,
            bytes=weights.stat().st_size,
            parameters=sum(math.prod(shape) for key, shape in shapes.items() if not key.endswith(_BUFFERS)),
            provenance="Not a registered weight; see the model card beside it.",
        )
    return Resolved(record, config, weights)


def _parse_config(text: str | bytes, where: str) -> Any:
    values = read_json_object(text, where, WeightsError)
    architecture = values.get("architecture")
    if not isinstance(architecture, str) or architecture not in list_architectures():
        raise WeightsError(
            f"{where}: key 'architecture' should be one of {', '.join(list_architectures())}, got {architecture!r}."
        )
    return from_table(architecture_of(architecture).config_class, values, where, WeightsError, whole=True)


def _from_hub(
    uri: str, record: ModelRecord | None, cache_dir: str | os.PathLike[str] | None, local_files_only: bool
) -> Resolved:
    repo, weights = hub.fetch(uri, CONFIG_FILE, WEIGHTS_FILE, cache_dir=cache_dir, local_files_only=local_files_only)
    blob = weights.readlink().name if weights.is_symlink() else ""
    # The cache calls a large file by its sha256, which tells a damaged one even where no record pins it.
    digest = re.fullmatch(r"[0-9a-f]{64}", blob)
    return _checked(
        weights,
        record,
        name=repo,
        source=f"hf://{repo}",
        revision=weights.parent.name,
        sha256=digest[0] if digest else "",
        cure=f"Delete {weights.resolve()} and load again, so that it is fetched anew.",
    )
