"""The state machine of a run: an activation adds records, and the records give the next state.

Each transition is one commit. What a decision needs from outside (time, chance) comes with the
activation, and every decision is in the records, so that folding them needs neither.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, assert_never

from services.orchestrator.engine import outcome
from services.orchestrator.engine.activations import (
    CallCommand,
    CancelCommand,
    CancelFailed,
    CancelReplied,
    CancelRequested,
    Continued,
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
from services.orchestrator.engine.blocks import Blocks, can_be_abandoned
from services.orchestrator.engine.calls import CANCELLED_STEP, Calls
from services.orchestrator.engine.compensation import Compensation, PaymentCancellation
from services.orchestrator.engine.interpreter import Interpreter
from services.orchestrator.engine.model import PIVOT, Phase, RunStatus, StepStatus
from services.orchestrator.engine.record_writer import RecordWriter
from services.orchestrator.engine.records import RecordKind
from services.orchestrator.engine.retry_policy import SECOND_US
from services.orchestrator.engine.waits import Waits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from services.orchestrator.definition.workflow import Workflow
    from services.orchestrator.engine.activations import Activation, Command
    from services.orchestrator.engine.model import RunState, StepState
    from services.orchestrator.engine.records import Record
    from services.orchestrator.engine.retry_policy import RetryPolicy


def commands(state: RunState, policy: RetryPolicy) -> list[Command]:
    """Returns what to do now: nothing before the run has begun or once it has finished."""
    return [] if state.finished else [_command(step, policy) for step in state.active.values()]


def _command(step: StepState, policy: RetryPolicy) -> Command:
    if step.phase is Phase.CALL:
        timeout_s = policy.attempt_timeout_s
        if step.timeout_us:
            timeout_s = min(timeout_s, step.timeout_us / SECOND_US)
        return CallCommand(
            step.path, step.attempt, step.service, step.method, step.request, timeout_s
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


def wakes_at(commands: Iterable[Command]) -> int:
    """Returns when the first wait is over, in Unix microseconds; 0 if any command does not wait."""
    first_us = 0
    for command in commands:
        if not isinstance(command, WaitCommand):
            return 0
        first_us = min(first_us or command.until_us, command.until_us)
    return first_us


_MESSAGE_KINDS = {
    SignalReceived: RecordKind.SIGNAL,
    DecisionReceived: RecordKind.APPROVAL,
    CancelRequested: RecordKind.CANCEL_RUN,
}


class Transition:
    """Applies one activation to the state of a run: ``records`` is what it adds to the journal.

    ``jitter``: a random number from 0 to 1. ``event_position``: the store's last event, for a
    workflow that waits for events: steps that begin now receive later events. ``clock``: seconds,
    by which a turn of many steps ends early; without one it never does.
    """

    __slots__ = ("_calls", "_interpreter", "_waits", "_writer", "is_unfinished")

    def __init__(
        self,
        workflow: Workflow,
        state: RunState,
        policy: RetryPolicy,
        at_us: int,
        jitter: float,
        *,
        event_position: int | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._writer = writer = RecordWriter(workflow, state, clock)
        self._calls = Calls(writer, policy)
        self._waits = Waits(writer)
        blocks = Blocks(writer, self._calls)
        self._interpreter = Interpreter(writer, self._calls, self._waits, blocks)
        # True if steps can begin that the last slice had no time for: ``Continued`` begins them.
        self.is_unfinished = False
        self.begin(at_us, jitter, event_position=event_position)

    def begin(
        self,
        at_us: int,
        jitter: float,
        *,
        event_position: int | None = None,
        continues: bool = False,
    ) -> None:
        """Begins the run's next transition, with this object again: ``records`` is a new list.

        ``continues``: it is the next slice of a turn that was too long for one.
        """
        self._writer.begin(at_us, jitter, event_position, continues=continues)

    @property
    def workflow(self) -> Workflow:
        return self._writer.workflow

    @property
    def state(self) -> RunState:
        return self._writer.state

    @property
    def records(self) -> list[Record]:
        return self._writer.records

    @property
    def at_us(self) -> int:
        return self._writer.at_us

    def start(self, payload: dict[str, Any]) -> None:
        """Adds the first record of the run. Raises PayloadTooLargeError."""
        self._writer.add(RecordKind.START, "", payload)

    def settle(self) -> None:
        """Adds that the turn after a repeated recovery has ended."""
        self._writer.add(RecordKind.SETTLED, "", {})

    def apply(self, activation: Activation, *, proceeds: bool = True) -> None:
        """Adds the records of the activation; none if it concerns a step that has ended.

        Then begins what can begin, unless the run ``proceeds`` later.
        """
        steps = self.state.steps
        path = getattr(activation, "path", None)
        if path is not None and path not in self.state.active:
            return
        match activation:
            case Started() | Continued():
                pass
            case Recovered():
                self._calls.recover()
                return  # stored before the run does anything else: see recovery.py
            case Replied(path, reply):
                self._calls.receive_reply(path, reply)
            case Failed(path, error):
                self._calls.receive_error(steps[path], error)
            case Due(path):
                self._resume(steps[path])
            case CancelReplied(path):
                self._calls.confirm_cancel(path)
            case CancelFailed(path, error):
                self._calls.receive_cancel_error(steps[path], error)
            case SignalReceived() | DecisionReceived() | CancelRequested():
                self._writer.add(_MESSAGE_KINDS[type(activation)], "", asdict(activation))
            case EventReceived():
                self._waits.receive_event(activation)
            case _:
                assert_never(activation)
        if proceeds:
            self._proceed()
            self.is_unfinished = self._writer.is_over and not self.state.finished

    def _resume(self, step: StepState) -> None:
        if step.phase is Phase.AWAITING_EVENT:
            self._waits.expire(step)
        elif step.phase is Phase.TIMER:
            self._waits.end_timer(step)
        else:
            self._calls.resume(step)

    def _proceed(self) -> None:
        """Begins what can begin now, or brings the run to its end."""
        state, ending = self.state, None
        if state.cancellation and state.pending_end is None:
            pivot = next((step for step in state.in_flight if step.effect == PIVOT), None)
            if pivot is not None and self._settle(pivot):
                return
            ending = self._cancel_pending()
        if ending is None and state.pending_end is None:
            ending = self._interpreter.advance()
        if ending is not None or state.pending_end is not None:
            self._finalize(ending)

    def _cancel_pending(self) -> tuple[RunStatus, str] | None:
        """Returns the end of a cancelled run, unless it has paid.

        Such a run goes through the steps that follow its payment, but makes no other payment.
        """
        state = self.state
        if not outcome.pivot_made(state):
            return RunStatus.CANCELLED, state.cancellation
        for step in state.in_flight:
            if outcome.is_cancelled_payment(state, step.payment) and can_be_abandoned(step):
                self._writer.fail(step.path, CANCELLED_STEP)
        return None

    def _settle(self, pivot: StepState) -> bool:
        """Cancels a payment whose outcome is open. Returns whether it is still in flight.

        Once its service has confirmed the cancel, the next answer says whether it was made.
        """
        if pivot.phase in (Phase.BACKOFF, Phase.CIRCUIT_OPEN) and not pivot.cancelled:
            if not pivot.uncertain:
                self._writer.fail(pivot.path, CANCELLED_STEP)
            else:
                self._calls.give_up(pivot, pivot.error or CANCELLED_STEP)
        return pivot.path in self.state.active

    def _finalize(self, ending: tuple[RunStatus, str] | None) -> None:
        """Ends the run once nothing is in flight, nothing to cancel and nothing to take back."""
        state = self.state
        for step in state.in_flight:
            if can_be_abandoned(step):
                self._writer.abandon(step.path, "the run ended first", abandoned_phase=step.phase)
        cancellation = PaymentCancellation(self._writer)
        status, reason = self._end(ending, cancellation)
        if state.in_flight or cancellation.begin(status):
            self._remember(status, reason)
            return
        compensation = Compensation(self._writer, self._interpreter)
        pending, failure = compensation.pending(status), compensation.failure()
        if failure is not None:
            self._finish(*failure)
        elif pending:
            self._remember(status, reason)
            compensation.begin(pending[0])
            if not state.in_flight:
                self._finalize(ending)
        else:
            self._finish(compensation.final_status(status), reason)

    def _end(
        self, ending: tuple[RunStatus, str] | None, cancellation: PaymentCancellation
    ) -> tuple[RunStatus, str]:
        """Returns how the run ends: a step whose outcome is unknown outweighs every other end."""
        state = self.state
        for step in state.steps.values():
            unknown = step.status is StepStatus.UNCERTAIN and step.phase is Phase.ENDED
            if unknown and not step.failed_step and not outcome.compensates(step.path):
                return outcome.of_failure(self.workflow, state, step.path)
        if (failure := cancellation.failure()) is not None:
            return failure
        if state.pending_end is not None:
            return state.pending_end.status, state.pending_end.reason
        assert ending is not None  # noqa: S101
        return ending

    def _remember(self, status: RunStatus, reason: str) -> None:
        known = self.state.pending_end
        if known is None or (known.status, known.reason) != (status, reason):
            self._writer.add(RecordKind.STOPPING, "", {"status": status, "reason": reason})

    def _finish(self, status: RunStatus, reason: str) -> None:
        for step in list(self.state.steps.values()):
            if step.phase is Phase.CHILDREN:
                self._writer.abandon(step.path, "the run ended first", abandoned_phase=step.phase)
        self._writer.add(RecordKind.FINISH, "", {"status": status, "reason": reason})
