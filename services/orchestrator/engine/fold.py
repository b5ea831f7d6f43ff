"""Folds the records of a run into its state."""

from __future__ import annotations

from base64 import b64decode
from typing import TYPE_CHECKING, Any, TypeAlias

from anya.mesh.v1.attestation_pb2 import PaymentIntent
from services.orchestrator.engine import step_path
from services.orchestrator.engine.model import (
    PIVOT,
    READ,
    RECOVERED,
    ApprovalDecision,
    FailureScope,
    PendingEnd,
    Phase,
    ProvenPayment,
    ReceivedSignal,
    Redrive,
    RunState,
    RunStatus,
    StepError,
    StepState,
    StepStatus,
    StoredAttestation,
)
from services.orchestrator.engine.records import Record, RecordKind

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable


def fold(run_id: str, records: Iterable[Record]) -> RunState:
    """Returns the state of a run from all of its records."""
    state = RunState(run_id)
    for record in records:
        evolve(state, record)
    return state


def evolve(state: RunState, record: Record) -> None:
    """Folds one more record into the state of its run."""
    assert record.sequence == state.sequence + 1, "a journal has no gaps"  # noqa: S101
    _EVOLVE[record.kind](state, record)
    state.sequence = record.sequence
    state.updated_us = record.at_us
    state.work_units += (size := len(record.encoded))
    if size > state.largest_bytes:
        state.largest_bytes = size
    if state.items:
        _mark_dirty(state, record.path)


def _mark_dirty(state: RunState, path: str) -> None:
    """Marks the items around the step to be walked again, or all items if ``path`` is empty."""
    if not path:
        for items in state.items.values():
            items.dirty |= items.in_flight
    for each, index in step_path.items_around(path):
        if each in state.items:
            state.items[each].dirty.add(index)


def _start(state: RunState, record: Record) -> None:
    payload = record.payload
    state.workflow_id = payload["workflow_id"]
    state.definition_hash = payload["definition_hash"]
    state.sub_workflow_hashes = payload["sub_workflow_hashes"]
    state.input = payload["input"]
    state.intent = b64decode(payload["intent"])
    state.presentation = payload["presentation"]
    state.payments = dict(map(_proven, payload.get("payments", ())))
    state.started_by = payload["started_by"]
    allowed = payload["allowed_privileges"]
    state.allowed_privileges = None if allowed is None else frozenset(allowed)
    state.deadline_us = payload["deadline_us"]
    state.run_timeout_us = state.deadline_us - record.at_us
    state.created_us = record.at_us


def _proven(payment: dict[str, str]) -> tuple[str, ProvenPayment]:
    intent = b64decode(payment["intent"])
    found = ProvenPayment(intent, payment["presentation"])
    return PaymentIntent.FromString(intent).payment_id, found


def _step_intent(state: RunState, record: Record) -> None:
    payload = record.payload
    step = _begin(state, record)
    step.input = payload["input"]
    if "method" in payload:
        step.phase = Phase.CALL
        step.method = payload["method"]
        step.service = payload["service"]
        step.key = payload["key"]
        step.request = b64decode(payload["request"])
        step.timeout_us = payload.get("timeout_us", 0)
    elif "until_us" in payload:
        step.phase = Phase.AWAITING_EVENT if "awaits_event" in payload else Phase.TIMER
        step.until_us = payload["until_us"]
        step.subscribed_from = step.input.get("subscribed_from", 0)
    _settle(state, step)


def _step_attempt(state: RunState, record: Record) -> None:
    step = state.steps[record.path]
    if step.phase is Phase.CIRCUIT_OPEN or step.attempt == step.prior_attempts:
        step.retry_started_us = record.at_us
    # The process that made the call stopped before the answer: the call may have taken effect.
    if record.payload["cause"] == RECOVERED and step.effect != READ:
        step.uncertain = True
        step.status = StepStatus.UNCERTAIN
    step.phase = Phase.CALL
    step.attempt = record.attempt
    step.until_us = 0
    _settle(state, step)


def _step_failed(state: RunState, record: Record) -> None:
    payload = record.payload
    step = state.steps.get(record.path) or _begin(state, record)
    step.error = StepError.from_payload(payload["error"])
    step.uncertain = step.uncertain or payload["uncertain"]
    if payload["final"]:
        step.failure_scope = payload.get("failure_scope", "")
        # A step whose outcome is unknown is not called failed: it may have taken effect.
        status = StepStatus.UNCERTAIN if payload["uncertain"] else StepStatus.FAILED
        _end(step, record, status, payload.get("output", step.output))
        step.failed_step = payload.get("failed_step", "")
        if step.failure_scope:  # otherwise a redrive resumes it, with the child that failed first
            state.failed_children.pop(step.path, None)
        if step.failure_scope == FailureScope.OUTER:
            state.failed_children.setdefault(step_path.parent(step.path), step.path)
        if step.failure_scope == FailureScope.HANDLE:
            step.phase = Phase.CHILDREN
            step.handled_error = step.error
    else:
        step.status = StepStatus.UNCERTAIN if step.uncertain else StepStatus.RUNNING
        step.phase = Phase.BACKOFF
        step.until_us = payload["retry_us"]
    _settle(state, step)


