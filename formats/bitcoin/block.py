"""Blocks as serialised on the wire: read strictly and in one pass, checked, and summed up."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from struct import Struct, error
from typing import TYPE_CHECKING, Any

from formats.bitcoin.hashes import BlockHash, display, sha256d
from formats.bitcoin.transaction import (
    WITNESS_SCALE,
    Malformed,
    Transaction,
    compact_size,
    read_compact_size,
    read_transaction,
)
from mesh.errors import InvalidArgument, Reason
from services.bitcoin.inspection import inspect_transactions

if TYPE_CHECKING:
    from collections.abc import Sequence

HEADER_SIZE = 80
MAX_BLOCK_SIZE = 4_000_000  # no block of at most 4,000,000 weight units is larger (BIP 141)

COMMITMENT_PREFIX = b"\x6a\x24\xaa\x21\xa9\xed"  # BIP 141: the last output that starts so counts
NO_WITNESS_RESERVED = bytes(32)

_MIN_TRANSACTION_SIZE = 60
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
        """From the first 80 bytes; struct.error if there are fewer."""
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
        """What the hash, as a little-endian number, may not exceed; 0 for nonsense in ``bits``."""
        exponent, mantissa = self.bits >> 24, self.bits & 0x7FFFFF
        if self.bits & 0x800000 or exponent > 32:
            return 0
        return mantissa << 8 * (exponent - 3) if exponent >= 3 else mantissa >> 8 * (3 - exponent)

    @property
    def has_work(self) -> bool:
        """Whether the hash meets the target that the header itself names."""
        return int.from_bytes(self.hash, "little") <= self.target


@dataclass(frozen=True, slots=True)
class Block:
    raw: bytes
    header: Header
    hash: BlockHash
    transactions: tuple[Transaction, ...]

    @property
    def weight(self) -> int:
        """Three times the size without witnesses plus the size (BIP 141)."""
        witness = sum(len(tx.raw) - tx.stripped_size for tx in self.transactions)
        return WITNESS_SCALE * len(self.raw) - (WITNESS_SCALE - 1) * witness

    @property
    def height(self) -> int | None:
        """As the coinbase says it; None where BIP 34 is not followed."""
        script = self.transactions[0].inputs()[0].script_sig
        if self.header.version < 2 or not script:
            return None
        if 0x51 <= script[0] <= 0x60:  # OP_1 to OP_16
            return script[0] - 0x50
        height = int.from_bytes(script[1 : 1 + script[0]], "little")
        return height if script.startswith(height_push(height)) else None


def parse_block(raw: bytes, *, field: str = "raw") -> Block:
    """The block that ``raw`` is, to the last byte. It is not validated.

    InvalidArgument naming the offset if it is truncated, padded or not canonical, or if anything
    but its first transaction is a coinbase.
    """
    try:
        header = Header.read(raw)
        transactions, end = _read_transactions(raw)
    except (IndexError, error):
        raise InvalidArgument(
            f"the block is truncated: it does not end within its {len(raw)} bytes",
            reason=Reason.BLOCK_MALFORMED,
            field=field,
        ) from None
    except Malformed as malformed:
        raise InvalidArgument(str(malformed), reason=Reason.BLOCK_MALFORMED, field=field) from None
    if end != len(raw):
        raise InvalidArgument(
            f"{len(raw) - end} bytes follow the block, which ends at offset {end}",
            reason=Reason.BLOCK_MALFORMED,
            field=field,
        )
    if [tx.is_coinbase for tx in transactions[:2]] not in ([True], [True, False]):
        raise InvalidArgument(
            "the first transaction must be the only coinbase",
            reason=Reason.BLOCK_MALFORMED,
            field=field,
        )
    return Block(raw, header, header.hash, transactions)


def _read_transactions(raw: bytes) -> tuple[tuple[Transaction, ...], int]:
    count, at = read_compact_size(raw, HEADER_SIZE, unit=_MIN_TRANSACTION_SIZE)
    if not count:
        raise Malformed(f"no transactions at offset {HEADER_SIZE}")
    transactions: list[Transaction] = []
    append = transactions.append
    for _ in range(count):
        transaction, at = read_transaction(raw, at)
        append(transaction)
    return tuple(transactions), at


def check_commitments(block: Block, *, field: str = "raw") -> None:
    """Hold the transactions against the header: InvalidArgument if a byte of them was altered.

    Covers the work of the header, its merkle root (also against CVE-2012-2459, which repeats
    transactions without changing the root) and the witness commitment (BIP 141).
    """
    if not block.header.has_work:
        raise InvalidArgument(
            f"block {display(block.hash)} does not meet its own target: its header was altered",
            reason=Reason.BLOCK_MALFORMED,
            field=field,
        )
    txids = [tx.txid for tx in block.transactions]
    if len(set(txids)) != len(txids) or merkle_root(txids) != block.header.merkle_root:
        raise InvalidArgument(
            f"the transactions of block {display(block.hash)} do not match its merkle root",
            reason=Reason.BLOCK_MALFORMED,
            field=field,
        )
    if any(tx.has_witness for tx in block.transactions) and not _commits_to_witnesses(block):
        raise InvalidArgument(
            f"the witnesses of block {display(block.hash)} do not match their commitment",
            reason=Reason.BLOCK_MALFORMED,
            field=field,
        )


def inspect(raw: bytes) -> dict[str, Any]:
    """What a raw block says by itself, as JSON. InvalidArgument unless it is one, unaltered."""
    block = parse_block(raw)
    check_commitments(block)
    return {
        "block_hash": display(block.hash),
        "height": block.height,
        "time": block.header.time,
        "version": block.header.version,
        "size": len(block.raw),
        "weight": block.weight,
        **inspect_transactions(block.transactions).document(),
    }


def merkle_root(hashes: Sequence[bytes]) -> bytes:
    """An odd one out is paired with itself."""
    level = list(hashes)
    while len(level) > 1:
        if len(level) % 2:
            level.append(level[-1])
        level = [sha256d(left + right) for left, right in list(pairwise(level))[::2]]
    return level[0]


def witness_commitment(witnessed: Sequence[Transaction]) -> bytes:
    """Script of the coinbase output that commits to the witnesses of the other transactions."""
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
    """How a coinbase states its height (BIP 34): a minimal push of a script number."""
    if height == 0:
        return b"\x00"
    if height <= 16:
        return bytes([0x50 + height])
    number = height.to_bytes(height.bit_length() // 8 + 1, "little")
    return bytes([len(number)]) + number
