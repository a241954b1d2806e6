"""Checks at the public door: paths, yes or no, and objects of the right kind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sedembed.errors import InvalidArgumentError, InvalidTypeError

__all__ = ["check_flag", "check_path", "check_type"]


def check_path(path: Any, name: str) -> Path:
    """Make a path of a text or path-like object, with ``~`` expanded.

    Raises
    ------
    InvalidTypeError
        If it is something else.
    InvalidArgumentError
        If it is empty, holds a zero byte, or begins with ``~`` and there is no such home.
    """
    if not isinstance(path, (str, os.PathLike)) or isinstance(path, type):
        raise InvalidTypeError(f"Expected a path as {name}, got {_show(path)}; pass a text or a pathlib.Path.")
    text = os.fspath(path)
    if not isinstance(text, str) or not text:
        raise InvalidArgumentError(f"Expected a path as {name}, got {_show(text)}; '.' is the current folder.")
    if "\0" in text:
        raise InvalidArgumentError(f"Expected a path as {name}, got {_show(text)}, which holds a zero byte; remove it.")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise InvalidArgumentError(f"Expected a path as {name}, got {_show(text)}: {error}; write it out.") from error


def check_flag(value: Any, name: str, *, optional: bool = False) -> None:
    """Refuse what is neither True nor False (nor None, where that is allowed): "no" would count as yes.

    Raises
    ------
    InvalidTypeError
        For any other value.
    """
    if type(value).__name__ not in ("bool", "bool_") and not (optional and value is None):
        raise InvalidTypeError(
            f"Expected True or False{' or None' if optional else ''} as {name}, got {_show(value)}; pass one of them."
        )


def check_type(value: Any, kind: type | tuple[type, ...], name: str, cure: str) -> None:
    """Refuse an object of another kind.

    Raises
    ------
    InvalidTypeError
        Saying what to do in the words of `cure`.
    """
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        expected = " or ".join(item.__name__ for item in kinds)
        raise InvalidTypeError(f"Expected {expected} as {name}, got {_show(value)}; {cure}.")


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
