"""Redrive: an ended run continues from the step that stopped it.

Decisions stand: a refused payment is never requested again, a step that was taken back is not
repeated, and a cancelled run stays cancelled. Failed steps are tried again.

A step keeps its key and its request, under which its service finds the effect of an earlier
attempt. It restarts under a new key only if the records say that it had no effect: it was refused
for good with no attempt unanswered, or cancelled for good at its service, which may refuse the old
key for ever. A payment keeps its one id in every case.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from mesh.errors import FailedPrecondition, Reason
from services.orchestrator.engine import outcome, step_path
from services.orchestrator.engine.fold import evolve
from services.orchestrator.engine.model import PIVOT, READ, Phase, RunState, RunStatus, StepStatus
from services.orchestrator.engine.records import Record, RecordKind
from services.orchestrator.engine.retry_policy import Outcome, classify

if TYPE_CHECKING:
    from services.orchestrator.engine.model import StepState

MAX_REDRIVES = 99  # two digits: a key that ends in the number must fit a request_id

FINAL = {
    RunStatus.SUCCEEDED: "nothing is left to do",
    RunStatus.REFUSED: "a refusal is final; start a new run",
    RunStatus.CANCELLED: "a caller cancelled it; start a new run",
    RunStatus.COMPENSATED: "its steps were taken back; start a new run",
}
STOPPED = (StepStatus.FAILED, StepStatus.UNCERTAIN)


class _RedriveMode(Enum):
    """The effect of a redrive on a step."""

    RETRY = "retry under the same key"
    RESTART = "restart as if it had never begun"
    RESUME = "resume the steps inside it"
    REPLACE_KEY = "restart under another key"


def redrive(
    state: RunState, ended: RunStatus, *, reason: str, requester: str, at_us: int
) -> Record:
    """Returns the record that continues the run, and folds it into ``state``.

    ``ended``: the run's status in the store, which ends unreadable runs without a record. Raises
    FailedPrecondition (RUN_NOT_REDRIVABLE) if the run cannot continue.
    """
    if ended in FINAL:
        raise _refusal(state, f"ended as {ended}: {FINAL[ended]}")
    if state.erased_us:
        raise _refusal(state, "was erased: the data that it needs is gone")
    if len(state.redrives) >= MAX_REDRIVES:
        raise _refusal(state, f"was redriven {MAX_REDRIVES} times; start a new run")
    compensating = any(outcome.compensates(path) for path in state.steps)
    unknown_since = min(
        (s.last_sequence for s in state.steps.values() if _is_unknown(s)), default=None
    )
    modes = {
        step.path: mode
        for step in state.steps.values()
        if (outcome.compensates(step.path) or not compensating)
        and (mode := _mode(state, step, unknown_since)) is not None
    }
    stopped = any(state.steps[path].status in STOPPED for path in modes)
    if not stopped and ended is not RunStatus.NEEDS_ATTENTION:
        raise _refusal(state, f"ended as {ended}, and no step stopped it: {state.reason}")

    def paths(*wanted: _RedriveMode) -> list[str]:
        return [path for path, mode in modes.items() if mode in wanted]

    payload: dict[str, Any] = {
        "reason": reason,
        "requester": requester,
        "previous_status": ended,
        "deadline_us": at_us + state.run_timeout_us,
        "compensates": compensating,
        "retry": paths(_RedriveMode.RETRY),
        "restart": paths(_RedriveMode.RESTART, _RedriveMode.REPLACE_KEY),
        "resume": paths(_RedriveMode.RESUME),
        "retired_keys": paths(_RedriveMode.REPLACE_KEY),
    }
    record = Record.write(state.sequence + 1, RecordKind.REDRIVEN, "", 0, at_us, payload)
    evolve(state, record)
    return record


def _is_unknown(step: StepState) -> bool:
    return step.phase is Phase.ENDED and outcome.is_unknown(step)


def _mode(state: RunState, step: StepState, unknown_since: int | None) -> _RedriveMode | None:
    """Returns what to do with a step, or None if it stays as it is.

    A step that was skipped after a payment with an unknown outcome restarts, as its condition may
    hold once the outcome is known.
    """
    if step.phase is not Phase.ENDED:
        return _mode_of_interrupted(step)
    match step.status:
        case StepStatus.SUCCEEDED:
            return _RedriveMode.RETRY if _is_unknown(step) else None
        case StepStatus.SKIPPED if step.abandoned_while_handling:
            return _RedriveMode.RESUME
        case StepStatus.SKIPPED if unknown_since is not None and step.last_sequence > unknown_since:
            return _RedriveMode.RESTART
        case StepStatus.SKIPPED if not step.abandoned_phase:
            return None
        case StepStatus.SKIPPED if step.abandoned_phase == Phase.CHILDREN:
            return _RedriveMode.RESUME
        case StepStatus.SKIPPED:
            return _RedriveMode.RESTART
        case _ if step.failure_scope:
            return None
        case _ if step.failed_step or _has_children(state, step):
            return _RedriveMode.RESUME
        case _ if not step.request:
            return _RedriveMode.RESTART  # nothing was ever sent
        case _ if step.effect == PIVOT or not _had_no_effect(step):
            return _RedriveMode.RETRY
        case _:
            return _RedriveMode.REPLACE_KEY


def _mode_of_interrupted(step: StepState) -> _RedriveMode | None:
    """Returns what to do with a step that was in flight when a defect ended the run."""
    match step.phase:
        case Phase.CALL:
            return _RedriveMode.RETRY
        case Phase.TIMER:
            return _RedriveMode.RESTART  # its end depends on the run's deadline, which is a new one
        case _:
            return None


def _had_no_effect(step: StepState) -> bool:
    """Returns whether the records say so, and no late answer can change it."""
    if step.status is not StepStatus.FAILED or step.error is None:
        return False
    refused = classify(step.error, mutating=step.effect != READ) is Outcome.DEFINITE
    return step.cancelled or (refused and not step.uncertain)


def _has_children(state: RunState, step: StepState) -> bool:
    """Returns whether the step has begun steps inside it, those that end the run aside."""
    below = (inner for inner in state.steps.values() if step_path.is_below(inner.path, step.path))
    return not all(map(outcome.belongs_to_end, below))


def _refusal(state: RunState, why: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"run {state.run_id} {why}", reason=Reason.RUN_NOT_REDRIVABLE, field="run_id"
    )
