"""PostgreSQL commits, and the connection breaks before anybody hears of it: it is read back."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import pytest

from anya.orchestrator.v1 import workflow_pb2 as pb
from mesh.testing import eventually, reason
from services.orchestrator.__main__ import orchestrator
from tests.orchestrator.broken_connection import wire_to
from tests.orchestrator.conftest import connect
from tests.orchestrator.payment_requests import finished, payment, status, statuses

if TYPE_CHECKING:
    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig
    from tests.orchestrator.fake_services import FakeServices


@pytest.mark.parametrize("commit", ["start", "intent", "answer", "end"])
async def test_a_commit_whose_answer_is_lost_counts_once(
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
        wire_to(new_postgres_database) as wire,
        orchestrator(replace(config, database=wire.url)) as service,
        connect(authority, service.port) as workflows,
    ):
        if commit == "start":
            wire.marker = b"STEP_INTENT"
        await workflows.StartRun(request, timeout=10)
        if commit != "start":
            await eventually(lambda: len(fakes.requests(before)) == 1)
            wire.marker = b"STEP_DONE"
            fakes.paused[before].set()
        again = await workflows.StartRun(request, timeout=10)
        run = await finished(workflows, request.request_id)
        cuts = wire.cuts

    assert cuts == 1
    assert again.run_id == request.request_id
    assert (status(run), run.recoveries) == ("SUCCEEDED", 0)
    assert set(statuses(run).values()) == {"SUCCEEDED"}
    assert set(fakes.effects.values()) == {1}
    assert len(fakes.requests("SendPayment")) == 1


async def test_a_server_that_says_goodbye_before_it_hangs_up_is_asked_again(
    new_postgres_database: str,
    config: OrchestratorConfig,
    authority: Authority,
    fakes: FakeServices,
) -> None:
    request = payment()
    fakes.paused["SendPayment"] = asyncio.Event()

    async with (
        wire_to(new_postgres_database) as wire,
        orchestrator(replace(config, database=wire.url)) as service,
        connect(authority, service.port) as workflows,
    ):
        await workflows.StartRun(request, timeout=10)
        await eventually(lambda: len(fakes.requests("SendPayment")) == 1)
        await wire.say_goodbye()
        fakes.paused["SendPayment"].set()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await workflows.GetRun(pb.GetRunRequest(run_id=request.request_id), timeout=10)
        run = await finished(workflows, request.request_id)

    assert reason(caught.value) == "STORE_UNAVAILABLE"
    assert (status(run), run.recoveries) == ("SUCCEEDED", 0)
    assert set(fakes.effects.values()) == {1}
