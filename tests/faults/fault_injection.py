"""Fault injection: concurrent payments while services and their database are killed and paused."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.faults.deployment import SERVER
from tests.faults.fault_schedule import FaultKind
from tests.faults.payment_clients import PaymentClients

if TYPE_CHECKING:
    from tests.faults.deployment import Deployment
    from tests.faults.fault_schedule import Fault, FaultPlan
    from tests.faults.funded_mesh import FundedMesh
    from tests.faults.payment_clients import ObservedPayment

CLIENTS = 16


@dataclass(slots=True)
class FaultInjection:
    deployment: Deployment
    funded: FundedMesh
    plan: FaultPlan
    ended: Counter[str] = field(default_factory=Counter)  # status -> how many
    _struck: int = 0
    _more: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def run(self) -> list[ObservedPayment]:
        """Makes all payments under all faults. Returns the payments in the order of the plan."""
        waiting = iter(self.plan.payments)
        observed: list[ObservedPayment] = []
        clients = PaymentClients(self.deployment.routes, self.funded)

        async def client() -> None:
            for planned in waiting:
                await self._until_struck(self.plan.faults_before(planned.number))
                observed.append(await clients.pay(planned))
                self.ended[observed[-1].outcome.status] += 1

        telling = asyncio.create_task(self._tell(time.monotonic()))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._strike_all())
                for _ in range(CLIENTS):
                    group.create_task(client())
        finally:
            telling.cancel()
        return sorted(observed, key=lambda one: one.planned.number)

    async def _strike_all(self) -> None:
        for fault in self.plan.faults:
            await asyncio.sleep(fault.after)
            await self._strike(fault)
            async with self._more:
                self._struck += 1
                self._more.notify_all()

    async def _strike(self, fault: Fault) -> None:
        if fault.service == SERVER:
            await self._end_server(fault.duration)
            return
        pid = await self.deployment.pid(fault.service)
        match fault.kind:
            case FaultKind.KILL:
                os.kill(pid, signal.SIGKILL)
            case FaultKind.PAUSE:
                os.kill(pid, signal.SIGSTOP)
                try:
                    await asyncio.sleep(fault.duration)
                finally:
                    os.kill(pid, signal.SIGCONT)

    async def _end_server(self, away: float) -> None:
        """Ends the database server: uncommitted transactions and all connections are lost."""
        server = self.deployment.server
        assert server is not None  # the plan names it only where there is one
        await server.end()
        await asyncio.sleep(away)
        await server.start()

    async def _until_struck(self, count: int) -> None:
        async with self._more:
            await self._more.wait_for(lambda: self._struck >= count)

    async def _tell(self, began: float) -> None:
        """Prints the progress every five seconds."""
        total = len(self.plan.payments)
        while True:
            done = self.ended.total()
            seconds = time.monotonic() - began
            print(
                f"{seconds:6.1f} s  {done}/{total} payments  "
                f"{self._struck}/{len(self.plan.faults)} faults  {dict(self.ended)}",
                file=sys.stderr,
                flush=True,
            )
            await asyncio.sleep(5)
