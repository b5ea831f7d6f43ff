"""Orchestrators that restart under load: nothing is lost, nothing happens twice."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc

from anya.orchestrator.v1 import workflow_pb2 as pb
from mesh.data.database import POSTGRES_SCHEMES
from mesh.testing import eventually
from services.orchestrator.worker.worker import DRAIN_TIMEOUT_S
from tests.orchestrator.conftest import connect
from tests.orchestrator.payment_requests import finished, payment, status
from tests.orchestrator.process_succession import Succession
from tests.orchestrator.processes import process

if TYPE_CHECKING:
    from pathlib import Path

    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from mesh.testing import Authority
    from tests.orchestrator.fake_services import FakeServices

CLIENTS, FEW = 2, 10
SLACK_S = 10.0  # for a busy machine, and for the rest of an orderly stop


async def test_process_stops_although_a_call_does_not_end(
    location: str, authority: Authority, tmp_path: Path, peers: dict[str, str], fakes: FakeServices
) -> None:
    orchestrators = Succession.on(location, authority, tmp_path, peers)
    fakes.paused["SendPayment"] = asyncio.Event()
    request = payment()

    async with orchestrators.next(ANYA_DRAIN_SECONDS="1") as (child, workflows):
        await workflows.StartRun(request, timeout=10)
        await eventually(lambda: len(fakes.requests("SendPayment")) == 1)
        start = time.monotonic()
        child.terminate()
        code = await asyncio.wait_for(child.wait(), 30)
        took = time.monotonic() - start
    async with orchestrators.next() as (_, workflows):
        await eventually(lambda: len(fakes.requests("SendPayment")) == 2, within=10)
        fakes.paused["SendPayment"].set()
        run = await finished(workflows, request.request_id)

    assert code == 0
    assert took <= DRAIN_TIMEOUT_S + SLACK_S
    assert (status(run), run.recoveries) == ("SUCCEEDED", 1)
    assert fakes.effects["SendPayment"] == 1


async def test_call_that_ends_in_time_is_stored_before_the_stop(
    location: str, authority: Authority, tmp_path: Path, peers: dict[str, str], fakes: FakeServices
) -> None:
    orchestrators = Succession.on(location, authority, tmp_path, peers)
    fakes.paused["SendPayment"] = asyncio.Event()
    request = payment()

    async with orchestrators.next() as (child, workflows):
        await workflows.StartRun(request, timeout=10)
        await eventually(lambda: len(fakes.requests("SendPayment")) == 1)
        child.terminate()
        fakes.paused["SendPayment"].set()
        await asyncio.wait_for(child.wait(), 30)
    async with orchestrators.next() as (_, workflows):
        run = await finished(workflows, request.request_id)

    assert status(run) == "SUCCEEDED"
    assert len(fakes.requests("SendPayment")) == fakes.effects["SendPayment"] == 1


async def test_rolling_restart_under_load_loses_no_payment_and_makes_none_twice(
    location: str, authority: Authority, tmp_path: Path, peers: dict[str, str], fakes: FakeServices
) -> None:
    shared = location.startswith(POSTGRES_SCHEMES)
    load = PaymentLoad(
        authority,
        [
            Succession.on(location, authority, tmp_path / name, peers).environment
            for name in (("one", "other") if shared else ("alone",))
        ],
    )

    async with load.open:
        for number in load.numbers:
            await load.start(number)
        clients = [asyncio.create_task(load.pay()) for _ in range(CLIENTS)]
        for number in load.numbers:
            await load.is_busy()
            await load.stop(number)
            await load.start(number)
        await load.is_busy()
        load.closing.set()
        await asyncio.gather(*clients)
        listed = await load.stubs[0].ListRuns(pb.ListRunsRequest(page_size=500), timeout=10)

    assert {status(run) for run in load.paid} == {"SUCCEEDED"}
    assert len(listed.runs) == len(load.paid)
    assert set(fakes.effects.values()) == {len(load.paid)}


@dataclass(slots=True)
class PaymentLoad:
    """Orchestrators on one store, and clients that pay through any that answers."""

    authority: Authority
    environments: list[dict[str, str]]
    stubs: dict[int, WorkflowServiceAsyncStub] = field(default_factory=dict)
    paid: list[pb.Run] = field(default_factory=list)
    open: AsyncExitStack = field(default_factory=AsyncExitStack)
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    _lives: dict[int, AsyncExitStack] = field(default_factory=dict)

    @property
    def numbers(self) -> range:
        return range(len(self.environments))

    async def start(self, number: int) -> None:
        life = self._lives[number] = await self.open.enter_async_context(AsyncExitStack())
        _, port = await life.enter_async_context(process(self.environments[number]))
        self.stubs[number] = await self.open.enter_async_context(connect(self.authority, port))

    async def stop(self, number: int) -> None:
        """Stops the orchestrator in order, by SIGTERM."""
        del self.stubs[number]
        await self._lives[number].aclose()

    async def pay(self) -> None:
        while not self.closing.is_set():
            await self._pay(payment())

    async def is_busy(self) -> None:
        known = len(self.paid)
        await eventually(lambda: len(self.paid) >= known + FEW, within=60)

    async def _pay(self, request: pb.StartRunRequest) -> None:
        await eventually(lambda: self._is_paid(request), within=60)

    async def _is_paid(self, request: pb.StartRunRequest) -> bool:
        """Pays through any live orchestrator. Returns False if it stops during the call."""
        for stub in list(self.stubs.values()):
            with suppress(grpc.aio.AioRpcError):
                await stub.StartRun(request, timeout=10)
                self.paid.append(await finished(stub, request.request_id))
                return True
        return False
