"""The way through the steps: what begins next, and what ends with what is inside it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from base64 import b64encode
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from services.orchestrator.definition import values
from services.orchestrator.definition.templates import UnresolvedPathError, resolve
from services.orchestrator.definition.workflow import (
    MAX_ITEMS,
    MAX_STEPS_PER_RUN,
    Approval,
    Call,
    Emit,
    End,
    ForEach,
    Parallel,
    Set,
    Step,
    Switch,
    Wait,
    WaitFor,
    Workflow,
    all_steps,
)
from services.orchestrator.engine import outcome, permissions, step_path
from services.orchestrator.engine.calls import build_request, effect_key
from services.orchestrator.engine.model import FailureScope, Phase, StepError, StepStatus
from services.orchestrator.engine.records import PayloadTooLargeError, RecordKind
from services.orchestrator.engine.scope import ITEMS, explain
from services.orchestrator.engine.waits import Waits

if TYPE_CHECKING:
    from services.orchestrator.definition.cel import Condition
    from services.orchestrator.engine.model import RunStatus, StepState

CANCELLED_STEP = StepError("CANCELLED", "", "the run was cancelled before it was sent")


class Progress(Enum):
    """How far a list of steps has come."""

    UNDER = "something in it is under way"
    DONE = "nothing is left to do"
    BROKEN = "a step failed, and what is around it fails with it"
    OVER = "it asked for the end of the workflow inside the run that it belongs to"


@dataclass(slots=True)
class Interpreter(Waits, ABC):
    ending: tuple[RunStatus, str] | None = None  # decided in this turn
    ended_inside: tuple[str, str] = ("", "")  # outcome and reason of the last Way.OVER

    def walk_all(self) -> bool:
        return self.walk(self.workflow.steps, "") is Progress.DONE

    def walk(self, steps: tuple[Step, ...], prefix: str) -> Progress:
        """Begin what can begin below ``prefix``."""
        first = prefix + steps[0].id
        for at in range(self.state.completed_prefix.get(first, 0), len(steps)):
            way = self._go(steps[at], prefix + steps[at].id)
            if way is not Progress.DONE:
                return way
            self.state.completed_prefix[first] = at + 1
        return Progress.DONE

    def _go(self, step: Step, path: str) -> Progress:
        """Begin the step or go on inside it, as far as it leads now."""
        if path not in self.state.steps:
            self.begin(step, path)
        known = self.state.steps[path]
        caught, way = known.failure_scope, Progress.DONE
        if known.phase in (Phase.CHILDREN, Phase.AWAITING_EVENT):
            way = self.enter(step, path)
        if known.phase is Phase.CHILDREN and known.failure_scope != caught:
            way = self.enter(step, path)  # it failed, and its on_error follows
        if known.phase is not Phase.ENDED or self.ending is not None:
            return Progress.UNDER
        if known.status in (StepStatus.FAILED, StepStatus.UNCERTAIN):
            return self._judge_failed(known, way)
        if isinstance(step.action, End) and known.status is StepStatus.SUCCEEDED:
            return self._end_here(step.action, path, known.input.get("reason", ""))
        return way

    def _judge_failed(self, step: StepState, way: Progress) -> Progress:
        if step.failure_scope == FailureScope.OUTER:
            return Progress.BROKEN
        if step.failure_scope:
            return way
        failed = step.failed_step or step.path
        self.ending = outcome.of_failure(self.workflow, self.state, failed)
        return Progress.UNDER

    def _end_here(self, end: End, path: str, reason: str) -> Progress:
        """The end of the run; in a workflow inside it, of that one only."""
        if step_path.locate(self.workflow, path).prefix:
            self.ended_inside = end.outcome, reason
            return Progress.OVER
        self.ending = outcome.of_end(self.workflow, self.state, end.outcome, reason)
        return Progress.UNDER

    # Beginning a step.

    def begin(self, step: Step, path: str) -> None:
        seen = self.seen(path)
        try:
            condition = self._judge_condition(step, path, seen)
            if condition is None:
                return
            self._begin_action(step, path, seen, condition)
        except (UnresolvedPathError, values.MismatchError) as error:
            message = f"input of {path}: {explain(step, error, seen)}"
            self.end_call(path, StepError("INVALID_ARGUMENT", "", message))
        except PayloadTooLargeError as error:
            self.end_call(path, StepError("INVALID_ARGUMENT", "", f"input of {path}: {error}"))

    def _judge_condition(
        self, step: Step, path: str, seen: dict[str, Any]
    ) -> dict[str, Any] | None:
        """What to journal of a condition that holds. None if it does not: then the step is over."""
        if step.condition is None:
            return {}
        judged, holds, reason = _judge(step.condition, seen)
        if holds:
            return {"condition": judged}
        if holds is None:
            message = f"{reason}: condition of {path} cannot be judged"
            self.end_call(path, StepError("FAILED_PRECONDITION", "", message), condition=judged)
        else:
            self.skip(step, path, f"{reason}: condition of {path} is false", condition=judged)
        return None

    def _begin_action(
        self, step: Step, path: str, seen: dict[str, Any], condition: dict[str, Any]
    ) -> None:
        payload = {**self.about(step, path), **condition}
        match step.action:
            case Call() as call if refused := permissions.refusal(self.state, path, call):
                self.end_call(path, refused, **condition)
            case Call() if self.is_cancelled_payment(payload.get("payment", "")):
                message = f"{path}: {CANCELLED_STEP.message}"
                self.end_call(path, replace(CANCELLED_STEP, message=message), **condition)
            case Call() as call:
                self._begin_call(call, path, seen, payload)
            case Set(given):
                self.complete_now(path, payload, {}, resolve(given, seen))
            case End(reason=reason):
                told = resolve(reason, seen)
                if not isinstance(told, str):
                    raise values.MismatchError(("reason",), "a text")
                self.complete_now(path, payload, {"reason": told}, {})
            case Switch():
                self._choose(step, step.action, path, seen, payload)
            case Wait() as wait:
                self.wait(wait, path, seen, payload)
            case WaitFor() as wait:
                self.listen_from_now_on(wait, path, seen, payload)
            case Emit() as emit:
                self.emit(emit, path, seen, payload)
            case Approval() as asked:
                self.ask(asked, path, seen, payload)
            case ForEach(items=items):
                payload["input"] = {ITEMS: self._items(step.action, resolve(items, seen))}
                self.add(RecordKind.STEP_INTENT, path, payload, attempt=1)
            case Parallel():
                self.add(RecordKind.STEP_INTENT, path, {**payload, "input": {}}, attempt=1)

    def is_cancelled_payment(self, payment: str) -> bool:
        """Is it not to be made any more, as somebody cancelled the run?"""
        unpaid = payment and not outcome.is_paid(self.state, payment)
        return bool(self.state.cancellation and unpaid)

    def _begin_call(
        self, call: Call, path: str, seen: dict[str, Any], payload: dict[str, Any]
    ) -> None:
        resolved = resolve(call.input_mapping, seen)
        payload["input"] = resolved
        runs = call.operation.runs
        if isinstance(runs, Workflow):
            runs.inputs.check(resolved)
            if len(self.state.steps) + runs.min_steps > MAX_STEPS_PER_RUN:
                message = f"the run would have more than {MAX_STEPS_PER_RUN} steps"
                self.end_call(path, StepError("INVALID_ARGUMENT", "", message), **payload)
                return
        else:
            payment = payload.get("payment", "")
            key = effect_key(self.state, path, runs.effect, payment)
            request = build_request(runs, resolved, key, self.state, payment)
            payload |= {
                "method": runs.path,
                "service": runs.service,
                "key": key,
                "request": b64encode(request).decode(),
            }
            if call.timeout_us is not None:
                payload["timeout_us"] = call.timeout_us
        self.add(RecordKind.STEP_INTENT, path, payload, attempt=1)

    def _choose(
        self, step: Step, switch: Switch, path: str, seen: dict[str, Any], payload: dict[str, Any]
    ) -> None:
        """The first case that holds; the steps of all others are skipped."""
        judged: list[dict[str, Any]] = []
        reasons: list[str] = []
        chosen = None
        for at, case in enumerate(switch.cases):
            if case.when is None:
                chosen = at
                break
            verdict, holds, reason = _judge(case.when, seen)
            judged.append(verdict)
            if holds is None:
                message = f"{reason}: a case of {path} cannot be judged"
                self.end_call(path, StepError("FAILED_PRECONDITION", "", message))
                return
            if holds:
                chosen = at
                break
            reasons.append(reason)
        why = " and ".join(reasons) or "an earlier case holds"
        if chosen is None:
            self.skip(step, path, f"{why}: no case of {path} holds")
            return
        payload["input"] = {"case": chosen, "judged": judged}
        self.add(RecordKind.STEP_INTENT, path, payload, attempt=1)
        for at, case in enumerate(switch.cases):
            for other in case.steps if at != chosen else ():
                self.skip(other, f"{path}/{other.id}", f"{why}: {path} took another case")

    def _items(self, each: ForEach, listed: Any) -> list[Any]:
        if not isinstance(listed, list) or len(listed) > MAX_ITEMS:
            raise values.MismatchError(("items",), f"a list of at most {MAX_ITEMS}")
        steps = len(self.state.steps) + len(listed) * sum(1 for _ in all_steps(each.steps))
        if steps > MAX_STEPS_PER_RUN:
            raise values.MismatchError(
                ("items",), f"so few that the run has at most {MAX_STEPS_PER_RUN} steps"
            )
        return listed

    @abstractmethod
    def enter(self, step: Step, path: str) -> Progress:
        """Go on with what is inside a step, or with what it waits for."""


def _judge(condition: Condition, seen: dict[str, Any]) -> tuple[dict[str, Any], bool | None, str]:
    """What to journal of a condition, whether it holds (None: nobody can tell), and why not."""
    verdict = condition.judge(seen)
    judged = {
        "expression": condition.text,
        "verdict": bool(verdict.holds),
        "operands": verdict.operands,
    }
    return judged, verdict.holds, verdict.reason
