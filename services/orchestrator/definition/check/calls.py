"""The check of calls: operations, workflows inside a workflow, and what takes them back."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from services.orchestrator.definition.check.payments import EACH, PaymentChecks
from services.orchestrator.definition.check.scope import key_of
from services.orchestrator.definition.operations import as_operation
from services.orchestrator.definition.problems import shown
from services.orchestrator.definition.types import ANY, ValueType
from services.orchestrator.definition.workflow import (
    Call,
    Effect,
    ForEach,
    Step,
    Workflow,
)

if TYPE_CHECKING:
    from services.orchestrator.definition.ast import (
        CallNode,
        StepNode,
        SubWorkflowNode,
        WorkflowNode,
    )
    from services.orchestrator.definition.check.scope import Scope
    from services.orchestrator.definition.operations import Operations
    from services.orchestrator.definition.source import Pointer, Source
    from services.orchestrator.definition.workflow import Action, Operation

MAX_PATH = 56  # characters of "step/inner step": with the run's id it must fit a request_id
NESTED_ITEM = 4  # characters that the number of an item adds inside that of another


class CallChecks(PaymentChecks):
    def __init__(
        self,
        source: Source,
        visible: Scope,
        operations: Operations,
        raw: WorkflowNode,
    ) -> None:
        super().__init__(source, visible, raw.deadline_us)
        self.id = raw.id
        self.operations = operations

    def call_step(self, raw: StepNode, call: CallNode) -> tuple[Call | None, dict[str, ValueType]]:
        operation = self._operation(call)
        if operation is None:
            outputs = dict.fromkeys(call.output_mapping, ANY)
        else:
            self.fits(call.input_mapping, operation.request, (*call.pointer, "input_mapping"))
            outputs = {
                name: self.type_of(v, (*call.pointer, "output_mapping", name), operation.reply)
                for name, v in call.output_mapping.items()
            }
            if operation.reply.nullable:  # a workflow whose last step may be skipped
                null = frozenset([key_of(raw.id)])
                outputs = {name: type.or_null(null) for name, type in outputs.items()}
        self.ends_in_time(call.timeout_us, (*call.pointer, "timeout"))
        compensate = self._compensation(raw, call, operation, outputs)
        if operation is None:
            return None, outputs
        self._must_be_allowed(operation, (*call.pointer, "operation"))
        self.payment(raw, call.payment, operation, (*call.pointer, "operation"))
        return (
            Call(
                operation,
                call.input_mapping,
                call.output_mapping,
                call.retry,
                call.timeout_us,
                compensate,
                call.payment,
            ),
            outputs,
        )

    def sub_workflow(
        self, raw: StepNode, sub: SubWorkflowNode
    ) -> tuple[Call | None, dict[str, ValueType]]:
        where = (*raw.pointer, "workflow")
        workflow = self.operations.workflow(sub.workflow)
        if sub.workflow == self.id:
            self.problem(where, f"{self.id} cannot run inside itself")
        elif workflow is None:
            hint = self.operations.nearest_workflow(sub.workflow)
            self.problem(where, f"unknown workflow {shown(sub.workflow)}{hint}")
        if workflow is None:
            return None, dict.fromkeys(sub.output_mapping, ANY)
        if self.id in workflow.sub_workflow_hashes:
            self.problem(where, f"{self.id} cannot run inside itself, by way of {workflow.id}")
        if workflow.pivots:
            self.problem(where, f"{workflow.id} pays: it cannot run inside another workflow")
        operation = as_operation(workflow)
        self.fits(sub.input_mapping, operation.request, (*raw.pointer, "input_mapping"))
        outputs = {
            name: self.type_of(v, (*raw.pointer, "output_mapping", name), operation.reply)
            for name, v in sub.output_mapping.items()
        }
        self._must_be_allowed(operation, where)
        self.payment(raw, sub.payment, operation, where)
        inputs, names = sub.input_mapping, sub.output_mapping
        return Call(operation, inputs, names, payment=sub.payment), outputs

    def _operation(self, raw: CallNode) -> Operation | None:
        operation = self.operations.find(raw.operation)
        if operation is None:
            hint = self.operations.nearest(raw.operation)
            self.problem(
                (*raw.pointer, "operation"), f"unknown operation {shown(raw.operation)}{hint}"
            )
        elif operation.protocol != raw.protocol.lower():
            of = f"{raw.operation} is an operation of {operation.protocol}"
            self.problem((*raw.pointer, "protocol"), f"{of}, not {shown(raw.protocol)}")
        return operation

    def _must_be_allowed(self, operation: Operation, where: Pointer) -> None:
        """What lost a race must leave nothing behind."""
        name = operation.name
        if "race" in self.inside and operation.effect is not Effect.READ:
            self.problem(where, f"{name} changes something: it cannot race for the first")

    def _compensation(
        self,
        raw: StepNode,
        call: CallNode,
        operation: Operation | None,
        outputs: dict[str, ValueType],
    ) -> Call | None:
        undo = call.compensate
        if undo is None:
            return None
        known = self._operation(undo)
        self.ends_in_time(undo.timeout_us, (*undo.pointer, "timeout"))
        if operation is not None and operation.effect is not Effect.REVERSIBLE:
            what = "cannot be taken back" if operation.pivots else "changes nothing"
            self.problem((*raw.pointer, "compensate"), f"{operation.name} {what}")
        if known is None:
            return None
        if known.pivots or isinstance(known.runs, Workflow):
            what = "cannot be taken back" if known.pivots else "is a workflow, not one call"
            self.problem((*undo.pointer, "operation"), f"{known.name} {what}")
        self.visible.outputs[raw.id] = outputs  # it follows its own step's success
        self.fits(undo.input_mapping, known.request, (*undo.pointer, "input_mapping"))
        del self.visible.outputs[raw.id]
        return Call(known, undo.input_mapping, {}, undo.retry, undo.timeout_us)

    def path_length(self, raw: StepNode, prefix: str, action: Action | None) -> None:
        items = sum(kind in EACH for kind in self.inside)
        inside = NESTED_ITEM * max(0, items - 1)
        if isinstance(action, Call):
            longest = _longest_inside(action.operation, in_item=items > 0)
            inside += max(longest, len("/compensate") if action.compensate else 0)
        length = len(prefix) + len(raw.id) + inside
        if length > MAX_PATH:
            below = f" and {inside} more inside it" if inside else ""
            message = f"its path is too long: {shown(prefix + raw.id)}{below}, {length} characters"
            self.problem((*raw.pointer, "id"), f"{message}, at most {MAX_PATH}: shorten ids")


def _longest_inside(operation: Operation, *, in_item: bool) -> int:
    """How much longer the paths of the steps inside an operation are."""
    return _longest(operation.runs, in_item) if isinstance(operation.runs, Workflow) else 0


@lru_cache(maxsize=1024)
def _longest(workflow: Workflow, in_item: bool) -> int:
    return max(1 + _length(step, in_item) for step in workflow.steps)


def _length(step: Step, in_item: bool) -> int:
    below = 0
    if step.inner:
        inside = isinstance(step.action, ForEach)
        number = NESTED_ITEM if inside and in_item else 0
        below = 1 + number + max(_length(inner, in_item or inside) for inner in step.inner)
    for handling in step.handling:
        below = max(below, len("/on_error/") + _length(handling, in_item))
    if isinstance(step.action, Call):
        longest = _longest_inside(step.action.operation, in_item=in_item)
        below = max(below, longest, len("/compensate") if step.action.compensate else 0)
    return len(step.id) + below
