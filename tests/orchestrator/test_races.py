"""Starts, cancels, refusals and definitions that race with a run, on both stores."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest

from anya.bitcoin.v1 import wallet_pb2
from anya.orchestrator.v1 import payment_pb2
from anya.orchestrator.v1 import workflow_pb2 as pb
from anya.orchestrator.v1.payment_pb2_grpc import PaymentServiceStub
from mesh.errors import DeadlineExceeded, FailedPrecondition, Reason, Unavailable
from mesh.testing import eventually, reason
from tests.orchestrator.conftest import serve_at
from tests.orchestrator.engine.definitions import STORE, UNDO, call, steps
from tests.orchestrator.payment_client import get
from tests.orchestrator.payment_requests import finished, pay, payment, status, statuses
from tests.orchestrator.signals import await_status, signal_request, start_run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig
    from tests.orchestrator.fake_services import FakeServices

AT_ONCE = 64
STOPS = steps(
    call("one", STORE, UNDO),
    "answer\n    wait_for: {signal: approved}",
    "stop\n    end: {outcome: failed, reason: stopped}",
)
TWICE = steps(call("one", STORE, UNDO), call("two", STORE, UNDO))


@pytest.fixture
async def channel(
    location: str, config: OrchestratorConfig, authority: Authority
) -> AsyncIterator[grpc.aio.Channel]:
    async with serve_at(location, config, authority) as channel:
        yield channel


async def cancel(workflows: WorkflowServiceAsyncStub, run_id: str) -> None:
    request = pb.CancelRunRequest(request_id="c", run_id=run_id, reason="enough")
    await workflows.CancelRun(request, timeout=10)


async def test_payment_submitted_many_times_at_once_is_made_once(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    request = payment()

    replies = await asyncio.gather(
        *(workflows.StartRun(request, timeout=20) for _ in range(AT_ONCE))
    )
    run = await finished(workflows, request.request_id)
    runs = await workflows.ListRuns(pb.ListRunsRequest(), timeout=10)

    assert len({reply.SerializeToString() for reply in replies}) == 1
    assert len(runs.runs) == 1
    assert status(run) == "SUCCEEDED"
    assert len(fakes.requests("VerifyIdentity")) == fakes.effects["SendPayment"] == 1


async def test_one_of_two_bodies_submitted_at_once_under_one_id_is_refused(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    request, other = payment(), payment()
    other.request_id = other.intent.payment_id = request.request_id
    other.intent.amount_sat += 1
    other.input["amount"] = other.intent.amount_sat

    ends = await asyncio.gather(
        *(workflows.StartRun(one, timeout=20) for one in (request, other) * 8),
        return_exceptions=True,
    )
    run = await finished(workflows, request.request_id)

    refused = [end for end in ends if isinstance(end, grpc.aio.AioRpcError)]
    assert {ends.index(end) % 2 for end in refused} in ({0}, {1})
    assert len(refused) == 8
    assert {reason(end) for end in refused} == {"REQUEST_ID_REUSED"}
    assert status(run) == "SUCCEEDED"
    assert fakes.effects["SendPayment"] == 1


async def test_cancel_during_a_call_waits_for_its_reply_and_compensates_it(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.paused["StoreTransactionRecord"] = asyncio.Event()
    run_id = await start_run(workflows, TWICE, did="d")
    await eventually(lambda: len(fakes.requests("StoreTransactionRecord")) == 1)

    await cancel(workflows, run_id)
    fakes.paused["StoreTransactionRecord"].set()
    run = await finished(workflows, run_id)

    assert status(run) == "COMPENSATED"
    assert fakes.effects["StoreTransactionRecord"] == 2
    assert "SUCCEEDED" not in statuses(run).get("two", "")


async def test_cancel_during_the_backoff_before_a_retry_leaves_no_outcome_unknown(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    patient = "    retry: {backoff: 1s, max_attempts: 9}\n    timeout: 20s\n"
    fakes.errors_after["StoreTransactionRecord"].append(Unavailable("no answer"))
    run_id = await start_run(workflows, steps(call("one", STORE, UNDO + patient)), did="d")
    await eventually(lambda: fakes.effects["StoreTransactionRecord"] == 1)

    await cancel(workflows, run_id)
    run = await finished(workflows, run_id)

    first, second, undo = fakes.requests("StoreTransactionRecord")
    assert status(run) == "COMPENSATED"
    assert first == second != undo
    assert fakes.effects["StoreTransactionRecord"] == 2


async def test_cancel_during_a_compensation_does_not_stop_it(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    held = asyncio.Event()
    run_id = await start_run(workflows, STOPS, did="d")
    await await_status(workflows, run_id, "WAITING")
    fakes.paused["StoreTransactionRecord"] = held
    await workflows.SignalRun(signal_request(run_id), timeout=10)
    await eventually(lambda: len(fakes.requests("StoreTransactionRecord")) == 2)

    await cancel(workflows, run_id)
    held.set()
    run = await finished(workflows, run_id)

    assert (status(run), run.reason) == ("COMPENSATED", "stopped")
    assert fakes.effects["StoreTransactionRecord"] == 2


async def test_call_whose_deadline_passes_after_the_commit_of_the_service_counts_once(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.errors_after["SendPayment"].append(DeadlineExceeded("late"))

    run = await pay(workflows, payment())

    first, second = fakes.requests("SendPayment")
    assert first == second
    assert status(run) == "SUCCEEDED"
    assert fakes.effects["SendPayment"] == 1


async def test_run_is_refused_if_its_proof_expires_while_the_circuit_is_open(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.errors_before["SendPayment"].extend(
        [
            Unavailable("open", reason=Reason.BREAKER_OPEN, retry_after=0.2),
            FailedPrecondition("too old", reason=Reason.PROOF_EXPIRED),
        ]
    )
    request = payment()
    await workflows.StartRun(request, timeout=10)
    await await_status(workflows, request.request_id, "CIRCUIT_OPEN")

    run = await finished(workflows, request.request_id)

    assert (status(run), run.reason) == ("REFUSED", "execute_payment: PROOF_EXPIRED: too old")
    assert fakes.effects["SendPayment"] == fakes.effects["StoreTransactionRecord"] == 0


async def test_run_keeps_the_definition_it_was_started_with(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    old, new = (
        steps("answer\n    wait_for: {signal: approved}", f"said\n    set: {{word: {word}}}")
        for word in ("old", "new")
    )
    earlier = await start_run(workflows, old)
    await await_status(workflows, earlier, "WAITING")

    later = await start_run(workflows, new)
    for run_id in (earlier, later):
        await workflows.SignalRun(signal_request(run_id, f"to {run_id}"), timeout=10)
    runs = [await finished(workflows, run_id) for run_id in (earlier, later)]

    said = [next(step for step in run.steps if step.path == "said").output for run in runs]
    assert [output["word"] for output in said] == ["old", "new"]
    assert runs[0].definition_hash != runs[1].definition_hash


async def test_payment_id_of_a_run_cancelled_before_it_pays_cannot_be_used(
    workflows: WorkflowServiceAsyncStub, channel: grpc.aio.Channel, fakes: FakeServices
) -> None:
    fakes.paused["VerifyIdentity"] = asyncio.Event()
    request = payment()
    await workflows.StartRun(request, timeout=10)

    await cancel(workflows, request.request_id)
    fakes.paused["VerifyIdentity"].set()
    run = await finished(workflows, request.request_id)
    shown = await get(PaymentServiceStub(channel), request.request_id)

    assert status(run) == "CANCELLED"
    assert statuses(run)["execute_payment/cancel"] == "SUCCEEDED"
    assert shown.bitcoin_answer == payment_pb2.BITCOIN_ANSWER_FOUND
    assert shown.state == wallet_pb2.PAYMENT_STATE_CANCELLED
    assert fakes.cancelled == {request.request_id}
    assert fakes.effects["SendPayment"] == 0


async def test_cancelled_run_waits_until_bitcoin_can_cancel_its_payment(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.paused["VerifyIdentity"] = asyncio.Event()
    down = Unavailable("open", reason=Reason.BREAKER_OPEN, retry_after=0.2)
    fakes.errors_before["CancelPayment"].extend([down, down])
    request = payment()
    await workflows.StartRun(request, timeout=10)

    await cancel(workflows, request.request_id)
    fakes.paused["VerifyIdentity"].set()
    await await_status(workflows, request.request_id, "CIRCUIT_OPEN")
    run = await finished(workflows, request.request_id)

    assert status(run) == "CANCELLED"
    assert len(fakes.requests("CancelPayment")) == 3
