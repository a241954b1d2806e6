"""Settings as frozen dataclasses: one strict way to check them and to read them from JSON."""

from __future__ import annotations

import json
import math
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

__all__ = ["Range", "check_fields", "from_table", "read_json_object"]

_T = TypeVar("_T")
_Error = TypeVar("_Error", bound=Exception)


@dataclass(frozen=True)
class Range:
    """Bounds of a number, as metadata of a field: ``Annotated[int, Range(1)]``.

    Parameters
    ----------
    low, high : float
        Bounds; infinite ones are none.
    open : bool
        Whether the bounds themselves are excluded.
    """

    low: float = -math.inf
    high: float = math.inf
    open: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number lies within the bounds."""
        return self.low < value < self.high if self.open else self.low <= value <= self.high

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"above {self.low:g}" if self.open else f"of at least {self.low:g}"
        return f"{'between' if self.open else 'from'} {self.low:g} {'and' if self.open else 'to'} {self.high:g}"


def check_fields(settings: Any) -> None:
    """Check every field of a frozen dataclass against its annotation, and bring it to the type annotated.

    Annotations are bool, int, float, str, Literal, tuple[int, ...], tuple[float, ...], Mapping, X | None, and
    Annotated with a `Range`. Whole numbers are taken for floats, lists for tuples; bool is no number, and NaN and
    infinity are refused. Meant for `__post_init__`.

    Raises
    ------
    ValueError
        Naming the field, what was expected and what came.
    """
    hints = get_type_hints(type(settings), include_extras=True)
    for item in fields(settings):
        value = getattr(settings, item.name)
        matches, found = _convert(hints[item.name], value)
        if not matches:
            shown = repr(value)
            shown = shown if len(shown) < 80 else f"{shown[:80]}..."
            raise ValueError(f"{item.name} must be {_describe(hints[item.name])}, got {shown}")
        object.__setattr__(settings, item.name, found)


def from_table(
    cls: type[_T], values: Any, where: str, error: type[Exception] = ValueError, *, whole: bool = False
) -> _T:
    """Make a frozen dataclass of plain values, as JSON or TOML holds them.

    Parameters
    ----------
    cls : type
        A dataclass whose `__post_init__` calls `check_fields`.
    values : mapping
        Unknown keys are refused.
    where : str
        Begins the errors.
    error : type
        Class of the errors.
    whole : bool
        Whether every field must be there; else fields with a default may be left out.
    """
    if not isinstance(values, Mapping):
        raise error(f"{where}: expected a table of settings, got {type(values).__name__}.")
    known = {item.name: item for item in fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(str(key) for key in values.keys() - known.keys())
    if unknown:
        raise error(f"{where}: unknown key {', '.join(map(repr, unknown))}; known are {', '.join(known)}.")
    missing = sorted(known.keys() - values.keys()) if whole else []
    if missing:
        raise error(f"{where}: missing key {', '.join(map(repr, missing))}; expected are {', '.join(known)}.")
    try:
        return cls(**values)
    except (TypeError, ValueError) as problem:
        raise error(f"{where}: {str(problem).rstrip('.')}.") from problem


def read_json_object(text: str | bytes, where: str, error: type[Exception] = ValueError) -> dict[str, Any]:
    """Parse JSON that must be an object; `where` begins the errors."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise error(f"{where} is not valid JSON: {problem}.") from problem
    if not isinstance(values, dict):
        raise error(f"{where}: expected a JSON object, got {type(values).__name__}.")
    return values


def read_json_file(path: Path, error: type[Exception] = ValueError) -> dict[str, Any]:
    """Read a file that must hold one JSON object."""
    try:
        text = path.read_bytes()
    except OSError as problem:
        raise error(f"Expected a JSON file at {path}: {problem.strerror}.") from problem
    return read_json_object(text, str(path), error)


def is_finite(value: Any) -> bool:
    """Whether this is a number as JSON has them; Python's reader takes NaN, Infinity and true for numbers too."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _convert(hint: Any, value: Any) -> tuple[bool, Any]:
    """Whether a value fits an annotation, and the value in the annotated type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        matches, found = _convert(arguments[0], value)
        ranges = [item for item in arguments[1:] if isinstance(item, Range)]
        return matches and (found is None or all(item.holds(found) for item in ranges)), found
    if origin in (Union, types.UnionType):
        for option in arguments:
            matches, found = _convert(option, value)
            if matches:
                return True, found
        return False, value
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in arguments), value
    if origin is tuple and len(arguments) == 2 and arguments[1] is ...:
        if not isinstance(value, (list, tuple)):
            return False, value
        items = [_convert(arguments[0], item) for item in value]
        return all(matches for matches, _ in items), tuple(item for _, item in items)
    if hint is float:
        return is_finite(value), float(value) if is_finite(value) else value
    if hint in (int, bool, str):
        return type(value) is hint, value  # not isinstance: true is no whole number
    if hint is type(None):
        return value is None, value
    return isinstance(value, origin or hint), value


def _describe(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        ranges = " ".join(str(item) for item in arguments[1:] if isinstance(item, Range))
        return f"{_describe(arguments[0])} {ranges}".strip()
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(option) for option in arguments)
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}" if len(arguments) > 1 else repr(arguments[0])
    if origin is tuple:
        return "a list of whole numbers" if arguments[0] is int else "a list of finite numbers"
    if (origin or hint) is Mapping:
        return "a table"
    if (origin or hint) is Sequence:
        return "a list"
    names = {float: "a finite number", int: "a whole number", bool: "true or false", str: "a text", type(None): "null"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))
