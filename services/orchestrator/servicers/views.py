"""Runs and definitions as WorkflowService shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.timestamp_pb2 import Timestamp

from anya.orchestrator.v1 import workflow_pb2 as pb
from mesh.errors import InvalidArgument
from services.orchestrator.definition import values
from services.orchestrator.engine.outcome import cause
from services.orchestrator.worker.run_spans import trace_id_of

RUN_VIEWS = frozenset(pb.RunView.values())
# By dict: a look-up by the enum's own wrapper costs more than the rest of what is shown of a step.
RUN_STATUSES = dict(pb.RunStatus.items())
STEP_STATUSES = dict(pb.StepStatus.items())
SECOND = 1_000_000  # microseconds

MAX_LISTED_REASON = 500  # characters
MAX_RUN = 7 << 19  # bytes: clients take 4 MiB unless they say otherwise

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.orchestrator.engine.activations import DecisionReceived
    from services.orchestrator.engine.model import Redrive, RunState, StepError, StepState
    from services.orchestrator.store.definitions import StoredDefinition
    from services.orchestrator.store.run_query import RunRow


def format_workflow(definition: StoredDefinition) -> pb.Workflow:
    return pb.Workflow(
        workflow_id=definition.workflow_id,
        name=definition.name,
        definition_hash=definition.hash,
        definition=definition.body,
        registered=time(definition.registered_us),
    )


def format_row(row: RunRow) -> pb.Run:
    """A run without its input and steps."""
    run = pb.Run(
        run_id=row.id,
        workflow_id=row.workflow_id,
        definition_hash=row.definition_hash,
        status=run_status(row.status),
        reason=_shortened(row.reason),
        trace_id=trace_id_of(row.traceparent),
        created=time(row.created_us),
        updated=time(row.updated_us),
        starter=row.starter,
    )
    if row.finished_us is not None:
        run.finished.CopyFrom(time(row.finished_us))
    return run


def read_view(asked: pb.RunView.ValueType, *, watches: bool = False) -> pb.RunView.ValueType:
    """The full one unless another is asked for. InvalidArgument for one that there is not."""
    if asked == pb.RUN_VIEW_CHANGES and not watches:
        raise InvalidArgument("RUN_VIEW_CHANGES is for WatchRun alone", field="view")
    if asked not in RUN_VIEWS:
        raise InvalidArgument(f"no run view {asked}", field="view")
    return asked or pb.RUN_VIEW_FULL


def format_run(row: RunRow, state: RunState, asked: pb.RunView.ValueType) -> pb.Run:
    """The run as ``state`` has it, which may be older than the row."""
    return format_state(state, trace_id_of(row.traceparent), asked)


def format_state(state: RunState, trace_id: str, asked: pb.RunView.ValueType) -> pb.Run:
    run = _basic(state, trace_id)
    if asked == pb.RUN_VIEW_FULL:
        run.steps.extend(_step(step) for step in state.steps.values())
        values.fill_struct(run.input, state.input)
        _make_it_fit(run)
    return run


def format_changes(state: RunState, trace_id: str, paths: Iterable[str]) -> pb.Run:
    """The run without its input, and with those of its steps alone that are named."""
    run = _basic(state, trace_id)
    run.steps.extend(_step(state.steps[path]) for path in paths if path in state.steps)
    _make_it_fit(run)
    return run


def _basic(state: RunState, trace_id: str) -> pb.Run:
    run = pb.Run(
        run_id=state.run_id,
        workflow_id=state.workflow_id,
        definition_hash=state.definition_hash,
        status=run_status(state.status),
        reason=state.reason,
        cause=cause(state),
        trace_id=trace_id,
        created=time(state.created_us),
        updated=time(state.updated_us),
        starter=state.started_by,
        recoveries=state.recoveries,
        redrives=[_redrive(redrive) for redrive in state.redrives],
    )
    if state.finished:
        run.finished.CopyFrom(time(state.finished_us))
    if state.erased_us:
        run.erased.CopyFrom(time(state.erased_us))
    return run


def _make_it_fit(run: pb.Run) -> None:
    """Leave out what steps hold, the largest first, until the run fits into one message."""
    too_much = run.ByteSize() - MAX_RUN
    if too_much <= 0:
        return
    sizes = [(step.output.ByteSize() + step.condition.operands.ByteSize()) for step in run.steps]
    for size, step in sorted(zip(sizes, run.steps, strict=True), key=lambda pair: -pair[0]):
        if too_much <= 0:
            return
        step.ClearField("output")
        if step.HasField("condition"):
            step.condition.ClearField("operands")
        step.omitted_bytes = size
        too_much -= size


def _shortened(reason: str) -> str:
    return reason if len(reason) <= MAX_LISTED_REASON else f"{reason[:MAX_LISTED_REASON]}..."


def run_status(status: str) -> pb.RunStatus.ValueType:
    return RUN_STATUSES[f"RUN_STATUS_{status}"]


def status_name(status: pb.RunStatus.ValueType) -> str:
    """``"RUNNING"``; empty for the unspecified one."""
    return pb.RunStatus.Name(status).removeprefix("RUN_STATUS_") if status else ""


def _redrive(redrive: Redrive) -> pb.Redrive:
    return pb.Redrive(
        by=redrive.requester,
        reason=redrive.reason,
        at=time(redrive.at_us),
        ended=run_status(redrive.previous_status),
    )


def _step(step: StepState) -> pb.Step:
    formatted = pb.Step(
        path=step.path,
        protocol=step.protocol,
        operation=step.operation,
        status=STEP_STATUSES[f"STEP_STATUS_{step.status}"],
        attempts=step.attempt,
        started=time(step.started_us),
        payment_id=step.payment,
    )
    values.fill_struct(formatted.output, {**step.output, "_output": step.reply})
    if step.finished_us:
        formatted.finished.CopyFrom(time(step.finished_us))
    if step.condition is not None:
        formatted.condition.CopyFrom(format_condition(step.condition))
    if step.error is not None:
        formatted.error.CopyFrom(format_error(step.error))
    if "asked" in step.input:
        formatted.approval.CopyFrom(_approval(step))
    return formatted


def _approval(step: StepState) -> pb.Approval:
    asked = step.input["asked"]
    approval = pb.Approval(
        digest=bytes.fromhex(step.input["digest"]),
        approvers=asked["approvers"],
        quorum=asked["quorum"],
        expires=time(step.until_us),
    )
    values.fill_struct(approval.asked, asked)
    for approver, said in step.decisions.items():
        approval.decisions.add(
            approver=approver, approves=said.approved, approval=said.jws, decided=time(said.at_us)
        )
    return approval


def format_approved(approved: DecisionReceived) -> bytes:
    """For the inbox, which outlives the erasure of a run: not by whom."""
    return pb.ApproveRunResponse(approves=approved.approved).SerializeToString()


def format_condition(judged: dict[str, Any]) -> pb.Condition:
    condition = pb.Condition(expression=judged["expression"], verdict=judged["verdict"])
    values.fill_struct(condition.operands, judged["operands"])
    return condition


def format_error(error: StepError) -> pb.StepError:
    return pb.StepError(code=error.code, reason=error.reason, message=error.message)


def time(us: int) -> Timestamp:
    return Timestamp(seconds=us // SECOND, nanos=us % SECOND * 1000)


def time_of_ms(ms: int | None) -> Timestamp | None:
    return None if ms is None else time(ms * 1000)
