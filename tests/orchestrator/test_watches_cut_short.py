"""Watches of a run that is damaged or deleted: they end with a reason."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from anya.orchestrator.v1 import workflow_pb2 as pb
from anya.orchestrator.v1.payment_pb2_grpc import PaymentServiceStub
from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceStub
from mesh.data.database import open_database
from mesh.errors import Reason
from mesh.testing import eventually, reason
from services.orchestrator import retention
from services.orchestrator.__main__ import orchestrator
from services.orchestrator.store import SCHEMA
from tests.orchestrator import payment_client
from tests.orchestrator.conftest import connect, dial
from tests.orchestrator.payment_requests import payment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig
    from tests.orchestrator.fake_services import FakeServices

SECOND_DAYS = 1 / 86_400
DAMAGE = "UPDATE journal SET payload = ? WHERE run = ? AND sequence = 1"
LARGE = "x" * 100_000  # a few messages fill the buffers of the connection of a slow reader
LONG: dict[str, Any] = {
    "id": "long",
    "name": "Waits, and is long",
    "steps": [
        {"id": "large", "set": {"text": "{{input.text}}"}},
        *({"id": f"step_{n}", "set": {"n": n}} for n in range(40)),
        {"id": "first", "wait_for": {"signal": "go"}},
        {
            "id": "each",
            "for_each": {"items": list(range(100)), "steps": [{"id": "one", "set": {"n": 1}}]},
        },
        {"id": "second", "wait_for": {"signal": "go"}},
    ],
}


async def rest(updates: AsyncIterator[Any]) -> list[Any]:
    return [update async for update in updates]


@pytest.mark.parametrize("what", ["run", "payment", "payment's end"])
async def test_watch_of_a_damaged_run_ends_with_a_remedy(
    what: str, location: str, config: OrchestratorConfig, authority: Authority, fakes: FakeServices
) -> None:
    cramped = replace(config, database=location, max_runs=1)
    fakes.paused["VerifyIdentity"] = asyncio.Event()
    sound, hurt = payment(), payment()

    async with orchestrator(cramped) as service, dial(authority, service.port) as channel:
        workflows, payments = WorkflowServiceStub(channel), PaymentServiceStub(channel)
        await workflows.StartRun(sound, timeout=5)
        await workflows.StartRun(hurt, timeout=5)  # for which there is no slot
        updates: AsyncIterator[Any]
        if what == "run":
            watched = pb.WatchRunRequest(run_id=hurt.request_id)
            updates = aiter(workflows.WatchRun(watched, timeout=20))
        else:
            only_the_end = what == "payment's end"
            updates = payment_client.watch(payments, hurt.request_id, end_only=only_the_end)
        if what != "payment's end":
            await anext(updates)
        watching = asyncio.ensure_future(rest(updates))
        async with open_database(location, schema=SCHEMA) as other:
            await other.write(lambda tx: tx.execute(DAMAGE, b"{", hurt.request_id))
        fakes.paused["VerifyIdentity"].set()

        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await watching

    assert ended.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason(ended.value) == Reason.STORE_DAMAGED
    assert hurt.request_id in (details := ended.value.details() or "")
    assert "backup" in details
    # This watch may begin after the damage, and read it before the run is set aside.
    assert "redrive" in details or what == "payment's end"


async def test_watch_for_confirmations_ends_when_retention_deletes_the_payment(
    location: str,
    config: OrchestratorConfig,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "POLL_INTERVAL_S", 0.05)
    brief = replace(config, database=location, retain_days=SECOND_DAYS)
    request = payment_client.order()

    async with orchestrator(brief) as service, dial(authority, service.port) as channel:
        payments = PaymentServiceStub(channel)
        await payments.SendVerifiedPayment(request, timeout=5)
        updates = payment_client.watch(payments, request.request_id, confirmations=6)
        await anext(updates)

        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await rest(updates)

    assert ended.value.code() is grpc.StatusCode.NOT_FOUND
    assert reason(ended.value) == Reason.RUN_DELETED


async def test_slow_watch_ends_when_retention_deletes_the_run(
    location: str,
    config: OrchestratorConfig,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "POLL_INTERVAL_S", 0.05)
    brief = replace(config, database=location, retain_days=SECOND_DAYS)

    async with orchestrator(brief) as service, connect(authority, service.port) as workflows:
        await begin(workflows, "run")
        updates = aiter(workflows.WatchRun(pb.WatchRunRequest(run_id="run"), timeout=30))
        await anext(updates)
        for step in ("first", "second"):
            await eventually(lambda: waits_at(workflows, "run", step))  # noqa: B023
            sent = pb.SignalRunRequest(request_id=step, run_id="run", signal="go")
            await workflows.SignalRun(sent, timeout=5)
        await eventually(lambda: is_gone(workflows, "run"), within=10)

        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await rest(updates)

    assert ended.value.code() is grpc.StatusCode.NOT_FOUND
    assert reason(ended.value) == Reason.RUN_DELETED


async def begin(workflows: WorkflowServiceAsyncStub, run_id: str) -> None:
    definition = json.dumps(LONG)
    await workflows.RegisterWorkflow(pb.RegisterWorkflowRequest(definition=definition), timeout=5)
    request = pb.StartRunRequest(request_id=run_id, workflow_id="long")
    request.input.update({"text": LARGE})
    await workflows.StartRun(request, timeout=5)


async def waits_at(workflows: WorkflowServiceAsyncStub, run_id: str, path: str) -> bool:
    run = (await workflows.GetRun(pb.GetRunRequest(run_id=run_id), timeout=5)).run
    return run.status == pb.RUN_STATUS_WAITING and run.steps[-1].path == path


async def is_gone(workflows: WorkflowServiceAsyncStub, run_id: str) -> bool:
    try:
        await workflows.GetRun(pb.GetRunRequest(run_id=run_id), timeout=5)
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.NOT_FOUND
    return False
