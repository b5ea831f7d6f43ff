"""The did:key method: a public key that is its own identifier.

``did:key:z`` + base58btc(varint(multicodec) + key); its only key is ``<did>#z...``. Multicodecs:
0xed Ed25519 (32 bytes), 0xe7 secp256k1 and 0x1200 P-256 (33 bytes, compressed). Sources: the
did:key method specification (W3C CCG), and the multibase and multicodec tables.
"""

from __future__ import annotations

from formats import base58, jose, varint

PREFIX = "did:key:"
MAX_CHARS = 128  # of the multibase value; the longest supported key has 49

CURVES = {0xED: "Ed25519", 0xE7: "secp256k1", 0x1200: "P-256"}
CODES = {curve: code for code, curve in CURVES.items()}


def encode(key: jose.Key) -> str:
    """Returns the DID of a key."""
    return PREFIX + multibase(key)


def decode(did: str) -> jose.Key:
    """Returns the key in a DID. Raises ValueError unless it is the canonical form of one key."""
    value = did.removeprefix(PREFIX)
    if not value.startswith("z") or len(value) > MAX_CHARS:
        raise ValueError("the did:key is not base58btc (z...)")
    code, point = varint.decode(base58.decode(value[1:]), max_bytes=3)
    if code not in CURVES:
        raise ValueError(
            f"the did:key has multicodec {code:#x}: Ed25519, secp256k1 and P-256 are read here"
        )
    return jose.from_point(CURVES[code], point)


def multibase(key: jose.Key) -> str:
    """Returns the key as a did:key and its verification method spell it."""
    return "z" + base58.encode(varint.encode(CODES[key.jwk["crv"]]) + key.point)
