"""The did:key method: a public key that is its own identifier.

``did:key:z`` + base58btc(varint(multicodec) + key); its only key is ``<did>#z...``. Multicodecs:
0xed Ed25519 (32 bytes), 0xe7 secp256k1 and 0x1200 P-256 (33 bytes, compressed). Sources: the
did:key method specification (W3C CCG), and the multibase and multicodec tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from formats import jose

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "did:key:"
MAX_LENGTH = 128  # characters of the multibase value; that of the longest key we read has 49

BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
DIGITS: Mapping[str, int] = {symbol: value for value, symbol in enumerate(BASE58)}

CURVES = {0xED: "Ed25519", 0xE7: "secp256k1", 0x1200: "P-256"}
CODES = {curve: code for code, curve in CURVES.items()}


def encode(key: jose.Key) -> str:
    """The DID of a key."""
    return PREFIX + multibase(key)


def decode(did: str) -> jose.Key:
    """The key in a DID. ValueError unless it is the one spelling of one key."""
    value = did.removeprefix(PREFIX)
    if not value.startswith("z") or len(value) > MAX_LENGTH:
        raise ValueError("the did:key is not base58btc (z...)")
    code, point = _split(base58_decode(value[1:]))
    if code not in CURVES:
        raise ValueError(
            f"the did:key has multicodec {code:#x}: Ed25519, secp256k1 and P-256 are read here"
        )
    return jose.from_point(CURVES[code], point)


def multibase(key: jose.Key) -> str:
    return "z" + base58_encode(varint(CODES[key.jwk["crv"]]) + key.point)


def base58_encode(raw: bytes) -> str:
    zeros = len(raw) - len(raw.lstrip(b"\0"))
    number, symbols = int.from_bytes(raw), ""
    while number:
        number, digit = divmod(number, 58)
        symbols = BASE58[digit] + symbols
    return BASE58[0] * zeros + symbols


def base58_decode(text: str) -> bytes:
    """ValueError for a symbol that base58btc lacks."""
    number = 0
    for symbol in text:
        if symbol not in DIGITS:
            raise ValueError(f"the did:key has the symbol {symbol!r}, which base58btc lacks")
        number = number * 58 + DIGITS[symbol]
    zeros = len(text) - len(text.lstrip(BASE58[0]))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8)


def varint(number: int) -> bytes:
    """Unsigned LEB128, in its shortest form."""
    low = []
    while number >= 0x80:
        low.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*low, number])


def _split(raw: bytes) -> tuple[int, bytes]:
    """The multicodec and what follows it."""
    code = 0
    for at, byte in enumerate(raw[:3]):
        code |= (byte & 0x7F) << 7 * at
        if byte < 0x80:
            if raw[: at + 1] != varint(code):
                raise ValueError("the did:key has a multicodec that is not in its shortest form")
            return code, raw[at + 1 :]
    raise ValueError("the did:key has no multicodec")
