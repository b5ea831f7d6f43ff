"""One trial: payments on a funded mesh under injected faults, and their outcomes."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.faults import evidence, funded_mesh, schedule_load
from tests.faults.deployment import Store, deploy, services_on
from tests.faults.fault_injection import FaultInjection
from tests.faults.fault_schedule import FaultPlan, FaultProfile, plan
from tests.faults.payment_clients import register_single_attempt

if TYPE_CHECKING:
    from pathlib import Path

# A service is killed at most every 15 seconds, because the supervisor gives up on one that crashes
# more than five times a minute. Some pauses are longer than the orchestrators' lease.
THOUSAND_PAYMENTS = FaultProfile(
    payments=1000, kills=38, pauses=12, gaps=(2.0, 5.0), pause=(0.5, 7.0)
)
TEN_PAYMENTS = FaultProfile(payments=10, kills=3, pauses=0, gaps=(0.1, 0.5), pause=(0.5, 1.0))
TWENTY_PAYMENTS = FaultProfile(payments=20, kills=6, pauses=0, gaps=(0.1, 0.5), pause=(0.5, 1.0))
PAYMENTS_PER_PAYER = 60  # web5 permits ten open challenges per DID, including lost ones
COINS_PER_PAYMENT = 1.6  # above 1, because payers are drawn at random
SHOPS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    store: Store
    plan: FaultPlan
    outcomes: Counter[str]  # status -> how many
    cancels: int  # requested cancellations
    redrives: int
    contradictions: list[str]
    seconds: float  # of the fault injection

    @property
    def holds(self) -> bool:
        return not self.contradictions

    def __str__(self) -> str:
        faults = Counter(str(fault.kind) for fault in self.plan.faults)
        summary = (
            f"{self.store}, seed {self.plan.seed}: {len(self.plan.payments)} payments,"
            f" {dict(self.outcomes)}, {dict(faults)}, {self.cancels} cancels,"
            f" {self.redrives} redrives, {self.seconds:.0f} s,"
            f" {len(self.contradictions)} contradictions"
        )
        return "\n".join([summary, *self.contradictions, *([] if self.holds else [str(self.plan)])])


async def run_trial(
    folder: Path, seed: int, profile: FaultProfile, store: Store = Store.SQLITE
) -> TrialResult:
    """Runs a trial; the mesh keeps its data in ``folder``, and a PostgreSQL server is removed."""
    payers = max(2, -(-profile.payments // PAYMENTS_PER_PAYER))
    coins = round(COINS_PER_PAYMENT * profile.payments / payers) + 10
    planned = plan(seed, profile, payers=payers, recipients=SHOPS, services=services_on(store))
    async with deploy(folder, store) as deployment:
        channels, *_ = deployment.routes
        funded = await funded_mesh.fund(
            deployment.home, channels, payers=payers, shops=SHOPS, coins=coins
        )
        await register_single_attempt(channels)
        await schedule_load.begin(channels)
        began = time.monotonic()
        observed = await FaultInjection(deployment, funded, planned).run()
        seconds = time.monotonic() - began
        missed = await schedule_load.end(channels)
        found = await evidence.gather(channels, funded, observed)
    return TrialResult(
        store=store,
        plan=planned,
        outcomes=Counter(run.status for run in found.runs.values()),
        cancels=sum(one.cancel is not None for one in planned.payments),
        redrives=sum(one.redrives for one in observed),
        contradictions=[*evidence.contradictions(found, observed), *missed],
        seconds=seconds,
    )
