"""The static check: every operation, path, field and condition, against the contracts."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import rfc8785

from services.orchestrator.definition import inference
from services.orchestrator.definition.check_asking import AskingChecks
from services.orchestrator.definition.faults import DefinitionInvalid
from services.orchestrator.definition.operations import as_operation
from services.orchestrator.definition.raw import (
    RawApproval,
    RawCall,
    RawEmit,
    RawEnd,
    RawForEach,
    RawParallel,
    RawSet,
    RawSubWorkflow,
    RawSwitch,
    RawWait,
    RawWaitFor,
    all_raw,
)
from services.orchestrator.definition.types import ANY, INT, STRING, TIME, Kind, Type
from services.orchestrator.definition.visible import Visible
from services.orchestrator.definition.workflow import (
    Call,
    Case,
    Catch,
    Effect,
    End,
    ForEach,
    Parallel,
    Set,
    Step,
    Switch,
    Wait,
    Workflow,
    all_steps,
)

if TYPE_CHECKING:
    from services.orchestrator.definition.document import Document, Pointer
    from services.orchestrator.definition.operations import Operations
    from services.orchestrator.definition.raw import RawStep, RawWorkflow
    from services.orchestrator.definition.workflow import Action, Operation

MAX_PATH = 56  # characters of "step/inner step": with the run's id it must fit a request_id
NESTED_ITEM = 4  # characters that the number of an item adds inside that of another
ANY_LIST = Type(Kind.LIST, element=ANY, showable=False)


def canonical_hash(definition: Any) -> str:
    """SHA-256 of the RFC 8785 form, hex."""
    return hashlib.sha256(rfc8785.dumps(definition)).hexdigest()


def check_workflow(document: Document, raw: RawWorkflow, operations: Operations) -> Workflow:
    """The workflow, typed. DefinitionInvalid with every fault, in order of position."""
    inputs = inference.infer_inputs(raw, operations)
    visible = Visible(inputs, frozenset(step.id for step in all_raw(raw.steps)))
    checker = _Checker(document, visible, operations, raw)
    steps = checker.steps(raw.steps, "")
    hash = canonical_hash(document.value)
    outputs = _outputs(steps, visible)
    workflow = Workflow(raw.id, raw.name, hash, steps, inputs, raw.deadline_us, outputs)
    if workflow.pivots > 1:
        checker.fault(("steps",), "a workflow pays once at most, this one may twice")
    if checker.faults:
        raise DefinitionInvalid(sorted(set(checker.faults)))
    return workflow


class _Checker(AskingChecks):
    def __init__(
        self,
        document: Document,
        visible: Visible,
        operations: Operations,
        raw: RawWorkflow,
    ) -> None:
        super().__init__(document, visible, raw.deadline_us)
        self._id = raw.id
        self._operations = operations
        self._inside: tuple[str, ...] = ()  # kinds of the steps around, outermost first

    def steps(self, raw: tuple[RawStep, ...], prefix: str) -> tuple[Step, ...]:
        return tuple(step for one in raw if (step := self._step(one, prefix)))

    def _step(self, raw: RawStep, prefix: str) -> Step | None:
        self.visible.current = raw.id
        condition = self.condition(raw.condition, (*raw.pointer, "condition"))
        earlier = set(self.visible.outputs)
        action, outputs = self._action(raw, f"{prefix}{raw.id}/")
        self._path_length(raw, prefix, action)
        catch = self._catch(raw, f"{prefix}{raw.id}/", earlier)
        self.visible.add(raw.id, outputs)
        if catch is not None:
            self.visible.may_be_null([raw.id])
        if raw.condition is not None:
            self.visible.may_be_null(self.visible.outputs.keys() - earlier)
        return None if action is None else Step(raw.id, action, condition, catch)

    def _action(self, raw: RawStep, inner: str) -> tuple[Action | None, dict[str, Type]]:
        """What the step does, and the types of its outputs."""
        match raw.action:
            case RawCall():
                return self._call_step(raw, raw.action)
            case RawSubWorkflow():
                return self._sub_workflow(raw, raw.action)
            case RawSet(values):
                where = (*raw.pointer, "set")
                types = {name: self.type_of(v, (*where, name)) for name, v in values.items()}
                return Set(values), types
            case RawSwitch():
                return self._switch(raw, inner), {}
            case RawWait(duration_us, until):
                if until is not None:
                    self.fits(until, TIME, (*raw.pointer, "wait", "until"))
                return Wait(duration_us, until), {}
            case RawWaitFor():
                return self.wait_for(raw, raw.action)
            case RawEmit():
                where = (*raw.pointer, "emit")
                if "race" in self._inside:
                    self.fault(where, "an event cannot be taken back: not in a race for the first")
                return self.emit(where, raw.action), {}
            case RawApproval():
                return self.approval(raw, raw.action)
            case RawParallel(first, concurrency):
                return self._parallel(raw, inner, first=first, concurrency=concurrency)
            case RawForEach():
                return self._for_each(raw, raw.action, inner)
            case RawEnd(outcome, reason):
                where = (*raw.pointer, "end")
                if {"parallel", "race", "for_each"} & set(self._inside):
                    self.fault(where, "a run cannot end inside parallel or for_each")
                if reason:
                    self.fits(reason, STRING, (*where, "reason"))
                return End(outcome, reason), {}

    def _block(self, steps: tuple[RawStep, ...], prefix: str, kind: str) -> tuple[Step, ...]:
        outer, self._inside = self._inside, (*self._inside, kind)
        checked = self.steps(steps, prefix)
        self._inside = outer
        return checked

    # Calls.

    def _call_step(self, raw: RawStep, call: RawCall) -> tuple[Call | None, dict[str, Type]]:
        operation = self._operation(call)
        if operation is None:
            outputs = dict.fromkeys(call.output_mapping, ANY)
        else:
            self.fits(call.input_mapping, operation.request, (*call.pointer, "input_mapping"))
            outputs = {
                name: self.type_of(v, (*call.pointer, "output_mapping", name), operation.reply)
                for name, v in call.output_mapping.items()
            }
        self.ends_in_time(call.timeout_us, (*call.pointer, "timeout"))
        compensate = self._compensation(raw, call, operation, outputs)
        if operation is None:
            return None, outputs
        self._must_be_allowed(raw, operation, (*call.pointer, "operation"))
        return (
            Call(
                operation,
                call.input_mapping,
                call.output_mapping,
                call.retry,
                call.timeout_us,
                compensate,
            ),
            outputs,
        )

    def _sub_workflow(
        self, raw: RawStep, sub: RawSubWorkflow
    ) -> tuple[Call | None, dict[str, Type]]:
        where = (*raw.pointer, "workflow")
        workflow = self._operations.workflow(sub.workflow)
        if sub.workflow == self._id:
            self.fault(where, f"{self._id} cannot run inside itself")
        elif workflow is None:
            hint = self._operations.nearest_workflow(sub.workflow)
            self.fault(where, f"unknown workflow {sub.workflow!r}{hint}")
        if workflow is None:
            return None, dict.fromkeys(sub.output_mapping, ANY)
        if self._id in workflow.composites:
            self.fault(where, f"{self._id} cannot run inside itself, by way of {workflow.id}")
        if workflow.pivots:
            self.fault(where, f"{workflow.id} pays: it cannot run inside another workflow")
        operation = as_operation(workflow)
        self.fits(sub.input_mapping, operation.request, (*raw.pointer, "input_mapping"))
        outputs = {
            name: self.type_of(v, (*raw.pointer, "output_mapping", name), operation.reply)
            for name, v in sub.output_mapping.items()
        }
        self._must_be_allowed(raw, operation, where)
        return Call(operation, sub.input_mapping, sub.output_mapping), outputs

    def _operation(self, raw: RawCall) -> Operation | None:
        operation = self._operations.find(raw.operation)
        if operation is None:
            hint = self._operations.nearest(raw.operation)
            self.fault((*raw.pointer, "operation"), f"unknown operation {raw.operation!r}{hint}")
        elif operation.protocol != raw.protocol.lower():
            self.fault(
                (*raw.pointer, "protocol"),
                f"{raw.operation} is an operation of {operation.protocol}, not {raw.protocol}",
            )
        return operation

    def _must_be_allowed(self, raw: RawStep, operation: Operation, where: Pointer) -> None:
        """What cannot be taken back stands alone; what lost a race must leave nothing behind."""
        name = operation.name
        if operation.pivots and {"parallel", "race", "for_each"} & set(self._inside):
            self.fault(where, f"{name} cannot be taken back: not inside parallel or for_each")
        if operation.pivots and raw.on_error is not None:
            self.fault((*raw.pointer, "on_error"), f"an error of {name} is never caught")
        if "race" in self._inside and operation.effect is not Effect.READ:
            self.fault(where, f"{name} changes something: it cannot race for the first")

    def _compensation(
        self, raw: RawStep, call: RawCall, operation: Operation | None, outputs: dict[str, Type]
    ) -> Call | None:
        undo = call.compensate
        if undo is None:
            return None
        known = self._operation(undo)
        self.ends_in_time(undo.timeout_us, (*undo.pointer, "timeout"))
        if operation is not None and operation.effect is not Effect.REVERSIBLE:
            what = "cannot be taken back" if operation.pivots else "changes nothing"
            self.fault((*raw.pointer, "compensate"), f"{operation.name} {what}")
        if known is None:
            return None
        if known.pivots or isinstance(known.runs, Workflow):
            what = "cannot be taken back" if known.pivots else "is a workflow, not one call"
            self.fault((*undo.pointer, "operation"), f"{known.name} {what}")
        self.visible.outputs[raw.id] = outputs  # it follows its own step's success
        self.fits(undo.input_mapping, known.request, (*undo.pointer, "input_mapping"))
        del self.visible.outputs[raw.id]
        return Call(known, undo.input_mapping, {}, undo.retry, undo.timeout_us)

    def _catch(self, raw: RawStep, inner: str, earlier: set[str]) -> Catch | None:
        """What is inside the step may not have happened then."""
        if raw.on_error is None:
            return None
        self.visible.may_be_null(self.visible.outputs.keys() - earlier)
        known = set(self.visible.outputs)
        self.visible.outputs[raw.id] = {}  # with its _status and _error
        steps = self._block(raw.on_error.steps, f"{inner}on_error/", "on_error")
        del self.visible.outputs[raw.id]
        self.visible.may_be_null(self.visible.outputs.keys() - known)
        self.visible.current = raw.id
        return Catch(raw.on_error.errors, steps)

    # Steps with steps inside.

    def _switch(self, raw: RawStep, inner: str) -> Switch:
        earlier = set(self.visible.outputs)
        cases, taken = [], dict(self.visible.outputs)
        for block in raw.blocks:
            self.visible.outputs = {id: taken[id] for id in earlier}
            self.visible.current = raw.id
            when = self.condition(block.when, (*block.pointer, "when"))
            cases.append(Case(when, self._block(block.steps, inner, "switch")))
            taken |= self.visible.outputs
        self.visible.outputs = taken
        self.visible.may_be_null(taken.keys() - earlier)
        return Switch(tuple(cases))

    def _parallel(
        self, raw: RawStep, inner: str, *, first: bool, concurrency: int
    ) -> tuple[Parallel, dict[str, Type]]:
        earlier = dict(self.visible.outputs)
        branches, seen = {}, dict(earlier)
        for block in raw.blocks:
            self.visible.outputs = dict(earlier)
            kind = "race" if first else "parallel"
            branches[block.name] = self._block(block.steps, inner, kind)
            seen |= self.visible.outputs
        self.visible.outputs = seen
        if first:
            self.visible.may_be_null(seen.keys() - earlier.keys())
        return Parallel(branches, first, concurrency), {"first": STRING} if first else {}

    def _for_each(
        self, raw: RawStep, each: RawForEach, inner: str
    ) -> tuple[ForEach, dict[str, Type]]:
        where = (*raw.pointer, "for_each")
        self.fits(each.items, ANY_LIST, (*where, "items"))
        earlier, outer = dict(self.visible.outputs), self.visible.item
        self.visible.item = self._item_type(each.items)
        (block,) = raw.blocks
        steps = self._block(block.steps, inner, "for_each")
        collected = {
            name: self.type_of(v, (*where, "collect", name)) for name, v in each.collect.items()
        }
        self.visible.outputs, self.visible.item = earlier, outer
        result = Type(Kind.OBJECT, members=collected)
        results = Type(Kind.LIST, element=result.or_null() if each.tolerates else result)
        action = ForEach(each.items, steps, each.collect, each.max_concurrency, each.tolerates)
        return action, {"results": results, "failed": INT}

    def _item_type(self, items: Any) -> Type:
        faults = len(self.faults)
        found = self.type_of(items, ()) if isinstance(items, str) else ANY_LIST
        del self.faults[faults:]  # told already, where they are
        return found.element or ANY if found.kind is Kind.LIST else ANY

    def _path_length(self, raw: RawStep, prefix: str, action: Action | None) -> None:
        items = self._inside.count("for_each")
        inside = NESTED_ITEM * max(0, items - 1)
        if isinstance(action, Call):
            longest = _longest_inside(action.operation, in_item=items > 0)
            inside += max(longest, len("/compensate") if action.compensate else 0)
        if len(prefix) + len(raw.id) + inside > MAX_PATH:
            self.fault((*raw.pointer, "id"), f"longer than {MAX_PATH} characters with inner steps")


def _longest_inside(operation: Operation, *, in_item: bool) -> int:
    """How much longer the paths of the steps inside an operation are."""
    if not isinstance(operation.runs, Workflow):
        return 0
    return max(1 + _length(step, in_item) for step in operation.runs.steps)


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


def _outputs(steps: tuple[Step, ...], visible: Visible) -> dict[str, Type]:
    """What the last step names; null if the workflow may end before it."""
    outputs = visible.outputs.get(steps[-1].id, {}) if steps else {}
    if any(isinstance(step.action, End) for step in all_steps(steps)):
        return {name: type.or_null() for name, type in outputs.items()}
    return outputs
