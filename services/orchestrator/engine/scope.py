"""What a step can see: its workflow's input, and the outputs of the steps before it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from services.orchestrator.definition import values
from services.orchestrator.definition.path import STATUS
from services.orchestrator.definition.workflow import Workflow
from services.orchestrator.engine.policy import SECOND
from services.orchestrator.engine.state import Phase, RunState

if TYPE_CHECKING:
    from services.orchestrator.definition.workflow import Step


def of(workflow: Workflow, state: RunState, path: str, at_us: int) -> dict[str, Any]:
    """The scope of the step at ``path``: ``score`` in ``fraud/score`` sees its siblings only."""
    parent, slash, _ = path.rpartition("/")
    prefix = parent + slash
    steps = {
        step.path[len(prefix) :]: {**step.output, STATUS: step.status.value}
        for step in state.steps.values()
        if step.phase is Phase.ENDED
        and step.path.startswith(prefix)
        and "/" not in step.path[len(prefix) :]
    }
    now = datetime.fromtimestamp(at_us / SECOND, UTC)
    return {
        "input": state.steps[parent].input if parent else state.input,
        "steps": steps,
        "ctx": {
            "workflow_id": workflow.id,
            "run_id": state.run_id,
            "now": values.format_time(now),
        },
    }


def find_step(workflow: Workflow, path: str) -> Step:
    """The step of a path: LookupError if the workflow has none."""
    id, slash, inner = path.partition("/")
    step = workflow.step(id)
    if not slash:
        return step
    runs = step.operation.runs
    if not isinstance(runs, Workflow):
        raise LookupError(f"{path}: {id} has no inner steps")
    return find_step(runs, inner)
