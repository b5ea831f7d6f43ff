"""Paths of steps in a run: ``pay``, ``fraud/score``, ``each[3]/look_up``, ``keep/compensate``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from services.orchestrator.definition.operations import cancel_of
from services.orchestrator.definition.workflow import Call, ForEach, Step, Workflow

if TYPE_CHECKING:
    from collections.abc import Iterable

COMPENSATE = "compensate"
CANCEL = "cancel"  # below a payment, which has no step inside it
ON_ERROR = "on_error"

MAX_CACHED_WORKFLOWS = 1024  # of which the locations are kept in memory

_INDEX = re.compile(r"\[([0-9]+)\]")


@dataclass(frozen=True, slots=True)
class StepLocation:
    """The position of a step: its workflow, and the prefix of that workflow's paths in the run."""

    step: Step
    workflow: Workflow
    prefix: str  # "" in the run's own workflow, "fraud/" in that of the operation of ``fraud``
    each: str = ""  # path of the for_each around it in this workflow
    index: int = 0  # of the item


def item_indices(path: str) -> list[str]:
    """Returns the index of each item that the step is in, outermost first."""
    return _INDEX.findall(path) if "[" in path else []


def items_around(path: str) -> list[tuple[str, int]]:
    """Returns the items that a step is in: the path of the for_each and the index of each."""
    return [(path[: found.start()], int(found[1])) for found in _INDEX.finditer(path)]


def template_path(path: str) -> str:
    """Returns the path without the indices of items."""
    return _INDEX.sub("", path) if "[" in path else path


def parent(path: str) -> str:
    """Returns the path of the step around it, or "" at the top."""
    found = path.rpartition("/")[0].removesuffix(f"/{ON_ERROR}")
    return found[: found.rindex("[")] if found.endswith("]") else found


def is_below(path: str, other: str) -> bool:
    """Returns whether the step at ``path`` is inside the other one."""
    return path.startswith((f"{other}/", f"{other}["))


def locate(workflow: Workflow, path: str) -> StepLocation:
    """Returns the location of a step. Raises LookupError if the workflow has no such step."""
    if "[" in path:
        return _locate(workflow, path)  # not cached: there may be as many as items
    known = _located(workflow)
    location = known.get(path)
    if location is None:
        location = known[path] = _locate(workflow, path)
    return location


@lru_cache(maxsize=MAX_CACHED_WORKFLOWS)
def _located(workflow: Workflow) -> dict[str, StepLocation]:
    """Returns the cache of locations, by path, that locate fills."""
    return {}


@lru_cache(maxsize=MAX_CACHED_WORKFLOWS)
def _paths(workflow: Workflow) -> dict[str, str]:
    """Returns the path of each step of a workflow by id, with ``[]`` for items of a for_each."""
    found: dict[str, str] = {}

    def collect(steps: Iterable[Step], prefix: str) -> None:
        for step in steps:
            path = found[step.id] = prefix + step.id
            collect(step.inner, f"{path}[]/" if isinstance(step.action, ForEach) else f"{path}/")
            collect(step.handling, f"{path}/{ON_ERROR}/")

    collect(workflow.steps, "")
    return found


def sibling(location: StepLocation, path: str, id: str) -> str | None:
    """Returns the path of the step ``id`` of the same workflow, as the step at ``path`` sees it.

    Returns None if that step is inside a for_each that this one is not in.
    """
    found = _paths(location.workflow).get(id)
    if found is not None and "[" in found:
        for index in item_indices(path[len(location.prefix) :]):
            found = found.replace("[]", f"[{index}]", 1)
        each = found[: found.rindex("]") + 1]
        if not path.startswith(f"{location.prefix}{each}/"):
            return None
    return None if found is None else location.prefix + found


def _locate(workflow: Workflow, path: str) -> StepLocation:
    prefix, each, index, at = "", "", 0, ""
    step: Step | None = None
    for part in path.split("/"):
        id, _, item = part.removesuffix("]").partition("[")
        if id == COMPENSATE and step is not None and isinstance(step.action, Call):
            if step.action.compensate is None:
                raise LookupError(f"{path}: {step.id} has no compensation")
            step = Step(step.id, step.action.compensate)
        elif id == CANCEL and (cancel := _cancel_of(step)) is not None:
            step = cancel
        elif id != ON_ERROR:
            inside = _operation_of(step)
            if inside is not None and not at.endswith(f"/{ON_ERROR}"):
                workflow, prefix, each, index = inside, f"{at}/", "", 0
            step = workflow.step(id)
        at = f"{at}/{part}" if at else part
        if item and step is not None and isinstance(step.action, ForEach):
            each, index = at[: at.rindex("[")], int(item)
    if step is None:
        raise LookupError(f"{path} is no path")
    return StepLocation(step, workflow, prefix, each, index)


def _cancel_of(step: Step | None) -> Step | None:
    """Returns the step that cancels the payment of this step, or None if it makes none."""
    if step is None or not isinstance(step.action, Call):
        return None
    runs = step.action.operation.runs
    operation = None if isinstance(runs, Workflow) else cancel_of(runs)
    return None if operation is None else Step(step.id, Call(operation, {}, {}))


def _operation_of(step: Step | None) -> Workflow | None:
    if step is None or not isinstance(step.action, Call):
        return None
    runs = step.action.operation.runs
    return runs if isinstance(runs, Workflow) else None
