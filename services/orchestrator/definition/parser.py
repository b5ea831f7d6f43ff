"""The shape of a definition: which keys there are, and what kind of value each holds."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from services.orchestrator.definition.ast import (
    BlockNode,
    CallNode,
    CatchNode,
    EndNode,
    ForEachNode,
    ParallelNode,
    SetNode,
    StepNode,
    SubWorkflowNode,
    SwitchNode,
    WorkflowNode,
    all_nodes,
)
from services.orchestrator.definition.problems import DefinitionInvalidError
from services.orchestrator.definition.shape import MAX_BRANCHES
from services.orchestrator.definition.step_parsers import Asking
from services.orchestrator.definition.workflow import DEFAULT_RETRY, Retry

if TYPE_CHECKING:
    from services.orchestrator.definition.ast import ActionNode
    from services.orchestrator.definition.source import Pointer, Source

MAX_STEPS_PER_LIST = 100  # in a list
MAX_NAME = 200  # characters
MAX_CONCURRENCY = 64
MAX_ATTEMPTS = 1000
OUTCOMES = ("succeeded", "failed", "refused")

# What makes a step of a kind, and the keys it then may have besides id and condition.
CALL = ("protocol", "operation", "input_mapping", "output_mapping")
CALL_OPTIONS = ("retry", "timeout", "on_error", "compensate", "payment")
SUB_WORKFLOW = ("workflow", "input_mapping", "output_mapping")
KINDS = (*("set", "switch", "wait", "wait_for", "emit", "approval", "parallel", "for_each", "end"),)
CATCHING = ("wait_for", "approval", "parallel", "for_each")  # of these, what may have on_error
RETRY = ("max_attempts", "backoff", "max_delay", "jitter", "max_duration", "errors")


def parse_workflow(source: Source) -> WorkflowNode:
    """DefinitionInvalidError with everything that is out of shape."""
    parser = _Parser(source)
    workflow = parser.workflow()
    if parser.problems:
        raise DefinitionInvalidError(sorted(parser.problems))
    return workflow


class _Parser(Asking):
    def workflow(self) -> WorkflowNode:
        top = self.object((), self.source.value)
        self.keys((), top, required=("id", "name", "steps"), optional=("deadline",))
        name = self.text(("name",), top)
        if len(name) > MAX_NAME:
            self.problem(("name",), f"longer than {MAX_NAME} characters")
        id = self.id(("id",), top)
        steps = self._steps(("steps",), top)
        self._must_differ(steps)
        return WorkflowNode(id, name, steps, self.duration(("deadline",), top))

    def _must_differ(self, steps: tuple[StepNode, ...]) -> None:
        seen: set[str] = set()
        for step in all_nodes(steps):
            if step.id and step.id in seen:
                self.problem((*step.pointer, "id"), f"another step is called {step.id}")
            seen.add(step.id)

    def _steps(self, pointer: Pointer, parent: dict[str, Any]) -> tuple[StepNode, ...]:
        name = str(pointer[-1])
        raw = parent.get(name, [])
        if not isinstance(raw, list) or not (
            name not in parent or 1 <= len(raw) <= MAX_STEPS_PER_LIST
        ):
            self.problem(pointer, f"must be a list of 1 to {MAX_STEPS_PER_LIST} steps")
            return ()
        return tuple(self._step((*pointer, at), step) for at, step in enumerate(raw))

    def _step(self, pointer: Pointer, value: Any) -> StepNode:
        step = self.object(pointer, value)
        condition = self.text((*pointer, "condition"), step) if "condition" in step else None
        kind = next((kind for kind in KINDS if kind in step), None)
        if kind is not None:
            optional = ("condition", "on_error") if kind in CATCHING else ("condition",)
            self.keys(pointer, step, required=("id", kind), optional=optional)
        elif "workflow" in step:
            also = ("condition", "on_error", "payment")
            self.keys(pointer, step, required=("id", *SUB_WORKFLOW), optional=also)
        elif not step.keys() & set(CALL) and isinstance(value, dict):
            self._has_no_kind(pointer, step)
        else:
            self.keys(pointer, step, required=("id", *CALL), optional=("condition", *CALL_OPTIONS))
        id = self.id((*pointer, "id"), step)
        action, blocks = self._action(kind, pointer, step)
        return StepNode(pointer, id, condition, action, blocks, self._catch(pointer, step))

    def _has_no_kind(self, pointer: Pointer, step: dict[str, Any]) -> None:
        kinds = ("workflow", *KINDS)
        near = [word for key in step for word in get_close_matches(key, kinds, n=1)]
        hint = f"; did you mean {near[0]}?" if near else ""
        message = f"does nothing: give it a call ({', '.join(CALL)}) or one of {', '.join(kinds)}"
        self.problem(pointer, message + hint)

    def _action(
        self, kind: str | None, pointer: Pointer, step: dict[str, Any]
    ) -> tuple[ActionNode, tuple[BlockNode, ...]]:
        where = (*pointer, kind or "")
        match kind:
            case "set":
                return self._set(where, step), ()
            case "switch":
                return SwitchNode(), self._cases(where, step)
            case "wait":
                return self.wait(where, step), ()
            case "wait_for":
                return self.wait_for(where, step), ()
            case "emit":
                return self.emit(where, step), ()
            case "approval":
                return self.approval(where, step), ()
            case "parallel":
                return self._parallel(where, step)
            case "for_each":
                return self._for_each(where, step)
            case "end":
                return self._end(where, step), ()
            case _ if "workflow" in step:
                return self._sub_workflow(pointer, step), ()
            case _:
                return self._call(pointer, step), ()

    def _catch(self, pointer: Pointer, step: dict[str, Any]) -> CatchNode | None:
        if "on_error" not in step:
            return None
        where = (*pointer, "on_error")
        caught = self.member(where, step)
        self.keys(where, caught, optional=("errors", "steps"))
        errors = self.errors((*where, "errors"), caught)
        steps = self._steps((*where, "steps"), caught) if "steps" in caught else ()
        return CatchNode(where, errors, steps)

    def _sub_workflow(self, pointer: Pointer, step: dict[str, Any]) -> SubWorkflowNode:
        outputs = self.member((*pointer, "output_mapping"), step)
        self.names((*pointer, "output_mapping"), outputs)
        inputs = self.member((*pointer, "input_mapping"), step)
        id = self.id((*pointer, "workflow"), step)
        return SubWorkflowNode(id, inputs, outputs, self._payment(pointer, step))

    def _payment(self, pointer: Pointer, step: dict[str, Any]) -> str | None:
        return self.text((*pointer, "payment"), step) if "payment" in step else None

    def _call(self, pointer: Pointer, call: dict[str, Any]) -> CallNode:
        outputs = self.member((*pointer, "output_mapping"), call)
        self.names((*pointer, "output_mapping"), outputs)
        undo = (*pointer, "compensate")
        compensate = None
        if "compensate" in call:
            given = self.member(undo, call)
            self.keys(undo, given, required=CALL[:3], optional=("retry", "timeout"))
            compensate = self._call(undo, given)
        return CallNode(
            pointer,
            protocol=self.text((*pointer, "protocol"), call),
            operation=self.text((*pointer, "operation"), call),
            input_mapping=self.member((*pointer, "input_mapping"), call),
            output_mapping=outputs,
            retry=self._retry((*pointer, "retry"), call),
            timeout_us=self.duration((*pointer, "timeout"), call),
            compensate=compensate,
            payment=self._payment(pointer, call),
        )

    def _retry(self, pointer: Pointer, call: dict[str, Any]) -> Retry:
        if "retry" not in call:
            return DEFAULT_RETRY
        given = self.member(pointer, call)
        self.keys(pointer, given, optional=RETRY)
        return Retry(
            max_attempts=self.integer((*pointer, "max_attempts"), given, 1, MAX_ATTEMPTS),
            backoff_us=self.duration((*pointer, "backoff"), given),
            max_delay_us=self.duration((*pointer, "max_delay"), given),
            jitter=self._fraction((*pointer, "jitter"), given),
            max_duration_us=self.duration((*pointer, "max_duration"), given),
            errors=self.errors((*pointer, "errors"), given),
        )

    def _fraction(self, pointer: Pointer, parent: dict[str, Any]) -> float | None:
        value = parent.get(str(pointer[-1]))
        if str(pointer[-1]) not in parent:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
            return float(value)
        self.problem(pointer, "must be a number from 0 to 1")
        return None

    def _set(self, pointer: Pointer, step: dict[str, Any]) -> SetNode:
        values = self.member(pointer, step)
        self.names(pointer, values)
        return SetNode(values)

    def _cases(self, pointer: Pointer, step: dict[str, Any]) -> tuple[BlockNode, ...]:
        raw = step["switch"]
        if not isinstance(raw, list) or not 1 <= len(raw) <= MAX_BRANCHES:
            self.problem(pointer, f"must be a list of 1 to {MAX_BRANCHES} cases")
            return ()
        blocks = []
        for at, item in enumerate(raw):
            where = (*pointer, at)
            case = self.object(where, item)
            otherwise = at > 0 and at == len(raw) - 1 and "when" not in case
            self.keys(where, case, required=("steps",) if otherwise else ("when", "steps"))
            when = None if otherwise else self.text((*where, "when"), case)
            steps = self._steps((*where, "steps"), case)
            blocks.append(BlockNode(where, str(at), when, steps))
        return tuple(blocks)

    def _parallel(
        self, pointer: Pointer, step: dict[str, Any]
    ) -> tuple[ParallelNode, tuple[BlockNode, ...]]:
        given = self.member(pointer, step)
        self.keys(pointer, given, required=("branches",), optional=("wait_for", "max_concurrency"))
        inner = (*pointer, "branches")
        branches = self.member(inner, given)
        self.names(inner, branches)
        if "branches" in given and not 2 <= len(branches) <= MAX_BRANCHES:
            self.problem(inner, f"must have 2 to {MAX_BRANCHES} branches")
        blocks = tuple(
            BlockNode((*inner, name), name, None, self._steps((*inner, name), branches))
            for name in branches
        )
        first = self.word((*pointer, "wait_for"), given, ("all", "first"), "all") == "first"
        return ParallelNode(first, self._concurrency(pointer, given)), blocks

    def _for_each(
        self, pointer: Pointer, step: dict[str, Any]
    ) -> tuple[ForEachNode, tuple[BlockNode, ...]]:
        given = self.member(pointer, step)
        optional = ("collect", "max_concurrency", "on_item_error")
        self.keys(pointer, given, required=("items", "steps"), optional=optional)
        collect = self.member((*pointer, "collect"), given)
        self.names((*pointer, "collect"), collect)
        words = ("fail", "continue")
        continues_on_error = (
            self.word((*pointer, "on_item_error"), given, words, "fail") == "continue"
        )
        block = BlockNode(pointer, "items", None, self._steps((*pointer, "steps"), given))
        concurrency = self._concurrency(pointer, given)
        return ForEachNode(given.get("items"), collect, concurrency, continues_on_error), (block,)

    def _concurrency(self, pointer: Pointer, given: dict[str, Any]) -> int:
        where = (*pointer, "max_concurrency")
        return self.integer(where, given, 1, MAX_CONCURRENCY) or MAX_CONCURRENCY

    def _end(self, pointer: Pointer, step: dict[str, Any]) -> EndNode:
        given = self.member(pointer, step)
        self.keys(pointer, given, required=("outcome",), optional=("reason",))
        outcome = self.word((*pointer, "outcome"), given, OUTCOMES, OUTCOMES[0])
        return EndNode(outcome, self.text((*pointer, "reason"), given))
