"""Signals and cancels over gRPC: applied once, at once, and kept over a kill."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

import grpc
import pytest

from anya.orchestrator.v1 import workflow_pb2 as pb
from mesh.testing import eventually, reason
from services.orchestrator.__main__ import orchestrator
from tests.orchestrator.conftest import connect
from tests.orchestrator.engine.definitions import STORE, call, steps
from tests.orchestrator.payment_requests import finished, payment, status, statuses
from tests.orchestrator.signals import AWAITS_SIGNAL, await_status, signal_request, start_run

if TYPE_CHECKING:
    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig
    from tests.orchestrator.fake_services import FakeServices

UNDONE = steps(
    call(
        "keep",
        STORE,
        "    compensate: {protocol: web5, operation: store_transaction_record,"
        " input_mapping: {did: d, transaction_data: {}}}",
    ),
    "answer\n    wait_for: {signal: approved}",
)


async def test_signal_resumes_a_run_at_once(workflows: WorkflowServiceAsyncStub) -> None:
    run_id = await start_run(workflows, AWAITS_SIGNAL)
    await await_status(workflows, run_id, "WAITING")
    start = time.monotonic()

    await workflows.SignalRun(signal_request(run_id), timeout=5)

    run = await finished(workflows, run_id)
    assert status(run) == "SUCCEEDED"
    assert time.monotonic() - start < 1  # faster than the poll interval


async def test_repeated_signal_counts_once(workflows: WorkflowServiceAsyncStub) -> None:
    two = steps("one\n    wait_for: {signal: approved}", "two\n    wait_for: {signal: approved}")
    run_id = await start_run(workflows, two)

    await workflows.SignalRun(signal_request(run_id), timeout=5)
    await workflows.SignalRun(signal_request(run_id), timeout=5)
    await await_status(workflows, run_id, "WAITING")
    await workflows.SignalRun(signal_request(run_id, "s2"), timeout=5)

    assert status(await finished(workflows, run_id)) == "SUCCEEDED"


async def test_retried_signal_and_cancel_return_the_current_run(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    run_id = await start_run(workflows, AWAITS_SIGNAL)
    cancelled_id = await start_run(workflows, AWAITS_SIGNAL)
    sent, cancel = (
        signal_request(run_id),
        pb.CancelRunRequest(request_id="c", run_id=cancelled_id),
    )
    first = await workflows.SignalRun(sent, timeout=5)
    await workflows.CancelRun(cancel, timeout=5)
    ended = [await finished(workflows, id) for id in (run_id, cancelled_id)]

    signalled = (await workflows.SignalRun(sent, timeout=5)).run
    retried = (await workflows.CancelRun(cancel, timeout=5)).run

    listed = await workflows.ListRuns(pb.ListRunsRequest(), timeout=5)
    basic = pb.GetRunRequest(run_id=cancelled_id, view=pb.RUN_VIEW_BASIC)
    assert first.run.run_id == run_id
    assert signalled == next(run for run in listed.runs if run.run_id == run_id)
    assert retried == (await workflows.GetRun(basic, timeout=5)).run
    assert [signalled.status, retried.status] == [run.status for run in ended]


async def test_retried_cancel_of_a_deleted_run_returns_its_id(
    config: OrchestratorConfig, authority: Authority
) -> None:
    async with orchestrator(config) as first, connect(authority, first.port) as workflows:
        run_id = await start_run(workflows, AWAITS_SIGNAL)
        cancel = pb.CancelRunRequest(request_id="c", run_id=run_id)
        await workflows.CancelRun(cancel, timeout=5)
        await finished(workflows, run_id)
    with closing(sqlite3.connect(config.location)) as database, database:
        database.execute("DELETE FROM run WHERE id = ?", [run_id])

    async with orchestrator(config) as second, connect(authority, second.port) as workflows:
        reply = await workflows.CancelRun(cancel, timeout=5)

    assert reply.run == pb.Run(run_id=run_id)


async def test_signal_received_while_another_is_applied_is_not_missed(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    two = steps("one\n    wait_for: {signal: approved}", "two\n    wait_for: {signal: approved}")
    for number in range(20):
        run_id = await start_run(workflows, two)

        await workflows.SignalRun(signal_request(run_id, f"first {number}"), timeout=5)
        await workflows.SignalRun(signal_request(run_id, f"second {number}"), timeout=5)

        assert status(await finished(workflows, run_id)) == "SUCCEEDED"


async def test_run_that_waits_still_waits_after_a_restart(
    config: OrchestratorConfig, authority: Authority
) -> None:
    async with orchestrator(config) as first, connect(authority, first.port) as workflows:
        run_id = await start_run(workflows, AWAITS_SIGNAL)
        await await_status(workflows, run_id, "WAITING")

    async with orchestrator(config) as second, connect(authority, second.port) as workflows:
        await await_status(workflows, run_id, "WAITING")
        await workflows.SignalRun(signal_request(run_id), timeout=5)
        run = await finished(workflows, run_id)

    assert status(run) == "SUCCEEDED"
    assert run.recoveries == 1


async def test_cancelled_run_is_compensated(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    run_id = await start_run(workflows, UNDONE, did="d")
    await await_status(workflows, run_id, "WAITING")

    cancel = pb.CancelRunRequest(request_id="c", run_id=run_id, reason="enough")
    reply = await workflows.CancelRun(cancel, timeout=5)

    run = await finished(workflows, run_id)
    assert (reply.run.run_id, reply.run.workflow_id) == (run_id, run.workflow_id)
    assert status(run) == "COMPENSATED"
    assert run.reason == "cancelled by spiffe://anya.internal/client/operator: enough"
    assert statuses(run)["answer"] == "SKIPPED"
    assert fakes.effects["StoreTransactionRecord"] == 2


async def test_made_payment_is_not_cancelled_with_its_run(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.paused["StoreTransactionRecord"] = asyncio.Event()
    request = payment()
    await workflows.StartRun(request, timeout=5)
    await eventually(lambda: bool(fakes.requests("StoreTransactionRecord")))
    cancel = pb.CancelRunRequest(request_id="c", run_id=request.request_id)

    await workflows.CancelRun(cancel, timeout=5)
    fakes.paused["StoreTransactionRecord"].set()

    assert status(await finished(workflows, request.request_id)) == "SUCCEEDED"
    assert fakes.effects["StoreTransactionRecord"] == 1


@pytest.mark.parametrize("run_id", ["none", "ended"])
async def test_message_to_an_ended_or_unknown_run_is_refused(
    workflows: WorkflowServiceAsyncStub, run_id: str
) -> None:
    if run_id == "ended":
        run_id = await start_run(workflows, steps("one\n    set: {a: 1}"))
        await finished(workflows, run_id)

    with pytest.raises(grpc.aio.AioRpcError) as of_signal:
        await workflows.SignalRun(signal_request(run_id), timeout=5)
    with pytest.raises(grpc.aio.AioRpcError) as of_cancel:
        await workflows.CancelRun(pb.CancelRunRequest(request_id="c", run_id=run_id), timeout=5)

    expected = "NOT_FOUND" if run_id == "none" else "FAILED_PRECONDITION"
    assert [e.value.code().name for e in (of_signal, of_cancel)] == [expected] * 2
    if run_id != "none":
        assert reason(of_cancel.value) == "RUN_ENDED"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.SignalRunRequest(request_id="s", run_id="r", signal="Not a name"), "signal"),
        (signal_request("r", name="a"), "correlation_id"),
        (signal_request("r"), "payload"),
    ],
    ids=["name", "correlation_id", "payload"],
)
async def test_signal_out_of_bounds_is_refused(
    workflows: WorkflowServiceAsyncStub, request_: pb.SignalRunRequest, field: str
) -> None:
    if field == "correlation_id":
        request_.correlation_id = "x" * 201
    if field == "payload":
        request_.payload.update({"number": float("nan")})

    with pytest.raises(grpc.aio.AioRpcError, match=field) as caught:
        await workflows.SignalRun(request_, timeout=5)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
