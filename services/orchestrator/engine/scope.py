"""What a step can see: its workflow's input, and the outputs of the steps before it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from services.orchestrator.definition import values
from services.orchestrator.definition.path import ERROR, STATUS
from services.orchestrator.definition.workflow import Call, ForEach
from services.orchestrator.engine import places
from services.orchestrator.engine.policy import SECOND
from services.orchestrator.engine.state import Phase, RunState, StepStatus

if TYPE_CHECKING:
    from services.orchestrator.definition.workflow import Step, Workflow
    from services.orchestrator.engine.state import StepState

ITEMS = "items"  # in the input of a for_each


def of(workflow: Workflow, state: RunState, path: str, at_us: int) -> dict[str, Any]:
    """The scope of the step at ``path``: ``score`` in ``fraud/score`` sees its workflow only."""
    place = places.locate(workflow, path)
    steps: dict[str, Any] = {}
    _collect(steps, place.workflow.steps, place.prefix, state, path)
    now = datetime.fromtimestamp(at_us / SECOND, UTC)
    outer = place.prefix.rstrip("/")
    seen: dict[str, Any] = {
        "input": state.steps[outer].input if outer else state.input,
        "steps": steps,
        "ctx": {
            "workflow_id": workflow.id,
            "run_id": state.run_id,
            "now": values.format_time(now),
        },
    }
    if place.each:
        seen["item"] = state.steps[place.each].input[ITEMS][place.index]
        seen["index"] = place.index
    return seen


def _collect(
    found: dict[str, Any],
    steps: tuple[Step, ...],
    prefix: str,
    state: RunState,
    path: str,
    *,
    over: bool = False,
) -> None:
    """``over``: what is around the steps has ended, so that those not begun never will."""
    for step in steps:
        own = prefix + step.id
        known = state.steps.get(own)
        ended = over if known is None else known.phase is Phase.ENDED
        if known is not None and (ended or known.status is StepStatus.FAILED):
            found[step.id] = _outputs(known)
        elif ended:
            nothing = dict.fromkeys(step.outputs)
            found[step.id] = {**nothing, STATUS: StepStatus.SKIPPED.value, ERROR: None}
        match step.action:
            case ForEach(steps=inner) if path.startswith(f"{own}["):
                item = path[: path.index("]", len(own)) + 1]
                _collect(found, inner, f"{item}/", state, path)
            case ForEach():
                pass
            case Call(on_error=catch) if catch is not None:
                inside = f"{own}/{places.ON_ERROR}/"
                _collect(found, catch.steps, inside, state, path, over=ended)
            case _:
                _collect(found, step.inner, f"{own}/", state, path, over=ended)


def _outputs(step: StepState) -> dict[str, Any]:
    error = step.error if step.status is StepStatus.FAILED else None
    return {
        **step.output,
        STATUS: step.status.value,
        ERROR: (error.reason or error.code) if error else None,
    }
