"""base64url without padding, in its canonical form only (RFC 7515, section 2)."""

from __future__ import annotations

import base64

from formats.jose.errors import JoseError


def encode(raw: bytes) -> str:
    """Returns the base64url text of ``raw``, without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Returns the bytes of a canonical base64url text.

    Raises JoseError if it has padding, other characters, or bits that no byte holds.
    """
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise JoseError("not base64url") from None
    if encode(raw) != text:
        raise JoseError("not the canonical base64url of its bytes")
    return raw
