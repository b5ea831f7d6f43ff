"""A turn in the making: the records so far, and the state that they lead to."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from services.orchestrator.definition.workflow import Call, Effect, ForEach
from services.orchestrator.engine import places
from services.orchestrator.engine.evolve import evolve
from services.orchestrator.engine.record import Kind, Record
from services.orchestrator.engine.scope import Scope
from services.orchestrator.engine.state import Caught, Error, RunState

if TYPE_CHECKING:
    from services.orchestrator.definition.workflow import Step, Workflow
    from services.orchestrator.engine.policy import Policy

STEPS = 4096  # of which what is journalled of each is kept in memory


@dataclass(slots=True)
class Draft:
    workflow: Workflow
    state: RunState
    policy: Policy
    at_us: int
    jitter: float  # 0 to 1
    records: list[Record] = field(default_factory=list)

    def add(
        self, kind: Kind, path: str, payload: dict[str, Any], *, attempt: int | None = None
    ) -> None:
        """Journal one record. PayloadTooLarge leaves everything as it was."""
        known = self.state.steps.get(path)
        number = attempt if attempt is not None else known.attempt if known else 0
        sequence = self.state.sequence + 1
        record = Record.write(sequence, kind, path, number, self.at_us, payload)
        evolve(self.state, record)
        self.records.append(record)

    def seen(self, path: str) -> Scope:
        return Scope(self.workflow, self.state, path, self.at_us)

    def call_at(self, path: str) -> Call:
        action = places.locate(self.workflow, path).step.action
        assert isinstance(action, Call)  # noqa: S101  (only calls are answered)
        return action

    def skip(self, step: Step, path: str, reason: str, **more: Any) -> None:
        """The step and all inside it do not happen."""
        self.skip_alone(step, path, reason, **more)
        if isinstance(step.action, ForEach):
            return
        handler = f"/{places.ON_ERROR}" if isinstance(step.action, Call) else ""
        for inner in step.inner:
            self.skip(inner, f"{path}{handler}/{inner.id}", reason)

    def skip_alone(self, step: Step, path: str, reason: str, **more: Any) -> None:
        payload = {**about(step), **more, "output": dict.fromkeys(step.outputs)}
        self.add(Kind.STEP_SKIPPED, path, {**payload, "reason": reason})

    def end_call(
        self,
        path: str,
        error: Error,
        *,
        uncertain: bool = False,
        at: str = "",
        handled: bool = False,
        **more: Any,
    ) -> None:
        """The step has failed for good, and with it those that it is inside of.

        ``at`` is the innermost one; ``handled``: it failed in what an earlier error led to.
        """
        place = places.locate(self.workflow, path)
        caught = "" if uncertain else _caught(place, error, handled=handled)
        payload = {"error": error.to_payload(), "uncertain": uncertain, "final": True}
        if at:
            payload["at"] = at
        if caught:
            payload |= {"caught": caught, "output": dict.fromkeys(place.step.outputs)}
        self.add(Kind.STEP_FAILED, path, {**about(place.step), **more, **payload})
        outside = places.outer(path)
        ends_outer = not caught or (caught == Caught.ITEM and outside != place.each)
        if outside and ends_outer and not path.endswith(f"/{places.COMPENSATE}"):
            handled = path.startswith(f"{outside}/{places.ON_ERROR}/")
            self.end_call(outside, error, uncertain=uncertain, at=at or path, handled=handled)


@lru_cache(maxsize=STEPS)
def about(step: Step) -> dict[str, Any]:
    """What the first record of a step says of it."""
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


def _caught(place: places.Place, error: Error, *, handled: bool) -> str:
    action = place.step.action
    catch = action.on_error if isinstance(action, Call) else None
    if catch is not None and not handled and catch.takes(error.code, error.reason):
        return Caught.HANDLE if catch.steps else Caught.CONTINUE
    if place.each:
        each = place.workflow.step(places.plain(place.each).rpartition("/")[2]).action
        if isinstance(each, ForEach) and each.tolerates:
            return Caught.ITEM
    return ""
