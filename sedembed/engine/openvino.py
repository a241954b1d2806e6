"""The engine OpenVINO: a network converted once, run on a CPU in float32 or bfloat16 with masked padding."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import nn

from sedembed.errors import ForkedProcessError, InvalidArgumentError, MissingPackageError
from sedembed.models.base import Backbone, NetworkOutput
from sedembed.types import Engine, Precision

__all__ = ["OpenVINONetwork", "choose_engine"]

_HINTS = {"float32": "f32", "bfloat16": "bf16"}


def choose_engine(engine: Engine, network: Backbone, device: torch.device, precision: Precision) -> Engine:
    """Say which engine to take: "torch" or "openvino".

    Parameters
    ----------
    engine : {"torch", "openvino", "auto"}
        "auto" takes OpenVINO where it is installed and was measured to be faster: for networks that say so
        of this precision (`Backbone.faster_in_openvino`), on CPUs with AVX-512.
    network : Backbone
        What it is to run.
    device : torch.device
        Where.
    precision : {"float32", "bfloat16"}
        In what arithmetic.

    Raises
    ------
    InvalidArgumentError
        For OpenVINO on another device than the CPU, or in an arithmetic that this processor lacks.
    MissingPackageError
        If OpenVINO was asked for and is not installed.
    """
    if engine == "auto":
        fast = precision in network.faster_in_openvino and torch.backends.cpu.get_cpu_capability() == "AVX512"
        suits = device.type == "cpu" and fast and importlib.util.find_spec("openvino") is not None
        return "openvino" if suits and (precision == "float32" or _has_bfloat16()) else "torch"
    if engine == "openvino":
        if device.type != "cpu":
            raise InvalidArgumentError(
                f"OpenVINO runs on the CPU only, and device={str(device)!r} was asked for; use device='cpu', or "
                "engine='torch'."
            )
        if precision == "bfloat16" and not _has_bfloat16():
            raise InvalidArgumentError(
                "This processor has no bfloat16 instructions, so OpenVINO would compute in float32; use "
                "precision='float32'."
            )
    return engine


class OpenVINONetwork:
    """A network as OpenVINO runs it; called like the network itself, from any number of threads at once.

    Each call runs on one thread, so that calls from several threads share the cores; there are as many as
    `torch.get_num_threads` gives.

    Parameters
    ----------
    network : Backbone
        In evaluation mode, batch normalisations not folded; left unchanged.
    precision : {"float32", "bfloat16"}
        Arithmetic of the whole network.

    Raises
    ------
    MissingPackageError
        If OpenVINO is not installed.
    InvalidArgumentError
        If it cannot convert the network.
    """

    def __init__(self, network: Backbone, precision: Precision) -> None:
        self._network, self._precision = _Traced(network), precision
        self._prepare()

    def _prepare(self) -> None:
        openvino = _import()
        network = self._network.network
        frames = torch.zeros(2, 4 * round(network.feature_rate), network.n_mels)
        lengths = torch.tensor([frames.shape[1], frames.shape[1] // 2])
        level = logging.root.level
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # the tracer's, about checks of shapes
                model = openvino.convert_model(
                    self._network, example_input=(frames, lengths), input=[[-1, -1, network.n_mels], [-1]]
                )
        except Exception as error:  # of the tracer, the converter or the network, without a common base
            raise InvalidArgumentError(
                f"OpenVINO cannot convert this network ({type(error).__name__}: {str(error)[:200]}); use "
                "engine='torch'."
            ) from error
        finally:
            logging.root.setLevel(level)  # a conversion that fails raises it, and all programs' warnings would be lost
        threads = torch.get_num_threads()
        self._compiled = openvino.Core().compile_model(
            model,
            "CPU",
            {
                # Said also for float32: where there are bfloat16 instructions, OpenVINO takes them unasked.
                "INFERENCE_PRECISION_HINT": _HINTS[self._precision],
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": threads,
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._process, self._local = os.getpid(), threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("_network", "_precision")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    def __call__(self, log_mel: torch.Tensor, lengths: torch.Tensor | None = None) -> NetworkOutput:
        """`Backbone.forward`; with float32 the same values to rounding."""
        if os.getpid() != self._process:
            raise ForkedProcessError(
                "Expected the process that loaded the model, got one that was forked from it, where OpenVINO would "
                "hang; start processes with the method 'spawn', or use engine='torch'."
            )
        valid = torch.full((len(log_mel),), log_mel.shape[1]) if lengths is None else lengths
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        found = self._local.request.infer([log_mel.contiguous().numpy(), valid.numpy()], share_inputs=True)
        frames, probabilities, left, *attention = (torch.from_numpy(found[i]) for i in range(len(found)))
        return NetworkOutput(
            frames, probabilities, None if lengths is None else left, attention[0] if attention else None
        )


class _Traced(nn.Module):
    """A network that gives a tuple of tensors, as tracing needs it."""

    def __init__(self, network: Backbone) -> None:
        super().__init__()
        self.network = network.traceable()
        self.eval()

    def forward(self, log_mel: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output = self.network(log_mel, lengths)
        assert output.lengths is not None  # they were given
        attention = () if output.attention is None else (output.attention,)
        return (output.frames, output.probabilities, output.lengths, *attention)


def _has_bfloat16() -> bool:
    return "BF16" in _import().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _import() -> Any:
    if importlib.util.find_spec("openvino") is None:
        raise MissingPackageError('engine="openvino" needs OpenVINO: pip install "sedembed[openvino]".')
    with _no_telemetry():
        import openvino
    return openvino


@contextlib.contextmanager
def _no_telemetry() -> Iterator[None]:
    """Keep OpenVINO from sending its makers what it is used for, which importing it would do."""
    name = "openvino_telemetry"
    before: dict[str, ModuleType] = {key: value for key, value in sys.modules.items() if key.split(".")[0] == name}
    if before or "openvino" in sys.modules:  # imported by the caller, whose choice that is
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
