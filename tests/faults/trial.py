"""One trial: a mesh, a town on it, a storm over both, and the verdict."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cli.connection import connect
from cli.home import Home
from tests.faults import evidence, town
from tests.faults.schedule import Plan, Weather, plan
from tests.faults.storm import Storm
from tests.scenarios.meshes import up

if TYPE_CHECKING:
    from pathlib import Path

# A service is killed every quarter of a minute at most: the supervisor gives up on one that
# crashes more than five times a minute.
STORM = Weather(payments=1000, kills=38, pauses=12, gaps=(2.0, 5.0), pause=(0.5, 7.0))
SHOWER = Weather(payments=20, kills=6, pauses=0, gaps=(0.1, 0.5), pause=(0.5, 1.0))
PAYMENTS_OF_A_PAYER = 60  # web5 lets a DID have ten proofs begun at once, lost ones included
SPARE = 1.6  # coins for each expected payment: payers are drawn by lot
SHOPS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    plan: Plan
    outcomes: Counter[str]  # status -> how many
    contradictions: list[str]
    seconds: float  # of the storm

    @property
    def holds(self) -> bool:
        return not self.contradictions

    def __str__(self) -> str:
        kills = Counter(str(fault.kind) for fault in self.plan.faults)
        summary = (
            f"seed {self.plan.seed}: {len(self.plan.payments)} payments, {dict(self.outcomes)},"
            f" {dict(kills)}, {self.seconds:.0f} s,"
            f" {len(self.contradictions)} contradictions"
        )
        return "\n".join([summary, *self.contradictions, *([] if self.holds else [str(self.plan)])])


async def try_payments(folder: Path, seed: int, weather: Weather) -> Verdict:
    """Everything of the mesh stays in ``folder``."""
    payers = max(2, -(-weather.payments // PAYMENTS_OF_A_PAYER))
    coins = round(SPARE * weather.payments / payers) + 10
    planned = plan(seed, weather, payers=payers, recipients=SHOPS)
    with up(folder, "--mine", "auto"):
        home = Home(folder)
        async with connect(home) as channels:
            place = await town.settle(home, channels, payers=payers, shops=SHOPS, coins=coins)
            began = time.monotonic()
            followed = await Storm(home, channels, place, planned).rage()
            seconds = time.monotonic() - began
            found = await evidence.gather(channels, place, followed)
    return Verdict(
        plan=planned,
        outcomes=Counter(run.status for run in found.runs.values()),
        contradictions=evidence.contradictions(found, followed),
        seconds=seconds,
    )
