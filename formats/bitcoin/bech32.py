"""Bech32 (BIP 173) and bech32m (BIP 350): witness programs as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
BECH32, BECH32M = 1, 0x2BC830A3  # the remainders of a right checksum
CHECKSUM_CHARS = 6

_GENERATORS = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def encode_segwit(hrp: str, version: int, program: bytes) -> str:
    """Returns the lower-case address of a witness program; version 0 takes bech32, others bech32m.

    ``hrp`` is the human-readable part, which names the network.
    """
    data = [version, *_regroup(program, 8, 5, pad=True)]
    target = BECH32M if version else BECH32
    remainder = _polymod([*_expand(hrp), *data, *[0] * CHECKSUM_CHARS]) ^ target
    checksum = [remainder >> 5 * (CHECKSUM_CHARS - 1 - i) & 31 for i in range(CHECKSUM_CHARS)]
    return hrp + "1" + "".join(ALPHABET[value] for value in [*data, *checksum])


def decode_segwit(address: str) -> tuple[str, int, bytes]:
    """Returns the human-readable part, the witness version and the program.

    Raises ValueError if the text is no segwit address.
    """
    if address.lower() != address and address.upper() != address:
        raise ValueError("it mixes upper and lower case")
    hrp, _, text = address.lower().rpartition("1")
    data = [ALPHABET.find(character) for character in text]
    if len(data) <= CHECKSUM_CHARS or -1 in data:
        raise ValueError("it is too short or has characters that bech32 does not use")
    version = data[0]
    if version > 16:
        raise ValueError(f"witness version {version} does not exist")
    if _polymod([*_expand(hrp), *data]) != (BECH32M if version else BECH32):
        raise ValueError("its checksum is wrong")
    program = bytes(_regroup(data[1:-CHECKSUM_CHARS], 5, 8, pad=False))
    if not 2 <= len(program) <= 40 or (version == 0 and len(program) not in (20, 32)):
        raise ValueError(f"a program of {len(program)} bytes does not exist in version {version}")
    return hrp, version, program


def _polymod(values: Iterable[int]) -> int:
    checksum = 1
    for value in values:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value
        for i, generator in enumerate(_GENERATORS):
            if top >> i & 1:
                checksum ^= generator
    return checksum


def _expand(hrp: str) -> list[int]:
    return [ord(c) >> 5 for c in hrp] + [0] + [ord(c) & 31 for c in hrp]


def _regroup(values: Sequence[int], width: int, into: int, *, pad: bool) -> list[int]:
    """Returns the same bits in groups of another width. Raises ValueError if padding is not 0."""
    groups: list[int] = []
    bits = count = 0
    for value in values:
        bits = bits << width | value
        count += width
        while count >= into:
            count -= into
            groups.append(bits >> count & (1 << into) - 1)
    rest = bits & (1 << count) - 1
    if pad and count:
        groups.append(rest << into - count)
    elif not pad and (count >= width or rest):
        raise ValueError("its padding is not zero")
    return groups
