"""The time of the check grows with the size of the definition, and holds up no other request."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from anya.orchestrator.v1 import workflow_pb2 as pb
from services.orchestrator import definition
from services.orchestrator.definition.workflow import privileges

if TYPE_CHECKING:
    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub

IN_A_LIST = 90
SET: dict[str, Any] = {"set": {"x": 1}}
STEPS: dict[str, dict[str, Any]] = {
    "set": {"set": {"x": "{{steps.first.x}}"}},
    "unknown": {"set": {"x": "{{steps.missing.x}}"}},
    "caught": {
        "protocol": "web5",
        "operation": "resolve_did",
        "input_mapping": {"did": "d"},
        "output_mapping": {},
        "on_error": {},
    },
    "judged": {"condition": "{{input.x}} > 5 && {{input.y}} == 'a'", **SET},
}


def text_of(kind: str, count: int) -> str:
    """Returns a definition of so many steps, in branches of lists of allowed length."""
    listed = [{"id": f"s{at}", **STEPS[kind]} for at in range(count)]
    groups: list[dict[str, Any]] = []
    for at in range(0, count, IN_A_LIST):
        beside = [{"id": f"b{at}", **SET}]
        branches = {"a": listed[at : at + IN_A_LIST], "b": beside}
        groups.append({"id": f"g{at}", "parallel": {"branches": branches}})
    return json.dumps({"id": "e", "name": "e", "steps": [{"id": "first", **SET}, *groups]})


def cost(text: str) -> float:
    """Returns CPU seconds, the least of three measurements."""
    found = []
    for _ in range(3):
        began = time.process_time()
        definition.check(text)
        found.append(time.process_time() - began)
    return min(found)


@pytest.mark.parametrize("kind", STEPS)
def test_four_times_the_steps_take_at_most_seven_times_as_long(kind: str) -> None:
    count = 40 if kind == "judged" else 200

    assert cost(text_of(kind, 4 * count)) < 7 * cost(text_of(kind, count))


@pytest.mark.parametrize(
    "value",
    [
        "{{input" + ".a" * 60_000 + "}}",
        "{{steps.missing.x}}" * 8_000,
        "\\n{{steps.missing.x}}" * 3_000,
        "{{" * 60_000,
        [["x", {"y": [1, None, {"z": at}]}] for at in range(2_000)],
        {f"v{at}": at for at in range(8_000)},
    ],
    ids=lambda value: str(value)[:20],
)
def test_check_of_any_definition_takes_seconds_at_most(value: object) -> None:
    text = json.dumps({"id": "e", "name": "e", "steps": [{"id": "a", "set": {"x": value}}]})

    assert cost(text) < 3


def test_workflow_used_twice_is_visited_once() -> None:
    known, last = definition.operations(), ""
    for at in range(13):
        inside = {"workflow": last, "input_mapping": {}, "output_mapping": {}} if last else SET
        steps = [{"id": "a", **inside}, {"id": "b", **inside}]
        workflow = definition.load(json.dumps({"id": f"w{at}", "name": "w", "steps": steps}), known)
        known, last = known.with_workflow(workflow), workflow.id

    began = time.process_time()
    assert len(workflow.sub_workflow_hashes) == 12
    assert privileges(workflow) == frozenset()
    assert time.process_time() - began < 0.5


async def test_service_answers_while_large_definition_is_checked(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    registered = pb.RegisterWorkflowRequest(definition=text_of("judged", 300))
    call = asyncio.ensure_future(workflows.RegisterWorkflow(registered, timeout=60))
    began, waits = time.monotonic(), []

    while not call.done():
        asked = time.monotonic()
        await workflows.ListWorkflows(pb.ListWorkflowsRequest(), timeout=60)
        waits.append(time.monotonic() - asked)
    await call

    assert max(waits) < 0.4 * (time.monotonic() - began)
