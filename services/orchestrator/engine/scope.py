"""What a step can see: its workflow's input, and the outputs of the steps before it."""

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
    """What the step at ``path`` sees; each part is worked out when a template names it.

    ``score`` in ``fraud/score`` sees its workflow only.
    """

    __slots__ = ("_at_us", "_path", "_place", "_state", "_workflow")

    def __init__(self, workflow: Workflow, state: RunState, path: str, at_us: int) -> None:
        self._workflow = workflow
        self._state = state
        self._path = path
        self._place = step_path.locate(workflow, path)
        self._at_us = at_us

    def __missing__(self, root: str) -> Any:
        found = self[root] = self._work_out(root)
        return found

    def _work_out(self, root: str) -> Any:
        place, state = self._place, self._state
        if root == "input":
            outer = place.prefix.rstrip("/")
            return state.steps[outer].input if outer else state.input
        if root == "steps":
            return Outputs(state, place, self._path)
        if root == "ctx":
            now = datetime.fromtimestamp(self._at_us / SECOND_US, UTC)
            return {
                "workflow_id": self._workflow.id,
                "run_id": state.run_id,
                "now": values.format_time(now),
            }
        if root == "item" and place.each:
            return state.steps[place.each].input[ITEMS][place.index]
        if root == "index" and place.each:
            return place.index
        raise KeyError(root)


class Outputs(dict[str, Any]):
    """What the steps before the one at ``path`` gave, by their ids."""

    __slots__ = ("_path", "_place", "_state")

    def __init__(self, state: RunState, place: step_path.StepLocation, path: str) -> None:
        self._state = state
        self._place = place
        self._path = path

    def __missing__(self, id: str) -> dict[str, Any]:
        path = step_path.sibling(self._place, self._path, id)
        found = None if path is None else self._find(id, path)
        if found is None:
            raise KeyError(id)
        self[id] = found
        return found

    def _find(self, id: str, path: str) -> dict[str, Any] | None:
        known = self._state.steps.get(path)
        if known is None:
            nothing = dict.fromkeys(self._place.workflow.step(id).outputs)
            skipped = {**nothing, STATUS: StepStatus.SKIPPED.value, ERROR: None}
            return skipped if self._is_over(path) else None
        gave = known.phase is Phase.ENDED or known.status is StepStatus.FAILED
        return _outputs(known) if gave else None

    def _is_over(self, path: str) -> bool:
        """What is around the step has ended, so that it never will begin."""
        around = step_path.parent(path)
        while around.startswith(self._place.prefix) and around:
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


_FATES = {
    StepStatus.SKIPPED.value: "was skipped",
    StepStatus.FAILED.value: "failed",
    StepStatus.SUCCEEDED.value: "gave none",
}


def explain(step: Step, error: UnresolvedPathError | MismatchError, seen: Variables) -> str:
    """The error, and what is to be known about it if something is null."""
    path = (
        error.path
        if isinstance(error, UnresolvedPathError)
        else _mapped(step.action, error.pointer)
    )
    null = None if path is None else _null(path, seen)
    if null is None:
        return str(error)
    remedy = f"give {step.id} the condition {{{{{null}}}}} != null"
    return f"{error}; {null} is null{_fate(null, seen)}: {remedy}, or map what is always there"


def _mapped(action: Action, pointer: tuple[str | int, ...]) -> Path | None:
    """The path that is mapped to a place in the step's input."""
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


def _null(path: Path, seen: Variables) -> Path | None:
    """As much of the path as leads to null; None if none of it does."""
    for length in range(len(path.parts) + 1):
        part = Path(path.root, path.parts[:length])
        if path.root == "steps" and length == 0:
            continue
        try:
            if part.read(seen) is None:
                return part
        except PathMissingError:
            return None
    return None


def _fate(path: Path, seen: Variables) -> str:
    if path.root != "steps":
        return ""
    id = str(path.parts[0])
    return f", as step {id} {_FATES.get(seen['steps'][id][STATUS], 'has not ended')}"
