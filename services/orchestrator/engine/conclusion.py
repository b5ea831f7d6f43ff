"""How a run ends. A payment that was not made is refused or failed; one that was, never."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.errors import Reason
from services.orchestrator.definition.workflow import Effect
from services.orchestrator.engine import places
from services.orchestrator.engine.policy import REFUSALS, REFUSALS_OF_THE_PAYMENT
from services.orchestrator.engine.state import RunState, RunStatus, StepStatus

if TYPE_CHECKING:
    from services.orchestrator.definition.workflow import Workflow
    from services.orchestrator.engine.state import Error, StepState

# What an operation that cannot be taken back says of its effect in its reply's ``status``: any
# other word, or none, is a success.
REJECTED = "rejected"
UNKNOWN = ("unknown", "unspecified")

NOT_SENT = "not sent by this run, but its payment is"  # somebody else's


def pivot_made(state: RunState) -> bool:
    """Has the run done what cannot be taken back?"""
    pivot = _pivot(state)
    return (
        pivot is not None
        and pivot.status is StepStatus.SUCCEEDED
        and (pivot.reply or {}).get("status") != REJECTED
    )


def is_unknown(step: StepState) -> bool:
    """Was it answered, but not whether it was done?"""
    return step.effect == Effect.PIVOT.name and (step.reply or {}).get("status") in UNKNOWN


def compensates(path: str) -> bool:
    """Is the step part of taking another one back?"""
    return f"{path}/".find(f"/{places.COMPENSATE}/") > 0


def winds_up(step: StepState) -> bool:
    """Does the step belong to the end of the run, which its deadline does not stop?"""
    return step.refuses or compensates(step.path)


def of_all_steps(state: RunState) -> tuple[RunStatus, str]:
    """The end of a run whose every step succeeded, was skipped or had its error caught."""
    pivot = _pivot(state)
    if pivot is None:
        return RunStatus.SUCCEEDED, ""
    if pivot.status is StepStatus.SKIPPED:
        return RunStatus.REFUSED, pivot.skip_reason
    status = (pivot.reply or {}).get("status")
    if status == REJECTED:
        return RunStatus.FAILED, f"{pivot.path}: status is {status}"
    if status in UNKNOWN:
        return RunStatus.NEEDS_ATTENTION, f"{pivot.path}: status is {status}"
    return RunStatus.SUCCEEDED, ""


def of_end(workflow: Workflow, state: RunState, outcome: str, reason: str) -> tuple[RunStatus, str]:
    """The end that a definition asks for, as far as the payment allows it."""
    asked = RunStatus(outcome.upper())
    pivot = _pivot(state)
    if pivot is None or pivot.status is StepStatus.SKIPPED:
        made = asked is RunStatus.SUCCEEDED and workflow.pivots > 0
        return (RunStatus.REFUSED if made else asked), reason
    found, why = of_all_steps(state)
    if found is RunStatus.SUCCEEDED and asked is not found:
        return RunStatus.NEEDS_ATTENTION, f"{pivot.path} was done, but not what follows: {reason}"
    return (found, why or reason) if found is not RunStatus.SUCCEEDED else (asked, reason)


def of_failure(workflow: Workflow, state: RunState, path: str) -> tuple[RunStatus, str]:
    """The end of a run with a step that failed for good."""
    step = state.steps[path]
    error = step.error
    assert error is not None  # noqa: S101  (it failed)
    if step.status is StepStatus.UNCERTAIN:
        return RunStatus.NEEDS_ATTENTION, f"{path}: its outcome is unknown, last {error}"
    is_pivot = step.effect == Effect.PIVOT.name
    reason = f"{path}: {error}" if step.attempt else error.message
    if pivot_made(state):
        pivot = _pivot(state)
        made = pivot.path if pivot else ""
        return RunStatus.NEEDS_ATTENTION, f"{made} was done, but not what follows: {reason}"
    if is_pivot and error.reason == Reason.PAYMENT_CANCELLED:
        return RunStatus.CANCELLED, reason
    if is_pivot and _refuses_payment(error):
        return RunStatus.REFUSED, reason
    if workflow.pivots and not is_pivot and error.code in REFUSALS:
        return RunStatus.REFUSED, reason
    return RunStatus.FAILED, reason


def _refuses_payment(error: Error) -> bool:
    if error.reason == Reason.REQUEST_ID_REUSED:
        return False  # another payment has this id: that one may well be made
    return error.code in REFUSALS_OF_THE_PAYMENT or error.reason == "BUDGET_EXCEEDED"


def _pivot(state: RunState) -> StepState | None:
    """The payment: the one that was begun, if several stand for choice."""
    begun = (step for step in state.pivots.values() if step.status is not StepStatus.SKIPPED)
    return next(begun, next(iter(state.pivots.values()), None))
