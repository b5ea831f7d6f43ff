"""PostgreSQL is unavailable for a while: nothing is lost, and no reply precedes its commit."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import asyncpg
import grpc
import pytest

from anya.orchestrator.v1 import workflow_pb2 as pb
from mesh.testing import eventually, reason
from services.orchestrator.__main__ import orchestrator
from tests.orchestrator.conftest import connect
from tests.orchestrator.payment_requests import finished, pay, payment, status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig
    from tests.orchestrator.fake_services import FakeServices
    from tests.postgres_server import PostgresServer

AWAY_S = 10.0  # several leases


@asynccontextmanager
async def serving(
    config: OrchestratorConfig, authority: Authority, url: str
) -> AsyncIterator[WorkflowServiceAsyncStub]:
    async with (
        orchestrator(replace(config, database=url, lease_seconds=2.0)) as service,
        connect(authority, service.port) as workflows,
    ):
        yield workflows


async def test_runs_wait_for_the_database_and_continue(
    server: PostgresServer, config: OrchestratorConfig, authority: Authority, fakes: FakeServices
) -> None:
    await create_other(server)
    urls = [server.url("tcp"), server.url("unix", "other")]
    elsewhere = replace(config.mesh, home=config.mesh.home / "other")
    configs = [config, replace(config, mesh=elsewhere)]
    running, refused = [[payment() for _ in urls] for _ in range(2)]
    fakes.paused["SendPayment"] = asyncio.Event()

    async with AsyncExitStack() as stack:
        stubs = [
            await stack.enter_async_context(serving(one, authority, url))
            for one, url in zip(configs, urls, strict=True)
        ]
        for workflows, request in zip(stubs, running, strict=True):
            await workflows.StartRun(request, timeout=5)
        await eventually(lambda: len(fakes.requests("SendPayment")) == 2)
        await server.end()
        fakes.paused["SendPayment"].set()
        ends = await asyncio.gather(
            *(stub.StartRun(one, timeout=AWAY_S) for stub, one in zip(stubs, refused, strict=True)),
            return_exceptions=True,
        )
        calls = len(fakes.calls)
        await server.start()
        runs = [
            await finished_in_spite(workflows, request.request_id)
            for workflows, request in zip(stubs, running, strict=True)
        ]
        runs += [await pay(stub, request) for stub, request in zip(stubs, refused, strict=True)]

    for end in ends:
        assert isinstance(end, grpc.aio.AioRpcError)
        assert end.code() is grpc.StatusCode.UNAVAILABLE
        assert reason(end) == "STORE_UNAVAILABLE"
    assert calls == 10  # up to SendPayment: no call started while it was away
    assert {status(run) for run in runs} == {"SUCCEEDED"}
    assert set(fakes.effects.values()) == {4}


async def test_runs_wait_for_a_database_that_refuses_connections(
    server: PostgresServer, config: OrchestratorConfig, authority: Authority, fakes: FakeServices
) -> None:
    await create_other(server)
    request, refused = payment(), payment()
    fakes.paused["SendPayment"] = asyncio.Event()

    async with serving(config, authority, server.url("tcp", "other")) as workflows:
        await workflows.StartRun(request, timeout=5)
        await eventually(lambda: len(fakes.requests("SendPayment")) == 1)
        await close_other(server)
        fakes.paused["SendPayment"].set()
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await workflows.StartRun(refused, timeout=5)
        await administer(server, "ALTER DATABASE other ALLOW_CONNECTIONS true")
        runs = [
            await finished_in_spite(workflows, request.request_id),
            await pay(workflows, refused),
        ]

    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reason(refusal.value) == "STORE_UNAVAILABLE"
    assert [status(run) for run in runs] == ["SUCCEEDED", "SUCCEEDED"]
    assert set(fakes.effects.values()) == {2}


async def create_other(server: PostgresServer) -> None:
    await administer(server, "CREATE DATABASE other")


async def close_other(server: PostgresServer) -> None:
    """Closes the database as for maintenance, and ends its connections."""
    await administer(
        server,
        "ALTER DATABASE other ALLOW_CONNECTIONS false",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'other'",
    )


async def administer(server: PostgresServer, *statements: str) -> None:
    connection = await asyncpg.connect(server.url("tcp"))
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


async def finished_in_spite(workflows: WorkflowServiceAsyncStub, run_id: str) -> pb.Run:
    """Returns the run at its end; a watch may fail once on a broken connection."""

    async def has_ended() -> bool:
        try:
            found = await workflows.GetRun(pb.GetRunRequest(run_id=run_id), timeout=5)
        except grpc.aio.AioRpcError:
            return False
        return found.run.HasField("update_time") and status(found.run) != "RUNNING"

    await eventually(has_ended, within=15)
    return await finished(workflows, run_id)
