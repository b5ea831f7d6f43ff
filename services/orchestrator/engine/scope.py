"""The variables of a step: its workflow's input, and the outputs of the steps before it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from services.orchestrator.definition import values
from services.orchestrator.definition.templates import (
    ERROR,
    STATUS,
    Path,
    PathMissingError,
    UnresolvedPathError,
    parse_template,
)
from services.orchestrator.definition.workflow import Call
from services.orchestrator.engine import step_path
from services.orchestrator.engine.model import Phase, RunState, StepStatus
from services.orchestrator.engine.retry_policy import SECOND_US

if TYPE_CHECKING:
    from services.orchestrator.definition.templates import Variables
    from services.orchestrator.definition.values import MismatchError
    from services.orchestrator.definition.workflow import Action, Step, Workflow
    from services.orchestrator.engine.model import StepState

ITEMS = "items"  # in the input of a for_each


class StepScope(dict[str, Any]):
    """The variables of the step at ``path``, each computed when a template first names it.

    A step inside a workflow, such as ``score`` in ``fraud/score``, sees that workflow only.
    """

    __slots__ = ("_at_us", "_location", "_path", "_state", "_workflow")

    def __init__(self, workflow: Workflow, state: RunState, path: str, at_us: int) -> None:
        self._workflow = workflow
        self._state = state
        self._path = path
        self._location = step_path.locate(workflow, path)
        self._at_us = at_us

    def __missing__(self, root: str) -> Any:
        found = self[root] = self._compute(root)
        return found

    def _compute(self, root: str) -> Any:
        location, state = self._location, self._state
        if root == "input":
            outer = location.prefix.rstrip("/")
            return state.steps[outer].input if outer else state.input
        if root == "steps":
            return Outputs(state, location, self._path)
        if root == "ctx":
            now = datetime.fromtimestamp(self._at_us / SECOND_US, UTC)
            return {
                "workflow_id": self._workflow.id,
                "run_id": state.run_id,
                "now": values.format_time(now),
            }
        if root == "item" and location.each:
            return state.steps[location.each].input[ITEMS][location.index]
        if root == "index" and location.each:
            return location.index
        raise KeyError(root)


class Outputs(dict[str, Any]):
    """The outputs of the steps before the one at ``path``, by step id."""

    __slots__ = ("_location", "_path", "_state")

    def __init__(self, state: RunState, location: step_path.StepLocation, path: str) -> None:
        self._state = state
        self._location = location
        self._path = path

    def __missing__(self, id: str) -> dict[str, Any]:
        path = step_path.sibling(self._location, self._path, id)
        found = None if path is None else self._find(id, path)
        if found is None:
            raise KeyError(id)
        self[id] = found
        return found

    def _find(self, id: str, path: str) -> dict[str, Any] | None:
        known = self._state.steps.get(path)
        if known is None:
            nothing = dict.fromkeys(self._location.workflow.step(id).outputs)
            skipped = {**nothing, STATUS: StepStatus.SKIPPED.value, ERROR: None}
            return skipped if self._never_begins(path) else None
        has_outputs = known.phase is Phase.ENDED or known.status is StepStatus.FAILED
        return _outputs(known) if has_outputs else None

    def _never_begins(self, path: str) -> bool:
        """Returns whether a step around it has ended, so that it never will begin."""
        around = step_path.parent(path)
        while around.startswith(self._location.prefix) and around:
            known = self._state.steps.get(around)
            if known is not None:
                return known.phase is Phase.ENDED
            around = step_path.parent(around)
        return False


def _outputs(step: StepState) -> dict[str, Any]:
    error = step.error if step.status is StepStatus.FAILED else None
    return {
        **step.output,
        STATUS: step.status.value,
        ERROR: (error.reason or error.code) if error else None,
    }


_CAUSES = {
    StepStatus.SKIPPED.value: "was skipped",
    StepStatus.FAILED.value: "failed",
    StepStatus.SUCCEEDED.value: "returned none",
}


def explain(step: Step, error: UnresolvedPathError | MismatchError, variables: Variables) -> str:
    """Returns the error; for a value that is null also the path, its cause and a remedy."""
    path = (
        error.path
        if isinstance(error, UnresolvedPathError)
        else _mapped(step.action, error.pointer)
    )
    null = None if path is None else _null(path, variables)
    if null is None:
        return str(error)
    remedy = f"give {step.id} the condition {{{{{null}}}}} != null"
    cause = _cause(null, variables)
    return f"{error}; {null} is null{cause}: {remedy}, or map a value that is always there"


def _mapped(action: Action, pointer: tuple[str | int, ...]) -> Path | None:
    """Returns the path that the template at ``pointer`` names, or None if it is no single path."""
    value: Any = action.input_mapping if isinstance(action, Call) else None
    if value is None and pointer:
        value, pointer = getattr(action, str(pointer[0]), None), pointer[1:]
    for part in pointer:
        if isinstance(value, str):
            break
        try:
            value = value[part]
        except (LookupError, TypeError):
            return None
    whole = parse_template(value).whole if isinstance(value, str) else None
    return whole.path if whole else None


def _null(path: Path, variables: Variables) -> Path | None:
    """Returns the shortest part of the path that is null, or None."""
    for length in range(len(path.parts) + 1):
        part = Path(path.root, path.parts[:length])
        if path.root == "steps" and length == 0:
            continue
        try:
            if part.read(variables) is None:
                return part
        except PathMissingError:
            return None
    return None


def _cause(path: Path, variables: Variables) -> str:
    if path.root != "steps":
        return ""
    id = str(path.parts[0])
    return f", because step {id} {_CAUSES.get(variables['steps'][id][STATUS], 'has not ended')}"
