"""The end of a run: its status and reason. A run that has paid never ends as refused or failed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mesh.errors import Reason
from services.orchestrator.engine import step_path
from services.orchestrator.engine.model import PIVOT, RunStatus, StepStatus
from services.orchestrator.engine.retry_policy import PAYMENT_REFUSALS, REFUSALS

if TYPE_CHECKING:
    from services.orchestrator.definition.workflow import Workflow
    from services.orchestrator.engine.model import RunState, StepError, StepState

# Values of ``status`` in the reply to an irreversible call. Any other value, or none, is a success.
REJECTED = "rejected"
UNKNOWN = ("unknown", "unspecified")

WORST_FIRST = (RunStatus.NEEDS_ATTENTION, RunStatus.FAILED, RunStatus.REFUSED)
MAX_NAMED_PAYMENTS = 3  # in a reason

NOT_REQUESTED = "no step requested the payment"
NOT_SENT = "not sent by this run, but its payment is"  # another caller sent it


def pivot_made(state: RunState) -> bool:
    """Returns whether the run has done what cannot be taken back."""
    return any(map(_is_made, state.irreversible_steps.values()))


def is_owed(state: RunState, step: StepState) -> bool:
    """Returns whether the run must complete the step because it has paid.

    A step of a payment is owed only if that very payment was made.
    """
    return pivot_made(state) and (not step.payment or is_paid(state, step.payment))


def is_paid(state: RunState, payment: str) -> bool:
    """Returns whether the run made this payment."""
    return any(
        _is_made(step) and step.payment == payment for step in state.irreversible_steps.values()
    )


def is_cancelled_payment(state: RunState, payment: str) -> bool:
    """Returns whether the run is cancelled before it made this payment."""
    return bool(state.cancellation and payment and not is_paid(state, payment))


def is_unknown(step: StepState) -> bool:
    """Returns whether the payment was answered without saying whether it was made."""
    return step.effect == PIVOT and (step.reply or {}).get("status") in UNKNOWN


def compensates(path: str) -> bool:
    """Returns whether the step takes another step back."""
    return f"{path}/".find(f"/{step_path.COMPENSATE}/") > 0


def belongs_to_end(step: StepState) -> bool:
    """Returns whether the step is part of ending the run, which no deadline stops."""
    return step.cancels_payment or compensates(step.path)


def of_last_step(workflow: Workflow, state: RunState) -> tuple[RunStatus, str]:
    """Returns the end of a run whose last step has ended."""
    if workflow.pivots and not state.irreversible_steps and not state.payments:
        return RunStatus.REFUSED, NOT_REQUESTED
    return of_all_steps(state)


def of_all_steps(state: RunState) -> tuple[RunStatus, str]:
    """Returns the end that the payments of the run give it, if all other steps went well."""
    ends = [_end_of(step, payment) for payment, step in _payments(state)]
    unmade = [end for end in ends if end[0] is not RunStatus.SUCCEEDED]
    if not unmade:
        return RunStatus.SUCCEEDED, ""
    reason = "; ".join(why for _, why in unmade)
    statuses = {status for status, _ in unmade}
    if pivot_made(state) and statuses != {RunStatus.NEEDS_ATTENTION}:
        return RunStatus.NEEDS_ATTENTION, f"{_named(state)}, but not all: {reason}"
    return next(status for status in WORST_FIRST if status in statuses), reason


def of_end(workflow: Workflow, state: RunState, outcome: str, reason: str) -> tuple[RunStatus, str]:
    """Returns the end that an end step asks for, unless the payments say otherwise."""
    requested = RunStatus(outcome.upper())
    if all(step.status is StepStatus.SKIPPED for step in state.irreversible_steps.values()):
        pays = requested is RunStatus.SUCCEEDED and workflow.pivots > 0
        return (RunStatus.REFUSED if pays else requested), reason
    found, why = of_all_steps(state)
    if found is RunStatus.SUCCEEDED and requested is not found:
        return RunStatus.NEEDS_ATTENTION, f"{_named(state)}, but not what follows: {reason}"
    return (found, why or reason) if found is not RunStatus.SUCCEEDED else (requested, reason)


def of_failure(workflow: Workflow, state: RunState, path: str) -> tuple[RunStatus, str]:
    """Returns the end of a run with a step that failed for good, and that nothing catches."""
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
    return error.code in PAYMENT_REFUSALS or error.reason == "BUDGET_EXCEEDED"


def _is_made(pivot: StepState) -> bool:
    answered = pivot.status is StepStatus.SUCCEEDED
    return answered and (pivot.reply or {}).get("status") != REJECTED


def _named(state: RunState) -> str:
    """Returns the payments that were made, as a sentence."""
    paths = [step.path for step in state.irreversible_steps.values() if _is_made(step)]
    more = f" and {len(paths) - MAX_NAMED_PAYMENTS} more" if len(paths) > MAX_NAMED_PAYMENTS else ""
    return f"{', '.join(paths[:MAX_NAMED_PAYMENTS])}{more} was done"


def _payments(state: RunState) -> list[tuple[str, StepState | None]]:
    """Returns the id of each payment ("" for the only one) and the step that makes it, if any."""
    pivots = list(state.irreversible_steps.values())
    if not state.payments:
        return [("", _chosen(pivots))] if pivots else []
    return [(id, _chosen([s for s in pivots if s.payment == id])) for id in state.payments]


def _chosen(pivots: list[StepState]) -> StepState | None:
    """Returns the step that the run chose, if several could make the payment."""
    chosen = (step for step in pivots if step.status is not StepStatus.SKIPPED)
    return next(chosen, next(iter(pivots), None))


def _end_of(pivot: StepState | None, payment: str) -> tuple[RunStatus, str]:
    """Returns the end of a run with this one payment."""
    if pivot is None:
        return RunStatus.REFUSED, f"no step requested payment {payment}"
    if pivot.status is StepStatus.SKIPPED:
        return RunStatus.REFUSED, pivot.skip_reason
    status = (pivot.reply or {}).get("status")
    if status == REJECTED:
        return RunStatus.FAILED, f"{pivot.path}: status is {status}"
    if status in UNKNOWN:
        return RunStatus.NEEDS_ATTENTION, f"{pivot.path}: status is {status}"
    return RunStatus.SUCCEEDED, ""


_ENGINE_REASONS = re.compile(
    rf"internal error [0-9a-f]{{32}}|{NOT_REQUESTED}"
    rf"|[^:\s]+: (status is|{NOT_SENT}) [a-z_]+"
)


def public_reason(state: RunState) -> str:
    """Returns the part of the reason that holds no personal data, or "" if no part is known to.

    A reason may quote the message of a service, or text from the workflow's author. Public are the
    engine's own sentences, the step that failed with the word of its error, and the operands that
    made a condition false, of which the engine names only values that may be shown.
    """
    reason, steps = state.reason, list(state.steps.values())
    if not reason or state.erased_us or _ENGINE_REASONS.fullmatch(reason):
        return reason
    if reason in (step.skip_reason for step in steps) or reason == of_all_steps(state)[1]:
        return reason
    if state.cancellation and reason == state.cancellation:
        return reason.partition(": ")[0]
    failing = (step for step in steps if step.status is not StepStatus.SKIPPED)
    quoted = [step for step in failing if step.error is not None and _quotes(reason, step.error)]
    if failed := max(quoted, key=_weight, default=None):
        return f"{failed.path}: {word(failed.error)}"
    return ""


def word(error: StepError | None) -> str:
    """Returns the reason or the code of the error."""
    return (error.reason or error.code) if error else ""


def _quotes(reason: str, error: StepError) -> bool:
    return str(error) in reason or (error.message != "" and error.message in reason)


def _weight(step: StepState) -> tuple[bool, bool, int, str]:
    """Orders failures: the reason is about an unknown outcome, or the last innermost failure."""
    uncertain = step.status is StepStatus.UNCERTAIN
    return uncertain, not step.failed_step, step.last_sequence, step.path
