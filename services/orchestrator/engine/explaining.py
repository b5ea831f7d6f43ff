"""Why a step has no input that fits: what of it is null, since when, and what helps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from services.orchestrator.definition.templates import (
    STATUS,
    Path,
    PathMissingError,
    UnresolvedPathError,
    parse_template,
)
from services.orchestrator.definition.workflow import Call
from services.orchestrator.engine.model import StepStatus

if TYPE_CHECKING:
    from services.orchestrator.definition.templates import Variables
    from services.orchestrator.definition.values import MismatchError
    from services.orchestrator.definition.workflow import Action, Step

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
