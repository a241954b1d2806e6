"""What machine a result was computed on: it decides the speed, and the last digits."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from sedembed._utils.versions import list_versions

__all__ = ["CORE_PACKAGES", "OPTIONAL_PACKAGES", "describe_machine", "show_versions"]

CORE_PACKAGES = (
    "torch", "numpy", "librosa", "soundfile", "soxr", "huggingface-hub", "safetensors", "scikit-learn", "scipy",
    "threadpoolctl", "tqdm", "pyarrow", "filelock",
)  # fmt: skip
OPTIONAL_PACKAGES = ("matplotlib", "av", "openvino", "onnx", "ray", "tensorboard")
_CPUINFO = Path("/proc/cpuinfo")


def describe_machine() -> dict[str, Any]:
    """System, processor, vector instructions, cores, threads and GPUs, as PyTorch sees them.

    Returns
    -------
    dict
        ``system``, ``machine``, ``processor``, ``instructions`` (the widest that PyTorch uses), ``cores`` (that this
        process may use), ``threads`` (of one operation), ``gpus`` (names). No names of hosts or users.
    """
    import torch

    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(number) for number in range(count)],
    }


def _processor() -> str:
    """Model of the processor; Linux tells it in a file only."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or "unknown"


def show_versions() -> None:
    """Print the versions of sedembed, of what it depends on and of optional packages, and the machine.

    For reports of errors. It names no host, user or path.

    Examples
    --------
    >>> show_versions()  # doctest: +SKIP
    """
    for name, value in {**list_versions(*CORE_PACKAGES, *OPTIONAL_PACKAGES), **describe_machine()}.items():
        print(f"{name:<16} {', '.join(value) or 'none' if isinstance(value, list) else value}")  # noqa: T201
