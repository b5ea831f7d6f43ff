"""Formats workflows, runs and payments as the contracts define them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.timestamp_pb2 import Timestamp

from anya.mesh.v1.attestation_pb2 import PaymentIntent
from anya.orchestrator.v1 import payment_pb2
from anya.orchestrator.v1 import workflow_pb2 as pb
from mesh.errors import InvalidArgument
from services.orchestrator.definition import values
from services.orchestrator.definition.workflow import Effect
from services.orchestrator.engine.model import StepError, StepStatus
from services.orchestrator.engine.outcome import public_reason
from services.orchestrator.worker.run_spans import trace_id_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anya.bitcoin.v1 import wallet_pb2
    from services.orchestrator.engine.activations import DecisionReceived
    from services.orchestrator.engine.model import Redrive, RunState, StepState
    from services.orchestrator.store.definitions import StoredDefinition
    from services.orchestrator.store.run_query import RunRow

RUN_VIEWS = frozenset(pb.RunView.values())
# Dicts: a look-up by the enum wrapper costs more than the rest of a step.
RUN_STATUSES = dict(pb.RunStatus.items())
STEP_STATUSES = dict(pb.StepStatus.items())
SECOND_US = 1_000_000
MAX_LISTED_REASON_CHARS = 500
MAX_RUN_BYTES = 7 << 19  # gRPC clients accept 4 MiB by default

# Operations whose replies a payment shows, whatever a workflow calls the step.
IDENTITY = "verify_identity"
RISK = "score_fraud_risk"
RECORD = "store_transaction_record"


def format_workflow(definition: StoredDefinition) -> pb.Workflow:
    return pb.Workflow(
        workflow_id=definition.workflow_id,
        name=definition.name,
        definition_hash=definition.hash,
        definition=definition.body,
        register_time=time(definition.registered_us),
    )


def format_row(row: RunRow) -> pb.Run:
    """Formats a listed run, without its input and steps."""
    run = pb.Run(
        run_id=row.id,
        workflow_id=row.workflow_id,
        definition_hash=row.definition_hash,
        status=run_status(row.status),
        reason=_shortened(row.reason),
        trace_id=trace_id_of(row.traceparent),
        create_time=time(row.created_us),
        update_time=time(row.updated_us),
        creator=row.started_by,
    )
    if row.finished_us is not None:
        run.end_time.CopyFrom(time(row.finished_us))
    return run


def read_view(view: pb.RunView.ValueType, *, watches: bool = False) -> pb.RunView.ValueType:
    """Returns the requested view, by default the full one.

    Raises InvalidArgument for an unknown view, or one that only ``watches`` offer.
    """
    if view == pb.RUN_VIEW_CHANGES and not watches:
        raise InvalidArgument("RUN_VIEW_CHANGES is for WatchRun only", field="view")
    if view not in RUN_VIEWS:
        raise InvalidArgument(f"no run view {view}", field="view")
    return view or pb.RUN_VIEW_FULL


def format_run(row: RunRow, state: RunState, view: pb.RunView.ValueType) -> pb.Run:
    """Formats the run from ``state``, which may be older than the row."""
    return format_state(state, trace_id_of(row.traceparent), view)


def format_state(state: RunState, trace_id: str, view: pb.RunView.ValueType) -> pb.Run:
    run = _basic(state, trace_id)
    if view == pb.RUN_VIEW_FULL:
        run.steps.extend(_step(step) for step in state.steps.values())
        values.fill_struct(run.input, state.input)
        _fit(run)
    return run


def format_changes(state: RunState, trace_id: str, paths: Iterable[str]) -> pb.Run:
    """Formats the run without its input, and only with the steps at ``paths``."""
    run = _basic(state, trace_id)
    run.steps.extend(_step(state.steps[path]) for path in paths if path in state.steps)
    _fit(run)
    return run


def _basic(state: RunState, trace_id: str) -> pb.Run:
    run = pb.Run(
        run_id=state.run_id,
        workflow_id=state.workflow_id,
        definition_hash=state.definition_hash,
        status=run_status(state.status),
        reason=state.reason,
        public_reason=public_reason(state),
        trace_id=trace_id,
        create_time=time(state.created_us),
        update_time=time(state.updated_us),
        creator=state.started_by,
        recoveries=state.recoveries,
        redrives=[_redrive(redrive) for redrive in state.redrives],
    )
    if state.finished:
        run.end_time.CopyFrom(time(state.finished_us))
    if state.erased_us:
        run.erase_time.CopyFrom(time(state.erased_us))
    return run


def _fit(run: pb.Run) -> None:
    """Removes outputs and operands of steps, the largest first, until the run fits one message."""
    excess = run.ByteSize() - MAX_RUN_BYTES
    if excess <= 0:
        return
    sizes = [(step.output.ByteSize() + step.condition.operands.ByteSize()) for step in run.steps]
    for size, step in sorted(zip(sizes, run.steps, strict=True), key=lambda pair: -pair[0]):
        if excess <= 0:
            return
        step.ClearField("output")
        if step.HasField("condition"):
            step.condition.ClearField("operands")
        step.omitted_bytes = size
        excess -= size


def _shortened(reason: str) -> str:
    return (
        reason
        if len(reason) <= MAX_LISTED_REASON_CHARS
        else f"{reason[:MAX_LISTED_REASON_CHARS]}..."
    )


def run_status(status: str) -> pb.RunStatus.ValueType:
    return RUN_STATUSES[f"RUN_STATUS_{status}"]


def status_name(status: pb.RunStatus.ValueType) -> str:
    """Returns the name without its prefix, as ``"RUNNING"``; empty if unspecified."""
    return pb.RunStatus.Name(status).removeprefix("RUN_STATUS_") if status else ""


def _redrive(redrive: Redrive) -> pb.Redrive:
    return pb.Redrive(
        requester=redrive.requester,
        reason=redrive.reason,
        redrive_time=time(redrive.at_us),
        previous_status=run_status(redrive.previous_status),
    )


def _step(step: StepState) -> pb.Step:
    formatted = pb.Step(
        path=step.path,
        protocol=step.protocol,
        operation=step.operation,
        status=STEP_STATUSES[f"STEP_STATUS_{step.status}"],
        attempts=step.attempt,
        start_time=time(step.started_us),
        payment_id=step.payment,
    )
    values.fill_struct(formatted.output, {**step.output, "_output": step.reply})
    if step.finished_us:
        formatted.end_time.CopyFrom(time(step.finished_us))
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
        expire_time=time(step.until_us),
    )
    values.fill_struct(approval.asked, asked)
    for approver, decision in step.decisions.items():
        approval.decisions.add(
            approver=approver,
            approved=decision.approved,
            approval=decision.jws,
            decide_time=time(decision.at_us),
        )
    return approval


def format_approved(approved: DecisionReceived) -> bytes:
    """Formats the stored reply, which outlives the erasure of a run: it names no approver."""
    return pb.ApproveRunResponse(approved=approved.approved).SerializeToString()


def format_condition(evaluated: dict[str, Any]) -> pb.Condition:
    condition = pb.Condition(expression=evaluated["expression"], verdict=evaluated["verdict"])
    values.fill_struct(condition.operands, evaluated["operands"])
    return condition


def format_error(error: StepError) -> pb.StepError:
    return pb.StepError(code=error.code, reason=error.reason, message=error.message)


def time(us: int) -> Timestamp:
    return Timestamp(seconds=us // SECOND_US, nanos=us % SECOND_US * 1000)


def time_of_ms(ms: int | None) -> Timestamp | None:
    return None if ms is None else time(ms * 1000)


def format_payment(state: RunState, payment_id: str, trace_id: str) -> payment_pb2.Payment:
    """Formats what the run knows of the payment, without an answer of bitcoin."""
    payment = payment_pb2.Payment(
        payment_id=payment_id,
        run_id=state.run_id,
        run_status=run_status(state.status),
        reason=state.reason,
        step=_current(state, payment_id),
        intent=intent_of(state, payment_id),
        trace_id=trace_id,
        recoveries=state.recoveries,
        create_time=time(state.created_us),
        update_time=time(state.updated_us),
    )
    for step in _steps_of(state, payment_id, state.steps.values()):
        _add_findings(payment, step)
    return payment


def add_answer(
    payment: payment_pb2.Payment, answer: wallet_pb2.Payment | StepError | None
) -> payment_pb2.Payment:
    """Adds the answer of bitcoin, which takes precedence over the records of the run."""
    match answer:
        case None:
            payment.bitcoin_answer = payment_pb2.BITCOIN_ANSWER_NOT_FOUND
        case StepError():
            payment.bitcoin_answer = payment_pb2.BITCOIN_ANSWER_UNAVAILABLE
            payment.bitcoin_error = answer.reason or answer.code
        case _:
            payment.bitcoin_answer = payment_pb2.BITCOIN_ANSWER_FOUND
            payment.state = answer.state
            if answer.txid:
                payment.txid = answer.txid
                payment.fee_sat = answer.fee_sat
                payment.confirmations = answer.confirmations
    return payment


def intent_of(state: RunState, payment_id: str) -> PaymentIntent | None:
    """Returns the intent of the payment; None if the run makes no payment of this id."""
    proven = state.payments.get(payment_id)
    intent = PaymentIntent.FromString(proven.intent if proven else state.intent)
    return intent if intent.payment_id == payment_id else None


def _steps_of(state: RunState, payment_id: str, steps: Iterable[StepState]) -> list[StepState]:
    """Returns the steps of the payment if the run makes several; otherwise all steps."""
    return [step for step in steps if not state.payments or step.payment == payment_id]


def _current(state: RunState, payment_id: str) -> str:
    running = _steps_of(state, payment_id, state.in_flight)
    started = _steps_of(state, payment_id, state.steps.values())
    step = next(iter(running or started[-1:]), None)
    return step.path if step else ""


def _add_findings(payment: payment_pb2.Payment, step: StepState) -> None:
    if step.error is not None:
        payment.error.CopyFrom(format_error(step.error))
    is_pivot = step.effect == Effect.PIVOT.name
    if is_pivot and step.status is StepStatus.SKIPPED and step.condition is not None:
        payment.condition.CopyFrom(format_condition(step.condition))
    reply = step.reply
    if reply is None:
        return
    if is_pivot:
        _add_sent(payment, reply)
    elif step.operation == IDENTITY:
        payment.sender_verified = reply["verified"]
        failures = [_known(failure) for failure in reply["failures"]]
        values.fill(payment, {"identity_failures": failures})
    elif step.operation == RISK:
        _add_risk(payment, reply)
    elif step.operation == RECORD:
        payment.record_id = reply["record_id"]
        if isinstance(reply["tenant"], str):  # otherwise it was erased
            payment.record_tenant = reply["tenant"]


def _add_sent(payment: payment_pb2.Payment, reply: dict[str, Any]) -> None:
    if reply.get("txid"):
        payment.txid = bytes.fromhex(reply["txid"])[::-1]
        payment.fee_sat = reply["fee_sat"]


def _add_risk(payment: payment_pb2.Payment, reply: dict[str, Any]) -> None:
    if reply["risk_score"] is not None:
        payment.risk_score = reply["risk_score"]
    for reason in reply["reasons"]:
        values.fill(payment.risk_reasons.add(), {**reason, "code": _known(reason["code"])})
    for factor in reply["risk_factors"]:
        words = {name: _known(factor[name]) for name in ("kind", "status")}
        values.fill(payment.risk_factors.add(), {**factor, **words})


def _known(word: str | int) -> str:
    """Returns the word of an enum; "unspecified" for a number that only a newer service knows."""
    return word if isinstance(word, str) else "unspecified"
