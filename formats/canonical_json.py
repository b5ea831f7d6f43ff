"""Canonical JSON (RFC 8785), written by the faster ``json`` wherever both give the same text."""

from __future__ import annotations

import json
from typing import Any

import rfc8785

MAX_SAFE_INTEGER = 2**53 - 1  # RFC 8785 has no form for larger integers
# Python and ECMAScript write a double between these alike, unless it is integral.
MIN_PLAIN_FLOAT, MAX_PLAIN_FLOAT = 1e-4, 1e15

_encode = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, check_circular=False
).encode


def dumps(value: Any) -> bytes:
    """Returns the canonical UTF-8 text of a value.

    Raises ``rfc8785.CanonicalizationError`` if the value has none.
    """
    if _is_written_alike(value):
        try:
            return _encode(value).encode()
        except UnicodeEncodeError:
            pass  # a lone surrogate: rfc8785 raises its own error
    text: bytes = rfc8785.dumps(value)
    return text


def _is_written_alike(value: Any) -> bool:
    match value:
        case None | bool() | str():
            return True
        case int():
            return -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER
        case float():
            return MIN_PLAIN_FLOAT <= abs(value) <= MAX_PLAIN_FLOAT and value != int(value)
        case list():
            return all(map(_is_written_alike, value))
        case dict():
            return all(_is_plain(name) and _is_written_alike(value[name]) for name in value)
        case _:
            return False


def _is_plain(name: Any) -> bool:
    """Returns whether json, which sorts by code points, sorts a name as RFC 8785 does (UTF-16)."""
    return isinstance(name, str) and name.isascii()
