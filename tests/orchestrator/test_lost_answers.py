"""The connection breaks between a commit of PostgreSQL and its answer: the commit is read back."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import pytest

from anya.orchestrator.v1 import workflow_pb2 as pb
from mesh.testing import eventually, reason
from services.orchestrator.__main__ import orchestrator
from tests.orchestrator.conftest import connect
from tests.orchestrator.payment_requests import finished, payment, status, statuses
from tests.orchestrator.postgres_proxy import proxy_to

if TYPE_CHECKING:
    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig
    from tests.orchestrator.fake_services import FakeServices


@pytest.mark.parametrize("commit", ["start", "intent", "answer", "end"])
async def test_commit_counts_once_if_its_answer_is_lost(
    commit: str,
    new_postgres_database: str,
    config: OrchestratorConfig,
    authority: Authority,
    fakes: FakeServices,
) -> None:
    request = payment()
    before = {"start": "", "intent": "AssessFraudRisk", "answer": "SendPayment"}.get(
        commit, "StoreTransactionRecord"
    )
    fakes.paused[before] = asyncio.Event()

    async with (
        proxy_to(new_postgres_database) as proxy,
        orchestrator(replace(config, database=proxy.url)) as service,
        connect(authority, service.port) as workflows,
    ):
        if commit == "start":
            proxy.marker = b"STEP_INTENT"
        await workflows.StartRun(request, timeout=10)
        if commit != "start":
            await eventually(lambda: len(fakes.requests(before)) == 1)
            proxy.marker = b"STEP_DONE"
            fakes.paused[before].set()
        again = await workflows.StartRun(request, timeout=10)
        run = await finished(workflows, request.request_id)
        cuts = proxy.cuts

    assert cuts == 1
    assert again.run_id == request.request_id
    assert (status(run), run.recoveries) == ("SUCCEEDED", 0)
    assert set(statuses(run).values()) == {"SUCCEEDED"}
    assert set(fakes.effects.values()) == {1}
    assert len(fakes.requests("SendPayment")) == 1


async def test_query_is_repeated_after_the_server_announces_its_shutdown(
    new_postgres_database: str,
    config: OrchestratorConfig,
    authority: Authority,
    fakes: FakeServices,
) -> None:
    request = payment()
    fakes.paused["SendPayment"] = asyncio.Event()

    async with (
        proxy_to(new_postgres_database) as proxy,
        orchestrator(replace(config, database=proxy.url)) as service,
        connect(authority, service.port) as workflows,
    ):
        await workflows.StartRun(request, timeout=10)
        await eventually(lambda: len(fakes.requests("SendPayment")) == 1)
        await proxy.announce_shutdown()
        fakes.paused["SendPayment"].set()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await workflows.GetRun(pb.GetRunRequest(run_id=request.request_id), timeout=10)
        run = await finished(workflows, request.request_id)

    assert reason(caught.value) == "STORE_UNAVAILABLE"
    assert (status(run), run.recoveries) == ("SUCCEEDED", 0)
    assert set(fakes.effects.values()) == {1}
