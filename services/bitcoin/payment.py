"""A payment: its request, its states, and the transitions between them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from formats.bitcoin.hashes import Txid

MAX_METADATA_BYTES = 16_384


class PaymentState(StrEnum):
    PREPARED = "prepared"  # signed and committed, not yet seen in a mempool
    BROADCAST = "broadcast"  # the mempool has it
    UNCONFIRMED_MISSING = "unconfirmed_missing"  # was sent, and is in neither mempool nor chain now
    CONFIRMED = "confirmed"
    SETTLED = "settled"  # at the final depth
    REJECTED = "rejected"  # refused at its only send, so that no node has it
    CONFLICTED = "conflicted"  # another transaction has spent a coin of it or of an ancestor
    CANCELLED = "cancelled"  # refused for ever, before anything was signed


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentRequest:
    """A payment as its caller requests it."""

    payment_id: str
    sender_did: str
    from_address: str
    from_script: bytes
    to_address: str
    to_script: bytes
    amount_sat: int
    max_fee_sat: int
    metadata: bytes  # a serialised google.protobuf.Struct, stored unchanged
    digest: bytes  # of the payment intent, which attestations are about
    traceparent: str = ""  # of the call


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """A payment as it stands. A cancelled payment has an id and nothing else."""

    payment_id: str
    state: PaymentState
    is_final: bool  # no transition follows
    txid: Txid | None = None
    from_address: str = ""
    to_address: str = ""
    amount_sat: int = 0
    fee_sat: int = 0
    confirmations: int = 0
    created: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TxStatus:
    """The status of a payment's transaction in chain and mempool."""

    confirmations: int = 0
    conflict_depth: int = 0  # confirmations of another spend of a coin of it or of an ancestor
    in_mempool: bool = False

    @property
    def needs_broadcast(self) -> bool:
        """Neither chain nor mempool has the transaction, and no confirmed one conflicts."""
        return not (self.confirmations or self.conflict_depth or self.in_mempool)


def advance(
    state: PaymentState, status: TxStatus, *, final_depth: int
) -> tuple[PaymentState, bool]:
    """Returns the state that follows from the status, and whether it is final.

    ``final_depth`` is in confirmations. REJECTED and CANCELLED have no transitions, and no status
    leads to them.
    """
    if status.confirmations >= final_depth:
        return PaymentState.SETTLED, True
    if status.confirmations:
        return PaymentState.CONFIRMED, False
    if status.conflict_depth:
        return PaymentState.CONFLICTED, status.conflict_depth >= final_depth
    if status.in_mempool:
        return PaymentState.BROADCAST, False
    if state is PaymentState.PREPARED:
        return PaymentState.PREPARED, False
    return PaymentState.UNCONFIRMED_MISSING, False
