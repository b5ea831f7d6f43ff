"""The payments of a run: which one each step belongs to, and which can still be asked for.

A run of a workflow that names no payments makes one, under the run's own id. Every other run is
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

WORKFLOWS = 1024  # whose payments are kept in memory


class PaidTwiceError(ValueError):
    """Two steps would make one payment."""

    def __init__(self, payment_id: str, first: str, second: str) -> None:
        super().__init__(f"{payment_id} would be paid by {first} and again by {second}")


class RequestedPayment(NamedTuple):
    """A step that belongs to a payment."""

    path: str
    payment_id: Any  # as the input has it
    template: str
    beside: dict[str, Any]  # what the input says next to it
    pays: bool


def asked(workflow: Workflow, given: dict[str, Any]) -> Iterator[RequestedPayment]:
    """Every step that the input gives a payment to, in the order of the definition.

    Unresolved if the input lacks what the definition names.
    """
    return _look(workflow.steps, "", {"input": given})


def must_differ(workflow: Workflow, given: dict[str, Any]) -> None:
    """PaidTwice if two steps on one way would make the same payment."""
    _pass(workflow.steps, "", {"input": given}, {})


def payment_of(workflow: Workflow, state: RunState, path: str) -> str:
    """The id of the payment that the step belongs to, or what is around it; empty if to none."""
    if not workflow.names_payments:
        return ""
    while path:
        place = step_path.locate(workflow, path)
        if place.prefix:
            path = place.prefix.rstrip("/")
            continue
        if (named := place.step.payment) is not None:
            return str(resolve(named, _seen(workflow, state.input, place)))
        path = step_path.parent(path)
    return ""


def unsettled(workflow: Workflow, state: RunState) -> dict[str, str]:
    """By their ids the payments that may still be asked for: the path of the first step to do it.

    Without those whose every attempt would be refused, or answered with what was done before.
    """
    first: dict[str, str] = {}
    if workflow.names_payments:
        for one in asked(workflow, state.input):
            if one.pays:
                first.setdefault(one.payment_id, one.path)
    elif paths := _alone(workflow):
        first[state.run_id] = paths[0]
    settled = {
        step.payment or state.run_id for step in state.irreversible_steps.values() if _settles(step)
    }
    return {id: path for id, path in first.items() if id not in settled}


def _look(steps: Iterable[Step], prefix: str, seen: dict[str, Any]) -> Iterator[RequestedPayment]:
    for step in steps:
        path, action = prefix + step.id, step.action
        if (named := step.payment) is not None:
            yield RequestedPayment(
                path, resolve(named, seen), named, _beside(named, seen), _pays(step)
            )
        if isinstance(action, ForEach):
            for index, item in _items(action, seen):
                inner = {**seen, "item": item, "index": index}
                yield from _look(action.steps, f"{path}[{index}]/", inner)
        else:
            yield from _look(step.inner, f"{path}/", seen)
        yield from _look(step.handling, f"{path}/{step_path.ON_ERROR}/", seen)


def _items(each: ForEach, seen: dict[str, Any]) -> Iterator[tuple[int, Any]]:
    """Only where payments are named in them: then the list is in the run's input."""
    if not any(step.payment is not None for step in all_steps(each.steps)):
        return
    listed = resolve(each.items, seen)
    yield from enumerate(listed if isinstance(listed, list) else ())


def _beside(template: str, seen: dict[str, Any]) -> dict[str, Any]:
    whole = parse_template(template).whole
    assert whole is not None  # noqa: S101  (it was checked)
    around = Path(whole.path.root, whole.path.parts[:-1]).read(seen)
    return around if isinstance(around, dict) else {}


def _pass(
    steps: Iterable[Step], prefix: str, seen: dict[str, Any], paid: dict[str, str]
) -> dict[str, str]:
    """What is paid before and in these, and where."""
    for step in steps:
        path, action = prefix + step.id, step.action
        if step.payment is not None and _pays(step):
            payment_id = resolve(step.payment, seen)
            if payment_id in paid:
                raise PaidTwiceError(payment_id, paid[payment_id], path)
            paid = {**paid, payment_id: path}
        if isinstance(action, Switch):
            ways = [_pass(case.steps, f"{path}/", seen, paid) for case in action.cases]
            paid = {id: where for way in (paid, *ways) for id, where in way.items()}
        elif isinstance(action, ForEach):
            for index, item in _items(action, seen):
                inner = {**seen, "item": item, "index": index}
                paid = _pass(action.steps, f"{path}[{index}]/", inner, paid)
        else:
            paid = _pass(step.inner, f"{path}/", seen, paid)
        paid = _pass(step.handling, f"{path}/{step_path.ON_ERROR}/", seen, paid)
    return paid


def _seen(
    workflow: Workflow, given: dict[str, Any], place: step_path.StepLocation
) -> dict[str, Any]:
    """What a payment's template can see."""
    if not place.each:
        return {"input": given}
    around = step_path.locate(workflow, place.each)
    assert isinstance(around.step.action, ForEach)  # noqa: S101
    seen = _seen(workflow, given, around)
    items = resolve(around.step.action.items, seen)
    return {**seen, "item": items[place.index], "index": place.index}


@lru_cache(maxsize=WORKFLOWS)
def _alone(workflow: Workflow) -> tuple[str, ...]:
    """The paths of the steps of which one makes the run's only payment."""
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
