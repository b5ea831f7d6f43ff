"""The ground truth of a simulated world: the owner of each address and the intent of each payment.

The labels of training are derived from it. Services and features never read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.ml.simulation.parameters import Parameters
    from services.ml.simulation.plan import Plan


class ActorKind(StrEnum):
    """The kind of an actor."""

    MINER = "miner"
    USER = "user"
    MIXER = "mixer"  # a user who joins coinjoins
    SELLER = "seller"
    MERCHANT = "merchant"
    PROCESSOR = "processor"
    EXCHANGE = "exchange"
    DONATION = "donation"
    EMPLOYER = "employer"
    SCAM = "scam"
    MULE = "mule"
    RANSOM = "ransom"
    THIEF = "thief"  # spends with the stolen keys of others
    LAUNDERER = "launderer"

    @property
    def illicit(self) -> bool:
        return self in ILLICIT

    @property
    def lookalike(self) -> bool:
        """True for licit actors whose patterns resemble fraud."""
        return self in LOOKALIKES


ILLICIT = frozenset(
    {ActorKind.SCAM, ActorKind.MULE, ActorKind.RANSOM, ActorKind.THIEF, ActorKind.LAUNDERER}
)
LOOKALIKES = frozenset(
    {
        ActorKind.MIXER,
        ActorKind.SELLER,
        ActorKind.PROCESSOR,
        ActorKind.EXCHANGE,
        ActorKind.DONATION,
        ActorKind.EMPLOYER,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """A payment of a licit wallet that confirms at ``height``; features are of the block before."""

    transaction: int
    height: int
    sender_slots: tuple[int, ...]  # S: the addresses linked to the sender's DID by then
    sender_link_heights: tuple[int, ...]
    recipient_slot: int
    recipient_link_height: int | None
    amount_sat: int
    recipient: ActorKind
    stolen: bool  # made with the sender's stolen key

    @property
    def fraud(self) -> bool:
        return self.stolen or self.recipient.illicit

    @property
    def typology(self) -> str:
        if self.stolen:
            return "takeover"
        return self.recipient.value


@dataclass(frozen=True, slots=True)
class GroundTruth:
    owners: tuple[ActorKind, ...]  # by slot
    payments: tuple[Payment, ...]  # in the order of their transactions
    links: dict[int, int]  # slot -> height of its public link to a DID


@dataclass(frozen=True, slots=True)
class World:
    seed: int
    parameters: Parameters
    plan: Plan
    truth: GroundTruth
