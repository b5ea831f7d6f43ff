"""The check of steps that pay: where they may stand, and which payment each one makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from services.orchestrator.definition.check.waits import WaitChecks
from services.orchestrator.definition.templates import TemplateSyntaxError, parse_template
from services.orchestrator.definition.types import STRING
from services.orchestrator.definition.workflow import Switch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.orchestrator.definition.ast import ForEachNode, StepNode
    from services.orchestrator.definition.check.scope import Scope
    from services.orchestrator.definition.source import Pointer, Source
    from services.orchestrator.definition.workflow import Operation, Step, Workflow

# Kinds of what is around a step: those that do several things at once, or go on after a failure.
AT_ONCE = frozenset({"parallel", "race", "for_each"})
IN_TURN = "in_turn"  # a for_each of one item after the other that ends with the first failure
EACH = ("for_each", IN_TURN)


class PaymentChecks(WaitChecks):
    def __init__(self, source: Source, visible: Scope, deadline_us: int | None) -> None:
        super().__init__(source, visible, deadline_us)
        self.inside: tuple[str, ...] = ()  # kinds of the steps around, outermost first
        self.lists: tuple[str, ...] = ()  # where the items of those come from, in the run's input
        self._pays: dict[str, tuple[Pointer, str]] = {}  # step -> itself, and its payment

    def payment(
        self, raw: StepNode, payment: str | None, operation: Operation, called: Pointer
    ) -> None:
        """A step's payment must be one of those that the run's input names."""
        where = (*raw.pointer, "payment")
        source = ""
        if payment is not None:
            self.fits(payment, STRING, where)
            source = self.origin(payment)
            if not source:
                self.problem(where, "must be one path into the run's input, or into an item of it")
        if not operation.pivots:
            return
        self._pays[raw.id] = (raw.pointer, source)
        depth = sum(kind in EACH for kind in self.inside)
        if AT_ONCE & set(self.inside):
            what = "not inside parallel or for_each"
            unless = "unless that has max_concurrency: 1 and goes on after no failure"
            self.problem(called, f"{operation.name} cannot be taken back: {what}, {unless}")
        elif depth and payment is None:
            self.problem(called, f"{operation.name} inside for_each must name its payment")
        elif source and source.count("[]") != depth:
            self.problem(where, "is the same for every item: a payment is made once")
        if raw.on_error is not None:
            self.problem(
                (*raw.pointer, "on_error"), f"an error of {operation.name} is never caught"
            )

    def kind_of(self, raw: StepNode, each: ForEachNode) -> str:
        alone = each.max_concurrency == 1 and not each.continues_on_error and raw.on_error is None
        return IN_TURN if alone else "for_each"

    def origin(self, value: Any) -> str:
        """Where a template finds its value in the run's input: ``input.list[].id``; else empty."""
        try:
            whole = parse_template(value).whole if isinstance(value, str) else None
        except TemplateSyntaxError:
            return ""
        if whole is None:
            return ""
        text = str(whole.path)
        if whole.path.root == "input":
            return text
        if whole.path.root == "item" and self.lists and self.lists[-1]:
            return f"{self.lists[-1]}[]{text.removeprefix('item')}"
        return ""

    def payments(self, workflow: Workflow) -> None:
        """Of several payments each is named, and none twice on one way."""
        if not workflow.names_payments:
            if workflow.pivots > 1:
                twice = "a workflow pays once at most, this one may twice"
                self.problem(
                    ("steps",), f"{twice}: of several payments each step names its payment"
                )
            return
        if not workflow.pivots:
            self.problem(("steps",), "payments are named, but no step of the workflow pays")
        for pointer, source in self._pays.values():
            if not source:
                self.problem(pointer, "payment is missing: where payments are named, each is")
        self._differ(workflow.steps, {})

    def _differ(self, steps: Iterable[Step], seen: dict[str, str]) -> dict[str, str]:
        """What is paid before and in these, and by which step."""
        for step in steps:
            pointer, source = self._pays.get(step.id, ((), ""))
            if source in seen:
                where = (*pointer, "payment")
                self.problem(where, f"{source} is paid by {seen[source]} already")
            elif source:
                seen = {**seen, source: step.id}
            if isinstance(step.action, Switch):
                ways = [self._differ(case.steps, seen) for case in step.action.cases]
                seen = {source: id for way in (seen, *ways) for source, id in way.items()}
            else:
                seen = self._differ(step.inner, seen)
            seen = self._differ(step.handling, seen)
        return seen
