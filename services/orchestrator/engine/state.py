"""The state of a run: nothing but what its records say."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

from services.orchestrator.engine.record import Kind, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


RECOVERED = "recovered"  # the cause of an attempt that follows a crash


class RunStatus(StrEnum):
    RUNNING = "RUNNING"
    PARKED = "PARKED"
    SUCCEEDED = "SUCCEEDED"
    REFUSED = "REFUSED"
    FAILED = "FAILED"
    NEEDS_ATTENTION = "NEEDS_ATTENTION"


class StepStatus(StrEnum):
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    SKIPPED = "SKIPPED"
    FAILED = "FAILED"
    UNCERTAIN = "UNCERTAIN"


class Phase(StrEnum):
    """What a step is at, which decides what to do next."""

    CALLING = "CALLING"  # an attempt is owed, or on its way
    WAITING = "WAITING"  # until the next attempt
    PARKED = "PARKED"  # until the breaker of its target lets a probe through
    CANCELLING = "CANCELLING"  # a cancel is owed, from some time on, or on its way
    INSIDE = "INSIDE"  # its inner steps run
    ENDED = "ENDED"


@dataclass(frozen=True, slots=True)
class Error:
    """How an attempt ended, when it did not end well."""

    code: str  # gRPC's name
    reason: str
    message: str
    retry_after: float = 0.0  # seconds, if the other side named a time

    def to_payload(self) -> dict[str, str]:
        return {"code": self.code, "reason": self.reason, "message": self.message}

    @classmethod
    def from_payload(cls, payload: Mapping[str, str]) -> Error:
        return cls(payload["code"], payload["reason"], payload["message"])

    def __str__(self) -> str:
        return f"{self.reason or self.code}: {self.message}"


@dataclass(frozen=True, slots=True)
class StepState:
    path: str
    operation: str
    protocol: str
    effect: str
    status: StepStatus
    phase: Phase
    attempt: int  # the current or last one
    started_us: int
    since_us: int  # since when it has been trying, without what it spent parked or dead
    input: dict[str, Any] = field(default_factory=dict)
    output: dict[str, Any] = field(default_factory=dict)
    reply: dict[str, Any] | None = None
    condition: dict[str, Any] | None = None
    skip_reason: str = ""
    error: Error | None = None
    method: str = ""  # empty for a step with inner steps
    service: str = ""
    key: str = ""
    request: bytes = b""
    until_us: int = 0  # nothing is to be done before
    finished_us: int = 0
    uncertain: bool = False  # an attempt may have had its effect
    cancel_method: str = ""
    cancel_request: bytes = b""
    cancel_attempt: int = 0
    cancel_cause: Error | None = None
    cancelled: bool = False  # later attempts are refused, or answered with what was there


@dataclass(frozen=True, slots=True)
class RunState:
    run_id: str
    sequence: int = 0
    workflow_id: str = ""
    definition_hash: str = ""
    composites: dict[str, str] = field(default_factory=dict)
    status: RunStatus = RunStatus.RUNNING
    reason: str = ""
    input: dict[str, Any] = field(default_factory=dict)
    intent: bytes = b""
    presentation: str = ""
    starter: str = ""  # SPIFFE ID of who started it
    created_us: int = 0
    updated_us: int = 0
    deadline_us: int = 0
    finished_us: int = 0
    recoveries: int = 0
    steps: dict[str, StepState] = field(default_factory=dict)  # in the order they began
    attestations: tuple[tuple[str, str], ...] = ()  # kind and JWS, in the order they came

    @property
    def finished(self) -> bool:
        return self.finished_us > 0

    @property
    def in_flight(self) -> StepState | None:
        """The step that has something to do or to wait for."""
        return next(
            (step for step in self.steps.values() if step.phase not in (Phase.INSIDE, Phase.ENDED)),
            None,
        )


def fold(run_id: str, records: Iterable[Record]) -> RunState:
    state = RunState(run_id)
    for record in records:
        state = evolve(state, record)
    return state


def evolve(state: RunState, record: Record) -> RunState:
    """The state after one more record."""
    assert record.sequence == state.sequence + 1, "a journal has no gaps"  # noqa: S101
    changed = replace(state, sequence=record.sequence, updated_us=record.at_us)
    return _EVOLVE[record.kind](changed, record)


def _start(state: RunState, record: Record) -> RunState:
    payload = record.payload
    return replace(
        state,
        workflow_id=payload["workflow_id"],
        definition_hash=payload["definition_hash"],
        composites=payload["composites"],
        input=payload["input"],
        intent=b64decode(payload["intent"]),
        presentation=payload["presentation"],
        starter=payload["starter"],
        deadline_us=payload["deadline_us"],
        created_us=record.at_us,
    )


def _step_intent(state: RunState, record: Record) -> RunState:
    payload = record.payload
    method = payload.get("method", "")
    step = StepState(
        path=record.path,
        operation=payload["operation"],
        protocol=payload["protocol"],
        effect=payload["effect"],
        status=StepStatus.RUNNING,
        phase=Phase.CALLING if method else Phase.INSIDE,
        attempt=record.attempt,
        started_us=record.at_us,
        since_us=record.at_us,
        input=payload["input"],
        condition=payload.get("condition"),
        method=method,
        service=payload.get("service", ""),
        key=payload.get("key", ""),
        request=b64decode(payload.get("request", "")),
    )
    return _with(state, step)


def _step_attempt(state: RunState, record: Record) -> RunState:
    step = state.steps[record.path]
    resumed = step.phase is Phase.PARKED
    # Whoever was killed in the middle of a call left nobody to hear its answer.
    unheard = record.payload["cause"] == RECOVERED and step.effect != "READ"
    return _with(
        replace(state, status=RunStatus.RUNNING, reason=""),
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


def _step_failed(state: RunState, record: Record) -> RunState:
    payload = record.payload
    step = state.steps.get(record.path) or StepState(
        path=record.path,
        operation=payload["operation"],
        protocol=payload["protocol"],
        effect=payload["effect"],
        status=StepStatus.FAILED,
        phase=Phase.ENDED,
        attempt=record.attempt,
        started_us=record.at_us,
        since_us=record.at_us,
        condition=payload.get("condition"),
    )
    uncertain = step.uncertain or payload["uncertain"]
    failed = replace(step, error=Error.from_payload(payload["error"]), uncertain=uncertain)
    if not payload["final"]:
        status = StepStatus.UNCERTAIN if uncertain else StepStatus.RUNNING
        return _with(
            state,
            replace(failed, status=status, phase=Phase.WAITING, until_us=payload["retry_us"]),
        )
    # What stays uncertain is not called failed: nobody knows whether it was done.
    status = StepStatus.UNCERTAIN if payload["uncertain"] else StepStatus.FAILED
    return _with(state, replace(failed, status=status, phase=Phase.ENDED, finished_us=record.at_us))


def _step_parked(state: RunState, record: Record) -> RunState:
    step = replace(
        state.steps[record.path],
        phase=Phase.PARKED,
        until_us=record.payload["until_us"],
        error=Error.from_payload(record.payload["error"]),
    )
    reason = f"{step.path}: {step.error}"
    return _with(replace(state, status=RunStatus.PARKED, reason=reason), step)


def _step_done(state: RunState, record: Record) -> RunState:
    payload = record.payload
    step = replace(
        state.steps[record.path],
        status=StepStatus.SUCCEEDED,
        phase=Phase.ENDED,
        reply=payload["reply"],
        output=payload["output"],
        error=None,
        finished_us=record.at_us,
    )
    came = tuple((kind, jws) for kind, jws in payload["attestations"])
    return _with(replace(state, attestations=state.attestations + came), step)


def _step_skipped(state: RunState, record: Record) -> RunState:
    payload = record.payload
    begun = state.steps.get(record.path)
    step = StepState(
        path=record.path,
        operation=payload["operation"],
        protocol=payload["protocol"],
        effect=payload["effect"],
        status=StepStatus.SKIPPED,
        phase=Phase.ENDED,
        attempt=record.attempt,
        started_us=begun.started_us if begun else record.at_us,
        since_us=record.at_us,
        input=begun.input if begun else {},
        output=payload["output"],
        condition=payload["condition"],
        skip_reason=payload["reason"],
        finished_us=record.at_us,
    )
    return _with(state, step)


def _cancel_intent(state: RunState, record: Record) -> RunState:
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


def _cancel_failed(state: RunState, record: Record) -> RunState:
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


def _cancel_done(state: RunState, record: Record) -> RunState:
    return _with(state, replace(state.steps[record.path], cancelled=True, since_us=record.at_us))


def _recovered(state: RunState, record: Record) -> RunState:
    changed = replace(state, recoveries=state.recoveries + 1)
    step = state.in_flight
    if step is None:
        return changed
    retried = step.cancel_attempt + (step.phase is Phase.CANCELLING)
    return _with(changed, replace(step, since_us=record.at_us, cancel_attempt=retried))


def _finish(state: RunState, record: Record) -> RunState:
    return replace(
        state,
        status=RunStatus(record.payload["status"]),
        reason=record.payload["reason"],
        finished_us=record.at_us,
    )


def _with(state: RunState, step: StepState) -> RunState:
    return replace(state, steps={**state.steps, step.path: step})


_Evolve: TypeAlias = "Callable[[RunState, Record], RunState]"
_EVOLVE: dict[Kind, _Evolve] = {
    Kind.START: _start,
    Kind.STEP_INTENT: _step_intent,
    Kind.STEP_ATTEMPT: _step_attempt,
    Kind.STEP_FAILED: _step_failed,
    Kind.STEP_PARKED: _step_parked,
    Kind.STEP_DONE: _step_done,
    Kind.STEP_SKIPPED: _step_skipped,
    Kind.CANCEL_INTENT: _cancel_intent,
    Kind.CANCEL_FAILED: _cancel_failed,
    Kind.CANCEL_DONE: _cancel_done,
    Kind.RECOVERED: _recovered,
    Kind.FINISH: _finish,
}
