"""What only the simulator knows: who owns which address, and with which intent a payment was made.

Labels come from here and belong to actors. No service ever reads a truth; features never see one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.ml.simulation.parameters import Parameters
    from services.ml.simulation.plan import Plan


class Kind(StrEnum):
    """What an actor is."""

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
        """Licit, and made of the shapes that fraud is made of."""
        return self in LOOKALIKES


ILLICIT = frozenset({Kind.SCAM, Kind.MULE, Kind.RANSOM, Kind.THIEF, Kind.LAUNDERER})
LOOKALIKES = frozenset(
    {Kind.MIXER, Kind.SELLER, Kind.PROCESSOR, Kind.EXCHANGE, Kind.DONATION, Kind.EMPLOYER}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """A payment proposed by a licit wallet; it confirms at ``height``, judged one block before."""

    transaction: int
    height: int
    sender_slots: tuple[int, ...]  # S: the addresses linked to the sender's DID by then
    sender_link_heights: tuple[int, ...]
    recipient_slot: int
    recipient_link_height: int | None
    amount_sat: int
    recipient: Kind
    stolen: bool  # the sender's key was in a thief's hands

    @property
    def fraud(self) -> bool:
        return self.stolen or self.recipient.illicit

    @property
    def typology(self) -> str:
        if self.stolen:
            return "takeover"
        return self.recipient.value


@dataclass(frozen=True, slots=True)
class Truth:
    owners: tuple[Kind, ...]  # by slot
    payments: tuple[Payment, ...]  # in the order of their transactions
    links: dict[int, int]  # slot -> height of its public link to a DID


@dataclass(frozen=True, slots=True)
class World:
    seed: int
    parameters: Parameters
    plan: Plan
    truth: Truth
