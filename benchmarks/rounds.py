"""Rounds: many short bursts of two sides in turns, and the ratio of their sums.

Other load on the machine changes within seconds. Bursts of a second each, whose order
swaps from one pair to the next, give both sides nearly the same share of it; one long burst per
side does not. A round sums what each side did and what that took; the worst round counts.

ANYA_BENCH_SHORT=1 makes one short round of everything: it shows that the benchmarks work, and its
figures mean little.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Side: TypeAlias = "Callable[[float], Sample]"  # a burst of that many seconds

SHORT = bool(os.environ.get("ANYA_BENCH_SHORT"))

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sample:
    """One burst: what it did, and what that took. Runs and seconds, or one and a latency."""

    amount: float
    cost: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The duration of a comparison: ``pairs`` bursts of each side in a round, after a warm-up."""

    rounds: int
    pairs: int = 2 if SHORT else 10
    burst_s: float = 0.25 if SHORT else 1.0
    warm_up_s: float = 0.25 if SHORT else 2.0


def turns(pairs: int) -> Iterator[int]:
    """Yields which side's turn it is, 0 or 1: 0 1, 1 0, 0 1 and so on."""
    for pair in range(pairs):
        yield from (1, 0) if pair % 2 else (0, 1)


def ratio(ours: Sequence[Sample], theirs: Sequence[Sample]) -> float:
    """Returns the amount per cost of our bursts over that of theirs."""
    return rate(ours) / rate(theirs)


def rate(samples: Sequence[Sample]) -> float:
    """Returns the amount per cost of all bursts together."""
    return sum(sample.amount for sample in samples) / sum(sample.cost for sample in samples)


def compare(ours: Side, theirs: Side, plan: Plan) -> list[float]:
    """Returns the ratio of each round. An error of a side ends the comparison."""
    sides = (ours, theirs)
    for side in sides:
        side(plan.warm_up_s)
    return [_round(sides, plan, number) for number in range(1, plan.rounds + 1)]


def _round(sides: tuple[Side, Side], plan: Plan, number: int) -> float:
    samples: tuple[list[Sample], list[Sample]] = ([], [])
    for turn in turns(plan.pairs):
        samples[turn].append(sides[turn](plan.burst_s))
    found = ratio(*samples)
    log.info("  round %d of %d: %.3f", number, plan.rounds, found)
    return found
