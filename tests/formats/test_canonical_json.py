"""Canonical JSON: the fast writer agrees with rfc8785."""

from __future__ import annotations

import math
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as some

from formats import canonical_json

LEAVES = (
    some.none()
    | some.booleans()
    | some.integers(-(2**53), 2**53)
    | some.floats(allow_nan=False, allow_infinity=False)
    | some.floats(1e-7, 1e17)
    | some.text()
    | some.text('"\\/\0\b\f\n\r\t\x1f\x7f\u2028é\ufb33😀')
)
VALUES = some.recursive(
    LEAVES, lambda inner: some.lists(inner) | some.dictionaries(some.text(), inner)
)


@given(VALUES)
def test_text_equals_that_of_rfc8785(value: Any) -> None:
    assert _outcome(canonical_json.dumps, value) == _outcome(rfc8785.dumps, value)


@pytest.mark.parametrize(
    "value", [2**53, math.nan, -math.inf, "\ud800", {1: 2}, {"a": ()}, -0.0, 1e15, 0.0001, 1.0]
)
def test_refusals_equal_those_of_rfc8785(value: Any) -> None:
    assert _outcome(canonical_json.dumps, value) == _outcome(rfc8785.dumps, value)


def _outcome(dumps: Any, value: Any) -> Any:
    """Returns the text, or the type of the error."""
    try:
        return dumps(value)
    except rfc8785.CanonicalizationError as error:
        return type(error)
