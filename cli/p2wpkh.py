"""Keys, addresses and signed transactions of the simplest modern kind: pay to witness key hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from coincurve import PrivateKey

if TYPE_CHECKING:
    from collections.abc import Sequence

REGTEST = "bcrt"  # the human-readable part of regtest addresses
CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"  # BIP 173
GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)

VERSION = (2).to_bytes(4, "little")
FINAL = b"\xff\xff\xff\xff"  # sequence: no relative lock, no replacement
LOCK_TIME = bytes(4)
SIGHASH_ALL = 1


class Output(NamedTuple):
    amount_sat: int
    script: bytes

    def serialize(self) -> bytes:
        return self.amount_sat.to_bytes(8, "little") + bytes([len(self.script)]) + self.script


class Coin(NamedTuple):
    """An output that a key of ours may spend."""

    txid: bytes  # internal order
    vout: int
    amount_sat: int
    key: Key

    @property
    def outpoint(self) -> bytes:
        return self.txid + self.vout.to_bytes(4, "little")


@dataclass(frozen=True, slots=True)
class Key:
    secret: PrivateKey
    point: bytes  # the public key, compressed: 33 bytes
    hash: bytes  # HASH160 of it: 20 bytes

    @classmethod
    def of(cls, secret: bytes) -> Key:
        private = PrivateKey(secret)
        point = private.public_key.format()
        return cls(
            private, point, hashlib.new("ripemd160", hashlib.sha256(point).digest()).digest()
        )

    @property
    def script(self) -> bytes:
        return b"\x00\x14" + self.hash

    @property
    def address(self) -> str:
        return address(self.hash)

    def __repr__(self) -> str:
        return f"Key({self.point.hex()})"


def spend(coins: Sequence[Coin], outputs: Sequence[Output]) -> tuple[bytes, bytes]:
    """A transaction that spends these coins, signed (BIP 143): its txid, and its bytes."""
    inputs = b"".join(coin.outpoint + b"\x00" + FINAL for coin in coins)
    paid = b"".join(output.serialize() for output in outputs)
    prevouts = _sha256d(b"".join(coin.outpoint for coin in coins))
    sequences = _sha256d(FINAL * len(coins))
    head, tail = VERSION + prevouts + sequences, FINAL + _sha256d(paid) + LOCK_TIME
    witnesses = b"".join(_witness(coin, head, tail) for coin in coins)
    body = _compact(len(coins)) + inputs + _compact(len(outputs)) + paid
    txid = _sha256d(VERSION + body + LOCK_TIME)
    return txid, VERSION + b"\x00\x01" + body + witnesses + LOCK_TIME


def address(program: bytes, hrp: str = REGTEST) -> str:
    """The bech32 address of a witness program of version 0 (BIP 173)."""
    values = [0, *_regroup(program)]
    expanded = [ord(c) >> 5 for c in hrp] + [0] + [ord(c) & 31 for c in hrp]
    checksum = _polymod([*expanded, *values, 0, 0, 0, 0, 0, 0]) ^ 1
    values += [checksum >> 5 * (5 - i) & 31 for i in range(6)]
    return f"{hrp}1" + "".join(CHARSET[value] for value in values)


def script_of(address: str) -> bytes:
    """The script of a version 0 address that a service gave us; its checksum is taken on trust."""
    values = [CHARSET.index(c) for c in address.rpartition("1")[2][:-6]]
    bits = 0
    for value in values[1:]:
        bits = bits << 5 | value
    size, padding = divmod(5 * (len(values) - 1), 8)
    return bytes([0, size]) + (bits >> padding).to_bytes(size, "big")


def _witness(coin: Coin, head: bytes, tail: bytes) -> bytes:
    code = b"\x19\x76\xa9\x14" + coin.key.hash + b"\x88\xac"
    amount = coin.amount_sat.to_bytes(8, "little")
    digest = _sha256d(
        head + coin.outpoint + code + amount + tail + SIGHASH_ALL.to_bytes(4, "little")
    )
    signature = coin.key.secret.sign(digest, hasher=None) + bytes([SIGHASH_ALL])
    return b"\x02" + bytes([len(signature)]) + signature + b"\x21" + coin.key.point


def _compact(number: int) -> bytes:
    return bytes([number]) if number < 0xFD else b"\xfd" + number.to_bytes(2, "little")


def _sha256d(data: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def _regroup(program: bytes) -> list[int]:
    """8-bit groups as 5-bit groups, padded with zeros."""
    bits = int.from_bytes(program, "big")
    size = -(-8 * len(program) // 5)
    bits <<= 5 * size - 8 * len(program)
    return [bits >> 5 * (size - 1 - i) & 31 for i in range(size)]


def _polymod(values: Sequence[int]) -> int:
    checksum = 1
    for value in values:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value
        for i, generator in enumerate(GENERATOR):
            checksum ^= generator if top >> i & 1 else 0
    return checksum
