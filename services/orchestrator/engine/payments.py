"""The payments of a run: where its workflow makes them, under which id, and which are settled."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from mesh.errors import Reason
from services.orchestrator.definition.workflow import Call, Effect, Method, Step, Workflow
from services.orchestrator.engine import places
from services.orchestrator.engine.state import Phase, StepStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from services.orchestrator.engine.state import RunState, StepState

WORKFLOWS = 1024  # whose payments are kept in memory


def unsettled(workflow: Workflow, state: RunState) -> dict[str, str]:
    """By their ids the payments that may still be asked for: the path of the first step to do it.

    None whose every attempt would be refused, or answered with what was done before.
    """
    paths = _paths(workflow)
    is_settled = any(_settles(step) for step in state.pivots.values())
    return {} if is_settled or not paths else {state.run_id: paths[0]}


def pays(step: Step) -> Method | None:
    """The call of a step that cannot be taken back."""
    if not isinstance(step.action, Call):
        return None
    runs = step.action.operation.runs
    return runs if isinstance(runs, Method) and runs.effect is Effect.PIVOT else None


@lru_cache(maxsize=WORKFLOWS)
def _paths(workflow: Workflow) -> tuple[str, ...]:
    return tuple(_look(workflow.steps, ""))


def _look(steps: Iterable[Step], prefix: str) -> Iterator[str]:
    for step in steps:
        path = prefix + step.id
        if pays(step) is not None:
            yield path
        yield from _look(step.inner, f"{path}/")
        yield from _look(step.handling, f"{path}/{places.ON_ERROR}/")


def _settles(step: StepState) -> bool:
    if step.phase is not Phase.ENDED:
        return False
    answered = step.status in (StepStatus.SUCCEEDED, StepStatus.UNCERTAIN)
    refused = step.error is not None and step.error.reason == Reason.PAYMENT_CANCELLED
    return answered or step.cancelled or refused
