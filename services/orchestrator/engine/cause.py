"""Why a run is where it is, in words that say nothing about anybody."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from services.orchestrator.engine.model import StepStatus
from services.orchestrator.engine.outcome import NOT_ASKED, NOT_SENT, of_all_steps

if TYPE_CHECKING:
    from services.orchestrator.engine.model import RunState, StepError, StepState

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
