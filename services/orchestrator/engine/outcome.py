"""How a run ends. A payment that was not made is refused or failed; one that was, never."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mesh.errors import Reason
from services.orchestrator.engine import step_path
from services.orchestrator.engine.model import PIVOT, RunState, RunStatus, StepStatus
from services.orchestrator.engine.retry_policy import REFUSALS, REFUSALS_OF_THE_PAYMENT

if TYPE_CHECKING:
    from services.orchestrator.definition.workflow import Workflow
    from services.orchestrator.engine.model import RunState, StepError, StepState

# What an operation that cannot be taken back says of its effect in its reply's ``status``: any
# other word, or none, is a success.
REJECTED = "rejected"
UNKNOWN = ("unknown", "unspecified")

WORST = (RunStatus.NEEDS_ATTENTION, RunStatus.FAILED, RunStatus.REFUSED)
MOST_NAMED = 3  # payments in a reason

NOT_ASKED = "no step asked for the payment"
NOT_SENT = "not sent by this run, but its payment is"  # somebody else's


def pivot_made(state: RunState) -> bool:
    """Has the run done what cannot be taken back?"""
    return any(map(_is_made, state.irreversible_steps.values()))


def is_owed(state: RunState, step: StepState) -> bool:
    """Is there no way back from here but to do it? Not from a payment that is not made itself."""
    return pivot_made(state) and (not step.payment or is_paid(state, step.payment))


def is_paid(state: RunState, payment: str) -> bool:
    return any(
        _is_made(step) and step.payment == payment for step in state.irreversible_steps.values()
    )


def is_cancelled_payment(state: RunState, payment: str) -> bool:
    """Returns whether the run is cancelled before it made this payment."""
    return bool(state.cancellation and payment and not is_paid(state, payment))


def is_unknown(step: StepState) -> bool:
    """Was it answered, but not whether it was done?"""
    return step.effect == PIVOT and (step.reply or {}).get("status") in UNKNOWN


def compensates(path: str) -> bool:
    """Is the step part of taking another one back?"""
    return f"{path}/".find(f"/{step_path.COMPENSATE}/") > 0


def belongs_to_end(step: StepState) -> bool:
    """Does the step belong to the end of the run, which its deadline does not stop?"""
    return step.cancels_payment or compensates(step.path)


def of_last_step(workflow: Workflow, state: RunState) -> tuple[RunStatus, str]:
    """The end of a run that has come to the end of its steps, perhaps by none that pays."""
    if workflow.pivots and not state.irreversible_steps and not state.payments:
        return RunStatus.REFUSED, NOT_ASKED
    return of_all_steps(state)


def of_all_steps(state: RunState) -> tuple[RunStatus, str]:
    """The end of a run whose every step succeeded, was skipped or had its error caught."""
    ends = [_end_of(step, payment) for payment, step in _asked(state)]
    short = [end for end in ends if end[0] is not RunStatus.SUCCEEDED]
    if not short:
        return RunStatus.SUCCEEDED, ""
    reason = "; ".join(why for _, why in short)
    statuses = {status for status, _ in short}
    if pivot_made(state) and statuses != {RunStatus.NEEDS_ATTENTION}:
        return RunStatus.NEEDS_ATTENTION, f"{_named(state)}, but not all: {reason}"
    return next(status for status in WORST if status in statuses), reason


def of_end(workflow: Workflow, state: RunState, outcome: str, reason: str) -> tuple[RunStatus, str]:
    """The end that a definition asks for, as far as its payments allow it."""
    asked = RunStatus(outcome.upper())
    if all(step.status is StepStatus.SKIPPED for step in state.irreversible_steps.values()):
        made = asked is RunStatus.SUCCEEDED and workflow.pivots > 0
        return (RunStatus.REFUSED if made else asked), reason
    found, why = of_all_steps(state)
    if found is RunStatus.SUCCEEDED and asked is not found:
        return RunStatus.NEEDS_ATTENTION, f"{_named(state)}, but not what follows: {reason}"
    return (found, why or reason) if found is not RunStatus.SUCCEEDED else (asked, reason)


def of_failure(workflow: Workflow, state: RunState, path: str) -> tuple[RunStatus, str]:
    """The end of a run with a step that failed for good."""
    step = state.steps[path]
    error = step.error
    assert error is not None  # noqa: S101  (it failed)
    if step.status is StepStatus.UNCERTAIN:
        made = f"{_named(state)}; " if state.payments and pivot_made(state) else ""
        return RunStatus.NEEDS_ATTENTION, f"{made}{path}: its outcome is unknown, last {error}"
    is_pivot = step.effect == PIVOT
    reason = f"{path}: {error}" if step.attempt else error.message
    if pivot_made(state):
        return RunStatus.NEEDS_ATTENTION, f"{_named(state)}, but not what follows: {reason}"
    if is_pivot and error.reason == Reason.PAYMENT_CANCELLED:
        return RunStatus.CANCELLED, reason
    if is_pivot and _refuses_payment(error):
        return RunStatus.REFUSED, reason
    if workflow.pivots and not is_pivot and error.code in REFUSALS:
        return RunStatus.REFUSED, reason
    return RunStatus.FAILED, reason


def _refuses_payment(error: StepError) -> bool:
    if error.reason == Reason.REQUEST_ID_REUSED:
        return False  # another payment has this id: that one may well be made
    return error.code in REFUSALS_OF_THE_PAYMENT or error.reason == "BUDGET_EXCEEDED"


def _is_made(pivot: StepState) -> bool:
    answered = pivot.status is StepStatus.SUCCEEDED
    return answered and (pivot.reply or {}).get("status") != REJECTED


def _named(state: RunState) -> str:
    """Which payments were made."""
    paths = [step.path for step in state.irreversible_steps.values() if _is_made(step)]
    more = f" and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else ""
    return f"{', '.join(paths[:MOST_NAMED])}{more} was done"


def _asked(state: RunState) -> list[tuple[str, StepState | None]]:
    """Each payment of the run, by its id if it has one of its own, and the step that makes it."""
    if not state.payments:
        return (
            [("", _chosen(list(state.irreversible_steps.values())))]
            if state.irreversible_steps
            else []
        )
    steps = {
        id: [s for s in state.irreversible_steps.values() if s.payment == id]
        for id in state.payments
    }
    return [(id, _chosen(those)) for id, those in steps.items()]


def _chosen(pivots: list[StepState]) -> StepState | None:
    """The step that was begun, if several stand for choice."""
    begun = (step for step in pivots if step.status is not StepStatus.SKIPPED)
    return next(begun, next(iter(pivots), None))


def _end_of(pivot: StepState | None, payment: str) -> tuple[RunStatus, str]:
    """What a payment alone would have its run end as."""
    if pivot is None:
        return RunStatus.REFUSED, f"no step asked for payment {payment}"
    if pivot.status is StepStatus.SKIPPED:
        return RunStatus.REFUSED, pivot.skip_reason
    status = (pivot.reply or {}).get("status")
    if status == REJECTED:
        return RunStatus.FAILED, f"{pivot.path}: status is {status}"
    if status in UNKNOWN:
        return RunStatus.NEEDS_ATTENTION, f"{pivot.path}: status is {status}"
    return RunStatus.SUCCEEDED, ""


_OURS = re.compile(
    rf"internal error [0-9a-f]{{32}}|{NOT_ASKED}"
    rf"|[^:\s]+: (status is|{NOT_SENT}) [a-z_]+"
)


def cause(state: RunState) -> str:
    """What ``reason`` says, as far as everybody may read it; empty if nothing of it is known to be.

    A reason may quote the message of a peer, or what a definition's author put into it. What is
    left is the step and the word of its error, or the operands that made a condition false: of
    these the engine names only values whose class lets them be shown.
    """
    reason, steps = state.reason, list(state.steps.values())
    if not reason or state.erased_us or _OURS.fullmatch(reason):
        return reason
    if reason in (step.skip_reason for step in steps) or reason == of_all_steps(state)[1]:
        return reason
    if state.cancellation and reason == state.cancellation:
        return reason.partition(": ")[0]
    told = [step for step in steps if step.error is not None and _tells(reason, step.error)]
    if failed := max(told, key=_weight, default=None):
        return f"{failed.path}: {word(failed.error)}"
    return ""


def word(error: StepError | None) -> str:
    return (error.reason or error.code) if error else ""


def _tells(reason: str, error: StepError) -> bool:
    return str(error) in reason or (error.message != "" and error.message in reason)


def _weight(step: StepState) -> tuple[bool, bool, int, str]:
    """What failed last and innermost is what the reason is about."""
    is_unknown = step.status is StepStatus.UNCERTAIN
    return is_unknown, not step.failed_step, step.last_sequence, step.path
