"""Claims of a JWT, each read with its type and its bounds (RFC 7519, sections 2 and 4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from formats.jose.errors import JoseError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_NUMERIC_DATE_S = 253_402_300_799  # the last second of the year 9999, Unix time
SECOND_US = 1_000_000


def text(claims: Mapping[str, Any], name: str) -> str:
    """Returns a claim that must be a text. Raises JoseError, naming the claim, otherwise."""
    value = claims.get(name)
    if not isinstance(value, str) or not value:
        raise JoseError(f"{name} must be a text")
    return value


def whole_seconds(claims: Mapping[str, Any], name: str) -> int:
    """Returns a claim that must be a NumericDate without decimals, in Unix seconds.

    Raises JoseError, naming the claim, if it is no integer from 0 to MAX_NUMERIC_DATE_S.
    """
    value = claims.get(name)
    if not isinstance(value, int) or not _is_numeric_date(value):
        raise JoseError(f"{name} must be a time in whole Unix seconds")
    return value


def numeric_date_us(claims: Mapping[str, Any], name: str) -> int:
    """Returns a claim that must be a NumericDate, in Unix microseconds.

    Raises JoseError, naming the claim, if it is no number from 0 to MAX_NUMERIC_DATE_S.
    """
    value = claims.get(name)
    if not isinstance(value, int | float) or not _is_numeric_date(value):
        raise JoseError(f"{name} must be a time in Unix seconds")
    return round(value * SECOND_US)


def _is_numeric_date(value: float) -> bool:
    return not isinstance(value, bool) and 0 <= value <= MAX_NUMERIC_DATE_S
