"""The records of one transition, and the state that they lead to."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from services.orchestrator.definition.templates import ResolvedSize
from services.orchestrator.definition.workflow import Call, ForEach
from services.orchestrator.engine import payments, step_path
from services.orchestrator.engine.fold import evolve
from services.orchestrator.engine.model import READ, FailureScope
from services.orchestrator.engine.records import MAX_PAYLOAD_BYTES, Record, RecordKind
from services.orchestrator.engine.scope import StepScope

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.orchestrator.definition.workflow import Step, Workflow
    from services.orchestrator.engine.model import RunState, StepError

MAX_CACHED_STEPS = 4096  # of which the metadata is kept in memory

# What a run may cost: bytes that it records, and units of its conditions, see cel_cost.py.
MAX_TURN_UNITS = 20_000_000
MAX_RUN_UNITS = 200_000_000

SLICE_S = 0.005  # of a turn: then other runs and calls have theirs
SMALL_BYTES = 8192  # MAX_PLACEHOLDERS values from such records are no more than a record holds


class RecordWriter:
    """Writes records and folds each into the state. No other part changes the state."""

    __slots__ = (
        "at_us",
        "clock",
        "event_position",
        "is_over",
        "jitter",
        "records",
        "slice_end",
        "state",
        "units_before",
        "workflow",
    )

    def __init__(
        self, workflow: Workflow, state: RunState, clock: Callable[[], float] | None = None
    ) -> None:
        self.workflow = workflow
        self.state = state
        self.clock = clock
        self.units_before = state.work_units

    def begin(
        self, at_us: int, jitter: float, event_position: int | None, *, continues: bool = False
    ) -> None:
        """Begins a transition, which has no records yet; or a slice of it, if it ``continues``."""
        self.at_us = at_us
        self.jitter = jitter
        self.event_position = event_position
        self.records: list[Record] = []
        self.is_over = False
        self.slice_end: float | None = None  # set by the first step that the slice begins
        if not continues:
            self.units_before = self.state.work_units

    def add(
        self, kind: RecordKind, path: str, payload: dict[str, Any], *, attempt: int | None = None
    ) -> None:
        """Adds one record. Raises PayloadTooLargeError, which leaves the state as it was."""
        state = self.state
        if attempt is None:
            known = state.steps.get(path)
            attempt = known.attempt if known else 0
        record = Record.write(state.sequence + 1, kind, path, attempt, self.at_us, payload)
        evolve(state, record)
        self.records.append(record)

    # What the run may still cost.

    def begins_step(self) -> bool:
        """Returns whether a step may begin in this slice; each slice begins at least one.

        The clock ends slices, and decides nothing else: what a run does is the same in one slice.
        """
        if self.is_over or self.clock is None:
            return not self.is_over
        if self.slice_end is None:
            self.slice_end = self.clock() + SLICE_S
        elif self.clock() >= self.slice_end:
            self.is_over = True
        return not self.is_over

    def units_left(self) -> int:
        """Returns how many units the turn, and the run, may still cost."""
        spent = self.state.work_units
        return min(self.units_before + MAX_TURN_UNITS, MAX_RUN_UNITS) - spent

    def resolved_size(self) -> ResolvedSize | None:
        """Returns what sums the values of a mapping; None if they cannot be too large."""
        return ResolvedSize(MAX_PAYLOAD_BYTES) if self.state.largest_bytes > SMALL_BYTES else None

    # Look-ups.

    def scope_at(self, path: str) -> StepScope:
        return StepScope(self.workflow, self.state, path, self.at_us)

    def call_at(self, path: str) -> Call:
        """Returns the call of a step that was called."""
        action = step_path.locate(self.workflow, path).step.action
        assert isinstance(action, Call)  # noqa: S101  (only calls are answered)
        return action

    def metadata(self, step: Step, path: str) -> dict[str, Any]:
        """Returns what the first record of a step says of the step itself."""
        payment = payments.payment_of(self.workflow, self.state, path)
        return {**_metadata(step), "payment": payment} if payment else _metadata(step)

    # Ends of a step.

    def complete(self, path: str, output: dict[str, Any]) -> None:
        """Completes a step that sends no request."""
        self.add(RecordKind.STEP_DONE, path, {"reply": None, "output": output, "attestations": []})

    def complete_at_once(
        self, path: str, metadata: dict[str, Any], input: dict[str, Any], output: dict[str, Any]
    ) -> None:
        """Begins and completes a step in one record."""
        done: dict[str, Any] = {"input": input, "reply": None, "output": output, "attestations": []}
        self.add(RecordKind.STEP_DONE, path, {**metadata, **done}, attempt=1)

    def skip(self, step: Step, path: str, reason: str, **more: Any) -> None:
        """Skips the step and every step inside it."""
        self.skip_without_children(step, path, reason, **more)
        for inner in () if isinstance(step.action, ForEach) else step.inner:
            self.skip(inner, f"{path}/{inner.id}", reason)
        for inner in step.handling:
            self.skip(inner, f"{path}/{step_path.ON_ERROR}/{inner.id}", reason)

    def skip_without_children(self, step: Step, path: str, reason: str, **more: Any) -> None:
        payload = {**self.metadata(step, path), **more, "output": dict.fromkeys(step.outputs)}
        self.add(RecordKind.STEP_SKIPPED, path, {**payload, "reason": reason})

    def abandon(self, path: str, reason: str, **more: Any) -> None:
        """Skips a step that has begun, but not the steps inside it."""
        step = step_path.locate(self.workflow, path).step
        self.skip_without_children(step, path, reason, **more)

    def fail(
        self,
        path: str,
        error: StepError,
        *,
        uncertain: bool = False,
        failed_step: str = "",
        handled: bool = False,
        **more: Any,
    ) -> None:
        """Fails the step for good, and every step around it until one catches the error.

        ``failed_step``: the innermost step that failed, if it is another one. ``handled``: the
        step's own on_error does not catch the error, or has run for an earlier one.
        """
        step = step_path.locate(self.workflow, path).step
        known = self.state.steps.get(path)
        isolated = path.endswith(f"/{step_path.COMPENSATE}")
        isolated = isolated or (known is not None and known.cancels_payment)
        scope = ""
        if not uncertain and not isolated:
            scope = self._failure_scope(step, path, error, handled=handled)
        payload = {"error": error.to_payload(), "uncertain": uncertain, "final": True}
        if failed_step:
            payload["failed_step"] = failed_step
        if scope:
            payload |= {"failure_scope": scope, "output": dict.fromkeys(step.outputs)}
        self.add(RecordKind.STEP_FAILED, path, {**self.metadata(step, path), **more, **payload})
        outer = step_path.parent(path)
        if outer and not scope and not isolated:
            innermost = failed_step or path
            self.fail(outer, error, uncertain=uncertain, failed_step=innermost, handled=True)

    def _failure_scope(self, step: Step, path: str, error: StepError, *, handled: bool) -> str:
        """Returns what continues after the failure, or "" if nothing catches it."""
        if _catches(step, error) and not handled:
            return FailureScope.HANDLE if step.handling else FailureScope.CONTINUE
        while outer := step_path.parent(path):
            if path.endswith(f"/{step_path.COMPENSATE}"):
                return ""
            around = step_path.locate(self.workflow, outer).step
            handling = path.startswith(f"{outer}/{step_path.ON_ERROR}/")
            each = around.action
            if not handling and isinstance(each, ForEach) and each.continues_on_error:
                return FailureScope.OUTER
            if not handling and _catches(around, error):
                return FailureScope.OUTER
            path = outer
        return ""


def _catches(step: Step, error: StepError) -> bool:
    return step.on_error is not None and step.on_error.takes(error.code, error.reason)


@lru_cache(maxsize=MAX_CACHED_STEPS)
def _metadata(step: Step) -> dict[str, Any]:
    match step.action:
        case Call(operation):
            return {
                "operation": operation.name,
                "protocol": operation.protocol,
                "effect": operation.effect.name,
            }
        case action:
            kind = _KINDS.get(type(action).__name__, type(action).__name__.lower())
            return {"operation": kind, "protocol": "", "effect": READ}


_KINDS = {"ForEach": "for_each", "WaitFor": "wait_for"}  # as the language writes them
