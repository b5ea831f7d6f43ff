"""The plan of a trial, derived from one seed: its faults and its payments."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MIN_AMOUNT_SAT = 100_000
UNLINKED_EVERY = 12  # one payment of so many is sent by a DID without the address
CANCEL_EVERY = 6  # one payment of so many, on average, is cancelled by its client
CANCEL_WITHIN_S = 2.0  # from the start of the payment; some cancellations are too late


class FaultKind(StrEnum):
    KILL = "kill"  # SIGKILL; the supervisor restarts the process
    PAUSE = "pause"  # SIGSTOP, then SIGCONT: the process misses the time between


class PaymentMethod(StrEnum):
    """The way in which a client makes a payment."""

    RUN = "StartRun, then WatchRun"
    WAIT = "StartRun that waits for the end"
    SEND = "SendVerifiedPayment, then WatchPayment"
    SINGLE_ATTEMPT = "a workflow that gives up at once, and RedriveRun until it does not"


class CancelMethod(StrEnum):
    RUN = "CancelRun"
    PAYMENT = "CancelPayment"


@dataclass(frozen=True, slots=True)
class Fault:
    after: float  # seconds since the previous fault
    service: str
    kind: FaultKind
    duration: float = 0.0  # seconds, of a pause

    def __str__(self) -> str:
        duration = f" {self.duration:.1f} s" if self.duration else ""
        return f"+{self.after:.2f} s {self.kind} {self.service}{duration}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPayment:
    """A planned payment, identified by its unique amount."""

    number: int
    payer: int
    recipient: int
    amount_sat: int
    proved: bool = True  # False: an unlinked DID tries to pay from the payer's address
    method: PaymentMethod = PaymentMethod.RUN
    route: int = 0  # index of the client's orchestrator, modulo their number
    cancel: CancelMethod | None = None
    cancel_after: float = 0.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPlan:
    seed: int
    payments: tuple[PlannedPayment, ...]
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        faults = "\n".join(f"  {fault}" for fault in self.faults)
        return f"seed {self.seed}, {len(self.payments)} payments, faults:\n{faults}"

    def faults_before(self, number: int) -> int:
        """Returns the number of faults before this payment, so that faults and payments mix."""
        return number * len(self.faults) // len(self.payments)


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultProfile:
    """The numbers of payments and faults of a trial, and the times of its faults."""

    payments: int
    kills: int
    pauses: int
    gaps: tuple[float, float]  # seconds between two faults
    pause: tuple[float, float]  # seconds that a pause lasts

    def scaled(self, payments: int) -> FaultProfile:
        """Returns the profile for another number of payments, with at least one kill."""
        share = payments / self.payments
        kills, pauses = max(1, round(self.kills * share)), round(self.pauses * share)
        return replace(self, payments=payments, kills=kills, pauses=pauses)


def plan(
    seed: int, profile: FaultProfile, *, payers: int, recipients: int, services: Sequence[str]
) -> FaultPlan:
    """Returns the plan of a seed."""
    rng = random.Random(seed)  # noqa: S311  (repeats a trial, guards nothing)
    payments = tuple(
        PlannedPayment(
            number=number,
            payer=rng.randrange(payers),
            recipient=rng.randrange(recipients),
            amount_sat=MIN_AMOUNT_SAT + number,
            proved=number % UNLINKED_EVERY != UNLINKED_EVERY - 1,
            method=rng.choice(list(PaymentMethod)),
            route=rng.randrange(2),
            cancel=rng.choice(list(CancelMethod)) if rng.randrange(CANCEL_EVERY) == 0 else None,
            cancel_after=rng.uniform(0, CANCEL_WITHIN_S),
        )
        for number in range(profile.payments)
    )
    return FaultPlan(seed=seed, payments=payments, faults=tuple(_faults(rng, profile, services)))


def _faults(rng: random.Random, profile: FaultProfile, services: Sequence[str]) -> Iterator[Fault]:
    """Yields faults that hit all services equally often.

    The supervisor gives up on a service that crashes too often.
    """
    kinds = [FaultKind.KILL] * profile.kills + [FaultKind.PAUSE] * profile.pauses
    rng.shuffle(kinds)
    turns = {kind: _turns(rng, services) for kind in FaultKind}
    for kind in kinds:
        duration = rng.uniform(*profile.pause) if kind is FaultKind.PAUSE else 0.0
        yield Fault(rng.uniform(*profile.gaps), next(turns[kind]), kind, duration)


def _turns(rng: random.Random, services: Sequence[str]) -> Iterator[str]:
    while True:
        yield from rng.sample(services, len(services))
