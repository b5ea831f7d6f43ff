"""PostgreSQL goes away and comes back: nothing is lost, and nothing is said that is not stored."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import pytest

from anya.orchestrator.v1 import workflow_pb2 as pb
from mesh.testing import eventually, reason
from services.orchestrator.__main__ import orchestrator
from tests.orchestrator.conftest import connect
from tests.orchestrator.paying import finished, pay, payment, status
from tests.orchestrator.postgres_server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig
    from tests.orchestrator.servicers import Book


@pytest.fixture
async def server(postgres_url: str) -> AsyncIterator[PostgresServer]:
    """Beside the session's, which has made the user that both run as."""
    server = PostgresServer()
    await server.create()
    await server.start()
    yield server
    await server.remove()


@asynccontextmanager
async def serving(
    config: OrchestratorConfig, authority: Authority, url: str
) -> AsyncIterator[WorkflowServiceAsyncStub]:
    async with (
        orchestrator(replace(config, database=url, lease=2.0)) as service,
        connect(authority, service.port) as workflows,
    ):
        yield workflows


@pytest.mark.parametrize("transport", ["tcp", "unix"])
async def test_runs_wait_for_the_database_and_go_on(
    transport: str,
    server: PostgresServer,
    config: OrchestratorConfig,
    authority: Authority,
    book: Book,
) -> None:
    under_way, refused = payment(), payment()
    book.held["SendPayment"] = asyncio.Event()

    async with serving(config, authority, server.url(transport)) as workflows:
        await workflows.StartRun(under_way, timeout=5)
        await eventually(lambda: len(book.requests("SendPayment")) == 1)
        await server.end()
        book.held["SendPayment"].set()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await workflows.StartRun(refused, timeout=3)
        calls = len(book.calls)
        await server.start()
        run = await finished_in_spite(workflows, under_way.request_id)
        again = await pay(workflows, refused)

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reason(caught.value) == "STORE_UNAVAILABLE"
    assert calls == 5  # up to SendPayment: while it was away nothing was begun
    assert status(run) == status(again) == "SUCCEEDED"
    assert set(book.effects.values()) == {2}


async def finished_in_spite(workflows: WorkflowServiceAsyncStub, run_id: str) -> pb.Run:
    """A watch may still meet a connection that broke."""

    async def has_ended() -> bool:
        try:
            found = await workflows.GetRun(pb.GetRunRequest(run_id=run_id), timeout=5)
        except grpc.aio.AioRpcError:
            return False
        return found.run.HasField("updated") and status(found.run) != "RUNNING"

    await eventually(has_ended, within=15)
    return await finished(workflows, run_id)
