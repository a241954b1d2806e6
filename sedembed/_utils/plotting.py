"""What all pictures share: whether matplotlib is there."""

from __future__ import annotations

from sedembed.errors import MissingPackageError

__all__ = ["require_matplotlib"]


def require_matplotlib() -> None:
    """Say how to get matplotlib before a long computation rather than after.

    Raises
    ------
    MissingPackageError
        If it is not installed.
    """
    try:
        import matplotlib.figure
        import matplotlib.style  # noqa: F401
    except ImportError as error:
        raise MissingPackageError('Pictures need matplotlib: pip install "sedembed[plots]"') from error
