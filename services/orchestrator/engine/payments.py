"""The payments of a run: the one that each step belongs to, and those that may still be requested.

A run of a workflow that names no payments makes one, under the id of the run. Every other run is
given its payments when it starts, and its input says which step makes which.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from mesh.errors import Reason
from services.orchestrator.definition.templates import Path, parse_template, resolve
from services.orchestrator.definition.workflow import (
    Call,
    Effect,
    ForEach,
    Method,
    Step,
    Switch,
    Workflow,
    all_steps,
)
from services.orchestrator.engine import step_path
from services.orchestrator.engine.model import Phase, StepStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from services.orchestrator.engine.model import RunState, StepState

MAX_CACHED_WORKFLOWS = 1024  # of which the payments are kept in memory


class PaidTwiceError(ValueError):
    """Two steps would make the same payment."""

    def __init__(self, payment_id: str, first: str, second: str) -> None:
        super().__init__(f"{payment_id} would be paid by {first} and again by {second}")


class RequestedPayment(NamedTuple):
    """A step that belongs to a payment."""

    path: str
    payment_id: Any  # as the input has it, not checked
    template: str
    siblings: dict[str, Any]  # the fields of the input next to the id
    pays: bool


def requested(workflow: Workflow, given: dict[str, Any]) -> Iterator[RequestedPayment]:
    """Yields every step that belongs to a payment, in the order of the definition.

    Raises UnresolvedPathError if the input lacks what the definition names.
    """
    return _requested(workflow.steps, "", {"input": given})


def check_distinct(workflow: Workflow, given: dict[str, Any]) -> None:
    """Raises PaidTwiceError if two steps that can both run would make the same payment."""
    _paid(workflow.steps, "", {"input": given}, {})


def payment_of(workflow: Workflow, state: RunState, path: str) -> str:
    """Returns the id of the payment that the step, or a step around it, belongs to; else ""."""
    if not workflow.names_payments:
        return ""
    while path:
        location = step_path.locate(workflow, path)
        if location.prefix:
            path = location.prefix.rstrip("/")
            continue
        if (named := location.step.payment) is not None:
            return str(resolve(named, _scope(workflow, state.input, location)))
        path = step_path.parent(path)
    return ""


def unsettled(workflow: Workflow, state: RunState) -> dict[str, str]:
    """Returns the payments that may still be made: by id, the path of the first step that pays.

    Leaves out payments whose service would refuse another attempt or repeat its first answer.
    """
    first: dict[str, str] = {}
    if workflow.names_payments:
        for one in requested(workflow, state.input):
            if one.pays:
                first.setdefault(one.payment_id, one.path)
    elif paths := _single_payment_steps(workflow):
        first[state.run_id] = paths[0]
    settled = {
        step.payment or state.run_id for step in state.irreversible_steps.values() if _settles(step)
    }
    return {id: path for id, path in first.items() if id not in settled}


def _requested(
    steps: Iterable[Step], prefix: str, scope: dict[str, Any]
) -> Iterator[RequestedPayment]:
    for step in steps:
        path, action = prefix + step.id, step.action
        if (named := step.payment) is not None:
            yield RequestedPayment(
                path, resolve(named, scope), named, _siblings(named, scope), _pays(step)
            )
        if isinstance(action, ForEach):
            for index, item in _items(action, scope):
                inner = {**scope, "item": item, "index": index}
                yield from _requested(action.steps, f"{path}[{index}]/", inner)
        else:
            yield from _requested(step.inner, f"{path}/", scope)
        yield from _requested(step.handling, f"{path}/{step_path.ON_ERROR}/", scope)


def _items(each: ForEach, scope: dict[str, Any]) -> Iterator[tuple[int, Any]]:
    """Yields the items with their index if they name payments: then they are in the run's input."""
    if not any(step.payment is not None for step in all_steps(each.steps)):
        return
    listed = resolve(each.items, scope)
    yield from enumerate(listed if isinstance(listed, list) else ())


def _siblings(template: str, scope: dict[str, Any]) -> dict[str, Any]:
    whole = parse_template(template).whole
    assert whole is not None  # noqa: S101  (it was checked)
    around = Path(whole.path.root, whole.path.parts[:-1]).read(scope)
    return around if isinstance(around, dict) else {}


def _paid(
    steps: Iterable[Step], prefix: str, scope: dict[str, Any], paid: dict[str, str]
) -> dict[str, str]:
    """Returns the payments made before and in these steps: by id, the path that pays."""
    for step in steps:
        path, action = prefix + step.id, step.action
        if step.payment is not None and _pays(step):
            payment_id = resolve(step.payment, scope)
            if payment_id in paid:
                raise PaidTwiceError(payment_id, paid[payment_id], path)
            paid = {**paid, payment_id: path}
        if isinstance(action, Switch):
            branches = [_paid(case.steps, f"{path}/", scope, paid) for case in action.cases]
            paid = {id: where for branch in (paid, *branches) for id, where in branch.items()}
        elif isinstance(action, ForEach):
            for index, item in _items(action, scope):
                inner = {**scope, "item": item, "index": index}
                paid = _paid(action.steps, f"{path}[{index}]/", inner, paid)
        else:
            paid = _paid(step.inner, f"{path}/", scope, paid)
        paid = _paid(step.handling, f"{path}/{step_path.ON_ERROR}/", scope, paid)
    return paid


def _scope(
    workflow: Workflow, given: dict[str, Any], location: step_path.StepLocation
) -> dict[str, Any]:
    """Returns the variables that the template of a payment can use."""
    if not location.each:
        return {"input": given}
    around = step_path.locate(workflow, location.each)
    assert isinstance(around.step.action, ForEach)  # noqa: S101
    scope = _scope(workflow, given, around)
    items = resolve(around.step.action.items, scope)
    return {**scope, "item": items[location.index], "index": location.index}


@lru_cache(maxsize=MAX_CACHED_WORKFLOWS)
def _single_payment_steps(workflow: Workflow) -> tuple[str, ...]:
    """Returns the paths of the steps one of which makes the only payment of a run."""
    return tuple(_paying(workflow.steps, ""))


def _paying(steps: Iterable[Step], prefix: str) -> Iterator[str]:
    for step in steps:
        path = prefix + step.id
        if _pays(step):
            yield path
        yield from _paying(step.inner, f"{path}/")
        yield from _paying(step.handling, f"{path}/{step_path.ON_ERROR}/")


def _pays(step: Step) -> bool:
    if not isinstance(step.action, Call):
        return False
    runs = step.action.operation.runs
    return isinstance(runs, Method) and runs.effect is Effect.PIVOT


def _settles(step: StepState) -> bool:
    if step.phase is not Phase.ENDED:
        return False
    answered = step.status in (StepStatus.SUCCEEDED, StepStatus.UNCERTAIN)
    refused = step.error is not None and step.error.reason == Reason.PAYMENT_CANCELLED
    return answered or step.cancelled or refused
