"""What the commands share: exit codes, options, messages."""

from __future__ import annotations

import argparse
import errno
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from sedembed.errors import ProbeError

if TYPE_CHECKING:
    from sedembed.embedder import Embedder
    from sedembed.probe.probe import LinearProbe

__all__ = [
    "GOOD",
    "INTERRUPTED",
    "SOME_FAILED",
    "UNUSABLE",
    "AddCommand",
    "add_model",
    "complain",
    "explain",
    "load",
    "load_probe_model",
    "print_json",
    "warnings_said",
]

GOOD, SOME_FAILED, UNUSABLE, INTERRUPTED = 0, 1, 2, 130

_CURES = {
    errno.EACCES: "check its permissions, or choose another place",
    errno.EPERM: "check its permissions, or choose another place",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOSPC: "make room, or choose another place",
    errno.EDQUOT: "make room, or choose another place",
    errno.ENOENT: "check the spelling",
    errno.ENOTDIR: "check the spelling",
    errno.EEXIST: "choose another name",
    errno.EMFILE: "close other programs, or raise the limit: ulimit -n",
    errno.EBADF: "check where the output goes",
}

Command = Callable[[argparse.Namespace], int]


class AddCommand(Protocol):
    """Function that adds one command: its name, what runs it, and a line of help."""

    def __call__(self, name: str, command: Command, text: str) -> argparse.ArgumentParser:
        """Return the parser of the command, for its own options."""


def add_model(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Add the options that choose a model, or `several`."""
    text = 'name, directory or "hf://org/repo" (default: talnet)'
    if several:
        parser.add_argument("--model", default=["talnet"], nargs="+", help=f"{text}; several are scored one by one")
    else:
        parser.add_argument("--model", default="talnet", help=text)
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: the first GPU, else the CPU)")
    parser.add_argument(
        "--precision", default="float32", choices=["float32", "bfloat16"], help="default: float32, exact"
    )
    parser.add_argument(
        "--engine",
        default="torch",
        choices=["torch", "openvino", "auto"],
        help="what runs the network on a CPU; auto: OpenVINO where it is installed and faster (default: torch)",
    )
    parser.add_argument("--local-files-only", action="store_true", help="never open a connection")


def load(options: argparse.Namespace) -> Embedder:
    """Load the model that the options of `add_model` name."""
    from sedembed.loading import load_model

    return load_model(
        options.model,
        options.device,
        options.precision,
        engine=options.engine,
        local_files_only=options.local_files_only,
    )


def load_probe_model(probe: LinearProbe, options: argparse.Namespace) -> Embedder:
    """Load the model that a probe was fitted on, and make sure that it is that."""
    from sedembed.loading import load_model

    fitted = probe.model_
    name: str | None = options.model
    if name is None:
        if fitted is None:
            raise ProbeError(f"{options.probe} was fitted on vectors of an unknown model; name the model by --model")
        if fitted["version"].startswith("local-"):
            raise ProbeError(
                f"{options.probe} was fitted on vectors of the local model {fitted['name']!r} "
                f"({fitted['version']}); give its directory by --model"
            )
        name = f"hf://{fitted['name']}" if fitted["version"].startswith("hub-") else fitted["name"]
    precision = options.precision or (fitted or {}).get("precision", "float32")
    model = load_model(name, options.device, precision, local_files_only=options.local_files_only)
    probe.check_model(model)
    if model.embedding_size != probe.n_features_in_:
        raise ProbeError(
            f"{options.probe} takes vectors of {probe.n_features_in_} numbers, and {name} gives "
            f"{model.embedding_size}; name the model that it was fitted on"
        )
    return model


def print_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def explain(error: OSError) -> str:
    """Make a sentence of an error of the system: what, why, what to do."""
    reason = error.strerror or str(error) or type(error).__name__
    cure = _CURES.get(error.errno or 0, "check the path and the disk")
    return f"{error.filename or 'A file or the standard output'}: {reason}; {cure}."


def complain(text: str) -> None:
    """Print a sentence on stderr."""
    print(f"sedembed: {text}", file=sys.stderr, flush=True)


@contextmanager
def warnings_said() -> Iterator[None]:
    """Print warnings as sentences, without the line of code that they come from."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", category=UserWarning)
        try:
            yield
        finally:
            for warning in caught:
                complain(str(warning.message))
