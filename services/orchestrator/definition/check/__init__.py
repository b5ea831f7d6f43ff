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
from services.orchestrator.definition.check.inputs import infer_inputs, with_condition_uses
from services.orchestrator.definition.check.mappings import Mappings
from services.orchestrator.definition.check.payments import CONCURRENT, PaymentChecks
from services.orchestrator.definition.check.scope import (
    EACH,
    EACH_IN_TURN,
    ON_ERROR,
    PARALLEL,
    RACE,
    SWITCH,
    Scope,
    step_key,
)
from services.orchestrator.definition.check.waits import WaitChecks
from services.orchestrator.definition.source import Problems
from services.orchestrator.definition.types import (
    ANY,
    INT,
    OPTIONAL,
    STRING,
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
    """Returns the SHA-256 of the RFC 8785 form, in hex."""
    return hashlib.sha256(rfc8785.dumps(definition)).hexdigest()


def check_workflow(source: Source, node: WorkflowNode, operations: Operations) -> Workflow:
    """Returns the typed workflow. Raises DefinitionInvalidError with all problems found."""
    problems = Problems(source)
    inputs = infer_inputs(node, operations)
    scope = Scope(inputs, frozenset(step.id for step in all_nodes(node.steps)))
    mappings = Mappings(problems, scope)
    waits = WaitChecks(problems, scope, mappings, node.deadline_us)
    payments = PaymentChecks(problems, scope, mappings)
    calls = CallChecks(problems, scope, mappings, waits, payments, operations, node.id)
    checker = Checker(problems, scope, mappings, waits, payments, calls)

    steps = checker.steps(node.steps, "")
    workflow = Workflow(
        node.id,
        node.name,
        canonical_hash(source.value),
        steps,
        with_condition_uses(inputs, mappings.condition_uses),
        node.deadline_us,
        _outputs(steps, scope),
    )
    if workflow.min_steps > MAX_STEPS_PER_RUN:
        counted = f"a run has {workflow.min_steps} steps, each item's counted"
        problems.add(("steps",), f"{counted}: at most {MAX_STEPS_PER_RUN}")
    payments.workflow(workflow)
    problems.raise_if_any()
    return workflow


class Checker:
    """Walks over the steps in the order of the text, and keeps the scope of each."""

    def __init__(
        self,
        problems: Problems,
        scope: Scope,
        mappings: Mappings,
        waits: WaitChecks,
        payments: PaymentChecks,
        calls: CallChecks,
    ) -> None:
        self._problems = problems
        self._scope = scope
        self._mappings = mappings
        self._waits = waits
        self._payments = payments
        self._calls = calls

    def steps(self, nodes: tuple[StepNode, ...], prefix: str) -> tuple[Step, ...]:
        """Returns the checked steps, without those whose operation is unknown.

        ``prefix`` is the path of the block they stand in.
        """
        return tuple(step for node in nodes if (step := self._step(node, prefix)))

    def _step(self, node: StepNode, prefix: str) -> Step | None:
        scope = self._scope
        scope.current = node.id
        condition = self._mappings.condition(node.condition, (*node.pointer, "condition"))
        mark, guarded_outside = scope.mark(), scope.guarded
        if node.condition is not None:
            scope.guarded |= scope.named_by(condition)
        named = scope.guarded - guarded_outside
        action, outputs = self._action(node, f"{prefix}{node.id}/")
        scope.current = node.id
        self._calls.path_length(node, prefix, action)
        catch = self._catch(node, f"{prefix}{node.id}/", mark)
        scope.add(node.id, outputs)
        scope.guarded = guarded_outside
        if catch is not None:
            scope.make_nullable([node.id], frozenset([step_key(node.id)]))
        if node.condition is not None:
            scope.make_nullable(scope.since(mark), named | {step_key(node.id)})
        return None if action is None else Step(node.id, action, condition, catch)

    def _action(self, node: StepNode, inner: str) -> tuple[Action | None, dict[str, ValueType]]:
        """Returns what the step does, and the types of its outputs."""
        match node.action:
            case CallNode():
                return self._calls.call(node, node.action)
            case SubWorkflowNode():
                return self._calls.sub_workflow(node, node.action)
            case SetNode(values):
                return Set(values), self._mappings.types_of(values, (*node.pointer, "set"))
            case SwitchNode():
                return self._switch(node, inner), {}
            case WaitNode():
                return self._waits.wait(node, node.action), {}
            case WaitForNode():
                return self._waits.wait_for(node, node.action)
            case EmitNode():
                return self._waits.emit(node, node.action), {}
            case ApprovalNode():
                return self._waits.approval(node, node.action)
            case ParallelNode():
                return self._parallel(node, node.action, inner)
            case ForEachNode():
                return self._for_each(node, node.action, inner)
            case EndNode():
                return self._end(node, node.action), {}

    def _end(self, node: StepNode, end: EndNode) -> End:
        where, scope = (*node.pointer, "end"), self._scope
        if (CONCURRENT | {EACH_IN_TURN}) & set(scope.blocks):
            self._problems.add(where, "a run cannot end inside parallel or for_each")
        scope.guarded_by_end |= scope.guarded
        if end.reason:
            self._mappings.check(end.reason, STRING, (*where, "reason"))
        return End(end.outcome, end.reason)

    def _catch(self, node: StepNode, inner: str, mark: int) -> Catch | None:
        """Checks ``on_error``; in its steps, outputs of the steps inside may be null."""
        if node.on_error is None:
            return None
        scope, failed = self._scope, frozenset([step_key(node.id)])
        scope.make_nullable(scope.since(mark), failed)
        handling = scope.mark()
        scope.outputs[node.id] = {}  # its _status and _error can be read
        steps = self._block(node, node.on_error.steps, f"{inner}on_error/", ON_ERROR)
        del scope.outputs[node.id]
        scope.make_nullable(scope.since(handling), failed)
        if any(isinstance(step.action, EndNode) for step in all_nodes(node.on_error.steps)):
            scope.guarded_by_end |= failed
        return Catch(node.on_error.errors, steps)

    # Steps with steps inside.

    def _block(
        self, node: StepNode, steps: tuple[StepNode, ...], prefix: str, kind: str
    ) -> tuple[Step, ...]:
        scope = self._scope
        outside = scope.blocks, scope.enclosing
        scope.blocks, scope.enclosing = (*outside[0], kind), (*outside[1], node.id)
        checked = self.steps(steps, prefix)
        scope.blocks, scope.enclosing = outside
        scope.current = node.id
        return checked

    def _switch(self, node: StepNode, inner: str) -> Switch:
        scope = self._scope
        mark, guarded_outside = scope.mark(), scope.guarded
        cases: list[Case] = []
        hidden: dict[str, dict[str, ValueType]] = {}
        for block in node.blocks:
            when = self._mappings.condition(block.when, (*block.pointer, "when"))
            if block.when is not None:
                scope.guarded |= scope.named_by(when)
            cases.append(Case(when, self._block(node, block.steps, inner, SWITCH)))
            hidden |= scope.hide_since(mark)
        scope.outputs |= hidden
        absent = scope.guarded - guarded_outside | {step_key(node.id)}
        scope.make_nullable(scope.since(mark), absent)
        scope.guarded = guarded_outside
        return Switch(tuple(cases))

    def _parallel(
        self, node: StepNode, parallel: ParallelNode, inner: str
    ) -> tuple[Parallel, dict[str, ValueType]]:
        scope, first = self._scope, parallel.first
        mark, branches = scope.mark(), {}
        hidden: dict[str, dict[str, ValueType]] = {}
        for block in node.blocks:
            kind = RACE if first else PARALLEL
            branches[block.name] = self._block(node, block.steps, inner, kind)
            hidden |= scope.hide_since(mark)
        scope.outputs |= hidden
        if first:
            scope.make_nullable(scope.since(mark), frozenset([step_key(node.id)]))
        outputs = {"first": STRING} if first else {}
        return Parallel(branches, first, parallel.max_concurrency), outputs

    def _for_each(
        self, node: StepNode, each: ForEachNode, inner: str
    ) -> tuple[ForEach, dict[str, ValueType]]:
        where, scope = (*node.pointer, "for_each"), self._scope
        self._mappings.check(each.items, ANY_LIST, (*where, "items"))
        items = self._items(each.items, (*where, "items"))
        mark, outer_item = scope.mark(), scope.item
        scope.item = ANY if each.continues_on_error and items.items else items.element or ANY
        scope.item_origins = (*scope.item_origins, self._payments.origin_of(each.items))
        in_turn = each.max_concurrency == 1 and not each.continues_on_error
        kind = EACH_IN_TURN if in_turn and node.on_error is None else EACH
        (block,) = node.blocks
        steps = self._block(node, block.steps, inner, kind)
        scope.item_origins = scope.item_origins[:-1]
        collected = self._mappings.types_of(each.collect, (*where, "collect"))
        scope.hide_since(mark)
        scope.item = outer_item
        result = ValueType(TypeKind.OBJECT, members=collected)
        if each.continues_on_error:
            result = result.or_null(frozenset([step_key(node.id)]))
        count = None if items.items is None else len(items.items)
        action = ForEach(
            each.items, steps, each.collect, each.max_concurrency, each.continues_on_error, count
        )
        return action, {"results": ValueType(TypeKind.LIST, element=result), "failed": INT}

    def _items(self, items: Any, pointer: Pointer) -> ValueType:
        """Returns the type of the list; adds a problem if it has too many items."""
        with self._problems.ignored():
            found = self._mappings.type_of(items, pointer)
        if found.kind is not TypeKind.LIST:
            return ANY_LIST
        if found.items is not None and len(found.items) > MAX_ITEMS:
            what = f"{len(found.items)} items, at most {MAX_ITEMS}: make it a list of lists,"
            message = f"{what} with a for_each inside the for_each"
            self._problems.add(pointer, message)
        return found


def _outputs(steps: tuple[Step, ...], scope: Scope) -> dict[str, ValueType]:
    """Returns the outputs of the last step; null is possible if the workflow may end before it."""
    outputs = scope.outputs.get(steps[-1].id, {}) if steps else {}
    ends = any(isinstance(step.action, End) for step in all_steps(steps))
    return {
        name: type.or_null(OPTIONAL) if ends or type.absent else type
        for name, type in outputs.items()
    }
