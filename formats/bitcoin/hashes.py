"""Hashes of blocks and transactions: 32 bytes in internal order, shown as reversed hex."""

from __future__ import annotations

from hashlib import new, sha256
from typing import NewType

Txid = NewType("Txid", bytes)
BlockHash = NewType("BlockHash", bytes)

HASH_BYTES = 32


def sha256d(data: bytes) -> bytes:
    """Returns SHA-256 applied twice: the hash of blocks, transactions and merkle trees."""
    return sha256(sha256(data).digest()).digest()


def hash160(data: bytes) -> bytes:
    """Returns RIPEMD-160 of SHA-256, 20 bytes: the hash of a public key in a script."""
    return new("ripemd160", sha256(data).digest()).digest()


def tagged_hash(tag: str, data: bytes) -> bytes:
    """Returns the SHA-256 of ``data`` in the domain ``tag`` (BIP 340)."""
    prefix = sha256(tag.encode()).digest()
    return sha256(prefix + prefix + data).digest()


def display(hash: bytes) -> str:
    """Returns the hash as explorers show it: hex of the reversed bytes."""
    return hash[::-1].hex()
