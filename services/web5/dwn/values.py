"""JSON values with JavaScript's numbers, so that a value has the same CID on every node.

JavaScript numbers are doubles. A number that is integral and at most 2^53 - 1 is an integer in
dag-cbor; a larger integer becomes the nearest double.
"""

from __future__ import annotations

import json
import math
from typing import Any, TypeAlias

from formats import jose
from formats.canonical_json import MAX_SAFE_INTEGER

Value: TypeAlias = Any  # None, bool, int, float, str, or a list or dict of these


class MalformedError(ValueError):
    """A text that is not JSON, or JSON that parsers read differently."""


def parse(raw: bytes) -> Value:
    """Parses JSON. Raises MalformedError if ``jose.load_json`` or ``normal`` refuses it."""
    try:
        return normal(jose.load_json(raw))
    except jose.JoseError as error:
        raise MalformedError(str(error)) from None


def dump(value: Value) -> bytes:
    """Returns compact JSON with the members in their given order."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def normal(value: Value) -> Value:
    """Returns the value with JavaScript's numbers.

    Raises MalformedError for a number beyond a double, and for U+0000, which PostgreSQL's text
    cannot hold.
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
