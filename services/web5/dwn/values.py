"""JSON values with numbers as JavaScript holds them: one value, one CID on every peer.

JavaScript has one type of number. What is integral and exact in a double is an integer to a CID;
an integer beyond that is the double nearest to it.
"""

from __future__ import annotations

import json
import math
from typing import Any, TypeAlias

from formats import jose

Value: TypeAlias = Any  # None, bool, int, float, str, list or dict of such

MAX_SAFE_INTEGER = 2**53 - 1


class MalformedError(ValueError):
    """Not JSON that every reader understands alike."""


def parse(raw: bytes) -> Value:
    """The value of a text; MalformedError where ``jose.load_json`` or ``normal`` refuses."""
    try:
        return normal(jose.load_json(raw))
    except jose.JoseError as error:
        raise MalformedError(str(error)) from None


def dump(value: Value) -> bytes:
    """Compact, in the order of the members as they stand."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def normal(value: Value) -> Value:
    """The same value with JavaScript's numbers.

    MalformedError for a number that no double holds, and for U+0000, which no PostgreSQL text does.
    """
    match value:
        case bool() | None:
            return value
        case str():
            return _text(value)
        case int():
            return value if abs(value) <= MAX_SAFE_INTEGER else _number(value)
        case float():
            return _number(value)
        case dict():
            return {_text(name): normal(item) for name, item in value.items()}
        case _:
            return [normal(item) for item in value]


def _number(value: float) -> int | float:
    try:
        double = float(value)
    except OverflowError:
        double = math.inf
    if not math.isfinite(double):
        raise MalformedError("a number is not finite as a double")
    if double.is_integer() and abs(double) <= MAX_SAFE_INTEGER:
        return int(double)
    return double


def _text(value: str) -> str:
    if "\0" in value:
        raise MalformedError("a string holds U+0000")
    return value
