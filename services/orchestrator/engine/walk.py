"""The way through the steps: what begins next, and what ends with what is inside it."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from services.orchestrator.definition import values
from services.orchestrator.definition.template import Unresolved, resolve
from services.orchestrator.definition.workflow import (
    Call,
    End,
    ForEach,
    Parallel,
    Set,
    Step,
    Switch,
    Wait,
    WaitFor,
    Workflow,
)
from services.orchestrator.engine import ceiling, conclusion, places
from services.orchestrator.engine.attempts import Attempts
from services.orchestrator.engine.draft import about
from services.orchestrator.engine.policy import SECOND
from services.orchestrator.engine.record import Kind, PayloadTooLarge
from services.orchestrator.engine.request import build_request, effect_key
from services.orchestrator.engine.scope import ITEMS
from services.orchestrator.engine.state import Caught, Error, Phase, StepStatus

if TYPE_CHECKING:
    from services.orchestrator.definition.condition import Condition
    from services.orchestrator.engine.state import RunStatus, Signal, StepState

MAX_ITEMS = 1000  # of a for_each


class Way(Enum):
    """How far a list of steps has come."""

    UNDER = "something in it is under way"
    DONE = "nothing is left to do"
    BROKEN = "a step failed, and only this item of a for_each with it"


@dataclass(slots=True)
class Walk(Attempts):
    ending: tuple[RunStatus, str] | None = None  # decided in this turn

    def walk_all(self) -> bool:
        return self._walk(self.workflow.steps, "") is Way.DONE

    def _walk(self, steps: tuple[Step, ...], prefix: str) -> Way:
        """Begin what can begin below ``prefix``."""
        first = prefix + steps[0].id
        for at in range(self.state.passed.get(first, 0), len(steps)):
            way = self._go(steps[at], prefix + steps[at].id)
            if way is not Way.DONE:
                return way
            self.state.passed[first] = at + 1
        return Way.DONE

    def _go(self, step: Step, path: str) -> Way:
        """Begin the step or go on inside it, as far as it leads now."""
        if path not in self.state.steps:
            self.begin(step, path)
        known = self.state.steps[path]
        if known.phase in (Phase.INSIDE, Phase.LISTENING):
            self._enter(step, path)
        if known.phase is not Phase.ENDED or self.ending is not None:
            return Way.UNDER
        if known.status in (StepStatus.FAILED, StepStatus.UNCERTAIN):
            return self._judge_failed(known)
        if isinstance(step.action, End) and known.status is StepStatus.SUCCEEDED:
            self.ending = conclusion.of_end(
                self.workflow, self.state, step.action.outcome, known.input.get("reason", "")
            )
            return Way.UNDER
        return Way.DONE

    def _judge_failed(self, step: StepState) -> Way:
        if step.caught == Caught.ITEM:
            return Way.BROKEN
        if step.caught:
            return Way.DONE
        failed = step.failed_at or step.path
        self.ending = conclusion.of_failure(self.workflow, self.state, failed)
        return Way.UNDER

    # Beginning a step.

    def begin(self, step: Step, path: str) -> None:
        seen = self.seen(path)
        try:
            condition = self._judge_condition(step, path, seen)
            if condition is None:
                return
            self._begin_action(step, path, seen, condition)
        except (Unresolved, values.Mismatch, PayloadTooLarge) as error:
            self.end_call(path, Error("INVALID_ARGUMENT", "", f"input of {path}: {error}"))

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
            self.end_call(path, Error("FAILED_PRECONDITION", "", message), condition=judged)
        else:
            self.skip(step, path, f"{reason}: condition of {path} is false", condition=judged)
        return None

    def _begin_action(
        self, step: Step, path: str, seen: dict[str, Any], condition: dict[str, Any]
    ) -> None:
        payload = {**about(step), **condition}
        match step.action:
            case Call() as call if refused := ceiling.refusal(self.state, path, call):
                self.end_call(path, refused, **condition)
            case Call() as call:
                self._begin_call(call, path, seen, payload)
            case Set(given):
                self._end_at_once(path, payload, {}, resolve(given, seen))
            case End(reason=reason):
                told = resolve(reason, seen)
                self._end_at_once(path, payload, {"reason": told}, {})
            case Switch():
                self._choose(step, step.action, path, seen, payload)
            case Wait():
                until = self._until(step.action, seen)
                capped = until if conclusion.pivot_made(self.state) else self._cap(until)
                more = {"input": {"until_us": until}, "until_us": capped}
                self.add(Kind.STEP_INTENT, path, {**payload, **more}, attempt=1)
            case WaitFor() as wait:
                self._listen_from_now_on(wait, path, seen, payload)
            case ForEach(items=items):
                listed = resolve(items, seen)
                if not isinstance(listed, list) or len(listed) > MAX_ITEMS:
                    raise values.Mismatch(("items",), f"a list of at most {MAX_ITEMS}")
                payload["input"] = {ITEMS: listed}
                self.add(Kind.STEP_INTENT, path, payload, attempt=1)
            case Parallel():
                self.add(Kind.STEP_INTENT, path, {**payload, "input": {}}, attempt=1)

    def _begin_call(
        self, call: Call, path: str, seen: dict[str, Any], payload: dict[str, Any]
    ) -> None:
        resolved = resolve(call.input_mapping, seen)
        payload["input"] = resolved
        runs = call.operation.runs
        if isinstance(runs, Workflow):
            runs.inputs.check(resolved)
        else:
            key = effect_key(self.state, path, runs.effect)
            request = build_request(runs, resolved, key, self.state)
            payload |= {
                "method": runs.path,
                "service": runs.service,
                "key": key,
                "request": b64encode(request).decode(),
            }
            if call.timeout_us is not None:
                payload["timeout_us"] = call.timeout_us
        self.add(Kind.STEP_INTENT, path, payload, attempt=1)

    def _end_at_once(
        self, path: str, payload: dict[str, Any], input: dict[str, Any], output: dict[str, Any]
    ) -> None:
        done: dict[str, Any] = {"input": input, "reply": None, "output": output, "attestations": []}
        self.add(Kind.STEP_DONE, path, {**payload, **done}, attempt=1)

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
                self.end_call(path, Error("FAILED_PRECONDITION", "", message))
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
        self.add(Kind.STEP_INTENT, path, payload, attempt=1)
        for at, case in enumerate(switch.cases):
            for other in case.steps if at != chosen else ():
                self.skip(other, f"{path}/{other.id}", f"{why}: {path} took another case")

    def _until(self, wait: Wait, seen: dict[str, Any]) -> int:
        if wait.until is None:
            return self.at_us + (wait.duration_us or 0)
        text = resolve(wait.until, seen)
        try:
            time = datetime.fromisoformat(text)
        except (TypeError, ValueError):
            raise values.Mismatch(("until",), "an RFC 3339 time") from None
        if time.tzinfo is None:
            raise values.Mismatch(("until",), "a time with its offset from UTC")
        return int(time.timestamp() * SECOND)

    def _listen_from_now_on(
        self, wait: WaitFor, path: str, seen: dict[str, Any], payload: dict[str, Any]
    ) -> None:
        correlation = resolve(wait.correlation, seen)
        if not isinstance(correlation, str | None):
            raise values.Mismatch(("correlation",), "a text")
        until = self.state.deadline_us
        if wait.timeout_us is not None:
            until = self.at_us + wait.timeout_us
        if not conclusion.pivot_made(self.state):
            until = self._cap(until)
        payload["input"] = {"correlation": correlation, "may_end": wait.may_end}
        self.add(Kind.STEP_INTENT, path, {**payload, "listens": True, "until_us": until}, attempt=1)

    def _listen(self, wait: WaitFor, path: str, known: StepState) -> None:
        """The signals that it waits for, if they have come."""
        asked = known.input["correlation"]
        came: dict[str, Signal] = {}
        for signal in self.state.signals:
            if signal.name in wait.signals and asked in (None, signal.correlation):
                came.setdefault(signal.name, signal)
        if not came or (wait.all and len(came) < len(wait.signals)):
            return
        first = min(came.values(), key=lambda signal: signal.sequence)
        taken = list(came.values()) if wait.all else [first]
        payload: Any = {s.name: s.payload for s in taken} if wait.all else first.payload
        done = {"signal": first.name, "payload": payload}
        consumed = [signal.sequence for signal in taken]
        more = {"reply": None, "output": done, "attestations": [], "consumed": consumed}
        self.add(Kind.STEP_DONE, path, more)

    def _cap(self, until_us: int) -> int:
        return min(until_us, self.state.deadline_us)

    # Steps with steps inside.

    def _enter(self, step: Step, path: str) -> None:
        known = self.state.steps[path]
        match step.action:
            case Call(on_error=catch) if known.caught and catch is not None:
                if self._walk(catch.steps, f"{path}/{places.ON_ERROR}/") is Way.DONE:
                    self.add(Kind.STEP_HANDLED, path, {})
            case Call(operation) if isinstance(operation.runs, Workflow):
                if self._walk(operation.runs.steps, f"{path}/") is Way.DONE:
                    self._finish_inside(step, path, operation.runs)
            case Switch(cases):
                taken = cases[known.input["case"]]
                if self._walk(taken.steps, f"{path}/") is Way.DONE:
                    self.finish_own(path, {})
            case Parallel() as parallel:
                self._enter_parallel(parallel, path)
            case ForEach() as each:
                self._enter_each(each, path, known)
            case WaitFor() as wait:
                self._listen(wait, path, known)
            case _:
                pass

    def _enter_parallel(self, parallel: Parallel, path: str) -> None:
        under = 0
        for name, steps in parallel.branches.items():
            if under >= parallel.max_concurrency:
                return
            way = self._walk(steps, f"{path}/")
            if self.ending is not None:
                return
            if way is Way.DONE and parallel.first:
                self._leave_others(parallel, path, name)
                self.finish_own(path, {"first": name})
                return
            under += way is Way.UNDER
        if not under:
            self.finish_own(path, {})

    def _leave_others(self, parallel: Parallel, path: str, first: str) -> None:
        reason = f"{first} was first in {path}"
        for name, steps in parallel.branches.items():
            for step in steps if name != first else ():
                self._leave(step, f"{path}/{step.id}", reason)

    def _leave(self, step: Step, path: str, reason: str) -> None:
        """Whatever is under way in it is given up: it changes nothing."""
        known = self.state.steps.get(path)
        if known is None:
            self.skip(step, path, reason)
        elif known.phase is not Phase.ENDED:
            for inner in [p for p in self.state.active if p.startswith(f"{path}/")]:
                self.leave(inner, reason)
            for own in step.inner:
                handler = f"/{places.ON_ERROR}" if isinstance(step.action, Call) else ""
                self._leave(own, f"{path}{handler}/{own.id}", reason)
            self.leave(path, reason)

    def leave(self, path: str, reason: str) -> None:
        self.skip_alone(places.locate(self.workflow, path).step, path, reason)

    def _enter_each(self, each: ForEach, path: str, known: StepState) -> None:
        under, items = 0, range(len(known.input[ITEMS]))
        for index in items[self.state.passed.get(f"{path}[]", 0) :]:
            if under >= each.max_concurrency:
                return
            way = self._walk(each.steps, f"{path}[{index}]/")
            if self.ending is not None:
                return
            if way is Way.UNDER:
                under += 1
            elif not under:
                self.state.passed[f"{path}[]"] = index + 1
        if not under:
            self._collect_all(each, path, items)

    def _collect_all(self, each: ForEach, path: str, items: range) -> None:
        ways = [self._walk(each.steps, f"{path}[{index}]/") for index in items]
        try:
            results = [
                None if way is Way.BROKEN else self._collect(each, path, at)
                for at, way in enumerate(ways)
            ]
            self.finish_own(path, {"results": results, "failed": ways.count(Way.BROKEN)})
        except (Unresolved, PayloadTooLarge) as error:
            message = f"results of {path}: {error}"
            self.end_call(path, Error("INVALID_ARGUMENT", "", message))
            self.ending = conclusion.of_failure(self.workflow, self.state, path)

    def _collect(self, each: ForEach, path: str, index: int) -> Any:
        return resolve(each.collect, self.seen(f"{path}[{index}]/{each.steps[-1].id}"))

    def _finish_inside(self, step: Step, path: str, inner: Workflow) -> None:
        """A workflow's reply is its last step's; where that was skipped, so is the step."""
        last = self.state.steps[f"{path}/{inner.steps[-1].id}"]
        if last.reply is None:
            self.skip_alone(step, path, last.skip_reason, condition=last.condition)
        else:
            self.finish_step(path, last.reply, [])


def _judge(condition: Condition, seen: dict[str, Any]) -> tuple[dict[str, Any], bool | None, str]:
    """What to journal of a condition, whether it holds (None: nobody can tell), and why not."""
    verdict = condition.judge(seen)
    judged = {
        "expression": condition.text,
        "verdict": bool(verdict.holds),
        "operands": verdict.operands,
    }
    return judged, verdict.holds, verdict.reason
