"""Having an ended run go on: from the step that stopped it, and under which keys.

What was decided stays decided: a refused payment is never asked for again, nothing that was taken
back is done again, and who asked a run to end is not overruled. What only failed is tried again.

A step keeps its key and its bytes: whatever an earlier attempt did is found under them. Only where
the journal says that nothing was done, because the step was refused for good with no attempt left
unheard, or cancelled for good at its service, does it begin anew, under a key of its own: its old
one may be refused for ever. A payment has but one id, whatever was said of it.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from mesh.errors import FailedPrecondition, Reason
from services.orchestrator.engine import outcome, step_path
from services.orchestrator.engine.fold import evolve
from services.orchestrator.engine.model import PIVOT, READ, Phase, RunState, RunStatus, StepStatus
from services.orchestrator.engine.records import Record, RecordKind
from services.orchestrator.engine.retry_policy import Outcome, judge

if TYPE_CHECKING:
    from services.orchestrator.engine.model import StepState

MAX_REDRIVES = 99  # so that a key with their number still is a request_id

WHY_NOT = {
    RunStatus.SUCCEEDED: "nothing is left to do",
    RunStatus.REFUSED: "a refusal is final, and was told as such; start a new run",
    RunStatus.CANCELLED: "somebody asked for its end; start a new run",
    RunStatus.COMPENSATED: "what it had done was taken back; start a new run",
}
STOPS = (StepStatus.FAILED, StepStatus.UNCERTAIN)


class _RedriveMode(Enum):
    RETRY = "retry under the same key"
    RESTART = "restart as if it had never begun"
    RESUME = "resume the steps inside it"
    REPLACE_KEY = "restart under another key"


def redrive(
    state: RunState, ended: RunStatus, *, reason: str, requester: str, at_us: int
) -> Record:
    """Have the run go on: folds into ``state`` what it returns. FailedPrecondition if it cannot.

    ``ended`` is how the store has it: a run that could not be read was ended without a record.
    """
    if ended in WHY_NOT:
        raise _refusal(state, f"ended as {ended}: {WHY_NOT[ended]}")
    if state.erased_us:
        raise _refusal(state, "was erased: what it would go on with is gone")
    if len(state.redrives) >= MAX_REDRIVES:
        raise _refusal(state, f"was redriven {MAX_REDRIVES} times; start a new run")
    undoing = any(outcome.compensates(path) for path in state.steps)
    unknown_since = min(
        (s.last_sequence for s in state.steps.values() if _is_unknown(s)), default=None
    )
    how = {
        step.path: found
        for step in state.steps.values()
        if (outcome.compensates(step.path) or not undoing)
        and (found := _mode(state, step, unknown_since)) is not None
    }
    stopped = any(state.steps[path].status in STOPS for path in how)
    if not stopped and ended is not RunStatus.NEEDS_ATTENTION:
        raise _refusal(state, f"ended as {ended}, and no step stopped it: {state.reason}")
    payload: dict[str, Any] = {
        "reason": reason,
        "requester": requester,
        "previous_status": ended,
        "deadline_us": at_us + state.run_timeout_us,
        "compensates": undoing,
        "retry": [path for path, found in how.items() if found is _RedriveMode.RETRY],
        "restart": [
            path
            for path, found in how.items()
            if found in (_RedriveMode.RESTART, _RedriveMode.REPLACE_KEY)
        ],
        "resume": [path for path, found in how.items() if found is _RedriveMode.RESUME],
        "retired_keys": [path for path, found in how.items() if found is _RedriveMode.REPLACE_KEY],
    }
    record = Record.write(state.sequence + 1, RecordKind.REDRIVEN, "", 0, at_us, payload)
    evolve(state, record)
    return record


def _is_unknown(step: StepState) -> bool:
    return step.phase is Phase.ENDED and outcome.is_unknown(step)


def _mode(state: RunState, step: StepState, unknown_since: int | None) -> _RedriveMode | None:
    """What is to be done about a step; None if it stands as it is.

    What was skipped behind a payment of which nobody knew whether it was made is judged anew.
    """
    if step.phase is not Phase.ENDED:
        return _of_interrupted(step)
    match step.status:
        case StepStatus.SUCCEEDED:
            return _RedriveMode.RETRY if _is_unknown(step) else None
        case StepStatus.SKIPPED if unknown_since is not None and step.last_sequence > unknown_since:
            return _RedriveMode.RESTART
        case StepStatus.SKIPPED if not step.abandoned_phase:
            return None
        case StepStatus.SKIPPED:
            return (
                _RedriveMode.RESUME
                if step.abandoned_phase == Phase.CHILDREN
                else _RedriveMode.RESTART
            )
        case _ if step.failure_scope:
            return None
        case _ if step.failed_step or _holds_steps(state, step):
            return _RedriveMode.RESUME
        case _ if not step.request:
            return _RedriveMode.RESTART  # nothing was ever sent
        case _ if step.effect == PIVOT or not _was_not_done(step):
            return _RedriveMode.RETRY
        case _:
            return _RedriveMode.REPLACE_KEY


def _of_interrupted(step: StepState) -> _RedriveMode | None:
    """The run ended by a defect, in the middle of the step."""
    match step.phase:
        case Phase.CALL:
            return _RedriveMode.RETRY
        case Phase.TIMER:
            return _RedriveMode.RESTART  # it was to end with the deadline that the run had
        case _:
            return None


def _was_not_done(step: StepState) -> bool:
    """Does the journal say so, whatever may still arrive?"""
    if step.status is not StepStatus.FAILED or step.error is None:
        return False
    refused = judge(step.error, mutating=step.effect != READ) is Outcome.DEFINITE
    return step.cancelled or (refused and not step.uncertain)


def _holds_steps(state: RunState, step: StepState) -> bool:
    below = (inner for inner in state.steps.values() if step_path.is_below(inner.path, step.path))
    return not all(map(outcome.belongs_to_end, below))


def _refusal(state: RunState, why: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"run {state.run_id} {why}", reason=Reason.RUN_NOT_REDRIVABLE, field="run_id"
    )
