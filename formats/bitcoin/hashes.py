"""Hashes of blocks and transactions: 32 bytes in internal order, reversed hex for people."""

from __future__ import annotations

from hashlib import sha256
from typing import NewType

from mesh.errors import InvalidArgument, Reason

Txid = NewType("Txid", bytes)
BlockHash = NewType("BlockHash", bytes)

HASH_SIZE = 32


def sha256d(data: bytes) -> bytes:
    """SHA-256 twice, as blocks, transactions and merkle trees are hashed."""
    return sha256(sha256(data).digest()).digest()


def display(hash: bytes) -> str:
    """Hex in the order that people read: reversed."""
    return hash[::-1].hex()


def parse_txid(raw: bytes, *, field: str = "txid") -> Txid:
    return Txid(_parse(raw, field))


def parse_block_hash(raw: bytes, *, field: str = "hash") -> BlockHash:
    return BlockHash(_parse(raw, field))


def _parse(raw: bytes, field: str) -> bytes:
    if len(raw) != HASH_SIZE:
        raise InvalidArgument(
            f"{field} must be {HASH_SIZE} bytes in internal order, not {len(raw)}",
            reason=Reason.HASH_INVALID,
            field=field,
        )
    return raw
