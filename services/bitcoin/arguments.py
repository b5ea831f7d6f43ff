"""Bitcoin values in a caller's request: read strictly, and refused with the name of their field."""

from __future__ import annotations

from typing import TYPE_CHECKING

from formats.bitcoin import transaction
from formats.bitcoin.errors import MalformedError
from formats.bitcoin.hashes import HASH_BYTES, BlockHash, Txid
from mesh.errors import InvalidArgument, Reason

if TYPE_CHECKING:
    from formats.bitcoin.transaction import Transaction


def parse_transaction(raw: bytes, *, field: str = "raw") -> Transaction:
    """Returns the transaction that ``raw`` is, to the last byte.

    Raises InvalidArgument (TRANSACTION_MALFORMED) if it is none.
    """
    try:
        return transaction.parse_transaction(raw)
    except MalformedError as error:
        raise InvalidArgument(
            str(error), reason=Reason.TRANSACTION_MALFORMED, field=field
        ) from None


def parse_txid(raw: bytes, *, field: str = "txid") -> Txid:
    """Returns a txid in internal byte order.

    Raises InvalidArgument (HASH_INVALID) unless it has 32 bytes.
    """
    return Txid(_hash(raw, field))


def parse_block_hash(raw: bytes, *, field: str = "hash") -> BlockHash:
    """Returns a block hash in internal byte order.

    Raises InvalidArgument (HASH_INVALID) unless it has 32 bytes.
    """
    return BlockHash(_hash(raw, field))


def _hash(raw: bytes, field: str) -> bytes:
    if len(raw) != HASH_BYTES:
        raise InvalidArgument(
            f"{field} must be {HASH_BYTES} bytes in internal order, not {len(raw)}",
            reason=Reason.HASH_INVALID,
            field=field,
        )
    return raw
