"""Claims of a JWT: a wrong type or a value out of range is refused, and the claim is named."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.jose import JoseError, claims
from formats.jose.claims import MAX_NUMERIC_DATE_S

NO_TIMES: list[Any] = [
    None,
    True,
    "",
    "nan",
    "1",
    [],
    [1],
    {},
    -1,
    10**400,
    -(10**400),
    MAX_NUMERIC_DATE_S + 1,
    float("nan"),
    float("inf"),
    1e308,
]


@pytest.mark.parametrize("value", NO_TIMES, ids=lambda value: repr(value)[:20])
def test_value_that_is_no_time_is_refused_by_name(value: Any) -> None:
    for read in (claims.whole_seconds, claims.numeric_date_us):
        with pytest.raises(JoseError, match="exp must be a time"):
            read({"exp": value}, "exp")
        with pytest.raises(JoseError, match="exp must be a time"):
            read({}, "exp")


def test_only_a_numeric_date_may_have_decimals() -> None:
    assert claims.numeric_date_us({"exp": 1.5}, "exp") == 1_500_000
    with pytest.raises(JoseError, match="exp must be a time in whole Unix seconds"):
        claims.whole_seconds({"exp": 1.5}, "exp")


@given(st.integers(0, MAX_NUMERIC_DATE_S))
def test_whole_second_is_read_exactly(second: int) -> None:
    assert claims.whole_seconds({"exp": second}, "exp") == second
    assert claims.numeric_date_us({"exp": second}, "exp") == second * 1_000_000


@given(st.integers(0, 4_102_444_800_000_000))
def test_microsecond_of_this_century_survives_a_double(microsecond: int) -> None:
    value = {"nbf": microsecond / 1_000_000}

    assert claims.numeric_date_us(value, "nbf") == microsecond


@pytest.mark.parametrize("value", [None, "", 1, True, [], ["a"], {}])
def test_value_that_is_no_text_is_refused_by_name(value: Any) -> None:
    with pytest.raises(JoseError, match="nonce must be a text"):
        claims.text({"nonce": value}, "nonce")
