"""JSON of strangers: one way to read it, in which whatever is wrong with it is one kind of error."""

from __future__ import annotations

import json
import math
from typing import Any, Final, TypeVar

import msgspec

T = TypeVar("T")

DEPTH_MAX: Final = 200
"""Levels that are read. Python ends somewhere below 1,000, and pydantic, in which MCP clients read, at 255."""


def read_json(text: bytes | str, kind: type[T]) -> T:
    """A document as ``kind``. Raises msgspec's errors: ValidationError if it is JSON of another shape, DecodeError."""
    try:
        if _brackets(text) > DEPTH_MAX and not shallow(msgspec.json.decode(text)):
            raise msgspec.DecodeError(f"it is nested deeper than {DEPTH_MAX} levels")
        return msgspec.json.decode(text, type=kind)
    except RecursionError:
        raise msgspec.DecodeError(f"it is nested deeper than {DEPTH_MAX} levels") from None
    except UnicodeError as error:
        raise msgspec.DecodeError(str(error)) from None


def strict_json(text: str | bytes) -> Any:
    """Decoded JSON with whole numbers of any size.

    Raises ValueError for all that nobody could be given as JSON again: NaN, a number beyond what a float holds, and
    what is nested beyond reading.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def shallow(value: object, levels: int = DEPTH_MAX) -> bool:
    """Whether nothing in a JSON value is nested deeper than so many levels."""
    level = [value]
    for _ in range(levels):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
            if isinstance(inner, dict | list)
        ]
        if not level:
            return True
    return False


def _refuse_constant(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is more than a number holds")
    return value


def _brackets(text: bytes | str) -> int:
    """No value has more levels than its text has brackets, and few texts have many."""
    if isinstance(text, str):
        return text.count("[") + text.count("{")
    return text.count(b"[") + text.count(b"{")