def _step_handled(state: RunState, record: Record) -> None:
    step = state.steps[record.path]
    step.phase = Phase.ENDED
    _settle(state, step)


def _step_circuit_open(state: RunState, record: Record) -> None:
    step = state.steps[record.path]
    step.phase = Phase.CIRCUIT_OPEN
    step.until_us = record.payload["until_us"]
    step.error = StepError.from_payload(record.payload["error"])
    _settle(state, step)


def _step_done(state: RunState, record: Record) -> None:
    payload = record.payload
    step = state.steps.get(record.path) or _begin(state, record)
    step.input = step.input or payload.get("input", {})
    step.reply = payload["reply"]
    step.error = None
    _end(step, record, StepStatus.SUCCEEDED, payload["output"])
    for kind, jws in payload["attestations"]:
        state.attestations.append(StoredAttestation(step.payment, kind, jws))
    if consumed := payload.get("consumed"):
        state.signals = [signal for signal in state.signals if signal.sequence not in consumed]
    _settle(state, step)


def _signal(state: RunState, record: Record) -> None:
    payload = record.payload
    signal = ReceivedSignal(
        record.sequence, payload["name"], payload["payload"], payload["correlation"]
    )
    state.signals.append(signal)
    state.inbox_position = payload["position"]


def _event(state: RunState, record: Record) -> None:
    payload = record.payload
    event = ReceivedSignal(record.sequence, payload["type"], payload["data"], payload["subject"])
    for path in payload["paths"]:
        step = state.steps[path]
        step.received_events[event.name] = event
        step.subscribed_from = payload["position"]


def _approval(state: RunState, record: Record) -> None:
    """Keeps the first decision of each approver, if it is about the current document."""
    payload = record.payload
    state.inbox_position = payload["position"]
    step = state.steps.get(payload["step"])
    if step is None or step.phase is not Phase.AWAITING_EVENT:
        return
    approvers = step.input.get("asked", {}).get("approvers", ())
    if step.input.get("digest") == payload["digest"] and payload["approver"] in approvers:
        decision = ApprovalDecision(payload["approved"], payload["jws"], record.at_us)
        step.decisions.setdefault(payload["approver"], decision)


def _cancel_run(state: RunState, record: Record) -> None:
    reason, requester = record.payload["reason"], record.payload["requester"]
    state.cancellation = f"cancelled by {requester}" + (f": {reason}" if reason else "")
    state.inbox_position = record.payload["position"]


def _step_skipped(state: RunState, record: Record) -> None:
    payload = record.payload
    step = state.steps.get(record.path) or _begin(state, record)
    step.condition = payload.get("condition") or step.condition
    step.skip_reason = payload["reason"]
    step.abandoned_phase = payload.get("abandoned_phase", "")
    _end(step, record, StepStatus.SKIPPED, payload["output"])
    _settle(state, step)


def _cancel_intent(state: RunState, record: Record) -> None:
    step = state.steps[record.path]
    step.phase = Phase.CANCELLING
    step.retry_started_us = record.at_us
    step.cancel_method = record.payload["method"]
    step.cancel_request = b64decode(record.payload["request"])
    step.cancel_attempt = 1
    step.cancel_cause = StepError.from_payload(record.payload["error"])
    step.until_us = 0
    _settle(state, step)


def _cancel_failed(state: RunState, record: Record) -> None:
    step = state.steps[record.path]
    step.error = StepError.from_payload(record.payload["error"])
    if record.payload["final"]:
        step.phase = Phase.ENDED
        step.finished_us = record.at_us
    else:
        step.until_us = record.payload["retry_us"]
        step.cancel_attempt += 1
    _settle(state, step)


def _cancel_done(state: RunState, record: Record) -> None:
    step = state.steps[record.path]
    step.cancelled = True
    step.retry_started_us = record.at_us


def _recovered(state: RunState, record: Record) -> None:
    state.recoveries += 1
    for step in state.active.values():
        step.retry_started_us = record.at_us
        step.cancel_attempt += step.phase is Phase.CANCELLING


def _stopping(state: RunState, record: Record) -> None:
    state.pending_end = PendingEnd(RunStatus(record.payload["status"]), record.payload["reason"])


def _finish(state: RunState, record: Record) -> None:
    state.status = RunStatus(record.payload["status"])
    state.reason = record.payload["reason"]
    state.finished_us = record.at_us
    state.active.clear()


def _erased(state: RunState, record: Record) -> None:
    state.erased_us = record.at_us
    state.reason = record.payload["public_reason"]


