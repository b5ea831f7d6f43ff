"""How a record changes the state of its run."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from services.orchestrator.engine.record import Kind, Record
from services.orchestrator.engine.state import (
    RECOVERED,
    Caught,
    Error,
    Phase,
    RunState,
    RunStatus,
    Signal,
    StepState,
    StepStatus,
    Stop,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Changes: TypeAlias = "dict[str, Any]"  # fields of a RunState


def fold(run_id: str, records: Iterable[Record]) -> RunState:
    state = RunState(run_id)
    for record in records:
        state = evolve(state, record)
    return state


def evolve(state: RunState, record: Record) -> RunState:
    """The state after one more record."""
    assert record.sequence == state.sequence + 1, "a journal has no gaps"  # noqa: S101
    changes = _EVOLVE[record.kind](state, record)
    return replace(state, sequence=record.sequence, updated_us=record.at_us, **changes)


def _start(state: RunState, record: Record) -> Changes:
    payload = record.payload
    return {
        "workflow_id": payload["workflow_id"],
        "definition_hash": payload["definition_hash"],
        "composites": payload["composites"],
        "input": payload["input"],
        "intent": b64decode(payload["intent"]),
        "presentation": payload["presentation"],
        "starter": payload["starter"],
        "deadline_us": payload["deadline_us"],
        "created_us": record.at_us,
    }


def _step_intent(state: RunState, record: Record) -> Changes:
    payload = record.payload
    method = payload.get("method", "")
    passing = Phase.LISTENING if "listens" in payload else Phase.PASSING
    passes = "until_us" in payload
    step = _begun(
        record,
        phase=Phase.CALLING if method else passing if passes else Phase.INSIDE,
        until_us=payload.get("until_us", 0),
        timeout_us=payload.get("timeout_us", 0),
        input=payload["input"],
        method=method,
        service=payload.get("service", ""),
        key=payload.get("key", ""),
        request=b64decode(payload.get("request", "")),
    )
    return _with(state, step)


def _step_attempt(state: RunState, record: Record) -> Changes:
    step = state.steps[record.path]
    resumed = step.phase is Phase.PARKED
    # Whoever was killed in the middle of a call left nobody to hear its answer.
    unheard = record.payload["cause"] == RECOVERED and step.effect != "READ"
    return _with(
        state,
        replace(
            step,
            phase=Phase.CALLING,
            attempt=record.attempt,
            since_us=record.at_us if resumed else step.since_us,
            until_us=0,
            uncertain=step.uncertain or unheard,
            status=StepStatus.UNCERTAIN if unheard else step.status,
        ),
    )


def _step_failed(state: RunState, record: Record) -> Changes:
    payload = record.payload
    step = state.steps.get(record.path) or _begun(record)
    uncertain = step.uncertain or payload["uncertain"]
    failed = replace(step, error=Error.from_payload(payload["error"]), uncertain=uncertain)
    if not payload["final"]:
        status = StepStatus.UNCERTAIN if uncertain else StepStatus.RUNNING
        return _with(
            state,
            replace(failed, status=status, phase=Phase.WAITING, until_us=payload["retry_us"]),
        )
    caught = payload.get("caught", "")
    return _with(
        state,
        replace(
            failed,
            # What stays uncertain is not called failed: nobody knows whether it was done.
            status=StepStatus.UNCERTAIN if payload["uncertain"] else StepStatus.FAILED,
            phase=Phase.INSIDE if caught == Caught.HANDLE else Phase.ENDED,
            output=payload.get("output", {}),
            caught=caught,
            failed_at=payload.get("at", ""),
            ended=record.sequence,
            finished_us=record.at_us,
        ),
    )


def _step_handled(state: RunState, record: Record) -> Changes:
    return _with(state, replace(state.steps[record.path], phase=Phase.ENDED))


def _step_parked(state: RunState, record: Record) -> Changes:
    step = replace(
        state.steps[record.path],
        phase=Phase.PARKED,
        until_us=record.payload["until_us"],
        error=Error.from_payload(record.payload["error"]),
    )
    return _with(state, step)


def _step_done(state: RunState, record: Record) -> Changes:
    payload = record.payload
    step = state.steps.get(record.path) or _begun(record)
    done = replace(
        step,
        status=StepStatus.SUCCEEDED,
        phase=Phase.ENDED,
        input=step.input or payload.get("input", {}),
        reply=payload["reply"],
        output=payload["output"],
        error=None,
        ended=record.sequence,
        finished_us=record.at_us,
    )
    came = tuple((kind, jws) for kind, jws in payload["attestations"])
    changes = _with(state, done)
    if came:
        changes["attestations"] = state.attestations + came
    if consumed := payload.get("consumed"):
        left = tuple(signal for signal in state.signals if signal.sequence not in consumed)
        changes["signals"] = left
    return changes


def _signal(state: RunState, record: Record) -> Changes:
    payload = record.payload
    signal = Signal(record.sequence, payload["name"], payload["payload"], payload["correlation"])
    return {"signals": (*state.signals, signal), "taken": payload["position"]}


def _cancel_run(state: RunState, record: Record) -> Changes:
    reason, by = record.payload["reason"], record.payload["by"]
    told = f"cancelled by {by}" + (f": {reason}" if reason else "")
    return {"cancelled": told, "taken": record.payload["position"]}


def _step_skipped(state: RunState, record: Record) -> Changes:
    payload = record.payload
    begun = state.steps.get(record.path)
    step = replace(
        begun or _begun(record),
        status=StepStatus.SKIPPED,
        phase=Phase.ENDED,
        output=payload["output"],
        condition=payload.get("condition") or (begun.condition if begun else None),
        skip_reason=payload["reason"],
        ended=record.sequence,
        finished_us=record.at_us,
    )
    return _with(state, step)


def _cancel_intent(state: RunState, record: Record) -> Changes:
    step = replace(
        state.steps[record.path],
        phase=Phase.CANCELLING,
        since_us=record.at_us,
        cancel_method=record.payload["method"],
        cancel_request=b64decode(record.payload["request"]),
        cancel_attempt=1,
        cancel_cause=Error.from_payload(record.payload["error"]),
        until_us=0,
    )
    return _with(state, step)


def _cancel_failed(state: RunState, record: Record) -> Changes:
    step = replace(
        state.steps[record.path],
        error=Error.from_payload(record.payload["error"]),
    )
    if record.payload["final"]:
        return _with(state, replace(step, phase=Phase.ENDED, finished_us=record.at_us))
    return _with(
        state,
        replace(
            step,
            until_us=record.payload["retry_us"],
            cancel_attempt=step.cancel_attempt + 1,
        ),
    )


def _cancel_done(state: RunState, record: Record) -> Changes:
    return _with(state, replace(state.steps[record.path], cancelled=True, since_us=record.at_us))


def _recovered(state: RunState, record: Record) -> Changes:
    steps = dict(state.steps)
    for step in state.in_flight:
        retried = step.cancel_attempt + (step.phase is Phase.CANCELLING)
        steps[step.path] = replace(step, since_us=record.at_us, cancel_attempt=retried)
    return {"recoveries": state.recoveries + 1, "steps": steps}


def _stopping(state: RunState, record: Record) -> Changes:
    stop = Stop(RunStatus(record.payload["status"]), record.payload["reason"])
    return {"stop": stop}


def _finish(state: RunState, record: Record) -> Changes:
    return {
        "status": RunStatus(record.payload["status"]),
        "reason": record.payload["reason"],
        "finished_us": record.at_us,
        "active": (),
    }


def _begun(record: Record, *, phase: Phase = Phase.INSIDE, **more: Any) -> StepState:
    """A step of which this is the first record."""
    payload = record.payload
    return StepState(
        path=record.path,
        operation=payload["operation"],
        protocol=payload["protocol"],
        effect=payload["effect"],
        status=StepStatus.RUNNING,
        phase=phase,
        attempt=record.attempt,
        started_us=record.at_us,
        since_us=record.at_us,
        condition=payload.get("condition"),
        **more,
    )


def _with(state: RunState, step: StepState) -> Changes:
    """The run with this step in it, and what it is at."""
    active = state.active
    if (step.phase in (Phase.INSIDE, Phase.ENDED)) == (step.path in active):
        others = tuple(path for path in active if path != step.path)
        active = others if step.path in active else (*others, step.path)
    steps = {**state.steps, step.path: step}
    status, reason = _standing([steps[path] for path in active])
    return {"steps": steps, "active": active, "status": status, "reason": reason}


def _standing(in_flight: list[StepState]) -> tuple[RunStatus, str]:
    """What a run is at that has not ended, and why."""
    parked = ""
    for step in in_flight:
        if step.phase is Phase.PARKED:
            parked = parked or f"{step.path}: {step.error}"
        elif step.phase not in (Phase.PASSING, Phase.LISTENING):
            return RunStatus.RUNNING, ""
    if parked:
        return RunStatus.PARKED, parked
    return (RunStatus.WAITING, "") if in_flight else (RunStatus.RUNNING, "")


_Evolve: TypeAlias = "Callable[[RunState, Record], Changes]"
_EVOLVE: dict[Kind, _Evolve] = {
    Kind.START: _start,
    Kind.STEP_INTENT: _step_intent,
    Kind.STEP_ATTEMPT: _step_attempt,
    Kind.STEP_FAILED: _step_failed,
    Kind.STEP_HANDLED: _step_handled,
    Kind.STEP_PARKED: _step_parked,
    Kind.STEP_DONE: _step_done,
    Kind.STEP_SKIPPED: _step_skipped,
    Kind.CANCEL_INTENT: _cancel_intent,
    Kind.CANCEL_FAILED: _cancel_failed,
    Kind.CANCEL_DONE: _cancel_done,
    Kind.RECOVERED: _recovered,
    Kind.SIGNAL: _signal,
    Kind.CANCEL_RUN: _cancel_run,
    Kind.STOPPING: _stopping,
    Kind.FINISH: _finish,
}
