"""A payment: what is ordered, where it stands in its life, and what moves it on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from formats import uuid7
from mesh.errors import InvalidArgument, Reason

if TYPE_CHECKING:
    from datetime import datetime

    from formats.bitcoin.hashes import Txid

MAX_METADATA = 16_384  # bytes


class State(StrEnum):
    PREPARED = "prepared"  # signed and owed to the network
    BROADCAST = "broadcast"
    CONFIRMED = "confirmed"
    SETTLED = "settled"  # at the final depth
    REJECTED = "rejected"  # refused at every send, so that no node has it
    CONFLICTED = "conflicted"  # another transaction spent one of its coins
    CANCELLED = "cancelled"  # refused for ever, before anything was signed


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentRequest:
    """A payment as it is asked for."""

    payment_id: str
    sender_did: str
    from_address: str
    from_script: bytes
    to_address: str
    to_script: bytes
    amount_sat: int
    max_fee_sat: int
    metadata: bytes  # a serialised google.protobuf.Struct, kept as it is
    digest: bytes  # what proofs are about
    traceparent: str = ""  # of the call that asked for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """A payment as it stands. A cancelled one has an id and nothing else."""

    payment_id: str
    state: State
    is_over: bool  # nothing will move it any more
    txid: Txid | None = None
    from_address: str = ""
    to_address: str = ""
    amount_sat: int = 0
    fee_sat: int = 0
    confirmations: int = 0
    created: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What chain and mempool know of a payment's transaction."""

    confirmations: int = 0
    conflict_depth: int = 0  # confirmations of another transaction that spends one of its coins
    is_waiting: bool = False  # in the mempool

    @property
    def is_unseen(self) -> bool:
        """Nobody has it, and nothing stands against it: it must be sent."""
        return not (self.confirmations or self.conflict_depth or self.is_waiting)


def advance(state: State, sighting: Sighting, *, final_depth: int) -> tuple[State, bool]:
    """The state that follows from what was seen, and whether the payment is over with it.

    REJECTED and CANCELLED do not follow from what is seen, and nothing follows from them.
    """
    if sighting.confirmations >= final_depth:
        return State.SETTLED, True
    if sighting.confirmations:
        return State.CONFIRMED, False
    if sighting.conflict_depth:
        return State.CONFLICTED, sighting.conflict_depth >= final_depth
    if sighting.is_waiting or state is not State.PREPARED:
        return State.BROADCAST, False
    return State.PREPARED, False


def parse_payment_id(text: str, *, field: str) -> str:
    """Returns the payment id. Raises InvalidArgument if it is no UUIDv7 in canonical form."""
    if not uuid7.is_canonical(text):
        raise InvalidArgument(
            f"{field} must be a UUIDv7 in lower case, as in 0192f0c1-7d5e-7cc3-98c4-dc0c0c07398f",
            reason=Reason.REQUEST_ID_INVALID,
            field=field,
        )
    return text
