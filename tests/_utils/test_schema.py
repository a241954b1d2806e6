"""The one way to check settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from sedembed._utils.schema import Range, check_fields, from_table, read_json_object


@dataclass(frozen=True)
class Settings:
    steps: Annotated[int, Range(1)] = 10
    share: Annotated[float, Range(0, 1, open=True)] = 0.5
    seconds: Annotated[float, Range(0, open=True)] | None = None
    kind: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = (1, 2)
    on: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)
    fill: float | Literal["mean"] = 0.0

    def __post_init__(self) -> None:
        check_fields(self)


def test_values_come_in_the_annotated_type():
    made = from_table(Settings, {"sizes": [3, 4], "share": 0.25, "seconds": 2, "fill": "mean"}, "x")
    assert made.sizes == (3, 4)
    assert type(made.seconds) is float
    assert made.fill == "mean"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"steps": True}, "steps must be a whole number"),
        ({"steps": 2.0}, "steps must be a whole number"),
        ({"share": 1}, "share must be a finite number between 0 and 1, got 1"),
        ({"share": math.nan}, "share must be"),
        ({"seconds": math.inf}, "seconds must be a finite number above 0 or null"),
        ({"kind": "c"}, "kind must be one of 'a', 'b', got 'c'"),
        ({"sizes": [1, 2.5]}, "sizes must be a list of whole numbers"),
        ({"sizes": 3}, "sizes must be a list of whole numbers"),
        ({"on": 1}, "on must be true or false"),
        ({"extra": [1]}, "extra must be a table"),
        ({"fill": "median"}, "fill must be a finite number or 'mean'"),
        ({"step": 3}, "unknown key 'step'; known are steps, share"),
        ([1], "expected a table of settings, got list"),
    ],
)
def test_refused(values: Any, message: str):
    with pytest.raises(LookupError, match=f"the file: .*{message}"):
        from_table(Settings, values, "the file", LookupError)


def test_whole_tables_need_every_key():
    with pytest.raises(ValueError, match="missing key 'extra', 'fill', 'kind'"):
        from_table(Settings, {"steps": 1, "share": 0.5, "seconds": None, "sizes": [], "on": True}, "x", whole=True)


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000, "null"])
def test_text_that_is_no_object(text: str):
    with pytest.raises(ValueError, match=r"^x(:| is not)"):
        read_json_object(text, "x")
