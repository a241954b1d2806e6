"""What machine a result was computed on: it decides the speed, and the last digits."""

from __future__ import annotations

import logging
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sedembed._utils.versions import list_versions

if TYPE_CHECKING:
    import torch

__all__ = [
    "CORE_PACKAGES",
    "OPTIONAL_PACKAGES",
    "describe_machine",
    "has_bfloat16",
    "has_bfloat16_tiles",
    "show_versions",
    "warn_of_slow_bfloat16",
]

logger = logging.getLogger(__name__)

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


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 by instructions of its own."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device.type == "cpu" and probe is not None and bool(probe())


def has_bfloat16_tiles() -> bool:
    """Whether the processor multiplies whole tiles of bfloat16 (AMX)."""
    import torch

    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return probe is not None and bool(probe())


def warn_of_slow_bfloat16(device: torch.device) -> None:
    """Log a warning where bfloat16 was asked for and an x86 processor would imitate it."""
    if device.type == "cpu" and platform.machine().lower() in ("x86_64", "amd64") and not has_bfloat16(device):
        logger.warning(
            "This processor has no instructions for bfloat16: it may take ten times as long as float32. "
            "Choose precision float32."
        )


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
