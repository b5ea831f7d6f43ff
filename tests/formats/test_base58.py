"""Base58: all bytes come back, leading zeros included."""

from __future__ import annotations

import pytest
from bitcoin import base58 as oracle
from hypothesis import given
from hypothesis import strategies as st

from formats import base58


@given(st.binary(max_size=80))
def test_bytes_come_back_from_base58(raw: bytes) -> None:
    assert base58.decode(base58.encode(raw)) == raw


@given(st.binary(max_size=80))
def test_base58_agrees_with_python_bitcoinlib(raw: bytes) -> None:
    assert base58.encode(raw) == oracle.encode(raw)
    assert base58.decode(oracle.encode(raw)) == oracle.decode(oracle.encode(raw)) == raw


@pytest.mark.parametrize("text", ["0", "O", "I", "l", "1 1", "é"])
def test_characters_outside_base58_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a base58 character"):
        base58.decode(text)
