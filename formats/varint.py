"""Unsigned varints (LEB128) as multiformats and protobuf write them, in their shortest form."""

from __future__ import annotations


def encode(number: int) -> bytes:
    """Returns the varint of a number that is not negative: 7 bits a byte, the lowest first."""
    low = bytearray()
    while number >= 0x80:
        low.append(number & 0x7F | 0x80)
        number >>= 7
    low.append(number)
    return bytes(low)


def decode(raw: bytes, *, max_bytes: int) -> tuple[int, bytes]:
    """Returns the number that ``raw`` begins with, and the bytes after it.

    Raises ValueError if it does not end within ``max_bytes``, or is not in its shortest form.
    """
    number = 0
    for at, byte in enumerate(raw[:max_bytes]):
        number |= (byte & 0x7F) << 7 * at
        if byte < 0x80:
            if at and not byte:
                raise ValueError("a varint is not in its shortest form")
            return number, raw[at + 1 :]
    raise ValueError(f"no varint ends within {max_bytes} bytes")
