"""Which service is struck, how and when, and who pays what: all follow from one seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LEAST_SAT = 100_000
UNPROVED = 12  # one payment of so many is a stranger's
CANCELLED = 6  # so is one whose client thinks better of it
CANCELS_WITHIN = 2.0  # seconds from its start: some are too late


class Kind(StrEnum):
    KILL = "kill"  # SIGKILL; it is started again
    PAUSE = "pause"  # SIGSTOP, then SIGCONT: the process wakes up in another time


class Way(StrEnum):
    """How a client has a payment made."""

    RUN = "StartRun, then WatchRun"
    WAIT = "StartRun that waits for the end"
    SEND = "SendVerifiedPayment, then WatchPayment"
    HASTY = "a workflow that gives up at once, and RedriveRun until it does not"


class Cancel(StrEnum):
    RUN = "CancelRun"
    PAYMENT = "CancelPayment"


@dataclass(frozen=True, slots=True)
class Fault:
    after: float  # seconds since the fault before
    service: str
    kind: Kind
    lasting: float = 0.0  # seconds, of a pause

    def __str__(self) -> str:
        lasting = f" {self.lasting:.1f} s" if self.lasting else ""
        return f"+{self.after:.2f} s {self.kind} {self.service}{lasting}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A payment that somebody means to make. Its amount is like no other's: it names it."""

    number: int
    payer: int
    recipient: int
    amount_sat: int
    proved: bool = True  # False: a stranger pays from the payer's address, or rather does not
    way: Way = Way.RUN
    door: int = 0  # which orchestrator is asked, modulo how many there are
    cancel: Cancel | None = None
    cancel_after: float = 0.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    seed: int
    payments: tuple[Planned, ...]
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        faults = "\n".join(f"  {fault}" for fault in self.faults)
        return f"seed {self.seed}, {len(self.payments)} payments, faults:\n{faults}"

    def struck_before(self, number: int) -> int:
        """How many faults the payment of this number waits for: faults fall among payments."""
        return number * len(self.faults) // len(self.payments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What a storm is like."""

    payments: int
    kills: int
    pauses: int
    gaps: tuple[float, float]  # seconds between two faults
    pause: tuple[float, float]  # seconds that a pause lasts

    def scaled(self, payments: int) -> Weather:
        """As many faults for each payment, and a kill at least."""
        share = payments / self.payments
        kills, pauses = max(1, round(self.kills * share)), round(self.pauses * share)
        return replace(self, payments=payments, kills=kills, pauses=pauses)


def plan(
    seed: int, weather: Weather, *, payers: int, recipients: int, services: Sequence[str]
) -> Plan:
    """The same for the same seed."""
    draw = random.Random(seed)  # noqa: S311  (repeats a trial, guards nothing)
    payments = tuple(
        Planned(
            number=number,
            payer=draw.randrange(payers),
            recipient=draw.randrange(recipients),
            amount_sat=LEAST_SAT + number,
            proved=number % UNPROVED != UNPROVED - 1,
            way=draw.choice(list(Way)),
            door=draw.randrange(2),
            cancel=draw.choice(list(Cancel)) if draw.randrange(CANCELLED) == 0 else None,
            cancel_after=draw.uniform(0, CANCELS_WITHIN),
        )
        for number in range(weather.payments)
    )
    return Plan(seed=seed, payments=payments, faults=tuple(_faults(draw, weather, services)))


def _faults(draw: random.Random, weather: Weather, services: Sequence[str]) -> Iterator[Fault]:
    """Every service as often as the others: the supervisor gives up on one that is always down."""
    kinds = [Kind.KILL] * weather.kills + [Kind.PAUSE] * weather.pauses
    draw.shuffle(kinds)
    turns = {kind: _turns(draw, services) for kind in Kind}
    for kind in kinds:
        lasting = draw.uniform(*weather.pause) if kind is Kind.PAUSE else 0.0
        yield Fault(draw.uniform(*weather.gaps), next(turns[kind]), kind, lasting)


def _turns(draw: random.Random, services: Sequence[str]) -> Iterator[str]:
    while True:
        yield from draw.sample(services, len(services))
