"""Infers the inputs of a workflow, which no definition declares, from their uses."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from services.orchestrator.definition.ast import (
    ApprovalNode,
    CallNode,
    EmitNode,
    EndNode,
    ForEachNode,
    SetNode,
    SubWorkflowNode,
    WaitForNode,
    WaitNode,
    all_nodes,
)
from services.orchestrator.definition.cel import ConditionInvalidError, read_expression
from services.orchestrator.definition.cel_types import common_use
from services.orchestrator.definition.inputs import Inputs
from services.orchestrator.definition.templates import Path, TemplateSyntaxError, parse_template
from services.orchestrator.definition.types import ANY, LOOSE, STRING, TIME, TypeKind, ValueType

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from services.orchestrator.definition.ast import WorkflowNode
    from services.orchestrator.definition.operations import Operations

TEXT = replace(STRING, showable=False)  # may hold personal data


def infer_inputs(workflow: WorkflowNode, operations: Operations) -> Inputs:
    """Returns the inputs. Each has the type of the first typed field that it is mapped to."""
    found: dict[Path, ValueType] = {}
    for path, type in _uses(workflow, operations):
        known = found.get(path, ANY)
        if known.kind is TypeKind.ANY or (known.kind in LOOSE and type.kind not in LOOSE):
            found[path] = type
        elif type.kind is not TypeKind.ANY and not type.may_be_shown:
            found[path] = replace(known, showable=False)  # one use that hides it is enough
    takes_all = Path("input", ()) in found
    return Inputs({path: type for path, type in found.items() if path.parts}, takes_all)


def with_condition_uses(inputs: Inputs, uses: Mapping[Path, list[ValueType]]) -> Inputs:
    """Returns the inputs; one that no field types has the type that conditions use it as."""
    declared = dict(inputs.declared)
    for path, types in uses.items():
        declared[path] = common_use(types)
    return Inputs(declared, inputs.takes_all)


def _uses(workflow: WorkflowNode, operations: Operations) -> Iterator[tuple[Path, ValueType]]:
    """Yields each path of the input that a step reads, with the type of its target."""
    for step in all_nodes(workflow.steps):
        yield from _in_condition(step.condition)
        for block in step.blocks:
            yield from _in_condition(block.when)
        match step.action:
            case CallNode() as call:
                yield from _in_call(call, operations)
            case SubWorkflowNode(id, inputs, outputs, payment):
                yield from _in_mapping(payment, STRING)
                known = operations.workflow(id)
                yield from _in_mapping(inputs, known.inputs.as_type() if known else ANY)
                yield from _in_mapping(outputs, ANY)
            case SetNode(values):
                yield from _in_mapping(values, ANY)
            case WaitNode(until=str() as until):
                yield from _in_mapping(until, replace(TIME, showable=False))
            case WaitForNode(correlation=str() as correlation):
                yield from _in_mapping(correlation, TEXT)
            case EmitNode(subject=subject, data=data):
                yield from _in_mapping(subject, TEXT)
                yield from _in_mapping(data, ANY)
            case ApprovalNode(approvers, text=text, values=values):
                yield from _in_mapping(approvers, ValueType(TypeKind.LIST, element=TEXT))
                yield from _in_mapping(text, TEXT)
                yield from _in_mapping(values, ANY)
            case ForEachNode(items, collect):
                yield from _in_mapping(items, ValueType(TypeKind.LIST, element=ANY))
                yield from _in_mapping(collect, ANY)
            case EndNode(reason=reason):
                yield from _in_mapping(reason, TEXT)
            case _:
                pass


def _in_condition(condition: str | None) -> Iterator[tuple[Path, ValueType]]:
    try:
        paths = read_expression(condition or "").paths
    except ConditionInvalidError:
        return  # the check of the condition reports it
    for path, _ in paths:
        if path.root == "input":
            yield path, ANY


def _in_call(call: CallNode, operations: Operations) -> Iterator[tuple[Path, ValueType]]:
    operation = operations.find(call.operation)
    request = ANY if operation is None else operation.request
    yield from _in_mapping(call.input_mapping, request)
    yield from _in_mapping(call.output_mapping, ANY)
    yield from _in_mapping(call.payment, STRING)
    if call.compensate is not None:
        yield from _in_call(call.compensate, operations)


def _in_mapping(value: Any, target: ValueType) -> Iterator[tuple[Path, ValueType]]:
    match value:
        case dict():
            for name, item in value.items():
                yield from _in_mapping(item, target.descend(name) or ANY)
        case list():
            for item in value:
                yield from _in_mapping(item, target.element or ANY)
        case str():
            yield from _in_text(value, target)
        case _:
            pass


def _in_text(text: str, target: ValueType) -> Iterator[tuple[Path, ValueType]]:
    try:
        template = parse_template(text)
    except TemplateSyntaxError:
        return  # the check of the mapping reports it
    for placeholder in template.paths:
        if placeholder.path.root == "input":
            yield placeholder.path, target if template.whole else ANY