def _redriven(state: RunState, record: Record) -> None:
    payload = record.payload
    previous = RunStatus(payload["previous_status"])
    redrive = Redrive(payload["requester"], payload["reason"], record.at_us, previous)
    state.redrives.append(redrive)
    state.deadline_us = payload["deadline_us"]
    state.finished_us = 0
    state.completed_prefix.clear()
    state.items.clear()
    if not payload["compensates"]:
        state.pending_end = None
    for path in payload["restart"]:
        del state.steps[path]
        state.irreversible_steps.pop(path, None)
    state.retired_keys |= dict.fromkeys(payload["retired_keys"], len(state.redrives))
    for path in payload["retry"]:
        _reopen(state.steps[path], Phase.BACKOFF)
    for path in payload["resume"]:
        _reopen(state.steps[path], Phase.CHILDREN)
    for step in state.steps.values():
        if step.phase is Phase.CANCELLING:
            step.retry_started_us = record.at_us
            step.cancel_attempt += 1
    at_rest = (Phase.CHILDREN, Phase.ENDED)
    state.active = {s.path: s for s in state.steps.values() if s.phase not in at_rest}
    state.status, state.reason = _status(state.active.values())


def _reopen(step: StepState, phase: Phase) -> None:
    if step.phase is Phase.CALL and step.effect != READ:
        step.uncertain = True  # the process that made the call stopped before the answer
    elif phase is Phase.CHILDREN:
        step.uncertain = False  # the step inside it carries the uncertainty
    handler_failed = step.failed_step.startswith(f"{step.path}/{step_path.ON_ERROR}/")
    handles = handler_failed or step.abandoned_while_handling
    step.failure_scope = FailureScope.HANDLE if handles else ""
    step.status = StepStatus.UNCERTAIN if step.uncertain else StepStatus.RUNNING
    if handles:
        step.status = StepStatus.FAILED
        step.error = step.handled_error
    else:
        step.output = {}
    step.phase = phase
    step.prior_attempts = step.attempt
    step.reply = None
    step.failed_step = step.abandoned_phase = step.skip_reason = ""
    step.until_us = step.finished_us = step.last_sequence = 0


def _begin(state: RunState, record: Record) -> StepState:
    """Adds the step of which this is the first record."""
    payload = record.payload
    state.work_units += payload.get("units", 0)
    step = StepState(
        path=record.path,
        operation=payload["operation"],
        protocol=payload["protocol"],
        effect=payload["effect"],
        status=StepStatus.RUNNING,
        phase=Phase.CHILDREN,
        attempt=record.attempt,
        started_us=record.at_us,
        retry_started_us=record.at_us,
        condition=payload.get("condition"),
        first_sequence=record.sequence,
        payment=payload.get("payment", ""),
        cancels_payment=payload.get("cancels_payment", False),
    )
    state.steps[record.path] = step
    if step.effect == PIVOT:
        state.irreversible_steps[record.path] = step
    return step


def _end(step: StepState, record: Record, status: StepStatus, output: dict[str, Any]) -> None:
    step.status = status
    step.phase = Phase.ENDED
    step.output = output
    step.last_sequence = record.sequence
    step.finished_us = record.at_us


def _settle(state: RunState, step: StepState) -> None:
    """Updates which steps are in flight, and with them the status of the run."""
    if step.phase is Phase.CHILDREN or step.phase is Phase.ENDED:
        state.active.pop(step.path, None)
    else:
        state.active.setdefault(step.path, step)
    state.status, state.reason = _status(state.active.values())


def _status(in_flight: Collection[StepState]) -> tuple[RunStatus, str]:
    """Returns the status of a run that has not ended, and its reason."""
    reason = ""
    for step in in_flight:
        if step.phase is Phase.CIRCUIT_OPEN:
            reason = reason or f"{step.path}: {step.error}"
        elif step.phase not in (Phase.TIMER, Phase.AWAITING_EVENT):
            return RunStatus.RUNNING, ""
    if reason:
        return RunStatus.CIRCUIT_OPEN, reason
    return (RunStatus.WAITING, "") if in_flight else (RunStatus.RUNNING, "")


_Evolve: TypeAlias = "Callable[[RunState, Record], None]"
_EVOLVE: dict[RecordKind, _Evolve] = {
    RecordKind.START: _start,
    RecordKind.STEP_INTENT: _step_intent,
    RecordKind.STEP_ATTEMPT: _step_attempt,
    RecordKind.STEP_FAILED: _step_failed,
    RecordKind.STEP_HANDLED: _step_handled,
    RecordKind.STEP_CIRCUIT_OPEN: _step_circuit_open,
    RecordKind.STEP_DONE: _step_done,
    RecordKind.STEP_SKIPPED: _step_skipped,
    RecordKind.CANCEL_INTENT: _cancel_intent,
    RecordKind.CANCEL_FAILED: _cancel_failed,
    RecordKind.CANCEL_DONE: _cancel_done,
    RecordKind.RECOVERED: _recovered,
    RecordKind.SETTLED: lambda state, record: None,
    RecordKind.SIGNAL: _signal,
    RecordKind.EVENT: _event,
    RecordKind.APPROVAL: _approval,
    RecordKind.CANCEL_RUN: _cancel_run,
    RecordKind.STOPPING: _stopping,
    RecordKind.FINISH: _finish,
    RecordKind.ERASED: _erased,
    RecordKind.REDRIVEN: _redriven,
}
