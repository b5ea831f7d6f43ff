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

WORKFLOWS = 1024  # whose places are kept in memory

_INDEX = re.compile(r"\[([0-9]+)\]")


@dataclass(frozen=True, slots=True)
class StepLocation:
    """Where a step stands: in which workflow, and what that one's own paths begin with."""

    step: Step
    workflow: Workflow
    prefix: str  # "" in the run's own workflow, "fraud/" in that of the operation of ``fraud``
    each: str = ""  # path of the for_each around it in this workflow
    index: int = 0  # of the item


def item_indices(path: str) -> list[str]:
    return _INDEX.findall(path) if "[" in path else []


def items_around(path: str) -> list[tuple[str, int]]:
    """The items that a step is in: the path of their for_each and their number."""
    return [(path[: found.start()], int(found[1])) for found in _INDEX.finditer(path)]


def template_path(path: str) -> str:
    """The path without the numbers of items."""
    return _INDEX.sub("", path) if "[" in path else path


def parent(path: str) -> str:
    """The step that one is inside of; empty at the top."""
    found = path.rpartition("/")[0].removesuffix(f"/{ON_ERROR}")
    return found[: found.rindex("[")] if found.endswith("]") else found


def is_below(path: str, other: str) -> bool:
    """Is the step at ``path`` inside the other one?"""
    return path.startswith((f"{other}/", f"{other}["))


def locate(workflow: Workflow, path: str) -> StepLocation:
    """LookupError if the workflow has no such step."""
    if "[" in path:
        return _locate(workflow, path)  # there may be as many as there are items
    known = _located(workflow)
    place = known.get(path)
    if place is None:
        place = known[path] = _locate(workflow, path)
    return place


@lru_cache(maxsize=WORKFLOWS)
def _located(workflow: Workflow) -> dict[str, StepLocation]:
    """What was located in the workflow before."""
    return {}


@lru_cache(maxsize=WORKFLOWS)
def _stands(workflow: Workflow) -> dict[str, str]:
    """Where each step of a workflow stands by its id; ``[]`` is the item of a for_each."""
    found: dict[str, str] = {}

    def look(steps: Iterable[Step], prefix: str) -> None:
        for step in steps:
            path = found[step.id] = prefix + step.id
            look(step.inner, f"{path}[]/" if isinstance(step.action, ForEach) else f"{path}/")
            look(step.handling, f"{path}/{ON_ERROR}/")

    look(workflow.steps, "")
    return found


def sibling(place: StepLocation, path: str, id: str) -> str | None:
    """The path of another step of the same workflow, as the step at ``path`` sees it.

    None if it is inside a for_each that this one is not in.
    """
    found = _stands(place.workflow).get(id)
    if found is not None and "[" in found:
        for index in item_indices(path[len(place.prefix) :]):
            found = found.replace("[]", f"[{index}]", 1)
        each = found[: found.rindex("]") + 1]
        if not path.startswith(f"{place.prefix}{each}/"):
            return None
    return None if found is None else place.prefix + found


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
    """The call that refuses a payment."""
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
