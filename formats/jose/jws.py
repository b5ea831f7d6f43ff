"""Compact JWS: signed, and taken apart (RFC 7515, section 7.1)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from formats.jose.base64url import decode, encode
from formats.jose.errors import JoseError
from formats.jose.strict_json import load_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from formats.jose.keys import PublicKey, SigningKey

MAX_TOKEN_CHARS = 64 * 1024
MAX_CACHED_HEADER_CHARS = 8 * 1024


@dataclass(frozen=True, slots=True)
class Jws:
    """A compact JWS, taken apart; ``verify`` proves its signature."""

    header: dict[str, Any]
    payload: bytes
    signing_input: bytes
    signature: bytes

    def verify(self, key: PublicKey) -> None:
        """Raises JoseError unless ``key`` made this signature with the key's own algorithm."""
        if self.header.get("alg") != key.algorithm:
            raise JoseError(f"alg {self.header.get('alg')!r} is not the key's {key.algorithm}")
        if not key.verify(self.signature, self.signing_input):
            raise JoseError("the signature does not match")


def sign(payload: bytes, key: SigningKey, header: Mapping[str, Any]) -> str:
    """Returns a compact JWS; the key sets ``alg`` in its header."""
    protected = json.dumps({**header, "alg": key.algorithm}, separators=(",", ":"))
    signing_input = f"{encode(protected.encode())}.{encode(payload)}"
    return f"{signing_input}.{encode(key.sign(signing_input.encode()))}"


def parse(token: str) -> Jws:
    """Takes a compact JWS apart, without a check of its signature.

    Raises JoseError if it is longer than MAX_TOKEN_CHARS, malformed, or has a critical extension.
    """
    parts = token.split(".") if len(token) <= MAX_TOKEN_CHARS else []
    if len(parts) != 3:
        raise JoseError(f"not a compact JWS of at most {MAX_TOKEN_CHARS} characters")
    cached = len(parts[0]) <= MAX_CACHED_HEADER_CHARS
    header = _cached_header(parts[0]) if cached else _header(parts[0])
    signing_input = f"{parts[0]}.{parts[1]}".encode()
    return Jws(dict(header), decode(parts[1]), signing_input, decode(parts[2]))


def _header(text: str) -> dict[str, Any]:
    header = load_json(decode(text))
    if not isinstance(header, dict):
        raise JoseError("the header of a JWS must be an object")
    if "crit" in header:
        raise JoseError("critical header extensions are not supported")
    return header


# A signer often signs many tokens under one header, which holds its whole certificate chain.
_cached_header = lru_cache(maxsize=1024)(_header)
