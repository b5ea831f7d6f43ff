"""The reference of the workflow language is true: every example in it is registered and run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest

from anya.orchestrator.v1 import workflow_pb2 as pb
from anya.web5.v1.record_pb2 import StoreTransactionRecordRequest as Stored
from cli.wallet_holder import Holder
from mesh.errors import NotFound, Unavailable
from services.orchestrator import definition
from services.orchestrator.definition import values
from services.orchestrator.definition.schema import schema, schema_text
from tests.orchestrator.definition.definitions import seed
from tests.orchestrator.multi_payment import batch_of, intent, request
from tests.orchestrator.payment_requests import finished, pay, status, statuses, uuid7
from tests.orchestrator.signals import await_status

if TYPE_CHECKING:
    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from tests.orchestrator.fake_services import FakeServices

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "workflow-language.md").read_text()
EXAMPLES = {
    definition.read(text).value["id"]: text
    for text in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
}
KNOWN = definition.operations().with_workflow(definition.load(EXAMPLES["greeting"]))
WHO = {"did": "did:key:z6Mk"}

# For each example: its input, how its run ends, and outputs of its steps.
RUNS: list[tuple[str, dict[str, Any], str, dict[str, dict[str, Any]]]] = [
    ("look_up", WHO, "SUCCEEDED", {"resolved": {"document": {"id": WHO["did"]}}}),
    ("conditions", {"amount": 5}, "SUCCEEDED", {"large": {"word": None}}),
    ("conditions", {"amount": 5000}, "SUCCEEDED", {"large": {"word": "large"}}),
    ("maybe", WHO | {"amount": 5}, "SUCCEEDED", {"result": {"document": None}}),
    ("maybe", WHO | {"amount": 7}, "SUCCEEDED", {"named": WHO}),
    ("calls", WHO, "SUCCEEDED", {"result": {"note": None}}),
    (
        "values",
        {"name": "x"},
        "SUCCEEDED",
        {"text": {"greeting": "to x", "both": {"name": "x", "numbers": [1, 2.5, True, None]}}},
    ),
    ("cases", {"amount": 5}, "SUCCEEDED", {"fee": {"small": 1, "large": None}}),
    ("cases", {"amount": 5000}, "SUCCEEDED", {"fee": {"small": None, "large": None}}),
    ("cases", {"amount": 500_000}, "SUCCEEDED", {"fee": {"small": None, "large": 100}}),
    ("waits", {"when": "2026-01-31T12:00:00Z"}, "SUCCEEDED", {}),
    ("side_by_side", WHO, "SUCCEEDED", {"result": {"first": "quick"}}),
    ("for_all", {"dids": ["a", "b"]}, "SUCCEEDED", {"result": {"failed": 0}}),
    ("approval", {"order": "7"}, "SUCCEEDED", {"result": {"by": "Ada"}}),
    ("greeting", {"name": "Ada"}, "SUCCEEDED", {"result": {"text": "to Ada"}}),
    ("greeting", {"name": "x"}, "REFUSED", {}),
    (
        "inside",
        {"name": "Ada"},
        "SUCCEEDED",
        {"result": {"first": "to Ada", "second": "FAILED_PRECONDITION"}},
    ),
    (
        "rows",
        {"rows": [["a"], ["b", "c"]]},
        "SUCCEEDED",
        {
            "each_row": {
                "results": [
                    {"cells": [{"place": "0/0", "value": "a"}]},
                    {"cells": [{"place": "1/0", "value": "b"}, {"place": "1/1", "value": "c"}]},
                ]
            }
        },
    ),
    ("early", {"amount": 5}, "REFUSED", {}),
    ("early", {"amount": 5000}, "SUCCEEDED", {"more": {"amount": 5000}}),
    ("saga", {"did": "d", "amount": 5}, "COMPENSATED", {}),
    ("saga", {"did": "d", "amount": 5000}, "SUCCEEDED", {}),
]


@pytest.mark.parametrize(("id", "given", "end", "outputs"), RUNS, ids=lambda value: str(value)[:24])
async def test_example_runs_to_stated_end(
    workflows: WorkflowServiceAsyncStub,
    id: str,
    given: dict[str, Any],
    end: str,
    outputs: dict[str, dict[str, Any]],
) -> None:
    for text in (EXAMPLES["greeting"], EXAMPLES[id]):
        registered = pb.RegisterWorkflowRequest(definition=text)
        await workflows.RegisterWorkflow(registered, timeout=5)

    run = await run_of(workflows, id, given)

    assert status(run) == end, run.reason
    for step in run.steps:
        found = values.from_struct(step.output)
        assert found | outputs.get(step.path, {}) == found


async def test_example_catches_error_of_call(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    registered = pb.RegisterWorkflowRequest(definition=EXAMPLES["calls"])
    await workflows.RegisterWorkflow(registered, timeout=5)
    fakes.errors_before["ResolveDid"] += [Unavailable("gone")] * 3

    run = await run_of(workflows, "calls", WHO)

    assert status(run) == "SUCCEEDED"
    assert statuses(run)["resolved"] == "FAILED"
    assert run.steps[-1].output["note"] == "not resolved: UNAVAILABLE"
    assert len(fakes.requests("ResolveDid")) == 3


async def test_example_continues_after_failure_inside_step(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    registered = pb.RegisterWorkflowRequest(definition=EXAMPLES["caught"])
    await workflows.RegisterWorkflow(registered, timeout=5)
    fakes.errors_before["ResolveDid"] += [NotFound("no such DID")]

    run = await run_of(workflows, "caught", WHO)

    assert status(run) == "SUCCEEDED"
    assert statuses(run)["both"] == "FAILED"
    assert statuses(run)["both/answer"] == "SKIPPED"
    assert run.steps[-1].output["note"] == "continued without: NOT_FOUND"


@pytest.mark.parametrize(("rejects", "why_not"), [(1, None), (2, "APPROVAL_REJECTED")])
async def test_example_asks_three_approvers_and_needs_two(
    workflows: WorkflowServiceAsyncStub, rejects: int, why_not: str | None
) -> None:
    registered = pb.RegisterWorkflowRequest(definition=EXAMPLES["four_eyes"])
    await workflows.RegisterWorkflow(registered, timeout=5)
    people = [Holder.generate() for _ in range(3)]
    given = {"approvers": [one.did for one in people], "amount": 5, "to": "bcrt1"}
    run_id = await start(workflows, "four_eyes", given)
    await await_status(workflows, run_id, "WAITING")
    run = (await workflows.GetRun(pb.GetRunRequest(run_id=run_id), timeout=5)).run
    digest = run.steps[0].approval.digest

    for number, one in enumerate(people[: 3 if rejects == 1 else 2]):
        signed = one.approve(
            run_id=run_id, step="agreed", digest=digest, approved=number >= rejects
        )
        request = pb.ApproveRunRequest(
            request_id=uuid7(), run_id=run_id, step="agreed", approval=signed
        )
        await workflows.ApproveRun(request, timeout=5)

    result = values.from_struct((await finished(workflows, run_id)).steps[-1].output)
    assert result["why_not"] == why_not
    assert result["by"] == (None if why_not else [people[1].did, people[2].did])


async def test_example_receives_event_of_other_example(workflows: WorkflowServiceAsyncStub) -> None:
    for id in ("pays", "listens"):
        registered = pb.RegisterWorkflowRequest(definition=EXAMPLES[id])
        await workflows.RegisterWorkflow(registered, timeout=5)
    run_id = await start(workflows, "listens", {"order": "7"})
    await await_status(workflows, run_id, "WAITING")

    await run_of(workflows, "pays", {"order": "8", "amount": 4})
    await run_of(workflows, "pays", {"order": "7", "amount": 5})

    result = values.from_struct((await finished(workflows, run_id)).steps[-1].output)
    assert result == {"by": "order.paid", "with": {"amount": 5}, "_output": None}


async def test_example_makes_each_payment_of_list(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    registered = pb.RegisterWorkflowRequest(definition=EXAMPLES["payouts"])
    await workflows.RegisterWorkflow(registered, timeout=5)
    intents = [intent(1000), intent(2000)]

    run = await pay(workflows, request("payouts", batch_of(*intents), *intents))

    assert status(run) == "SUCCEEDED", run.reason
    results = values.from_struct(run.steps[0].output)["results"]
    assert [one["payment_id"] for one in results] == [one.payment_id for one in intents]
    assert fakes.sent == {one.payment_id for one in intents}


async def test_saga_compensates_once_with_its_own_key(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    registered = pb.RegisterWorkflowRequest(definition=EXAMPLES["saga"])
    await workflows.RegisterWorkflow(registered, timeout=5)

    run = await run_of(workflows, "saga", {"did": "d", "amount": 5})

    stored = fakes.requests("StoreTransactionRecord")
    keys = [request.request_id for request in stored if isinstance(request, Stored)]
    assert keys == [f"{run.run_id}/keep/0", f"{run.run_id}/keep/compensate/0"]


def test_every_example_is_run() -> None:
    own = {"caught", "four_eyes", "pays", "listens", "payouts"}
    assert EXAMPLES.keys() == {id for id, *_ in RUNS} | own


def test_published_schema_is_up_to_date() -> None:
    assert (DOCS / "workflow.schema.json").read_text() == schema_text()


@pytest.mark.parametrize("id", EXAMPLES)
def test_schema_accepts_examples_that_check_accepts(id: str) -> None:
    document = definition.read(EXAMPLES[id]).value

    assert definition.check(EXAMPLES[id], KNOWN) == []
    jsonschema_rs.validate(schema(), document)
    jsonschema_rs.validate(schema(), seed())


@pytest.mark.parametrize(
    ("id", "was", "is_"),
    [
        ("look_up", "deadline: 10m", "deadline: soon"),
        ("look_up", "id: resolved", "id: Resolved"),
        ("calls", "max_attempts: 3", "max_attempts: 0"),
        ("calls", "jitter: 0.5", "jitter: 2"),
        ("calls", "timeout: 20s", "timeouts: 20s"),
        ("calls", "errors: [UNAVAILABLE]", "errors: [unavailable]"),
        ("waits", "duration: 20ms", "duration: 20ms, until: x"),
        ("side_by_side", "wait_for: first", "wait_for: second"),
        ("side_by_side", "max_concurrency: 2", "max_concurrency: 65"),
        ("for_all", "on_item_error: continue", "on_item_error: stop"),
        ("early", "outcome: refused", "outcome: unsure"),
        ("pays", "type: order.paid", "type: Order.Paid"),
        ("pays", "type: order.paid", "type: orchestrator.run.started"),
        ("listens", "{event: order.paid}", "{events: order.paid}"),
        ("listens", "any: [give_up, {event: order.paid}]", "event: order paid"),
        ("four_eyes", "quorum: 2", "quorum: 0"),
        ("four_eyes", "quorum: 2", "quorum: 33"),
        ("four_eyes", "      approvers: ", "      approver: "),
        ("inside", "workflow: greeting", "workflow: Greeting"),
        ("inside", "on_error: {errors", "on_errors: {errors"),
        ("values", "set:", "on_error: {}\n    set:"),
        ("saga", "compensate:", "compensates:"),
    ],
)
def test_check_and_schema_refuse_same_broken_examples(id: str, was: str, is_: str) -> None:
    text = EXAMPLES[id].replace(was, is_, 1)

    assert definition.check(text, KNOWN)
    assert not jsonschema_rs.is_valid(schema(), definition.read(text).value)


async def start(workflows: WorkflowServiceAsyncStub, id: str, given: dict[str, Any]) -> str:
    request = pb.StartRunRequest(request_id=uuid7(), workflow_id=id)
    values.fill_struct(request.input, json.loads(json.dumps(given)))
    await workflows.StartRun(request, timeout=5)
    return request.request_id


async def run_of(workflows: WorkflowServiceAsyncStub, id: str, given: dict[str, Any]) -> pb.Run:
    run_id = await start(workflows, id, given)
    if id == "approval":
        signal = pb.SignalRunRequest(
            request_id="s", run_id=run_id, signal="approved", correlation_id="7"
        )
        signal.payload.update({"by": "Ada"})
        await workflows.SignalRun(signal, timeout=5)
    return await finished(workflows, run_id)
