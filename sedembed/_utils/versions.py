"""Versions of what a result depends on."""

from __future__ import annotations

import importlib.metadata
import platform

__all__ = ["VECTOR_PACKAGES", "list_versions"]

# What vectors depend on.
VECTOR_PACKAGES = ("torch", "numpy", "soundfile", "soxr", "pyarrow")


def list_versions(*packages: str) -> dict[str, str]:
    """Versions of Python, sedembed and other packages; "unknown" for what is not installed.

    Parameters
    ----------
    *packages : str
        Names on the package index; by default those that vectors depend on.
    """
    versions = {"python": platform.python_version()}
    for package in ("sedembed", *(packages or VECTOR_PACKAGES)):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "unknown"
    return versions
