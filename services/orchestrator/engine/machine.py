"""The state machine of a run: state and event give records, and records give the next state.

Every turn is one commit. Steps run in order; an operation that is a workflow runs its own steps
under its path. Whatever a decision needs from outside (time, chance) comes with the event, and
whatever it decides is in its records, so that folding them needs neither.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, assert_never

from google.protobuf.message import DecodeError

from services.orchestrator.definition import values
from services.orchestrator.definition.template import Unresolved, resolve
from services.orchestrator.definition.workflow import Effect, Method, Workflow
from services.orchestrator.engine import conclusion, scope
from services.orchestrator.engine.events import (
    Began,
    Call,
    Cancel,
    CancelFailed,
    CancelReplied,
    Due,
    Failed,
    Recovered,
    Replied,
    Wait,
)
from services.orchestrator.engine.policy import SECOND, Outcome, Policy, judge
from services.orchestrator.engine.record import Kind, PayloadTooLarge, Record
from services.orchestrator.engine.request import (
    attestations_of,
    build_cancel,
    build_request,
    effect_key,
)
from services.orchestrator.engine.state import RECOVERED, Error, Phase, RunState, evolve

if TYPE_CHECKING:
    from services.orchestrator.definition.workflow import Operation, Step
    from services.orchestrator.engine.events import Command, Event
    from services.orchestrator.engine.state import RunStatus, StepState


def next_command(state: RunState) -> Command | None:
    """What is to be done now; None once the run has finished or before it has begun."""
    step = None if state.finished else state.in_flight
    if step is None:
        return None
    match step.phase:
        case Phase.CALLING:
            return Call(step.path, step.attempt, step.service, step.method, step.request)
        case Phase.CANCELLING:
            return Cancel(
                step.path,
                step.cancel_attempt,
                step.service,
                step.cancel_method,
                step.cancel_request,
                step.until_us,
            )
        case _:
            return Wait(step.path, step.until_us)


@dataclass(slots=True)
class Turn:
    """One event, judged: ``records`` is what it adds to the journal."""

    workflow: Workflow
    state: RunState
    policy: Policy
    at_us: int
    jitter: float  # 0 to 1
    records: list[Record] = field(default_factory=list)

    def take(self, event: Event) -> None:
        match event:
            case Began():
                self._proceed()
            case Recovered():
                self._recover()
            case Replied(path, reply):
                self._finish_call(path, reply)
                self._proceed()
            case Failed(path, error):
                self._judge_failure(self.state.steps[path], error)
            case Due(path):
                self._resume(self.state.steps[path])
            case CancelReplied(path):
                self.add(Kind.CANCEL_DONE, path, {})
                self._attempt_again(path, "cancelled")
            case CancelFailed(path, error):
                self._judge_failed_cancel(self.state.steps[path], error)
            case _:
                assert_never(event)

    def add(
        self, kind: Kind, path: str, payload: dict[str, Any], *, attempt: int | None = None
    ) -> None:
        """Journal one record. PayloadTooLarge leaves everything as it was."""
        known = self.state.steps.get(path)
        number = attempt if attempt is not None else known.attempt if known else 0
        record = Record(self.state.sequence + 1, kind, path, number, self.at_us, payload)
        record.encode()
        self.state = evolve(self.state, record)
        self.records.append(record)

    # Walking through the steps.

    def _proceed(self) -> None:
        if self._walk(self.workflow, ""):
            self._finish(*conclusion.of_all_steps(self.state))

    def _walk(self, workflow: Workflow, prefix: str) -> bool:
        """Begin what can begin below ``prefix``; True once nothing there is left to do."""
        for step in workflow.steps:
            path = prefix + step.id
            if path not in self.state.steps:
                self._begin(step, path)
            if self.state.finished:
                return False
            inner = step.operation.runs
            inside = self.state.steps[path].phase is Phase.INSIDE
            if inside and isinstance(inner, Workflow) and self._walk(inner, f"{path}/"):
                self._finish_inside(step, path, inner)
            if self.state.finished or self.state.steps[path].phase is not Phase.ENDED:
                return False
        return True

    def _begin(self, step: Step, path: str) -> None:
        seen = scope.of(self.workflow, self.state, path, self.at_us)
        about = _about(step.operation)
        try:
            condition = self._judge_condition(step, path, seen, about)
            if condition is None:
                return
            resolved = resolve(step.input_mapping, seen)
            intent = self._intent(step.operation.runs, resolved, path)
            payload = {**about, **condition, "input": resolved, **intent}
            self.add(Kind.STEP_INTENT, path, payload, attempt=1)
        except (Unresolved, values.Mismatch, PayloadTooLarge) as error:
            self._fail(path, Error("INVALID_ARGUMENT", "", f"input of {path}: {error}"), about)

    def _judge_condition(
        self, step: Step, path: str, seen: dict[str, Any], about: dict[str, Any]
    ) -> dict[str, Any] | None:
        """What to journal of a condition that holds. None if it does not: then the step is over."""
        if step.condition is None:
            return {}
        verdict = step.condition.judge(seen)
        judged = {
            "condition": {
                "expression": step.condition.text,
                "verdict": bool(verdict.holds),
                "operands": verdict.operands,
            }
        }
        if verdict.holds:
            return judged
        if verdict.holds is None:
            message = f"{verdict.reason}: condition of {path} cannot be judged"
            self._fail(path, Error("FAILED_PRECONDITION", "", message), {**about, **judged})
            return None
        self._skip(step, path, judged, f"{verdict.reason}: condition of {path} is false")
        return None

    def _skip(self, step: Step, path: str, judged: dict[str, Any], reason: str) -> None:
        nothing = dict.fromkeys(step.output_mapping)
        payload = {**_about(step.operation), **judged, "output": nothing, "reason": reason}
        self.add(Kind.STEP_SKIPPED, path, payload)

    def _intent(
        self, runs: Method | Workflow, resolved: dict[str, Any], path: str
    ) -> dict[str, Any]:
        if isinstance(runs, Workflow):
            runs.inputs.check(resolved)
            return {}
        key = effect_key(self.state, path, runs.effect)
        request = build_request(runs, resolved, key, self.state)
        return {
            "method": runs.path,
            "service": runs.service,
            "key": key,
            "request": b64encode(request).decode(),
        }

    # The end of a call.

    def _finish_call(self, path: str, raw: bytes) -> None:
        step, runs = self._step(path)
        try:
            message = runs.reply.FromString(raw)
            reply = values.to_json(message)
            self._done(step, path, reply, attestations_of(message))
        except (values.Mismatch, DecodeError) as error:
            self._fail_after_effect(path, f"the reply of {path}: {error}")

    def _finish_inside(self, step: Step, path: str, inner: Workflow) -> None:
        """A workflow's reply is its last step's; where that was skipped, so is the step."""
        last = self.state.steps[f"{path}/{inner.steps[-1].id}"]
        if last.reply is None:
            self._skip(step, path, {"condition": last.condition}, last.skip_reason)
        else:
            self._done(step, path, last.reply, [])

    def _done(
        self, step: Step, path: str, reply: dict[str, Any], attestations: list[list[str]]
    ) -> None:
        seen = scope.of(self.workflow, self.state, path, self.at_us)
        try:
            output = resolve(step.output_mapping, {**seen, "output": reply})
            payload = {"reply": reply, "output": output, "attestations": attestations}
            self.add(Kind.STEP_DONE, path, payload)
        except (Unresolved, PayloadTooLarge) as error:
            self._fail_after_effect(path, f"output of {path}: {error}")

    def _fail_after_effect(self, path: str, message: str) -> None:
        """The call was made, but the run cannot go on from what it answered."""
        made = self.state.steps[path].effect == Effect.PIVOT.name
        self._fail(path, Error("INTERNAL", "", message), uncertain=made)

    # The end of an attempt that did not end well.

    def _judge_failure(self, step: StepState, error: Error) -> None:
        mutating = step.effect != Effect.READ.name
        outcome = judge(error, mutating=mutating)
        if outcome is Outcome.PARK:
            self._park(step, error)
            return
        uncertain = step.uncertain or outcome is Outcome.UNCERTAIN
        if outcome is Outcome.DEFINITE:
            self._judge_refusal(step, error, uncertain=uncertain)
        elif self._may_try(step):
            self._retry(step, error, uncertain=outcome is Outcome.UNCERTAIN)
        elif uncertain:
            self._give_up_on(step, error)
        else:
            self._fail(step.path, error)

    def _judge_refusal(self, step: StepState, error: Error, *, uncertain: bool) -> None:
        """A refusal is final, unless an earlier attempt may still be on its way."""
        if uncertain and self._cancel_of(step) is not None and not step.cancelled:
            self._cancel(step, error)
        else:
            self._fail(step.path, self._root_cause(step, error))

    @staticmethod
    def _root_cause(step: StepState, error: Error) -> Error:
        """What made us cancel says more than that it was cancelled, if it was a refusal."""
        cause = step.cancel_cause
        is_refusal = cause is not None and judge(cause, mutating=True) is Outcome.DEFINITE
        return cause if cause is not None and is_refusal else error

    def _give_up_on(self, step: StepState, error: Error) -> None:
        """Out of time, and the effect may be there: refuse it for ever, or call somebody."""
        if self._cancel_of(step) is not None and not step.cancelled:
            self._cancel(step, error)
            return
        self._end_step(step.path, error, uncertain=True)
        self._finish(*conclusion.of_unknown(step.path, error))

    def _may_try(self, step: StepState) -> bool:
        if conclusion.pivot_made(self.state):
            return True  # there is no way back: what follows a payment is owed
        in_time = self.at_us < self.state.deadline_us or step.cancelled
        return in_time and self.at_us - step.since_us < self.policy.step_timeout * SECOND

    def _retry(self, step: StepState, error: Error, *, uncertain: bool) -> None:
        wait = self.policy.retry_us(
            step.attempt, error, self.jitter, after_pivot=conclusion.pivot_made(self.state)
        )
        payload = {
            "error": error.to_payload(),
            "uncertain": uncertain,
            "final": False,
            "retry_us": self.at_us + wait,
        }
        self.add(Kind.STEP_FAILED, step.path, payload)

    def _park(self, step: StepState, error: Error) -> None:
        until = self.at_us + self.policy.park_us(error, self.jitter)
        payload = {"error": error.to_payload(), "until_us": until}
        self.add(Kind.STEP_PARKED, step.path, payload)

    def _resume(self, step: StepState) -> None:
        parked = step.phase is Phase.PARKED
        late = self.at_us >= self.state.deadline_us and not conclusion.pivot_made(self.state)
        if parked and late and not step.cancelled:
            message = "the run's deadline passed while the step was parked"
            error = Error("DEADLINE_EXCEEDED", "", message)
            if step.uncertain:
                self._give_up_on(step, error)
            else:
                self._fail(step.path, error)
        elif parked:
            # Nothing was sent before: it is still the same attempt.
            self.add(Kind.STEP_ATTEMPT, step.path, {"cause": "unparked"}, attempt=step.attempt)
        else:
            self._attempt_again(step.path, "retried")

    def _recover(self) -> None:
        self.add(Kind.RECOVERED, "", {})
        step = self.state.in_flight
        if step is not None and step.phase is Phase.CALLING:
            self._attempt_again(step.path, RECOVERED)

    def _attempt_again(self, path: str, cause: str) -> None:
        attempt = self.state.steps[path].attempt + 1
        self.add(Kind.STEP_ATTEMPT, path, {"cause": cause}, attempt=attempt)

    # Cancelling what may have happened.

    def _cancel(self, step: StepState, error: Error) -> None:
        cancel = self._cancel_of(step)
        assert cancel is not None  # noqa: S101
        payload = {
            "method": cancel.path,
            "request": b64encode(build_cancel(cancel, step.key)).decode(),
            "error": error.to_payload(),
        }
        self.add(Kind.CANCEL_INTENT, step.path, payload)

    def _judge_failed_cancel(self, step: StepState, error: Error) -> None:
        outcome = judge(error, mutating=True)
        in_time = self.at_us - step.since_us < self.policy.step_timeout * SECOND
        # An open breaker costs nothing: it ends when its target is back.
        if outcome is Outcome.PARK or (outcome is not Outcome.DEFINITE and in_time):
            wait = self.policy.retry_us(step.cancel_attempt, error, self.jitter, after_pivot=False)
            payload = {"error": error.to_payload(), "final": False, "retry_us": self.at_us + wait}
            self.add(Kind.CANCEL_FAILED, step.path, payload)
            return
        self.add(Kind.CANCEL_FAILED, step.path, {"error": error.to_payload(), "final": True})
        self._finish(*conclusion.of_unknown(step.path, error))

    # Endings.

    def _fail(
        self,
        path: str,
        error: Error,
        about: dict[str, Any] | None = None,
        *,
        uncertain: bool = False,
    ) -> None:
        self._end_step(path, error, about, uncertain=uncertain)
        self._finish(*conclusion.of_failure(self.workflow, self.state, path, error))

    def _end_step(
        self,
        path: str,
        error: Error,
        about: dict[str, Any] | None = None,
        *,
        uncertain: bool,
    ) -> None:
        """The step and those that it is inside of end together."""
        payload = {"error": error.to_payload(), "uncertain": uncertain, "final": True}
        self.add(Kind.STEP_FAILED, path, {**(about or {}), **payload})
        outer = path.rpartition("/")[0]
        if outer:
            self._end_step(outer, error, uncertain=uncertain)

    def _finish(self, status: RunStatus, reason: str) -> None:
        self.add(Kind.FINISH, "", {"status": status, "reason": reason})

    def _step(self, path: str) -> tuple[Step, Method]:
        step = scope.find_step(self.workflow, path)
        runs = step.operation.runs
        assert isinstance(runs, Method)  # noqa: S101  (only calls have replies)
        return step, runs

    def _cancel_of(self, step: StepState) -> Method | None:
        return self._step(step.path)[1].cancel


def _about(operation: Operation) -> dict[str, Any]:
    runs = operation.runs
    # A workflow that pays is no operation: what runs inside another can be taken back.
    effect = runs.effect if isinstance(runs, Method) else Effect.REVERSIBLE
    return {"operation": operation.name, "protocol": operation.protocol, "effect": effect.name}
