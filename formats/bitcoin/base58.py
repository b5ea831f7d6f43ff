"""Base58Check: bytes with a checksum, in letters and digits that are hard to confuse."""

from __future__ import annotations

from formats.bitcoin.hashes import sha256d

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
CHECKSUM_SIZE = 4


def encode_check(payload: bytes) -> str:
    data = payload + sha256d(payload)[:CHECKSUM_SIZE]
    number = int.from_bytes(data, "big")
    digits = ""
    while number:
        number, digit = divmod(number, 58)
        digits = ALPHABET[digit] + digits
    zeros = len(data) - len(data.lstrip(b"\0"))
    return ALPHABET[0] * zeros + digits


def decode_check(text: str) -> bytes:
    """The payload; ValueError unless every character and the checksum are right."""
    number = 0
    for character in text:
        digit = ALPHABET.find(character)
        if digit < 0:
            raise ValueError(f"{character!r} is not a base58 character")
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip(ALPHABET[0]))
    data = bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
    payload, checksum = data[:-CHECKSUM_SIZE], data[-CHECKSUM_SIZE:]
    if sha256d(payload)[:CHECKSUM_SIZE] != checksum:
        raise ValueError("its checksum is wrong")
    return payload
