"""Checks steps that pay: where they may stand, and which payment each of them makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from services.orchestrator.definition.check.scope import EACH, PARALLEL, RACE
from services.orchestrator.definition.templates import TemplateSyntaxError, parse_template
from services.orchestrator.definition.types import STRING
from services.orchestrator.definition.workflow import Switch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.orchestrator.definition.ast import StepNode
    from services.orchestrator.definition.check.mappings import Mappings
    from services.orchestrator.definition.check.scope import Scope
    from services.orchestrator.definition.source import Pointer, Problems
    from services.orchestrator.definition.workflow import Operation, Step, Workflow

# Blocks that do several things at once, or continue after a failure.
CONCURRENT = frozenset({PARALLEL, RACE, EACH})


class PaymentChecks:
    """Notes the payment of every step that pays; ``workflow`` then compares them all."""

    def __init__(self, problems: Problems, scope: Scope, mappings: Mappings) -> None:
        self._problems = problems
        self._scope = scope
        self._mappings = mappings
        # By step id: the step, and where in the run's input its payment is named, if anywhere.
        self._paid_by: dict[str, tuple[Pointer, str]] = {}

    def step(
        self, step: StepNode, payment: str | None, operation: Operation, called: Pointer
    ) -> None:
        """Checks the payment that a call belongs to. ``called`` is where the operation stands."""
        where, origin = (*step.pointer, "payment"), ""
        if payment is not None:
            self._mappings.check(payment, STRING, where)
            origin = self.origin_of(payment)
            if not origin:
                message = "must be one path into the run's input, or into an item of it"
                self._problems.add(where, message)
        if not operation.pivots:
            return
        self._paid_by[step.id] = (step.pointer, origin)
        items = self._scope.items_around
        if CONCURRENT & set(self._scope.blocks):
            what = "not inside parallel or for_each"
            unless = "unless for_each has max_concurrency: 1 and ends with the first failure"
            message = f"{operation.name} cannot be taken back: {what}, {unless}"
            self._problems.add(called, message)
        elif items and payment is None:
            message = f"{operation.name} inside for_each must name its payment"
            self._problems.add(called, message)
        elif origin and origin.count("[]") != items:
            message = "is the same for every item: a payment is made once"
            self._problems.add(where, message)
        if step.on_error is not None:
            message = f"an error of {operation.name} is never caught"
            self._problems.add((*step.pointer, "on_error"), message)

    def origin_of(self, value: Any) -> str:
        """Returns where a template reads the run's input, such as ``input.list[].id``.

        Returns an empty text if it reads anything else.
        """
        try:
            whole = parse_template(value).whole if isinstance(value, str) else None
        except TemplateSyntaxError:
            return ""
        if whole is None:
            return ""
        path, origins = str(whole.path), self._scope.item_origins
        if whole.path.root == "input":
            return path
        if whole.path.root == "item" and origins and origins[-1]:
            return f"{origins[-1]}[]{path.removeprefix('item')}"
        return ""

    def workflow(self, workflow: Workflow) -> None:
        """Checks that each of several payments is named, and that no two steps make the same."""
        if not workflow.names_payments:
            if workflow.pivots > 1:
                what = "a workflow pays once at most, this one may pay twice"
                message = f"{what}: of several payments each step names its payment"
                self._problems.add(("steps",), message)
            return
        if not workflow.pivots:
            message = "payments are named, but no step of the workflow pays"
            self._problems.add(("steps",), message)
        for pointer, origin in self._paid_by.values():
            if not origin:
                message = "payment is missing: if one step names a payment, each one does"
                self._problems.add(pointer, message)
        self._require_distinct(workflow.steps, {})

    def _require_distinct(self, steps: Iterable[Step], paid: dict[str, str]) -> dict[str, str]:
        """Returns ``paid`` with the payments of these steps: each origin, and the step's id.

        Two cases of a switch may make the same payment.
        """
        for step in steps:
            pointer, origin = self._paid_by.get(step.id, ((), ""))
            if origin in paid:
                message = f"{origin} is paid by {paid[origin]} already"
                self._problems.add((*pointer, "payment"), message)
            elif origin:
                paid = {**paid, origin: step.id}
            if isinstance(step.action, Switch):
                cases = [self._require_distinct(case.steps, paid) for case in step.action.cases]
                paid = {origin: id for case in (paid, *cases) for origin, id in case.items()}
            else:
                paid = self._require_distinct(step.inner, paid)
            paid = self._require_distinct(step.handling, paid)
        return paid
