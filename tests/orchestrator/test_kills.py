"""SIGKILL before and after every commit of a run, on both stores: it ends as without kills."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from anya.orchestrator.v1 import workflow_pb2 as pb
from mesh.errors import InvalidArgument
from mesh.testing import eventually
from tests.orchestrator import multi_payment
from tests.orchestrator.engine.definitions import STORE, UNDO, call, steps
from tests.orchestrator.multi_payment import PAIR, intent, pair_of
from tests.orchestrator.payment_requests import finished, payment, status, statuses, uuid7
from tests.orchestrator.process_succession import Succession
from tests.orchestrator.signals import await_status
from tests.profile import full_or_short

if TYPE_CHECKING:
    from pathlib import Path

    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from mesh.testing import Authority
    from tests.orchestrator.fake_services import FakeServices

# In the order in which a run reaches them. The intent of a step is committed together with the end
# of the step before it, so that a kill before that end is also before the intent.
OF_A_PAYMENT = full_or_short(
    (
        "engine.before_step_done/{run}/verify_sender",
        "engine.before_intent/{run}/execute_payment",
        "engine.after_intent/{run}/execute_payment",
        "engine.before_step_done/{run}/execute_payment",
        "engine.after_step_done/{run}/execute_payment",
        "engine.before_finish/{run}",
        "engine.after_finish/{run}",
    ),
    short=(
        "engine.after_intent/{run}/execute_payment",
        "engine.before_step_done/{run}/execute_payment",
        "engine.after_finish/{run}",
    ),
)
OF_TWO_PAYMENTS = full_or_short(
    (
        "engine.before_step_done/{run}/pay1",
        "engine.after_step_done/{run}/pay1",
        "engine.before_step_done/{run}/assess2/score",
        "engine.after_intent/{run}/pay2",
        "engine.before_step_done/{run}/pay2",
        "engine.after_step_done/{run}/pay2",
        "engine.before_finish/{run}",
    ),
    short=(
        "engine.after_step_done/{run}/pay1",
        "engine.after_intent/{run}/pay2",
        "engine.before_step_done/{run}/pay2",
    ),
)
OF_A_SAGA = (
    "engine.after_intent/{run}/pause",
    "engine.before_message/{run}",
    "engine.after_message/{run}",
    "engine.before_step_done/{run}/keep/compensate",
    "engine.after_finish/{run}",
)
SAGA = steps(
    call("keep", STORE, UNDO),
    "pause\n    wait: {duration: 50ms}",
    "answer\n    wait_for: {signal: approved}",
    "stop\n    end: {outcome: failed, reason: enough}",
)

TWICE = steps(
    call("keep", STORE),
    "answer\n    wait_for: {signal: approved}",
    "again\n    wait_for: {signal: approved}",
)
KEPT = steps(call("keep", STORE), "answer\n    wait_for: {signal: approved}")


@pytest.fixture
def orchestrators(
    location: str, authority: Authority, tmp_path: Path, peers: dict[str, str]
) -> Succession:
    return Succession.on(location, authority, tmp_path, peers)


async def test_payment_is_made_once_despite_kills_at_every_commit(
    orchestrators: Succession, fakes: FakeServices
) -> None:
    request = payment()
    run_id = request.request_id

    for boundary in ("engine.before_start/{run}", "engine.after_start/{run}"):
        async with orchestrators.next_until(boundary.format(run=run_id)) as workflows:
            await workflows.StartRun(request, timeout=10)
    for boundary in OF_A_PAYMENT:
        async with orchestrators.next_until(boundary.format(run=run_id)):
            pass  # it claims the run by itself
    async with orchestrators.next() as (_, workflows):
        again = await workflows.StartRun(request, timeout=10)
        run = await finished(workflows, run_id)
        runs = await workflows.ListRuns(pb.ListRunsRequest(), timeout=5)

    assert again.run_id == run_id
    assert len(runs.runs) == 1
    assert status(run) == "SUCCEEDED"
    assert set(statuses(run).values()) == {"SUCCEEDED"}
    assert set(fakes.effects.values()) == {1}
    for method in fakes.effects:
        first, *others = fakes.requests(method)
        assert all(other == first for other in others)


async def test_two_payments_are_each_made_once_despite_kills_at_every_commit(
    orchestrators: Succession, fakes: FakeServices
) -> None:
    first, second = intent(), intent()
    request = multi_payment.request("pair", pair_of(first, second), first, second)
    run_id = request.request_id

    async with orchestrators.next_until(f"engine.after_start/{run_id}") as workflows:
        await workflows.RegisterWorkflow(pb.RegisterWorkflowRequest(definition=PAIR), timeout=10)
        await workflows.StartRun(request, timeout=10)
    for boundary in OF_TWO_PAYMENTS:
        async with orchestrators.next_until(boundary.format(run=run_id)):
            pass  # it claims the run by itself
    async with orchestrators.next() as (_, workflows):
        again = await workflows.StartRun(request, timeout=10)
        run = await finished(workflows, run_id)

    assert again.run_id == run_id
    assert status(run) == "SUCCEEDED"
    assert fakes.sent == {first.payment_id, second.payment_id}
    assert fakes.effects["SendPayment"] == fakes.effects["StoreTransactionRecord"] == 2
    assert len({sent.SerializeToString() for sent in fakes.requests("SendPayment")}) == 2


async def test_run_killed_before_and_after_the_cancel_of_its_payment_ends_cancelled(
    orchestrators: Succession, fakes: FakeServices
) -> None:
    fakes.paused["VerifyIdentity"] = asyncio.Event()
    request = payment()
    run_id = request.request_id
    refusal = f"{run_id}/execute_payment/cancel"

    async with orchestrators.next_until(f"engine.before_step_done/{refusal}") as workflows:
        await workflows.StartRun(request, timeout=10)
        await workflows.CancelRun(pb.CancelRunRequest(request_id="c", run_id=run_id), timeout=10)
        fakes.paused["VerifyIdentity"].set()
    async with orchestrators.next_until(f"engine.after_step_done/{refusal}"):
        pass  # it calls again
    async with orchestrators.next() as (_, workflows):
        run = await finished(workflows, run_id)

    assert status(run) == "CANCELLED"
    assert fakes.cancelled == {run_id}
    assert len(fakes.requests("CancelPayment")) == 2
    assert fakes.effects["SendPayment"] == 0


async def test_saga_compensates_once_despite_kills_at_every_commit(
    orchestrators: Succession, fakes: FakeServices
) -> None:
    run_id = uuid7()

    for number, boundary in enumerate(OF_A_SAGA):
        async with orchestrators.next_until(boundary.format(run=run_id)) as workflows:
            if number == 0:
                await begin(workflows, SAGA, run_id)
            elif "message" in boundary:
                await approve(workflows, run_id)
    async with orchestrators.next() as (_, workflows):
        run = await finished(workflows, run_id)

    assert (status(run), run.reason) == ("COMPENSATED", "enough")
    assert fakes.effects["StoreTransactionRecord"] == 2
    assert len({str(sent) for sent in fakes.requests("StoreTransactionRecord")}) == 2


@pytest.mark.parametrize("boundary", ["engine.before_message", "engine.after_message"])
async def test_signal_repeated_after_a_kill_counts_once(
    orchestrators: Succession, boundary: str
) -> None:
    run_id = uuid7()

    async with orchestrators.next_until(f"{boundary}/{run_id}") as workflows:
        await begin(workflows, TWICE, run_id)
        await await_status(workflows, run_id, "WAITING")
        await approve(workflows, run_id)
    async with orchestrators.next() as (_, workflows):
        await approve(workflows, run_id)
        await eventually(lambda: _has_begun(workflows, run_id, "again"))
        await approve(workflows, run_id)
        await await_status(workflows, run_id, "WAITING")
        await approve(workflows, run_id, "another")
        run = await finished(workflows, run_id)

    assert status(run) == "SUCCEEDED"
    assert run.recoveries == 1


async def test_signal_received_during_a_call_survives_a_kill(
    orchestrators: Succession, fakes: FakeServices
) -> None:
    fakes.paused["StoreTransactionRecord"] = asyncio.Event()
    run_id = uuid7()

    async with orchestrators.next() as (child, workflows):
        await begin(workflows, KEPT, run_id)
        await eventually(lambda: bool(fakes.requests("StoreTransactionRecord")))
        await approve(workflows, run_id)
        child.kill()
        await child.wait()
    async with orchestrators.next() as (_, workflows):
        fakes.paused["StoreTransactionRecord"].set()
        run = await finished(workflows, run_id)

    assert status(run) == "SUCCEEDED"


async def test_redrive_happens_once_despite_kills_before_and_after_its_commit(
    orchestrators: Succession, fakes: FakeServices
) -> None:
    fakes.errors_before["StoreTransactionRecord"].append(InvalidArgument("no"))
    run_id = uuid7()
    redrive = pb.RedriveRunRequest(request_id="again", run_id=run_id, reason="mended")

    for boundary in ("engine.before_redriven/{run}", "engine.after_redriven/{run}"):
        async with orchestrators.next_until(boundary.format(run=run_id)) as workflows:
            if "before" in boundary:
                await begin(workflows, steps(call("keep", STORE)), run_id)
                failed = await finished(workflows, run_id)
            await workflows.RedriveRun(redrive, timeout=10)
    async with orchestrators.next() as (_, workflows):
        await workflows.RedriveRun(redrive, timeout=10)
        run = await finished(workflows, run_id)

    assert (status(failed), status(run)) == ("FAILED", "SUCCEEDED")
    assert len(run.redrives) == 1
    assert fakes.effects["StoreTransactionRecord"] == 1


async def test_payment_is_made_once_despite_a_kill_during_its_call(
    orchestrators: Succession, fakes: FakeServices
) -> None:
    fakes.paused["SendPayment"] = asyncio.Event()
    request = payment()

    async with orchestrators.next() as (child, workflows):
        await workflows.StartRun(request, timeout=10)
        await eventually(lambda: len(fakes.requests("SendPayment")) == 1)
        child.kill()
        await child.wait()
    async with orchestrators.next() as (_, workflows):
        await eventually(lambda: len(fakes.requests("SendPayment")) == 2, within=10)
        fakes.paused["SendPayment"].set()
        run = await finished(workflows, request.request_id)

    assert (status(run), run.recoveries) == ("SUCCEEDED", 1)
    assert fakes.effects["SendPayment"] == 1


async def begin(workflows: WorkflowServiceAsyncStub, text: str, run_id: str) -> None:
    await workflows.RegisterWorkflow(pb.RegisterWorkflowRequest(definition=text), timeout=10)
    request = pb.StartRunRequest(request_id=run_id, workflow_id="example")
    request.input.update({"did": "d"})
    await workflows.StartRun(request, timeout=10)


async def approve(
    workflows: WorkflowServiceAsyncStub, run_id: str, request_id: str = "approval"
) -> None:
    sent = pb.SignalRunRequest(request_id=request_id, run_id=run_id, signal="approved")
    await workflows.SignalRun(sent, timeout=10)


async def _has_begun(workflows: WorkflowServiceAsyncStub, run_id: str, path: str) -> bool:
    found = await workflows.GetRun(pb.GetRunRequest(run_id=run_id), timeout=5)
    return path in {step.path for step in found.run.steps}
