"""A turn in the making: the records so far, and the state that they lead to."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from services.orchestrator.definition.workflow import Call, Effect, ForEach
from services.orchestrator.engine import payments, step_path
from services.orchestrator.engine.fold import evolve
from services.orchestrator.engine.model import FailureScope, RunState, StepError
from services.orchestrator.engine.records import Record, RecordKind
from services.orchestrator.engine.scope import StepScope

if TYPE_CHECKING:
    from services.orchestrator.definition.workflow import Step, Workflow
    from services.orchestrator.engine.retry_policy import RetryPolicy

STEPS = 4096  # of which what is journalled of each is kept in memory


@dataclass(slots=True)
class RecordWriter:
    workflow: Workflow
    state: RunState
    policy: RetryPolicy
    at_us: int
    jitter: float  # 0 to 1
    records: list[Record] = field(default_factory=list)

    def add(
        self, kind: RecordKind, path: str, payload: dict[str, Any], *, attempt: int | None = None
    ) -> None:
        """Journal one record. PayloadTooLarge leaves everything as it was."""
        known = self.state.steps.get(path)
        number = attempt if attempt is not None else known.attempt if known else 0
        sequence = self.state.sequence + 1
        record = Record.write(sequence, kind, path, number, self.at_us, payload)
        evolve(self.state, record)
        self.records.append(record)

    def seen(self, path: str) -> StepScope:
        return StepScope(self.workflow, self.state, path, self.at_us)

    def call_at(self, path: str) -> Call:
        action = step_path.locate(self.workflow, path).step.action
        assert isinstance(action, Call)  # noqa: S101  (only calls are answered)
        return action

    def about(self, step: Step, path: str) -> dict[str, Any]:
        """What the first record of a step says of it."""
        payment = payments.payment_of(self.workflow, self.state, path)
        return {**_about(step), "payment": payment} if payment else _about(step)

    def skip(self, step: Step, path: str, reason: str, **more: Any) -> None:
        """The step and all inside it do not happen."""
        self.skip_without_children(step, path, reason, **more)
        for inner in () if isinstance(step.action, ForEach) else step.inner:
            self.skip(inner, f"{path}/{inner.id}", reason)
        for inner in step.handling:
            self.skip(inner, f"{path}/{step_path.ON_ERROR}/{inner.id}", reason)

    def skip_without_children(self, step: Step, path: str, reason: str, **more: Any) -> None:
        payload = {**self.about(step, path), **more, "output": dict.fromkeys(step.outputs)}
        self.add(RecordKind.STEP_SKIPPED, path, {**payload, "reason": reason})

    def end_call(
        self,
        path: str,
        error: StepError,
        *,
        uncertain: bool = False,
        at: str = "",
        handled: bool = False,
        **more: Any,
    ) -> None:
        """The step has failed for good; without anybody to go on, so has all that is around it.

        ``at`` is the innermost one; ``handled``: it failed in what an earlier error led to.
        """
        step = step_path.locate(self.workflow, path).step
        known = self.state.steps.get(path)
        alone = path.endswith(f"/{step_path.COMPENSATE}") or (
            known is not None and known.cancels_payment
        )
        caught = "" if uncertain or alone else self._caught(step, path, error, handled=handled)
        payload = {"error": error.to_payload(), "uncertain": uncertain, "final": True}
        if at:
            payload["failed_step"] = at
        if caught:
            payload |= {"failure_scope": caught, "output": dict.fromkeys(step.outputs)}
        self.add(RecordKind.STEP_FAILED, path, {**self.about(step, path), **more, **payload})
        outside = step_path.parent(path)
        if outside and not caught and not alone:
            self.end_call(outside, error, uncertain=uncertain, at=at or path, handled=True)

    def _caught(self, step: Step, path: str, error: StepError, *, handled: bool) -> str:
        """Who goes on after the failure, see Caught; empty if nobody does."""
        if _takes(step, error) and not handled:
            return FailureScope.HANDLE if step.handling else FailureScope.CONTINUE
        while outside := step_path.parent(path):
            if path.endswith(f"/{step_path.COMPENSATE}"):
                return ""
            around = step_path.locate(self.workflow, outside).step
            handling = path.startswith(f"{outside}/{step_path.ON_ERROR}/")
            each = around.action
            if not handling and isinstance(each, ForEach) and each.continues_on_error:
                return FailureScope.OUTER
            if not handling and _takes(around, error):
                return FailureScope.OUTER
            path = outside
        return ""


def _takes(step: Step, error: StepError) -> bool:
    return step.on_error is not None and step.on_error.takes(error.code, error.reason)


@lru_cache(maxsize=STEPS)
def _about(step: Step) -> dict[str, Any]:
    match step.action:
        case Call(operation):
            return {
                "operation": operation.name,
                "protocol": operation.protocol,
                "effect": operation.effect.name,
            }
        case action:
            kind = _WORDS.get(type(action).__name__, type(action).__name__.lower())
            return {"operation": kind, "protocol": "", "effect": Effect.READ.name}


_WORDS = {"ForEach": "for_each", "WaitFor": "wait_for"}
