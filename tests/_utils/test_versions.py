"""Versions of what a result depends on."""

from __future__ import annotations

import platform

import numpy as np

from sedembed._utils.versions import list_versions


def test_what_vectors_depend_on():
    versions = list_versions()
    assert list(versions) == ["python", "sedembed", "torch", "numpy", "soundfile", "soxr", "pyarrow"]
    assert versions["python"] == platform.python_version()
    assert versions["numpy"] == np.__version__


def test_what_is_not_installed():
    assert list_versions("no-such-package-of-sedembed")["no-such-package-of-sedembed"] == "unknown"
