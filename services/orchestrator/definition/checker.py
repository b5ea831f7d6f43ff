"""The static check: every operation, path, field and condition, against the contracts."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import rfc8785

from services.orchestrator.definition import inference
from services.orchestrator.definition.faults import DefinitionInvalid
from services.orchestrator.definition.mapping import Mappings
from services.orchestrator.definition.parse import (
    RawCall,
    RawEnd,
    RawForEach,
    RawParallel,
    RawSet,
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
    WaitFor,
    Workflow,
    all_steps,
)

if TYPE_CHECKING:
    from services.orchestrator.definition.document import Document
    from services.orchestrator.definition.operations import Operations
    from services.orchestrator.definition.parse import RawBlock, RawStep, RawWorkflow
    from services.orchestrator.definition.workflow import Action, Operation

MAX_PATH = 56  # characters of "step/inner step": with the run's id it must fit a request_id
SENT = Type(Kind.STRUCT, showable=False)
ANY_LIST = Type(Kind.LIST, element=ANY, showable=False)


def canonical_hash(definition: Any) -> str:
    """SHA-256 of the RFC 8785 form, hex."""
    return hashlib.sha256(rfc8785.dumps(definition)).hexdigest()


def check_workflow(document: Document, raw: RawWorkflow, operations: Operations) -> Workflow:
    """The workflow, typed. DefinitionInvalid with every fault, in order of position."""
    inputs = inference.infer_inputs(raw, operations)
    visible = Visible(inputs, frozenset(step.id for step in all_raw(raw.steps)))
    checker = _Checker(document, visible, operations, raw.deadline_us)
    steps = checker.steps(raw.steps, "")
    hash = canonical_hash(document.value)
    workflow = Workflow(raw.id, raw.name, hash, steps, inputs, raw.deadline_us)
    if workflow.pivots > 1:
        checker.fault(("steps",), "a workflow pays once at most, this one may twice")
    if checker.faults:
        raise DefinitionInvalid(sorted(set(checker.faults)))
    return workflow


class _Checker(Mappings):
    def __init__(
        self,
        document: Document,
        visible: Visible,
        operations: Operations,
        deadline_us: int | None,
    ) -> None:
        super().__init__(document, visible)
        self._operations = operations
        self._deadline_us = deadline_us
        self._inside: tuple[str, ...] = ()  # kinds of the steps around, outermost first

    def steps(self, raw: tuple[RawStep, ...], prefix: str) -> tuple[Step, ...]:
        return tuple(step for one in raw if (step := self._step(one, prefix)))

    def _step(self, raw: RawStep, prefix: str) -> Step | None:
        self.visible.current = raw.id
        condition = self.condition(raw.condition, (*raw.pointer, "condition"))
        earlier = set(self.visible.outputs)
        action, outputs = self._action(raw, f"{prefix}{raw.id}/")
        self._path_length(raw, prefix, action)
        self.visible.add(raw.id, outputs)
        if raw.condition is not None:
            self.visible.may_be_null(self.visible.outputs.keys() - earlier)
        return None if action is None else Step(raw.id, action, condition)

    def _action(self, raw: RawStep, inner: str) -> tuple[Action | None, dict[str, Type]]:
        """What the step does, and the types of its outputs."""
        match raw.action:
            case RawCall():
                return self._call_step(raw, raw.action, inner)
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
                return self._wait_for(raw, raw.action)
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

    def _wait_for(self, raw: RawStep, wait: RawWaitFor) -> tuple[WaitFor, dict[str, Type]]:
        where = (*raw.pointer, "wait_for")
        if wait.correlation is not None:
            self.fits(wait.correlation, STRING, (*where, "correlation"))
        deadline = self._deadline_us
        if wait.timeout_us is not None and deadline is not None and wait.timeout_us >= deadline:
            self.fault((*where, "timeout"), "must be shorter than the deadline of the run")
        types = {"signal": STRING, "payload": SENT}
        if wait.may_end:
            types = {name: type.or_null() for name, type in types.items()}
        found = WaitFor(wait.signals, wait.all, wait.correlation, wait.timeout_us, wait.may_end)
        return found, types

    def _block(self, block: RawBlock, prefix: str, kind: str) -> tuple[Step, ...]:
        outer, self._inside = self._inside, (*self._inside, kind)
        steps = self.steps(block.steps, prefix)
        self._inside = outer
        return steps

    # Calls.

    def _call_step(
        self, raw: RawStep, call: RawCall, inner: str
    ) -> tuple[Call | None, dict[str, Type]]:
        operation = self._operation(call)
        if operation is None:
            outputs = dict.fromkeys(call.output_mapping, ANY)
        else:
            self.fits(call.input_mapping, operation.request, (*call.pointer, "input_mapping"))
            outputs = {
                name: self.type_of(v, (*call.pointer, "output_mapping", name), operation.reply)
                for name, v in call.output_mapping.items()
            }
        self._times(call)
        compensate = self._compensation(raw, call, operation, outputs)
        catch = self._catch(raw, call, inner)
        if catch is not None:
            outputs = {name: type.or_null() for name, type in outputs.items()}
        if operation is None:
            return None, outputs
        self._must_be_allowed(raw, operation, call)
        return (
            Call(
                operation,
                call.input_mapping,
                call.output_mapping,
                call.retry,
                call.timeout_us,
                catch,
                compensate,
            ),
            outputs,
        )

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

    def _times(self, call: RawCall) -> None:
        timeout, deadline = call.timeout_us, self._deadline_us
        if timeout is not None and deadline is not None and timeout >= deadline:
            self.fault((*call.pointer, "timeout"), "must be shorter than the deadline of the run")

    def _must_be_allowed(self, raw: RawStep, operation: Operation, call: RawCall) -> None:
        """What cannot be taken back stands alone; what lost a race must leave nothing behind."""
        where = (*call.pointer, "operation")
        name = operation.name
        if operation.pivots and {"parallel", "race", "for_each"} & set(self._inside):
            self.fault(where, f"{name} cannot be taken back: not inside parallel or for_each")
        if operation.pivots and call.catches is not None:
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
        self._times(undo)
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

    def _catch(self, raw: RawStep, call: RawCall, inner: str) -> Catch | None:
        if call.catches is None:
            return None
        earlier = set(self.visible.outputs)
        steps: tuple[Step, ...] = ()
        for block in raw.blocks:
            self.visible.outputs[raw.id] = {}  # with its _status and _error
            steps = self._block(block, f"{inner}on_error/", "on_error")
            del self.visible.outputs[raw.id]
        self.visible.may_be_null(self.visible.outputs.keys() - earlier)
        self.visible.current = raw.id
        return Catch(call.catches, steps)

    # Steps with steps inside.

    def _switch(self, raw: RawStep, inner: str) -> Switch:
        earlier = set(self.visible.outputs)
        cases, taken = [], dict(self.visible.outputs)
        for block in raw.blocks:
            self.visible.outputs = {id: taken[id] for id in earlier}
            self.visible.current = raw.id
            when = self.condition(block.when, (*block.pointer, "when"))
            cases.append(Case(when, self._block(block, inner, "switch")))
            taken |= self.visible.outputs
        self.visible.outputs = taken
        self.visible.may_be_null(taken.keys() - earlier)
        return Switch(tuple(cases))

    def _parallel(
        self, raw: RawStep, inner: str, *, first: bool, concurrency: int
    ) -> tuple[Parallel, dict[str, Type]]:
        if "for_each" in self._inside:
            self.fault((*raw.pointer, "parallel"), "parallel cannot stand inside for_each")
        earlier = dict(self.visible.outputs)
        branches, seen = {}, dict(earlier)
        for block in raw.blocks:
            self.visible.outputs = dict(earlier)
            branches[block.name] = self._block(block, inner, "race" if first else "parallel")
            seen |= self.visible.outputs
        self.visible.outputs = seen
        if first:
            self.visible.may_be_null(seen.keys() - earlier.keys())
        return Parallel(branches, first, concurrency), {"first": STRING} if first else {}

    def _for_each(
        self, raw: RawStep, each: RawForEach, inner: str
    ) -> tuple[ForEach, dict[str, Type]]:
        where = (*raw.pointer, "for_each")
        if "for_each" in self._inside:
            self.fault(where, "for_each cannot stand inside for_each")
        self.fits(each.items, ANY_LIST, (*where, "items"))
        earlier, outer = dict(self.visible.outputs), self.visible.item
        self.visible.item = self._item_type(each.items)
        (block,) = raw.blocks
        steps = self._block(block, inner, "for_each")
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
        inside = 0
        if isinstance(action, Call):
            inside = _depth(action.operation)
            if action.compensate is not None:
                inside = max(inside, len("/compensate") + _depth(action.compensate.operation))
        if len(prefix) + len(raw.id) + inside > MAX_PATH:
            self.fault((*raw.pointer, "id"), f"longer than {MAX_PATH} characters with inner steps")


def _depth(operation: Operation) -> int:
    """How much longer the paths of the steps inside an operation are."""
    if not isinstance(operation.runs, Workflow):
        return 0
    return max(
        1 + len(step.id) + _depth(step.action.operation)
        for step in all_steps(operation.runs.steps)
        if isinstance(step.action, Call)
    )
