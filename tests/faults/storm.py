"""A storm: payments sixteen at a time, while their services are killed and stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from cli import payment, runs
from cli.supervisor import control
from tests.faults.schedule import Kind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cli.connection import Channels
    from cli.home import Home
    from cli.payment import Outcome, Proposal
    from tests.faults.schedule import Fault, Plan, Planned
    from tests.faults.town import Town

R = TypeVar("R")

AT_ONCE = 16
PATIENCE = 60.0  # seconds that a client goes on asking a service that is down
ASK_AGAIN = 0.1
STARTS_WITHIN = 60.0  # seconds, of a service that was killed
LOST = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


@dataclass(frozen=True, slots=True)
class Followed:
    """A payment and what its client saw of it."""

    planned: Planned
    proposal: Proposal
    outcome: Outcome


@dataclass(slots=True)
class Storm:
    home: Home
    channels: Channels
    town: Town
    plan: Plan
    ended: Counter[str] = field(default_factory=Counter)  # status -> how many
    _struck: int = 0
    _more: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def rage(self) -> list[Followed]:
        """Every payment followed to its end, in the order of the plan."""
        waiting = iter(self.plan.payments)
        followed: list[Followed] = []

        async def client() -> None:
            for planned in waiting:
                await self._until_struck(self.plan.struck_before(planned.number))
                followed.append(await self._pay(planned))
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

    # Paying.

    async def _pay(self, planned: Planned) -> Followed:
        """As a careful client does: whatever is not answered is asked again, under the same id."""
        payer = self.town.payers[planned.payer]
        thief = replace(self.town.stranger, addresses=payer.addresses)
        shop = self.town.shops[planned.recipient]
        payment_id = payment.uuid7()
        proposal = await persist(
            lambda: payment.propose(
                self.channels,
                payer if planned.proved else thief,
                shop,
                planned.amount_sat,
                payment_id=payment_id,
            )
        )
        await persist(lambda: payment.start(self.channels, proposal))
        run = await persist(lambda: runs.finish(self.channels, payment_id))
        return Followed(planned, proposal, payment.outcome(run))

    # Striking.

    async def _strike_all(self) -> None:
        for fault in self.plan.faults:
            await asyncio.sleep(fault.after)
            await self._strike(fault)
            async with self._more:
                self._struck += 1
                self._more.notify_all()

    async def _strike(self, fault: Fault) -> None:
        pid = await self._pid(fault.service)
        match fault.kind:
            case Kind.KILL:
                os.kill(pid, signal.SIGKILL)
            case Kind.PAUSE:
                os.kill(pid, signal.SIGSTOP)
                try:
                    await asyncio.sleep(fault.lasting)
                finally:
                    os.kill(pid, signal.SIGCONT)

    async def _pid(self, service: str) -> int:
        """Of the service's process, once there is one that serves."""
        async with asyncio.timeout(STARTS_WITHIN):
            while True:
                status: dict[str, Any] = await control.request(self.home, "status")
                if pid := status["services"][service]["pid"]:
                    return int(pid)
                await asyncio.sleep(ASK_AGAIN)

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


async def persist(ask: Callable[[], Awaitable[R]]) -> R:
    """Ask until there is an answer."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return await ask()
        except grpc.aio.AioRpcError as error:
            if error.code() not in LOST or time.monotonic() > deadline:
                raise
        await asyncio.sleep(ASK_AGAIN)
