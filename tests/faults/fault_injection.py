"""A storm: payments sixteen at a time, while services and their database are killed and stopped."""

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
from tests.faults.fault_schedule import Kind
from tests.faults.payment_clients import Clients

if TYPE_CHECKING:
    from tests.faults.deployment import Ground
    from tests.faults.fault_schedule import Fault, Plan
    from tests.faults.funded_mesh import Town
    from tests.faults.payment_clients import Followed

AT_ONCE = 16


@dataclass(slots=True)
class Storm:
    ground: Ground
    town: Town
    plan: Plan
    ended: Counter[str] = field(default_factory=Counter)  # status -> how many
    _struck: int = 0
    _more: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def rage(self) -> list[Followed]:
        """Every payment followed to its end, in the order of the plan."""
        waiting = iter(self.plan.payments)
        followed: list[Followed] = []
        clients = Clients(self.ground.doors, self.town)

        async def client() -> None:
            for planned in waiting:
                await self._until_struck(self.plan.struck_before(planned.number))
                followed.append(await clients.pay(planned))
                self.ended[followed[-1].outcome.status] += 1

        telling = asyncio.create_task(self._tell(time.monotonic()))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._strike_all())
                for _ in range(AT_ONCE):
                    group.create_task(client())
        finally:
            telling.cancel()
        return sorted(followed, key=lambda one: one.planned.number)

    async def _strike_all(self) -> None:
        for fault in self.plan.faults:
            await asyncio.sleep(fault.after)
            await self._strike(fault)
            async with self._more:
                self._struck += 1
                self._more.notify_all()

    async def _strike(self, fault: Fault) -> None:
        if fault.service == SERVER:
            await self._end_server(fault.lasting)
            return
        pid = await self.ground.pid(fault.service)
        match fault.kind:
            case Kind.KILL:
                os.kill(pid, signal.SIGKILL)
            case Kind.PAUSE:
                os.kill(pid, signal.SIGSTOP)
                try:
                    await asyncio.sleep(fault.lasting)
                finally:
                    os.kill(pid, signal.SIGCONT)

    async def _end_server(self, away: float) -> None:
        """Whatever it had not committed is gone, and all connections with it."""
        server = self.ground.server
        assert server is not None  # the plan names it only where there is one
        await server.end()
        await asyncio.sleep(away)
        await server.start()

    async def _until_struck(self, count: int) -> None:
        async with self._more:
            await self._more.wait_for(lambda: self._struck >= count)

    async def _tell(self, began: float) -> None:
        """Progress, for whoever watches."""
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
