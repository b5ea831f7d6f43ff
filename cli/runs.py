"""Runs of workflows: started, followed until they end, and put into words."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.struct_pb2 import Struct

from anya.orchestrator.v1 import workflow_pb2 as pb
from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceStub
from cli import resumption
from cli.errors import FAILED, OK, REFUSED, usage
from cli.paging import pages
from services.orchestrator.definition import values

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from anya.mesh.v1.attestation_pb2 import PaymentIntent
    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from cli.connection import Channels

ENDED = frozenset(
    {
        pb.RUN_STATUS_SUCCEEDED,
        pb.RUN_STATUS_REFUSED,
        pb.RUN_STATUS_FAILED,
        pb.RUN_STATUS_COMPENSATED,
        pb.RUN_STATUS_COMPENSATION_FAILED,
        pb.RUN_STATUS_CANCELLED,
        pb.RUN_STATUS_NEEDS_ATTENTION,
    }
)
MARKS = {
    pb.STEP_STATUS_SUCCEEDED: "✓",
    pb.STEP_STATUS_SKIPPED: "·",
    pb.STEP_STATUS_FAILED: "✗",
    pb.STEP_STATUS_UNCERTAIN: "?",
}


async def start(
    channels: Channels,
    workflow_id: str,
    value: Mapping[str, Any],
    *,
    run_id: str = "",
    intent: PaymentIntent | None = None,
    presentation: str = "",
    payments: Sequence[pb.ProvenPayment] = (),
) -> pb.StartRunResponse:
    """Starts a run; the same ``run_id`` again is the same run.

    ``payments``: for a workflow whose input names them, instead of intent and presentation.
    """
    document = Struct()
    document.update(value)
    request = pb.StartRunRequest(
        request_id=run_id or str(uuid.uuid4()),
        workflow_id=workflow_id,
        input=document,
        intent=intent,
        presentation=presentation,
        payments=payments,
    )
    return await _stub(channels).StartRun(request)


async def signal(
    channels: Channels,
    run_id: str,
    name: str,
    payload: Mapping[str, Any],
    *,
    correlation: str = "",
    request_id: str = "",
) -> None:
    """Sends a signal to a run; the same ``request_id`` again is the same signal."""
    document = Struct()
    document.update(payload)
    request = pb.SignalRunRequest(
        request_id=request_id or str(uuid.uuid4()),
        run_id=run_id,
        signal=name,
        payload=document,
        correlation_id=correlation,
    )
    await _stub(channels).SignalRun(request)


async def cancel(channels: Channels, run_id: str, *, reason: str = "") -> None:
    request = pb.CancelRunRequest(request_id=str(uuid.uuid4()), run_id=run_id, reason=reason)
    await _stub(channels).CancelRun(request)


async def redrive(
    channels: Channels, run_id: str, *, reason: str = "", request_id: str = ""
) -> None:
    """Redrives an ended run; the same ``request_id`` again is the same redrive."""
    request = pb.RedriveRunRequest(
        request_id=request_id or str(uuid.uuid4()), run_id=run_id, reason=reason
    )
    await _stub(channels).RedriveRun(request)


async def get(channels: Channels, run_id: str) -> pb.Run:
    return (await _stub(channels).GetRun(pb.GetRunRequest(run_id=run_id))).run


async def erase(channels: Channels, run_id: str) -> pb.EraseRunResponse:
    """Erases personal data from the run's records; a repetition changes nothing."""
    request = pb.EraseRunRequest(request_id=str(uuid.uuid4()), run_id=run_id)
    return await _stub(channels).EraseRun(request)


class RunFollower:
    """Assembles a run from the changes of a watch, which costs less than whole runs."""

    def __init__(self) -> None:
        self._last = self._whole = pb.Run()
        self._steps: dict[str, pb.Step] = {}

    def apply(self, update: pb.WatchRunResponse) -> None:
        self._last = update.run
        if update.view != pb.RUN_VIEW_CHANGES:
            self._whole = update.run
            self._steps.clear()
        self._steps.update((step.path, step) for step in update.run.steps)

    @property
    def run(self) -> pb.Run:
        """The whole run, as the last update left it."""
        run = pb.Run()
        run.CopyFrom(self._last)
        run.input.CopyFrom(self._whole.input)
        del run.steps[:]
        run.steps.extend(self._steps.values())
        return run


async def watch(channels: Channels, run_id: str) -> AsyncIterator[pb.WatchRunResponse]:
    """Yields the changes of a run until it ends, also across a crash of the orchestrator."""
    stub = _stub(channels)

    def open_after(sequence: int) -> Any:
        request = pb.WatchRunRequest(
            run_id=run_id, after_sequence=sequence, view=pb.RUN_VIEW_CHANGES
        )
        return stub.WatchRun(request, timeout=resumption.STREAM_TIMEOUT_S)

    async for update in resumption.resumed(open_after):
        yield update


