"""Varints: one number, one form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats import varint


@given(st.integers(0, 2**63), st.binary(max_size=4))
def test_number_and_rest_come_back(number: int, rest: bytes) -> None:
    assert varint.decode(varint.encode(number) + rest, max_bytes=10) == (number, rest)


@pytest.mark.parametrize(
    "raw", [b"", b"\x80", b"\xff\xff\xff\x01", b"\x80\x00", b"\xed\x81\x00"], ids=bytes.hex
)
def test_unfinished_or_longer_forms_are_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="varint"):
        varint.decode(raw, max_bytes=3)
