"""WorkflowService over gRPC: definitions stored, runs started once, watched and listed."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest

from anya.orchestrator.v1 import workflow_pb2 as pb
from mesh import failpoint
from mesh.testing import detail, eventually, reason
from services.orchestrator import definition
from services.orchestrator.__main__ import orchestrator
from services.orchestrator.actors import run as run_actor
from services.orchestrator.definition import values
from services.orchestrator.engine import transition
from tests.orchestrator.conftest import connect
from tests.orchestrator.definition.definitions import one_step, seed
from tests.orchestrator.payment_requests import INPUT, finished, pay, payment, status, uuid7

if TYPE_CHECKING:
    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig
    from services.orchestrator.engine.activations import Command
    from services.orchestrator.engine.model import RunState
    from services.orchestrator.engine.retry_policy import RetryPolicy
    from tests.orchestrator.fake_services import FakeServices


async def register(workflows: WorkflowServiceAsyncStub, text: str) -> pb.Workflow:
    request = pb.RegisterWorkflowRequest(definition=text)
    return (await workflows.RegisterWorkflow(request, timeout=5)).workflow


def lookup(run_id: str, **given: Any) -> pb.StartRunRequest:
    """Returns a start of the workflow ``example``, which only reads."""
    request = pb.StartRunRequest(request_id=run_id, workflow_id="example")
    values.fill_struct(request.input, given or {"did": "d", "address": "a"})
    return request


def example(**changes: Any) -> str:
    step = {
        "protocol": "Web5",
        "operation": "extract_identity_features",
        "input_mapping": {"did": "{{input.did}}", "recipient_address": "{{input.address}}"},
        "output_mapping": {"links": "{{output.links}}"},
    }
    return json.dumps(one_step(**(step | changes)))


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


async def test_built_in_workflows_are_registered(workflows: WorkflowServiceAsyncStub) -> None:
    found = await workflows.ListWorkflows(pb.ListWorkflowsRequest(), timeout=5)

    assert [workflow.workflow_id for workflow in found.workflows] == sorted(definition.BUILT_IN)
    seed_text = definition.built_in_text("verified_payment")
    assert found.workflows[-1].definition == seed_text
    assert found.workflows[-1].definition_hash == definition.load(seed_text).hash


async def test_definition_is_stored_as_it_was_registered(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    first = await register(workflows, example())
    again = await register(workflows, json.dumps(json.loads(example()), indent=4))
    second = await register(workflows, example(output_mapping={}))

    newest = await workflows.GetWorkflow(pb.GetWorkflowRequest(workflow_id="example"), timeout=5)
    by_hash = await workflows.GetWorkflow(
        pb.GetWorkflowRequest(definition_hash=first.definition_hash), timeout=5
    )
    assert again == first
    assert newest.workflow == second
    assert by_hash.workflow == first


async def test_invalid_definition_is_refused_with_the_positions_of_all_problems(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    spoiled = seed()
    spoiled["id"] = "spoiled"
    spoiled["steps"][0]["operation"] = "nothing"
    spoiled["steps"][2]["condition"] = "{{steps.unknown.x}}"

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await register(workflows, json.dumps(spoiled, indent=2))

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason(caught.value) == "DEFINITION_INVALID"
    assert caught.value.details() == (
        "8:20: unknown operation 'nothing'\n"
        "37:21: unknown step 'unknown'; earlier steps: verify_sender, fraud_assessment"
    )


async def test_built_in_workflow_cannot_be_replaced(workflows: WorkflowServiceAsyncStub) -> None:
    tampered = seed()
    tampered["steps"][2].pop("condition")

    with pytest.raises(grpc.aio.AioRpcError, match="verified_payment is built in"):
        await register(workflows, json.dumps(tampered))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sender_did": None}, "input.sender_did"),
        ({"payee": 1}, "input.payee"),
        ({"amount": "many"}, "input.amount"),
        ({"amount": 0.5}, "input.amount"),
        ({"amount": 7}, "intent.amount_sat"),
        ({"amount": float("nan")}, "input"),
        ({"amount": [float("inf")]}, "input"),
        ({"amount": nested(24)}, "input"),
    ],
    ids=str,
)
async def test_invalid_input_is_refused_with_its_field(
    workflows: WorkflowServiceAsyncStub, change: dict[str, Any], field: str
) -> None:
    request = payment()
    request.input.Clear()
    values.fill_struct(request.input, INPUT | change)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await workflows.StartRun(request, timeout=5)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(caught.value, BadRequest).field_violations[0].field == field


async def test_input_is_checked_against_the_newest_definition(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    await register(workflows, example())
    await pay(workflows, lookup("before"))
    mapping = {"did": "{{input.who}}", "recipient_address": "{{input.address}}"}
    await register(workflows, example(input_mapping=mapping))

    run = await pay(workflows, lookup("after", who="d", address="a"))

    assert status(run) == "SUCCEEDED"
    with pytest.raises(grpc.aio.AioRpcError, match="input of example"):
        await workflows.StartRun(lookup("again"), timeout=5)


async def test_payment_without_an_intent_is_refused(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    request = payment()
    request.ClearField("intent")

    with pytest.raises(grpc.aio.AioRpcError, match="this workflow pays") as caught:
        await workflows.StartRun(request, timeout=5)

    assert reason(caught.value) == "INTENT_INVALID"


async def test_unknown_workflow_or_run_is_not_found(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="no workflow 'nothing'"):
        await workflows.StartRun(payment(workflow_id="nothing"), timeout=5)
    with pytest.raises(grpc.aio.AioRpcError, match="no run 'nothing'"):
        await workflows.GetRun(pb.GetRunRequest(run_id="nothing"), timeout=5)
    with pytest.raises(grpc.aio.AioRpcError, match="no run 'nothing'"):
        await finished(workflows, "nothing")


async def test_repeated_start_starts_one_run(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    request = payment()

    started = await asyncio.gather(
        *(workflows.StartRun(request, timeout=10) for _ in range(64)),
    )
    run = await finished(workflows, request.request_id)

    assert len({reply.SerializeToString() for reply in started}) == 1
    assert started[0].run_id == request.request_id
    assert status(run) == "SUCCEEDED"
    assert fakes.effects["SendPayment"] == len(fakes.requests("VerifyIdentity")) == 1


async def test_run_id_cannot_be_used_for_another_run(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    request = payment()
    await workflows.StartRun(request, timeout=5)
    request.presentation = "another"

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await workflows.StartRun(request, timeout=5)

    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert reason(caught.value) == "REQUEST_ID_REUSED"


async def test_watch_sends_every_record_once_and_resumes(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    await pay(workflows, request := payment())

    async def watch(after: int) -> list[pb.WatchRunResponse]:
        wanted = pb.WatchRunRequest(run_id=request.request_id, after_sequence=after)
        return [update async for update in workflows.WatchRun(wanted, timeout=5)]

    everything = await watch(0)
    assert [update.sequence for update in everything] == list(range(1, len(everything) + 1))
    assert [status(update.run) for update in everything[:-1]] == ["RUNNING"] * (len(everything) - 1)
    assert await watch(5) == everything[5:]
    assert await watch(len(everything)) == []


async def test_runs_are_listed_by_workflow_and_status_newest_first(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    await register(workflows, example())
    for number in range(3):
        await pay(workflows, lookup(f"run-{number}"))
    fakes.risk_score = 0.9
    refused = await pay(workflows, payment())

    def page(token: str = "", **wanted: Any) -> Any:
        return workflows.ListRuns(pb.ListRunsRequest(page_token=token, **wanted), timeout=5)

    first = await page(workflow_id="example", page_size=2)
    second = await page(first.next_page_token, workflow_id="example", page_size=2)
    of_refused = await page(statuses=[pb.RUN_STATUS_REFUSED])
    assert [run.run_id for run in first.runs] == ["run-2", "run-1"]
    assert [run.run_id for run in second.runs] == ["run-0"]
    assert not second.next_page_token
    assert [run.run_id for run in of_refused.runs] == [refused.run_id]
    assert not of_refused.runs[0].steps
    with pytest.raises(grpc.aio.AioRpcError, match="page_token is not of this list"):
        await page(first.next_page_token, statuses=[pb.RUN_STATUS_REFUSED])
    with pytest.raises(grpc.aio.AioRpcError, match="page_token is not of this list"):
        await page("nonsense")
    with pytest.raises(grpc.aio.AioRpcError, match="page_size must not be negative"):
        await page(page_size=-1)


async def test_workflows_are_listed_page_by_page(workflows: WorkflowServiceAsyncStub) -> None:
    ids, token = [], ""
    for _ in definition.BUILT_IN:
        request = pb.ListWorkflowsRequest(page_size=1, page_token=token)
        found = await workflows.ListWorkflows(request, timeout=5)
        ids += [workflow.workflow_id for workflow in found.workflows]
        token = found.next_page_token

    assert ids == sorted(definition.BUILT_IN)
    assert not token


async def test_composite_operation_runs_as_a_workflow(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    request = pb.StartRunRequest(request_id="assessed", workflow_id="assess_fraud_risk")
    given = {"sender_did": "d", "recipient_address": "r", "amount": 5}
    values.fill_struct(request.input, given | {"sender_verification_score": 0.5})

    run = await pay(workflows, request)

    assert status(run) == "SUCCEEDED"
    assert values.from_struct(run.steps[-1].output)["_output"]["risk_score"] == 0.1


async def test_runs_beyond_the_slots_wait_and_all_of_them_end(
    authority: Authority, config: OrchestratorConfig, fakes: FakeServices
) -> None:
    cramped = replace(config, max_runs=2, max_concurrent_steps=1)
    ids = [uuid7() for _ in range(8)]
    fakes.paused["VerifyIdentity"] = asyncio.Event()

    async with orchestrator(cramped) as service, connect(authority, service.port) as workflows:
        for run_id in ids:
            await workflows.StartRun(payment(run_id), timeout=5)
        waiting = await workflows.GetRun(pb.GetRunRequest(run_id=ids[-1]), timeout=5)
        fakes.paused["VerifyIdentity"].set()
        runs = [await finished(workflows, run_id) for run_id in ids]

    assert not waiting.run.steps
    assert {status(run) for run in runs} == {"SUCCEEDED"}
    assert {run.recoveries for run in runs} == {0}
    assert fakes.effects["SendPayment"] == 8


async def test_defect_in_one_run_ends_that_run_only(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    broken, sound = payment(), payment()
    failpoint.arm(
        f"engine.before_step_done/{broken.request_id}/verify_sender=error", network="regtest"
    )

    run, other = await asyncio.gather(pay(workflows, broken), pay(workflows, sound))

    assert status(run) == "NEEDS_ATTENTION"
    assert run.reason.startswith("internal error ")
    assert status(other) == "SUCCEEDED"


async def test_run_without_a_step_in_flight_ends_and_blocks_no_other(
    workflows: WorkflowServiceAsyncStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    stalled, sound = payment(), payment()

    def commands(state: RunState, policy: RetryPolicy) -> list[Command]:
        is_stalled = state.run_id == stalled.request_id
        return [] if is_stalled else transition.commands(state, policy)

    monkeypatch.setattr(run_actor, "commands", commands)

    run, other = await asyncio.gather(pay(workflows, stalled), pay(workflows, sound))

    assert status(run) == "NEEDS_ATTENTION"
    assert run.reason.startswith("internal error ")
    assert status(other) == "SUCCEEDED"


async def test_run_continues_after_its_caller_is_gone(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    request = payment()
    call = workflows.StartRun(request, timeout=5)
    await call.wait_for_connection()
    call.cancel()

    await workflows.StartRun(request, timeout=5)
    run = await finished(workflows, request.request_id)

    assert status(run) == "SUCCEEDED"
    await eventually(lambda: fakes.effects["SendPayment"] == 1)
