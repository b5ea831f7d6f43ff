"""Runs that are larger than one gRPC message can still be shown and listed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from anya.orchestrator.v1 import workflow_pb2 as pb

if TYPE_CHECKING:
    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub

LARGE = "x" * 900_000  # characters; a record holds at most 1 MiB
COPIES: dict[str, object] = {
    "id": "copies",
    "name": "The same again and again",
    "steps": [{"id": "little", "set": {"a": 1}}]
    + [{"id": f"copy_{n}", "set": {"text": "{{input.text}}"}} for n in range(6)],
}
TELLING: dict[str, object] = {
    "id": "telling",
    "name": "Ends with a long reason",
    "steps": [{"id": "stop", "end": {"outcome": "succeeded", "reason": "{{input.text}}"}}],
}


async def run(workflows: WorkflowServiceAsyncStub, definition: dict[str, object], id_: str) -> None:
    text = json.dumps(definition)
    await workflows.RegisterWorkflow(pb.RegisterWorkflowRequest(definition=text), timeout=5)
    request = pb.StartRunRequest(request_id=id_, workflow_id=str(definition["id"]))
    request.input.update({"text": LARGE})
    request.wait.FromSeconds(20)
    started = await workflows.StartRun(request, timeout=30)
    assert started.status == pb.RUN_STATUS_SUCCEEDED


async def test_run_larger_than_a_message_is_shown_without_its_largest_outputs(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    await run(workflows, COPIES, "large")

    shown = (await workflows.GetRun(pb.GetRunRequest(run_id="large"), timeout=5)).run
    watch = workflows.WatchRun(pb.WatchRunRequest(run_id="large"), timeout=20)
    watched = [update.run async for update in watch]

    assert watched[-1] == shown
    little, *copies = shown.steps
    assert (little.omitted_bytes, little.output["a"]) == (0, 1)
    left_out = [step for step in copies if step.omitted_bytes]
    assert 0 < len(left_out) < len(copies)
    assert all(step.omitted_bytes > len(LARGE) and not step.output for step in left_out)


async def test_runs_with_long_reasons_can_be_listed(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    for n in range(5):
        await run(workflows, TELLING, f"long-{n}")

    listed = await workflows.ListRuns(pb.ListRunsRequest(), timeout=5)
    shown = await workflows.GetRun(pb.GetRunRequest(run_id="long-0"), timeout=5)

    assert len(listed.runs) == 5
    assert all(run.reason.endswith("...") for run in listed.runs)
    assert shown.run.reason == LARGE


async def test_output_nested_too_deep_for_a_reply_fails_its_step(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    deeper = "{{input.value}}"
    steps: list[dict[str, object]] = []
    for n in range(6):
        steps.append({"id": f"nest_{n}", "set": {"value": {"b": [deeper]}}})
        deeper = f"{{{{steps.nest_{n}.value}}}}"
    definition = json.dumps({"id": "nesting", "name": "Ever deeper", "steps": steps})
    await workflows.RegisterWorkflow(pb.RegisterWorkflowRequest(definition=definition), timeout=5)
    request = pb.StartRunRequest(request_id="deep", workflow_id="nesting")
    request.input.update({"value": json.loads('{"a":' * 23 + "1" + "}" * 23)})
    request.wait.FromSeconds(20)

    ended = (await workflows.StartRun(request, timeout=30)).run

    shown = (await workflows.GetRun(pb.GetRunRequest(run_id="deep"), timeout=5)).run
    assert shown == ended
    assert [pb.StepStatus.Name(step.status)[12:] for step in shown.steps] == [
        *["SUCCEEDED"] * 3,
        "FAILED",
    ]
    assert shown.reason == "input of nest_3: nested 33 levels deep; a record holds 32"
