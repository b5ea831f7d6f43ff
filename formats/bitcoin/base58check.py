"""Base58Check: base58 with a checksum, the form of addresses before segwit."""

from __future__ import annotations

from formats import base58
from formats.bitcoin.hashes import sha256d

CHECKSUM_BYTES = 4


def encode(payload: bytes) -> str:
    """Returns the text of a payload and its checksum."""
    return base58.encode(payload + sha256d(payload)[:CHECKSUM_BYTES])


def decode(text: str) -> bytes:
    """Returns the payload. Raises ValueError if a character or the checksum is wrong."""
    data = base58.decode(text)
    payload, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    if sha256d(payload)[:CHECKSUM_BYTES] != checksum:
        raise ValueError("its checksum is wrong")
    return payload
