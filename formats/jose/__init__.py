"""JSON signatures, read strictly: base64url, JWKs and compact JWS (RFC 7515, 7517, 8037, 8812).

The algorithm follows from the key, never from the header: a header that names another algorithm
is refused, and so is any text that is not the canonical encoding of its bytes.
"""

from formats.jose import claims
from formats.jose.base64url import decode, encode
from formats.jose.errors import JoseError
from formats.jose.jws import Jws, parse, sign
from formats.jose.keys import (
    Ed25519Key,
    Key,
    P256Key,
    PublicKey,
    Secp256k1Key,
    SigningKey,
    from_jwk,
    from_point,
)
from formats.jose.strict_json import load_json

__all__ = [
    "Ed25519Key",
    "JoseError",
    "Jws",
    "Key",
    "P256Key",
    "PublicKey",
    "Secp256k1Key",
    "SigningKey",
    "claims",
    "decode",
    "encode",
    "from_jwk",
    "from_point",
    "load_json",
    "parse",
    "sign",
]
