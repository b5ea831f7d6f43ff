"""Base58 in Bitcoin's alphabet (base58btc): a leading zero byte is a leading ``1``."""

from __future__ import annotations

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

_DIGITS = {character: digit for digit, character in enumerate(ALPHABET)}


def encode(raw: bytes) -> str:
    """Returns the base58 text of ``raw``, a big-endian number."""
    number, text = int.from_bytes(raw), ""
    while number:
        number, digit = divmod(number, 58)
        text = ALPHABET[digit] + text
    return ALPHABET[0] * (len(raw) - len(raw.lstrip(b"\0"))) + text


def decode(text: str) -> bytes:
    """Returns the bytes of a base58 text. Raises ValueError if a character is none of base58."""
    number = 0
    for character in text:
        if character not in _DIGITS:
            raise ValueError(f"{character!r} is not a base58 character")
        number = number * 58 + _DIGITS[character]
    zeros = len(text) - len(text.lstrip(ALPHABET[0]))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8)
