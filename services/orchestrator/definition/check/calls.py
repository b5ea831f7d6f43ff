"""Checks calls of operations and of workflows, and their compensations."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from services.orchestrator.definition.check.scope import RACE, step_key
from services.orchestrator.definition.operations import as_operation
from services.orchestrator.definition.problems import shown
from services.orchestrator.definition.types import ANY, ValueType
from services.orchestrator.definition.workflow import Call, Effect, ForEach, Step, Workflow

if TYPE_CHECKING:
    from services.orchestrator.definition.ast import CallNode, StepNode, SubWorkflowNode
    from services.orchestrator.definition.check.mappings import Mappings
    from services.orchestrator.definition.check.payments import PaymentChecks
    from services.orchestrator.definition.check.scope import Scope
    from services.orchestrator.definition.check.waits import WaitChecks
    from services.orchestrator.definition.operations import Operations
    from services.orchestrator.definition.source import Pointer, Problems
    from services.orchestrator.definition.workflow import Action, Operation

MAX_PATH_CHARS = 56  # of "step/inner step": with the run's id it must fit a request_id
NESTED_ITEM_CHARS = 4  # that the number of an item adds inside another item


class CallChecks:
    """Finds the operation of every call, and checks what the call gives and takes."""

    def __init__(
        self,
        problems: Problems,
        scope: Scope,
        mappings: Mappings,
        waits: WaitChecks,
        payments: PaymentChecks,
        operations: Operations,
        workflow_id: str,
    ) -> None:
        self._problems = problems
        self._scope = scope
        self._mappings = mappings
        self._waits = waits
        self._payments = payments
        self._operations = operations
        self._workflow_id = workflow_id

    def call(self, step: StepNode, call: CallNode) -> tuple[Call | None, dict[str, ValueType]]:
        """Checks the call of an operation. Returns it with the types of its outputs.

        Returns None for the call if the operation is unknown.
        """
        operation = self._find(call)
        if operation is None:
            outputs = dict.fromkeys(call.output_mapping, ANY)
        else:
            inputs_at = (*call.pointer, "input_mapping")
            self._mappings.check(call.input_mapping, operation.request, inputs_at)
            outputs_at = (*call.pointer, "output_mapping")
            outputs = self._mappings.types_of(call.output_mapping, outputs_at, operation.reply)
            if operation.reply.nullable:  # a workflow whose last step may be skipped
                null = frozenset([step_key(step.id)])
                outputs = {name: type.or_null(null) for name, type in outputs.items()}
        self._waits.timeout(call.timeout_us, (*call.pointer, "timeout"))
        compensate = self._compensation(step, call, operation, outputs)
        if operation is None:
            return None, outputs
        called = (*call.pointer, "operation")
        self._check_race(operation, called)
        self._payments.step(step, call.payment, operation, called)
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
        self, step: StepNode, sub: SubWorkflowNode
    ) -> tuple[Call | None, dict[str, ValueType]]:
        """Checks a step that runs a workflow. Returns the call with the types of its outputs.

        Returns None for the call if the workflow is unknown.
        """
        where = (*step.pointer, "workflow")
        workflow, own = self._operations.workflow(sub.workflow), self._workflow_id
        if sub.workflow == own:
            self._problems.add(where, f"{own} cannot run inside itself")
        elif workflow is None:
            hint = self._operations.nearest_workflow(sub.workflow)
            self._problems.add(where, f"unknown workflow {shown(sub.workflow)}{hint}")
        if workflow is None:
            return None, dict.fromkeys(sub.output_mapping, ANY)
        if own in workflow.sub_workflow_hashes:
            message = f"{own} cannot run inside itself, by way of {workflow.id}"
            self._problems.add(where, message)
        if workflow.pivots:
            message = f"{workflow.id} pays: it cannot run inside another workflow"
            self._problems.add(where, message)
        operation = as_operation(workflow)
        inputs, names = sub.input_mapping, sub.output_mapping
        self._mappings.check(inputs, operation.request, (*step.pointer, "input_mapping"))
        outputs_at = (*step.pointer, "output_mapping")
        outputs = self._mappings.types_of(names, outputs_at, operation.reply)
        self._check_race(operation, where)
        self._payments.step(step, sub.payment, operation, where)
        return Call(operation, inputs, names, payment=sub.payment), outputs

    def path_length(self, step: StepNode, prefix: str, action: Action | None) -> None:
        """Adds a problem if a path of the step, or of a step inside its call, is too long."""
        items = self._scope.items_around
        inside = NESTED_ITEM_CHARS * max(0, items - 1)
        if isinstance(action, Call):
            longest = _longest_inside(action.operation, in_item=items > 0)
            inside += max(longest, len("/compensate") if action.compensate else 0)
        length = len(prefix) + len(step.id) + inside
        if length > MAX_PATH_CHARS:
            below = f" and {inside} more inside it" if inside else ""
            what = f"its path is too long: {shown(prefix + step.id)}{below}, {length} characters"
            message = f"{what}, at most {MAX_PATH_CHARS}: shorten ids"
            self._problems.add((*step.pointer, "id"), message)

    def _find(self, call: CallNode) -> Operation | None:
        operation = self._operations.find(call.operation)
        if operation is None:
            hint = self._operations.nearest(call.operation)
            message = f"unknown operation {shown(call.operation)}{hint}"
            self._problems.add((*call.pointer, "operation"), message)
        elif operation.protocol != call.protocol.lower():
            what = f"{call.operation} is an operation of {operation.protocol}"
            message = f"{what}, not {shown(call.protocol)}"
            self._problems.add((*call.pointer, "protocol"), message)
        return operation

    def _check_race(self, operation: Operation, where: Pointer) -> None:
        """Adds a problem if a branch that loses a race would leave an effect behind."""
        if RACE in self._scope.blocks and operation.effect is not Effect.READ:
            message = f"{operation.name} changes something: it cannot race for the first"
            self._problems.add(where, message)

    def _compensation(
        self,
        step: StepNode,
        call: CallNode,
        operation: Operation | None,
        outputs: dict[str, ValueType],
    ) -> Call | None:
        undo = call.compensate
        if undo is None:
            return None
        undo_operation = self._find(undo)
        self._waits.timeout(undo.timeout_us, (*undo.pointer, "timeout"))
        if operation is not None and operation.effect is not Effect.REVERSIBLE:
            what = "cannot be taken back" if operation.pivots else "changes nothing"
            self._problems.add((*step.pointer, "compensate"), f"{operation.name} {what}")
        if undo_operation is None:
            return None
        if undo_operation.pivots or isinstance(undo_operation.runs, Workflow):
            pivots = undo_operation.pivots
            what = "cannot be taken back" if pivots else "is a workflow, not one call"
            self._problems.add((*undo.pointer, "operation"), f"{undo_operation.name} {what}")
        self._scope.outputs[step.id] = outputs  # a compensation reads those of its own step
        inputs_at = (*undo.pointer, "input_mapping")
        self._mappings.check(undo.input_mapping, undo_operation.request, inputs_at)
        del self._scope.outputs[step.id]
        return Call(undo_operation, undo.input_mapping, {}, undo.retry, undo.timeout_us)


def _longest_inside(operation: Operation, *, in_item: bool) -> int:
    """Returns how many characters the longest path inside an operation adds."""
    return _longest(operation.runs, in_item) if isinstance(operation.runs, Workflow) else 0


@lru_cache(maxsize=1024)
def _longest(workflow: Workflow, in_item: bool) -> int:
    return max(1 + _length(step, in_item) for step in workflow.steps)


def _length(step: Step, in_item: bool) -> int:
    below = 0
    if step.inner:
        inside = isinstance(step.action, ForEach)
        number = NESTED_ITEM_CHARS if inside and in_item else 0
        below = 1 + number + max(_length(inner, in_item or inside) for inner in step.inner)
    for handling in step.handling:
        below = max(below, len("/on_error/") + _length(handling, in_item))
    if isinstance(step.action, Call):
        longest = _longest_inside(step.action.operation, in_item=in_item)
        below = max(below, longest, len("/compensate") if step.action.compensate else 0)
    return len(step.id) + below
