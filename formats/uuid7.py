"""UUIDs of version 7 (RFC 9562, section 5.7): Unix milliseconds first, then random bits."""

from __future__ import annotations

import uuid

RANDOM_BYTES = 10


def from_parts(unix_ms: int, random: bytes) -> str:
    """Returns the UUID of a time and 10 random bytes, 6 bits of which give way to the version."""
    bits = unix_ms << 80 | int.from_bytes(random)
    bits = bits & ~(0xF << 76) | 7 << 76  # version
    bits = bits & ~(0b11 << 62) | 0b10 << 62  # variant
    return str(uuid.UUID(int=bits))


def is_canonical(text: str) -> bool:
    """Returns whether ``text`` is a UUIDv7 in lower case with hyphens, its only canonical form."""
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        return False
    return parsed.version == 7 and str(parsed) == text
