"""The state machine of a run: state and event give records, and records give the next state.

Every turn is one commit. Whatever a decision needs from outside (time, chance) comes with the
event, and whatever it decides is in its records, so that folding them needs neither.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, assert_never

from google.protobuf.message import DecodeError

from services.orchestrator.definition import values
from services.orchestrator.engine import outcome
from services.orchestrator.engine.activations import (
    CallCommand,
    CancelCommand,
    CancelFailed,
    CancelReplied,
    CancelRequested,
    DecisionReceived,
    Due,
    EventReceived,
    Failed,
    Recovered,
    Replied,
    SignalReceived,
    Started,
    WaitCommand,
)
from services.orchestrator.engine.blocks import can_be_left
from services.orchestrator.engine.calls import attestations_of
from services.orchestrator.engine.compensation import PaymentCancellation
from services.orchestrator.engine.interpreter import CANCELLED_STEP
from services.orchestrator.engine.model import Phase, RunStatus, StepError, StepStatus
from services.orchestrator.engine.records import RecordKind
from services.orchestrator.engine.retry_policy import SECOND_US

if TYPE_CHECKING:
    from services.orchestrator.engine.activations import Activation, Command
    from services.orchestrator.engine.model import RunState, StepState
    from services.orchestrator.engine.retry_policy import RetryPolicy


def commands(state: RunState, policy: RetryPolicy) -> list[Command]:
    """What is to be done now; nothing once the run has finished or before it has begun."""
    return [] if state.finished else [_command(step, policy) for step in state.active.values()]


def _command(step: StepState, policy: RetryPolicy) -> Command:
    if step.phase is Phase.CALL:
        given = step.timeout_us / SECOND_US or policy.attempt_timeout_s
        timeout = min(policy.attempt_timeout_s, given)
        return CallCommand(
            step.path, step.attempt, step.service, step.method, step.request, timeout
        )
    if step.phase is Phase.CANCELLING:
        return CancelCommand(
            step.path,
            step.cancel_attempt,
            step.service,
            step.cancel_method,
            step.cancel_request,
            step.until_us,
        )
    return WaitCommand(step.path, step.until_us)


_KINDS = {
    SignalReceived: RecordKind.SIGNAL,
    DecisionReceived: RecordKind.APPROVAL,
    CancelRequested: RecordKind.CANCEL_RUN,
}


class Transition(PaymentCancellation):
    """One event, judged: ``records`` is what it adds to the journal."""

    __slots__ = ()

    def apply(self, event: Activation) -> None:
        """What is about a step that has ended meanwhile changes nothing."""
        path = getattr(event, "path", None)
        if path is not None and path not in self.state.active:
            return
        match event:
            case Started():
                pass
            case Recovered():
                self.recover()
            case Replied(path, reply):
                self._finish_call(path, reply)
            case Failed(path, error):
                self.judge_failure(self.state.steps[path], error)
            case Due(path):
                self._pass(self.state.steps[path])
            case CancelReplied(path):
                self.add(RecordKind.CANCEL_DONE, path, {})
                self.attempt_again(path, "cancelled")
            case CancelFailed(path, error):
                self.judge_failed_cancel(self.state.steps[path], error)
            case SignalReceived() | DecisionReceived() | CancelRequested():
                self.add(_KINDS[type(event)], "", asdict(event))
            case EventReceived():
                self.hear(event)
            case _:
                assert_never(event)
        self._proceed()

    def _finish_call(self, path: str, raw: bytes) -> None:
        try:
            message = self.method_at(path).reply.FromString(raw)
            self.finish_step(path, values.to_json(message), attestations_of(message))
        except (values.MismatchError, DecodeError) as error:
            self.fail_after_effect(path, f"the reply of {path}: {error}")

    def _pass(self, step: StepState) -> None:
        if step.phase is Phase.AWAITING_EVENT:
            self.stop_listening(step)
        elif step.phase is not Phase.TIMER:
            self.resume(step)
        elif step.until_us < int(step.input["until_us"]):
            message = "the run's deadline passed while the step waited"
            self.end_call(step.path, StepError("DEADLINE_EXCEEDED", "", message))
        else:
            self.finish_own(step.path, {})

    def _proceed(self) -> None:
        """Begin what can begin now, or bring the run to its end."""
        if self.state.cancellation and self.state.pending_end is None:
            pivot = next((step for step in self.state.in_flight if step.effect == "PIVOT"), None)
            if pivot is not None and self._settles(pivot):
                return
            self._cancel_pending()
        going = self.ending is None and self.state.pending_end is None
        if going and self.walk_all() and self.ending is None:
            self.ending = outcome.of_last_step(self.workflow, self.state)
        if self.ending is not None or self.state.pending_end is not None:
            self._finalize()

    def _cancel_pending(self) -> None:
        """A payment that was made is not undone: what follows it is owed, but no other payment."""
        if not outcome.pivot_made(self.state):
            self.ending = RunStatus.CANCELLED, self.state.cancellation
            return
        for step in self.state.in_flight:
            if self.is_cancelled_payment(step.payment) and can_be_left(step):
                self.end_call(step.path, CANCELLED_STEP)

    def _settles(self, pivot: StepState) -> bool:
        """Bring the payment to where it is known if it was made; False once it is there.

        Once it is cancelled at its service, the next answer says which, however long that takes.
        """
        if pivot.phase in (Phase.BACKOFF, Phase.CIRCUIT_OPEN) and not pivot.cancelled:
            if not pivot.uncertain:
                self.end_call(pivot.path, CANCELLED_STEP)
            else:
                self.give_up_on(pivot, pivot.error or CANCELLED_STEP)
        return pivot.path in self.state.active

    def _finalize(self) -> None:
        """Nothing new begins; what is under way ends, what was done is taken back."""
        for step in self.state.in_flight:
            if can_be_left(step):
                self.leave(step.path, "the run ended first", abandoned_phase=step.phase)
        status, reason = self._end()
        if self.state.in_flight:
            self._remember(status, reason)
            return
        if self.refuse_payments(status):
            self._remember(status, reason)
            return
        todo = self.to_compensate(status)
        failed = self.failed_compensation()
        if failed is not None:
            self._finish(*failed)
        elif todo:
            self._remember(status, reason)
            self.begin_compensation(todo[0])
            if not self.state.in_flight:
                self._finalize()
        else:
            self._finish(self.after_compensations(status), reason)

    def _end(self) -> tuple[RunStatus, str]:
        """How the run ends: what is unknown outweighs whatever came first."""
        for step in self.state.steps.values():
            unknown = step.status is StepStatus.UNCERTAIN and step.phase is Phase.ENDED
            if unknown and not step.failed_step and not outcome.compensates(step.path):
                return outcome.of_failure(self.workflow, self.state, step.path)
        if (failed := self.failed_refusal()) is not None:
            return failed
        if self.state.pending_end is not None:
            return self.state.pending_end.status, self.state.pending_end.reason
        assert self.ending is not None  # noqa: S101
        return self.ending

    def _remember(self, status: RunStatus, reason: str) -> None:
        known = self.state.pending_end
        if known is None or (known.status, known.reason) != (status, reason):
            self.add(RecordKind.STOPPING, "", {"status": status, "reason": reason})

    def _finish(self, status: RunStatus, reason: str) -> None:
        for step in list(self.state.steps.values()):
            if step.phase is Phase.CHILDREN:
                self.leave(step.path, "the run ended first", abandoned_phase=step.phase)
        self.add(RecordKind.FINISH, "", {"status": status, "reason": reason})
