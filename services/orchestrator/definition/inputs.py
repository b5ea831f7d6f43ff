"""What a workflow's inputs are: nobody declares them, so they are read off their uses."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from services.orchestrator.definition import values
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
from services.orchestrator.definition.cel_types import agreed
from services.orchestrator.definition.templates import (
    Path,
    PathMissingError,
    TemplateSyntaxError,
    parse_template,
)
from services.orchestrator.definition.types import ANY, LOOSE, STRING, TIME, TypeKind, ValueType

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from services.orchestrator.definition.ast import WorkflowNode
    from services.orchestrator.definition.operations import Operations

TEXT = replace(STRING, showable=False)  # of anything, and anybody


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a workflow reads of its input, with the type of the field it is first mapped to."""

    declared: Mapping[Path, ValueType]
    takes_all: bool = False  # the input is used as a whole: any member may be there
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = dict.fromkeys(str(path.parts[0]) for path in self.declared)
        object.__setattr__(self, "names", tuple(names))

    def check(self, given: dict[str, Any]) -> None:
        """Mismatch naming the member that is missing, not declared or of the wrong type."""
        if not self.takes_all and (strangers := given.keys() - set(self.names)):
            raise values.MismatchError(
                (min(strangers),), f"left out: the inputs are {', '.join(self.names) or 'none'}"
            )
        for path, type in self.declared.items():
            try:
                value = path.read({"input": given})
            except PathMissingError:
                raise values.MismatchError(path.parts, "given") from None
            values.conform(value, type, path.parts)

    def as_type(self) -> ValueType:
        """The inputs as the request of an operation."""
        members = {name: self._below((name,)) for name in self.names}
        return ValueType(TypeKind.OBJECT, members=members, open=self.takes_all)

    def _below(self, parts: tuple[str | int, ...]) -> ValueType:
        """Of an input, or of a member of one that is read member by member."""
        found, size = self.declared.get(Path("input", parts), ANY), len(parts)
        deeper = [path.parts for path in self.declared if path.parts[:size] == parts != path.parts]
        inner = dict.fromkeys(path[size] for path in deeper)
        if found.kind is not TypeKind.ANY or not all(isinstance(part, str) for part in inner):
            return found
        members = {str(part): self._below((*parts, part)) for part in inner}
        return (
            ValueType(TypeKind.OBJECT, members=members, open=True, showable=False)
            if inner
            else found
        )


def infer_inputs(raw: WorkflowNode, operations: Operations) -> Inputs:
    """An input has the type of the first typed field that it is mapped to; ANY without one."""
    found: dict[Path, ValueType] = {}
    for path, type in _uses(raw, operations):
        known = found.get(path, ANY)
        if known.kind is TypeKind.ANY or (known.kind in LOOSE and type.kind not in LOOSE):
            found[path] = type
        elif type.kind is not TypeKind.ANY and not type.may_be_shown:
            found[path] = replace(known, showable=False)  # whatever else it is used for
    everything = Path("input", ())
    takes_all = everything in found
    return Inputs({path: type for path, type in found.items() if path.parts}, takes_all)


def with_asked(inputs: Inputs, asked: Mapping[Path, list[ValueType]]) -> Inputs:
    """These, with what conditions ask of inputs that are mapped to no field."""
    declared = dict(inputs.declared)
    for path, types in asked.items():
        declared[path] = agreed(types)
    return Inputs(declared, inputs.takes_all)


def type_of_input(inputs: Inputs, path: Path) -> ValueType:
    """What is known of an input: its own use, or that of the object it is a member of."""
    for length in range(len(path.parts), 0, -1):
        type = inputs.declared.get(Path(path.root, path.parts[:length]), ANY)
        if type.kind is TypeKind.ANY:
            continue
        for part in path.parts[length:]:
            inner = type.descend(part)
            if inner is None:
                raise LookupError(f"{path} does not exist: {type} has no {part!r}")
            type = inner
        return type
    return ANY


def _uses(raw: WorkflowNode, operations: Operations) -> Iterator[tuple[Path, ValueType]]:
    for step in all_nodes(raw.steps):
        yield from _judged(step.condition)
        for block in step.blocks:
            yield from _judged(block.when)
        match step.action:
            case CallNode() as call:
                yield from _called(call, operations)
            case SubWorkflowNode(workflow, inputs, outputs, payment):
                yield from _mapped(payment, STRING)
                known = operations.workflow(workflow)
                yield from _mapped(inputs, known.inputs.as_type() if known else ANY)
                yield from _mapped(outputs, ANY)
            case SetNode(set_values):
                yield from _mapped(set_values, ANY)
            case WaitNode(until=str() as until):
                yield from _mapped(until, replace(TIME, showable=False))
            case WaitForNode(correlation=str() as correlation):
                yield from _mapped(correlation, TEXT)
            case EmitNode(subject=subject, data=data):
                yield from _mapped(subject, TEXT)
                yield from _mapped(data, ANY)
            case ApprovalNode(approvers, text=text, values=shown):
                yield from _mapped(approvers, ValueType(TypeKind.LIST, element=TEXT))
                yield from _mapped(text, TEXT)
                yield from _mapped(shown, ANY)
            case ForEachNode(items, collect):
                yield from _mapped(items, ValueType(TypeKind.LIST, element=ANY))
                yield from _mapped(collect, ANY)
            case EndNode(reason=reason):
                yield from _mapped(reason, TEXT)
            case _:
                pass


def _judged(condition: str | None) -> Iterator[tuple[Path, ValueType]]:
    try:
        paths = read_expression(condition or "").paths
    except ConditionInvalidError:
        return  # the check reports it
    for path, _ in paths:
        if path.root == "input":
            yield path, ANY


def _called(call: CallNode, operations: Operations) -> Iterator[tuple[Path, ValueType]]:
    operation = operations.find(call.operation)
    request = ANY if operation is None else operation.request
    yield from _mapped(call.input_mapping, request)
    yield from _mapped(call.output_mapping, ANY)
    yield from _mapped(call.payment, STRING)
    if call.compensate is not None:
        yield from _called(call.compensate, operations)


def _mapped(value: Any, target: ValueType) -> Iterator[tuple[Path, ValueType]]:
    match value:
        case dict():
            for name, item in value.items():
                yield from _mapped(item, target.descend(name) or ANY)
        case list():
            for item in value:
                yield from _mapped(item, target.element or ANY)
        case str():
            yield from _in_text(value, target)
        case _:
            pass


def _in_text(text: str, target: ValueType) -> Iterator[tuple[Path, ValueType]]:
    try:
        template = parse_template(text)
    except TemplateSyntaxError:
        return  # the check reports it
    for placed in template.paths:
        if placed.path.root == "input":
            yield placed.path, target if template.whole else ANY
