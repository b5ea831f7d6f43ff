"""Strict JSON: refuses every text that two conforming readers may read differently."""

from __future__ import annotations

import json
from typing import Any

from formats.jose.errors import JoseError

MAX_DEPTH = 64  # nested objects and arrays


def load_json(raw: bytes | str) -> Any:
    """Returns the value of a JSON text.

    Raises JoseError if the text is not UTF-8, nests deeper than MAX_DEPTH, or holds a duplicate
    name, NaN, Infinity or a lone surrogate.
    """
    try:
        text = raw.decode() if isinstance(raw, bytes) else raw
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise JoseError("JSON is nested too deep") from None
    except UnicodeError:
        raise JoseError("JSON must be UTF-8 without lone surrogates") from None
    except ValueError as error:
        raise JoseError(f"not strict JSON: {error}") from None
    _check_depth(value, MAX_DEPTH)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name appears twice in one object")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _check_depth(value: Any, depth: int) -> None:
    if depth == 0:
        raise JoseError(f"JSON is nested deeper than {MAX_DEPTH}")
    children = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list):
        for child in children:
            _check_depth(child, depth - 1)
