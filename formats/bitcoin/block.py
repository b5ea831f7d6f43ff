"""Blocks as serialised on the wire: read strictly and in one pass, checked, and written."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from struct import Struct, error
from typing import TYPE_CHECKING

from bitcoin.core.script import CScript

from formats.bitcoin.errors import MalformedError
from formats.bitcoin.hashes import BlockHash, display, sha256d
from formats.bitcoin.transaction import (
    WITNESS_SCALE,
    Transaction,
    compact_size,
    read_compact_size,
    read_transaction,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

HEADER_BYTES = 80

COMMITMENT_PREFIX = b"\x6a\x24\xaa\x21\xa9\xed"  # BIP 141: the last output that starts so counts
NO_WITNESS_RESERVED = bytes(32)

_MIN_TRANSACTION_BYTES = 60
_HEADER = Struct("<i32s32sIII")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    version: int
    prev_hash: BlockHash
    merkle_root: bytes
    time: int  # Unix seconds
    bits: int
    nonce: int

    @classmethod
    def read(cls, raw: bytes) -> Header:
        """Returns the header in the first 80 bytes. Raises struct.error if there are fewer."""
        version, prev_hash, merkle_root, time, bits, nonce = _HEADER.unpack_from(raw)
        return cls(
            version=version,
            prev_hash=BlockHash(prev_hash),
            merkle_root=merkle_root,
            time=time,
            bits=bits,
            nonce=nonce,
        )

    def serialize(self) -> bytes:
        return _HEADER.pack(
            self.version, self.prev_hash, self.merkle_root, self.time, self.bits, self.nonce
        )

    @property
    def hash(self) -> BlockHash:
        return BlockHash(sha256d(self.serialize()))

    @property
    def target(self) -> int:
        """The largest hash, as a little-endian number, that ``bits`` allow; 0 if invalid."""
        exponent, mantissa = self.bits >> 24, self.bits & 0x7FFFFF
        if self.bits & 0x800000 or exponent > 32:
            return 0
        return mantissa << 8 * (exponent - 3) if exponent >= 3 else mantissa >> 8 * (3 - exponent)

    @property
    def has_work(self) -> bool:
        """Proof of work: the hash does not exceed the header's own target."""
        return int.from_bytes(self.hash, "little") <= self.target


@dataclass(frozen=True, slots=True)
class Block:
    raw: bytes
    header: Header
    hash: BlockHash
    transactions: tuple[Transaction, ...]

    @property
    def weight(self) -> int:
        """Weight units: three times the size without witnesses plus the size (BIP 141)."""
        witness = sum(len(tx.raw) - tx.stripped_size for tx in self.transactions)
        return WITNESS_SCALE * len(self.raw) - (WITNESS_SCALE - 1) * witness

    @property
    def height(self) -> int | None:
        """The height in the coinbase, or None if the block does not follow BIP 34."""
        script = self.transactions[0].inputs()[0].script_sig
        if self.header.version < 2 or not script:
            return None
        if 0x51 <= script[0] <= 0x60:  # OP_1 to OP_16
            return script[0] - 0x50
        height = int.from_bytes(script[1 : 1 + script[0]], "little")
        return height if script.startswith(height_push(height)) else None


def parse_block(raw: bytes) -> Block:
    """Returns the block that ``raw`` is, to the last byte, without validation.

    Raises MalformedError with the offset if ``raw`` is truncated, padded or not canonical, or if
    its first transaction is not its only coinbase.
    """
    try:
        header = Header.read(raw)
        transactions, end = _read_transactions(raw)
    except (IndexError, error):
        raise MalformedError(
            f"the block is truncated: it does not end within its {len(raw)} bytes"
        ) from None
    if end != len(raw):
        raise MalformedError(f"{len(raw) - end} bytes follow the block, which ends at offset {end}")
    if [tx.is_coinbase for tx in transactions[:2]] not in ([True], [True, False]):
        raise MalformedError("the first transaction must be the only coinbase")
    return Block(raw, header, header.hash, transactions)


def _read_transactions(raw: bytes) -> tuple[tuple[Transaction, ...], int]:
    count, at = read_compact_size(raw, HEADER_BYTES, unit=_MIN_TRANSACTION_BYTES)
    if not count:
        raise MalformedError(f"no transactions at offset {HEADER_BYTES}")
    transactions: list[Transaction] = []
    append = transactions.append
    for _ in range(count):
        transaction, at = read_transaction(raw, at)
        append(transaction)
    return tuple(transactions), at


def check_commitments(block: Block) -> None:
    """Checks every byte of the transactions against the header.

    Raises MalformedError if the header lacks its work, its merkle root does not match (also as in
    CVE-2012-2459, where repeated transactions leave the root as it is), or the witness commitment
    does not match (BIP 141).
    """
    if not block.header.has_work:
        raise MalformedError(
            f"block {display(block.hash)} does not meet its own target: its header was altered"
        )
    txids = [tx.txid for tx in block.transactions]
    if len(set(txids)) != len(txids) or merkle_root(txids) != block.header.merkle_root:
        raise MalformedError(
            f"the transactions of block {display(block.hash)} do not match its merkle root"
        )
    if any(tx.has_witness for tx in block.transactions) and not _commits_to_witnesses(block):
        raise MalformedError(
            f"the witnesses of block {display(block.hash)} do not match their commitment"
        )


def merkle_root(hashes: Sequence[bytes]) -> bytes:
    """Returns the merkle root of hashes in internal order; an odd last one pairs with itself."""
    level = list(hashes)
    while len(level) > 1:
        if len(level) % 2:
            level.append(level[-1])
        level = [sha256d(left + right) for left, right in list(pairwise(level))[::2]]
    return level[0]


def witness_commitment(witnessed: Sequence[Transaction]) -> bytes:
    """Returns the script of a coinbase output that commits to the others' witnesses (BIP 141)."""
    root = merkle_root([bytes(32), *(tx.wtxid for tx in witnessed)])
    return COMMITMENT_PREFIX + sha256d(root + NO_WITNESS_RESERVED)


def _commits_to_witnesses(block: Block) -> bool:
    coinbase = block.transactions[0]
    committed = [
        output.script_pubkey[len(COMMITMENT_PREFIX) :][:32]
        for output in coinbase.outputs
        if output.script_pubkey.startswith(COMMITMENT_PREFIX) and len(output.script_pubkey) >= 38
    ]
    reserved = coinbase.inputs()[0].witness
    if not committed or len(reserved) != 1 or len(reserved[0]) != 32:
        return False
    root = merkle_root([bytes(32), *(tx.wtxid for tx in block.transactions[1:])])
    return committed[-1] == sha256d(root + reserved[0])


def serialize_block(header: Header, transactions: Sequence[Transaction]) -> bytes:
    count = compact_size(len(transactions))
    return header.serialize() + count + b"".join(tx.raw for tx in transactions)


def height_push(height: int) -> bytes:
    """Returns the script that a coinbase begins with (BIP 34): a minimal push of its height."""
    return bytes(CScript([height]))
