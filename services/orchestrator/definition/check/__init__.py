"""The static check: every operation, path, field and condition, against the contracts."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import rfc8785

from services.orchestrator.definition.ast import (
    ApprovalNode,
    CallNode,
    EmitNode,
    EndNode,
    ForEachNode,
    ParallelNode,
    SetNode,
    SubWorkflowNode,
    SwitchNode,
    WaitForNode,
    WaitNode,
    all_nodes,
)
from services.orchestrator.definition.check.calls import CallChecks
from services.orchestrator.definition.check.payments import AT_ONCE, EACH
from services.orchestrator.definition.check.scope import Scope, key_of
from services.orchestrator.definition.inputs import infer_inputs, with_asked
from services.orchestrator.definition.problems import DefinitionInvalidError
from services.orchestrator.definition.types import (
    ANY,
    INT,
    OPTIONAL,
    STRING,
    TIME,
    TypeKind,
    ValueType,
)
from services.orchestrator.definition.workflow import (
    MAX_ITEMS,
    MAX_STEPS_PER_RUN,
    Case,
    Catch,
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
    from services.orchestrator.definition.ast import StepNode, WorkflowNode
    from services.orchestrator.definition.operations import Operations
    from services.orchestrator.definition.source import Pointer, Source
    from services.orchestrator.definition.workflow import Action

ANY_LIST = ValueType(TypeKind.LIST, element=ANY, showable=False)


def canonical_hash(definition: Any) -> str:
    """SHA-256 of the RFC 8785 form, hex."""
    return hashlib.sha256(rfc8785.dumps(definition)).hexdigest()


def check_workflow(source: Source, raw: WorkflowNode, operations: Operations) -> Workflow:
    """The workflow, typed. DefinitionInvalidError with every problem, in order of position."""
    inputs = infer_inputs(raw, operations)
    visible = Scope(inputs, frozenset(step.id for step in all_nodes(raw.steps)))
    checker = _Checker(source, visible, operations, raw)
    steps = checker.steps(raw.steps, "")
    hash = canonical_hash(source.value)
    outputs = _outputs(steps, visible)
    inputs = with_asked(inputs, checker.asked)
    workflow = Workflow(raw.id, raw.name, hash, steps, inputs, raw.deadline_us, outputs)
    if workflow.min_steps > MAX_STEPS_PER_RUN:
        counted = f"a run has {workflow.min_steps} steps, each item's counted"
        checker.problem(("steps",), f"{counted}: at most {MAX_STEPS_PER_RUN}")
    checker.payments(workflow)
    if checker.problems:
        raise DefinitionInvalidError(sorted(set(checker.problems)))
    return workflow


class _Checker(CallChecks):
    def steps(self, raw: tuple[StepNode, ...], prefix: str) -> tuple[Step, ...]:
        return tuple(step for one in raw if (step := self._step(one, prefix)))

    def _step(self, raw: StepNode, prefix: str) -> Step | None:
        visible = self.visible
        visible.current = raw.id
        condition = self.condition(raw.condition, (*raw.pointer, "condition"))
        mark, outside = visible.mark(), visible.told
        if raw.condition is not None:
            visible.told |= visible.named_by(condition)
        named = visible.told - outside
        action, outputs = self._action(raw, f"{prefix}{raw.id}/")
        visible.current = raw.id
        self.path_length(raw, prefix, action)
        catch = self._catch(raw, f"{prefix}{raw.id}/", mark)
        visible.add(raw.id, outputs)
        visible.told = outside
        if catch is not None:
            visible.may_be_null([raw.id], frozenset([key_of(raw.id)]))
        if raw.condition is not None:
            visible.may_be_null(visible.since(mark), named | {key_of(raw.id)})
        return None if action is None else Step(raw.id, action, condition, catch)

    def _action(self, raw: StepNode, inner: str) -> tuple[Action | None, dict[str, ValueType]]:
        """What the step does, and the types of its outputs."""
        match raw.action:
            case CallNode():
                return self.call_step(raw, raw.action)
            case SubWorkflowNode():
                return self.sub_workflow(raw, raw.action)
            case SetNode(values):
                where = (*raw.pointer, "set")
                types = {name: self.type_of(v, (*where, name)) for name, v in values.items()}
                return Set(values), types
            case SwitchNode():
                return self._switch(raw, inner), {}
            case WaitNode(duration_us, until):
                if until is not None:
                    self.fits(until, TIME, (*raw.pointer, "wait", "until"))
                if "race" not in self.inside:  # there another branch may end before
                    self.ends_in_time(duration_us, (*raw.pointer, "wait", "duration"))
                return Wait(duration_us, until), {}
            case WaitForNode():
                return self.wait_for(raw, raw.action)
            case EmitNode():
                where = (*raw.pointer, "emit")
                if "race" in self.inside:
                    self.problem(
                        where, "an event cannot be taken back: not in a race for the first"
                    )
                return self.emit(where, raw.action), {}
            case ApprovalNode():
                return self.approval(raw, raw.action)
            case ParallelNode(first, concurrency):
                return self._parallel(raw, inner, first=first, concurrency=concurrency)
            case ForEachNode():
                return self._for_each(raw, raw.action, inner)
            case EndNode(outcome, reason):
                where = (*raw.pointer, "end")
                if (AT_ONCE | set(EACH)) & set(self.inside):
                    self.problem(where, "a run cannot end inside parallel or for_each")
                self.visible.settled |= self.visible.told
                if reason:
                    self.fits(reason, STRING, (*where, "reason"))
                return End(outcome, reason), {}

    def _block(
        self, raw: StepNode, steps: tuple[StepNode, ...], prefix: str, kind: str
    ) -> tuple[Step, ...]:
        outer = self.inside, self.visible.around
        self.inside, self.visible.around = (*outer[0], kind), (*outer[1], raw.id)
        checked = self.steps(steps, prefix)
        self.inside, self.visible.around = outer
        self.visible.current = raw.id
        return checked

    def _catch(self, raw: StepNode, inner: str, mark: int) -> Catch | None:
        """What is inside the step may not have happened then."""
        if raw.on_error is None:
            return None
        visible, failed = self.visible, frozenset([key_of(raw.id)])
        visible.may_be_null(visible.since(mark), failed)
        handling = visible.mark()
        visible.outputs[raw.id] = {}  # with its _status and _error
        steps = self._block(raw, raw.on_error.steps, f"{inner}on_error/", "on_error")
        del visible.outputs[raw.id]
        visible.may_be_null(visible.since(handling), failed)
        if any(isinstance(step.action, EndNode) for step in all_nodes(raw.on_error.steps)):
            visible.settled |= failed
        return Catch(raw.on_error.errors, steps)

    # Steps with steps inside.

    def _switch(self, raw: StepNode, inner: str) -> Switch:
        visible = self.visible
        mark, outside = visible.mark(), visible.told
        cases: list[Case] = []
        taken: dict[str, dict[str, ValueType]] = {}
        for block in raw.blocks:
            when = self.condition(block.when, (*block.pointer, "when"))
            if block.when is not None:
                visible.told |= visible.named_by(when)
            cases.append(Case(when, self._block(raw, block.steps, inner, "switch")))
            taken |= visible.hide(mark)
        visible.outputs |= taken
        visible.may_be_null(visible.since(mark), visible.told - outside | {key_of(raw.id)})
        visible.told = outside
        return Switch(tuple(cases))

    def _parallel(
        self, raw: StepNode, inner: str, *, first: bool, concurrency: int
    ) -> tuple[Parallel, dict[str, ValueType]]:
        visible = self.visible
        mark, branches = visible.mark(), {}
        seen: dict[str, dict[str, ValueType]] = {}
        for block in raw.blocks:
            kind = "race" if first else "parallel"
            branches[block.name] = self._block(raw, block.steps, inner, kind)
            seen |= visible.hide(mark)
        visible.outputs |= seen
        if first:
            visible.may_be_null(visible.since(mark), frozenset([key_of(raw.id)]))
        return Parallel(branches, first, concurrency), {"first": STRING} if first else {}

    def _for_each(
        self, raw: StepNode, each: ForEachNode, inner: str
    ) -> tuple[ForEach, dict[str, ValueType]]:
        where = (*raw.pointer, "for_each")
        self.fits(each.items, ANY_LIST, (*where, "items"))
        listed = self._items(each.items, (*where, "items"))
        visible = self.visible
        mark, outer = visible.mark(), visible.item
        visible.item = ANY if each.continues_on_error and listed.items else listed.element or ANY
        self.lists = (*self.lists, self.origin(each.items))
        (block,) = raw.blocks
        steps = self._block(raw, block.steps, inner, self.kind_of(raw, each))
        self.lists = self.lists[:-1]
        collected = {
            name: self.type_of(v, (*where, "collect", name)) for name, v in each.collect.items()
        }
        visible.hide(mark)
        visible.item = outer
        result = ValueType(TypeKind.OBJECT, members=collected)
        if each.continues_on_error:
            result = result.or_null(frozenset([key_of(raw.id)]))
        count = None if listed.items is None else len(listed.items)
        action = ForEach(
            each.items, steps, each.collect, each.max_concurrency, each.continues_on_error, count
        )
        return action, {"results": ValueType(TypeKind.LIST, element=result), "failed": INT}

    def _items(self, items: Any, pointer: Pointer) -> ValueType:
        """The type of the list, of as many items as may be."""
        problems = len(self.problems)
        found = self.type_of(items, pointer)
        del self.problems[problems:]  # told already
        if found.kind is not TypeKind.LIST:
            return ANY_LIST
        if found.items is not None and len(found.items) > MAX_ITEMS:
            message = f"{len(found.items)} items, at most {MAX_ITEMS}: make it a list of lists,"
            self.problem(pointer, f"{message} with a for_each inside the for_each")
        return found


def _outputs(steps: tuple[Step, ...], visible: Scope) -> dict[str, ValueType]:
    """What the last step names; null if the workflow may end before it."""
    outputs = visible.outputs.get(steps[-1].id, {}) if steps else {}
    ends = any(isinstance(step.action, End) for step in all_steps(steps))
    return {
        name: type.or_null(OPTIONAL) if ends or type.absent else type
        for name, type in outputs.items()
    }
