"""The time that one client can take from the others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from benchmarks.ratio import Ratio
from benchmarks.rounds import SHORT
from benchmarks.runs import hostile

if TYPE_CHECKING:
    from benchmarks.ratio import Measure

ATTACK_S = 3.0 if SHORT else 15.0  # of one round


def worst_p99_ms_under_hostile_run(rounds: int) -> Ratio:
    """Measures GetRun of one client while another one tries to hold up the orchestrator."""
    found = []
    for _ in range(rounds):
        taken = sorted(asyncio.run(hostile.measure(ATTACK_S)))
        found.append(taken[int(len(taken) * 0.99)] * 1e3)
    return Ratio(
        value=max(found),
        rounds=tuple(found),
        goal=100,
        at_most=True,
        unit="milliseconds, p99 of GetRun at 20 a second while runs and registrations attack",
        peer="none",
        setup="sqlite; conditions of 9,000 items by 900 kB of text, 130 by 130 items, 1,000 items"
        " that each record 900 kB, and 40 registrations of 60 and 240 KiB YAML, all at once",
    )


MEASURES: dict[str, Measure] = {
    "worst_p99_ms_under_hostile_run": worst_p99_ms_under_hostile_run,
}
