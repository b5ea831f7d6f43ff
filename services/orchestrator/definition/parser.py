"""Parses a source into the nodes of a workflow, by the grammar."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from services.orchestrator.definition.ast import (
    CatchNode,
    SetNode,
    StepNode,
    WorkflowNode,
    all_nodes,
)
from services.orchestrator.definition.fields import FieldReader
from services.orchestrator.definition.grammar import (
    CALL_KEYS,
    CALL_STEP,
    STEP_KINDS,
    SUB_WORKFLOW_STEP,
    WORKFLOW,
)
from services.orchestrator.definition.source import Problems
from services.orchestrator.definition.step_parsers import (
    ACTION_PARSERS,
    parse_call,
    parse_sub_workflow,
)

if TYPE_CHECKING:
    from services.orchestrator.definition.ast import ActionNode, BlockNode
    from services.orchestrator.definition.source import Pointer, Source


def parse_workflow(source: Source) -> WorkflowNode:
    """Parses a definition. Raises DefinitionInvalidError with all values that break the grammar."""
    problems = Problems(source)
    workflow = Parser(problems).workflow(source.value)
    problems.raise_if_any()
    return workflow


class Parser:
    """Parses a workflow and its steps, at any depth."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._fields = FieldReader(problems, self._steps)

    def workflow(self, value: Any) -> WorkflowNode:
        """Parses the value of a source, and adds its problems."""
        fields = self._fields.node((), value, WORKFLOW)
        steps = fields["steps"]
        self._require_distinct_ids(steps)
        return WorkflowNode(fields["id"], fields["name"], steps, fields["deadline"])

    def _require_distinct_ids(self, steps: tuple[StepNode, ...]) -> None:
        seen: set[str] = set()
        for step in all_nodes(steps):
            if step.id and step.id in seen:
                self._problems.add((*step.pointer, "id"), f"another step is called {step.id}")
            seen.add(step.id)

    def _steps(self, pointer: Pointer, values: list[Any]) -> tuple[StepNode, ...]:
        return tuple(self._step((*pointer, at), value) for at, value in enumerate(values))

    def _step(self, pointer: Pointer, value: Any) -> StepNode:
        keys = value if isinstance(value, dict) else {}
        kind = next((kind for kind in STEP_KINDS if kind in keys), None)
        action: ActionNode
        blocks: tuple[BlockNode, ...] = ()
        if kind is not None:
            step = self._fields.node(pointer, value, STEP_KINDS[kind])
            parse = ACTION_PARSERS[kind]
            action, blocks = parse((*pointer, kind), step[kind], self._problems)
        elif "workflow" in keys:
            step = self._fields.node(pointer, value, SUB_WORKFLOW_STEP)
            action = parse_sub_workflow(step)
        elif keys.keys() & set(CALL_KEYS):
            step = self._fields.node(pointer, value, CALL_STEP)
            action = parse_call(pointer, step)
        else:
            step = self._fields.node(pointer, value, CALL_STEP, check_keys=False)
            action = SetNode({})
            if isinstance(value, dict):
                self._add_no_kind(pointer, value)
        catch = self._catch((*pointer, "on_error"), step.get("on_error"))
        return StepNode(pointer, step["id"], step["condition"], action, blocks, catch)

    def _add_no_kind(self, pointer: Pointer, step: dict[str, Any]) -> None:
        kinds = ("workflow", *STEP_KINDS)
        near = [word for key in step for word in get_close_matches(key, kinds, n=1)]
        hint = f"; did you mean {near[0]}?" if near else ""
        call, others = ", ".join(CALL_KEYS), ", ".join(kinds)
        message = f"does nothing: give it a call ({call}) or one of {others}"
        self._problems.add(pointer, message + hint)

    def _catch(self, pointer: Pointer, fields: dict[str, Any] | None) -> CatchNode | None:
        return None if fields is None else CatchNode(pointer, fields["errors"], fields["steps"])