async def finish(
    channels: Channels, run_id: str, on_line: Callable[[str], None] | None = None
) -> pb.Run:
    """Returns the run once it has ended; ``on_line`` gets each new or changed line of it."""
    follower, printed = RunFollower(), set[str]()
    async for update in watch(channels, run_id):
        follower.apply(update)
        if on_line is not None:
            new = [line for line in lines(update.run) if line not in printed]
            printed.update(new)
            for line in new:
                on_line(line)
    return follower.run


async def register(channels: Channels, definition: str) -> pb.RegisterWorkflowResponse:
    request = pb.RegisterWorkflowRequest(definition=definition)
    return await _stub(channels).RegisterWorkflow(request)


async def workflows(channels: Channels) -> list[pb.Workflow]:
    """Returns the newest definition of every workflow."""
    replies = pages(_stub(channels).ListWorkflows, pb.ListWorkflowsRequest())
    return [workflow async for reply in replies for workflow in reply.workflows]


def read_input(text: str) -> dict[str, Any]:
    """Parses a run's input: a JSON object, or @ and the path of a file that holds one."""
    try:
        raw = Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text
        value = json.loads(raw)
        levels = values.depth(value)
    except (OSError, ValueError, RecursionError) as error:
        raise usage(f"the input cannot be read: {error}") from None
    if levels > values.MAX_GIVEN_DEPTH:
        raise usage(f"the input is nested deeper than {values.MAX_GIVEN_DEPTH} levels")
    if not isinstance(value, dict):
        raise usage("the input must be a JSON object")
    try:
        Struct().update(value)
    except (ValueError, OverflowError) as error:  # half a character, or a number beyond all
        raise usage(f"the input cannot be sent: {error}") from None
    return value


def _stub(channels: Channels) -> WorkflowServiceAsyncStub:
    return WorkflowServiceStub(channels["orchestrator"])


def status_word(status: pb.RunStatus.ValueType) -> str:
    """Returns the status without its prefix: "SUCCEEDED"."""
    return pb.RunStatus.Name(status).removeprefix("RUN_STATUS_")


def exit_code(status: pb.RunStatus.ValueType) -> int:
    match status:
        case pb.RUN_STATUS_SUCCEEDED:
            return OK
        case pb.RUN_STATUS_REFUSED:
            return REFUSED
        case _:
            return FAILED if status in ENDED else OK


def lines(run: pb.Run) -> list[str]:
    """Returns lines for people: steps, false conditions and the reason of the end."""
    found = [f"{run.run_id}  {run.workflow_id}  {status_word(run.status)}  trace {run.trace_id}"]
    for step in run.steps:
        what = f"{step.protocol} {step.operation}".strip()
        line = f"  {MARKS.get(step.status, '…')} {step.path}: {what}"
        if step.attempts > 1:
            line += f", {step.attempts} attempts"
        if step.HasField("condition") and not step.condition.verdict:
            line += f", not because {step.condition.expression} is false"
        if step.HasField("error"):
            words = (step.error.reason or step.error.code, step.error.message)
            line += f", {': '.join(filter(None, words))}"
        if step.payment_id:
            line += f", payment {step.payment_id}"
        found.append(line)
        if step.HasField("approval"):
            found += [f"      {text}" for text in approval_lines(step.approval)]
    for again in run.redrives:
        text = f": {again.reason}" if again.reason else ""
        found.append(
            f"  redriven after {status_word(again.previous_status)} by {again.requester}{text}"
        )
    if why := run.reason or run.public_reason:
        found.append(f"  because: {why}")
    if run.HasField("erase_time"):
        found.append(f"  erased: {run.erase_time.ToJsonString()}")
    return found


def approval_lines(approval: pb.Approval) -> list[str]:
    """Returns lines for people: the question, the quorum, the deadline and the decisions."""
    asked = values.from_struct(approval.asked)
    found = [f"asks: {asked['text']}"]
    found += [f"  {name}: {json.dumps(value)}" for name, value in asked["values"].items()]
    until = approval.expire_time.ToDatetime()
    found.append(
        f"{approval.quorum} of {len(approval.approvers)} must approve until {until:%Y-%m-%d %H:%M}Z"
    )
    for decision in approval.decisions:
        mark, word = ("✓", "approved") if decision.approved else ("✗", "rejected")
        found.append(f"{mark} {decision.approver} {word}")
    decided = {decision.approver for decision in approval.decisions}
    found += [f"… {approver}" for approver in approval.approvers if approver not in decided]
    return found
