"""The static check: every operation, path, field and condition, against the contracts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import rfc8785

from services.orchestrator.definition import inference, values
from services.orchestrator.definition.condition import ConditionInvalid, compile_condition
from services.orchestrator.definition.faults import DefinitionInvalid, Fault
from services.orchestrator.definition.path import STATUS, Path
from services.orchestrator.definition.template import TemplateSyntax, parse_template
from services.orchestrator.definition.types import ANY, BOOL, DOUBLE, INT, STRING, Kind, Type
from services.orchestrator.definition.workflow import Inputs, Operation, Step, Workflow

if TYPE_CHECKING:
    from services.orchestrator.definition.condition import Condition
    from services.orchestrator.definition.document import Document, Pointer
    from services.orchestrator.definition.operations import Operations
    from services.orchestrator.definition.parse import RawStep, RawWorkflow
    from services.orchestrator.definition.template import Placed, Template

CONTEXT = ("workflow_id", "run_id", "now")
MAX_PATH = 56  # characters of "step/inner step": with the run's id it must fit a request_id


def canonical_hash(definition: Any) -> str:
    """SHA-256 of the RFC 8785 form, hex."""
    return hashlib.sha256(rfc8785.dumps(definition)).hexdigest()


def check_workflow(document: Document, raw: RawWorkflow, operations: Operations) -> Workflow:
    """The workflow, typed. DefinitionInvalid with every fault, in order of position."""
    inputs = inference.infer_inputs(raw, operations)
    checker = _Checker(document, raw, operations, inputs)
    steps = [step for raw_step in raw.steps if (step := checker.step(raw_step))]
    workflow = Workflow(raw.id, raw.name, canonical_hash(document.value), tuple(steps), inputs)
    if workflow.pivots > 1:
        checker.fault(("steps",), "a workflow pays once at most, this one may twice")
    if checker.faults:
        raise DefinitionInvalid(sorted(set(checker.faults)))
    return workflow


@dataclass(slots=True)
class _Checker:
    _document: Document
    _raw: RawWorkflow
    _operations: Operations
    _inputs: Inputs
    faults: list[Fault] = field(default_factory=list)
    _outputs: dict[str, dict[str, Type]] = field(default_factory=dict)  # of earlier steps
    _current: str = ""

    def step(self, raw: RawStep) -> Step | None:
        self._current = raw.id
        operation = self._operation(raw)
        condition = self._condition(raw)
        if operation is None:
            self._outputs[raw.id] = dict.fromkeys(raw.output_mapping, ANY)
            return None
        self._path_length(raw, operation)
        where = (*raw.pointer, "input_mapping")
        self._fits(raw.input_mapping, operation.request, where)
        self._outputs[raw.id] = {
            name: self._output_type(value, operation, (*raw.pointer, "output_mapping", name))
            for name, value in raw.output_mapping.items()
        }
        if raw.condition is not None:
            self._outputs[raw.id] = {
                name: type.or_null() for name, type in self._outputs[raw.id].items()
            }
        return Step(raw.id, operation, condition, raw.input_mapping, raw.output_mapping)

    def fault(self, pointer: Pointer, message: str, offset: int | None = None) -> None:
        self.faults.append(self._document.fault(pointer, message, offset=offset))

    def _operation(self, raw: RawStep) -> Operation | None:
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

    def _condition(self, raw: RawStep) -> Condition | None:
        if raw.condition is None:
            return None
        where = (*raw.pointer, "condition")

        def typed(path: Path, offset: int) -> Type | None:
            return self._path_type(path, where, offset, output=None)

        try:
            return compile_condition(raw.condition, typed)
        except ConditionInvalid as error:
            if str(error):  # else the path's own fault is there already
                self.fault(where, str(error), error.offset)
            return None

    def _path_length(self, raw: RawStep, operation: Operation) -> None:
        longest = len(raw.id) + _depth(operation)
        if longest > MAX_PATH:
            self.fault((*raw.pointer, "id"), f"longer than {MAX_PATH} characters with inner steps")

    def _output_type(self, value: Any, operation: Operation, pointer: Pointer) -> Type:
        return self._type_of(value, pointer, operation.reply)

    def _fits(self, value: Any, target: Type, pointer: Pointer) -> None:
        """Report what in a mapping cannot stand where the contract has ``target``."""
        match value:
            case str():
                self._text_fits(value, target, pointer)
            case dict() if target.kind in (Kind.OBJECT, Kind.STRUCT, Kind.ANY):
                self._members_fit(value, target, pointer)
            case list() if target.kind in (Kind.LIST, Kind.ANY):
                for at, item in enumerate(value):
                    self._fits(item, target.element or ANY, (*pointer, at))
            case _:
                self._literal_fits(value, target, pointer)

    def _members_fit(self, value: dict[str, Any], target: Type, pointer: Pointer) -> None:
        for name, item in value.items():
            declared = target.descend(name)
            if declared is None:
                self._unknown_member(name, target, (*pointer, name))
            else:
                self._fits(item, declared, (*pointer, name))
        for name in target.members:
            if name not in value:
                self.fault(pointer, f"{name} is missing: the operation needs it")

    def _unknown_member(self, name: str, target: Type, pointer: Pointer) -> None:
        message = f"unknown field {name!r}; known: {', '.join(target.names()) or 'none'}"
        if name in ("context", "request_id"):
            message = f"{name} is the engine's alone: leave it out"
        self.faults.append(self._document.key_fault(pointer, message))

    def _text_fits(self, text: str, target: Type, pointer: Pointer) -> None:
        template = self._template(text, pointer)
        if template is None:
            return
        if not template.paths:
            self._literal_fits("".join(map(str, template.parts)), target, pointer)
            return
        for placed in template.paths:
            source = self._path_type(placed.path, pointer, placed.offset, output=None)
            if source is not None and template.whole and not target.accepts(source):
                self.fault(pointer, f"{placed.path} is {source}, not {target}", placed.offset)
        if not template.whole and not target.accepts(STRING):
            self.fault(pointer, f"a text cannot be {target}")

    def _literal_fits(self, value: Any, target: Type, pointer: Pointer) -> None:
        try:
            values.conform(value, target)
        except values.Mismatch as error:
            self.fault(pointer, str(error))

    def _template(self, text: str, pointer: Pointer) -> Template | None:
        try:
            return parse_template(text)
        except TemplateSyntax as error:
            self.fault(pointer, str(error), error.offset)
            return None

    def _type_of(self, value: Any, pointer: Pointer, output: Type) -> Type:
        """The type of an output, reporting the paths in it that lead nowhere."""
        match value:
            case str():
                template = self._template(value, pointer)
                return STRING if template is None else self._text_type(template, pointer, output)
            case bool():
                return BOOL
            case int():
                return INT
            case float():
                return DOUBLE
            case dict():
                members = {
                    name: self._type_of(item, (*pointer, name), output)
                    for name, item in value.items()
                }
                return Type(Kind.OBJECT, members=members)
            case list():
                for at, item in enumerate(value):
                    self._type_of(item, (*pointer, at), output)
                return Type(Kind.LIST, element=ANY)
            case _:
                return ANY.or_null()

    def _text_type(self, template: Template, pointer: Pointer, output: Type) -> Type:
        def typed(placed: Placed) -> Type:
            found = self._path_type(placed.path, pointer, placed.offset, output=output)
            return found or ANY

        types = [typed(placed) for placed in template.paths]
        if template.whole:
            return types[0]
        return Type(Kind.STRING, showable=all(type.showable for type in types))

    def _path_type(
        self, path: Path, pointer: Pointer, offset: int, *, output: Type | None
    ) -> Type | None:
        """The type of what a path leads to; None, and a fault, if that is nothing."""
        try:
            return self._look_up(path, output)
        except LookupError as error:
            self.fault(pointer, str(error.args[0]), offset)
            return None

    def _look_up(self, path: Path, output: Type | None) -> Type:
        match path.root:
            case "input":
                return inference.type_of_input(self._inputs, path)
            case "output" if output is not None:
                return _descend(output, path, path.parts, "output")
            case "output":
                raise LookupError("output can be read in output_mapping only")
            case "ctx":
                if len(path.parts) != 1 or path.parts[0] not in CONTEXT:
                    raise LookupError(f"ctx has {', '.join(CONTEXT)} only")
                return STRING
            case _:
                return self._look_up_step(path)

    def _look_up_step(self, path: Path) -> Type:
        if not path.parts:
            raise LookupError("name a step: steps.<id>")
        id, *rest = path.parts
        self._must_be_earlier(str(id))
        outputs = self._outputs[str(id)]
        if not rest:
            return Type(Kind.OBJECT, members=outputs)
        name, *rest = rest
        if name == STATUS and not rest:
            return STRING
        if name not in outputs:
            known = ", ".join(outputs) or "none"
            raise LookupError(f"step {id} has no output {name!r}; its output_mapping has {known}")
        return _descend(outputs[str(name)], path, tuple(rest), f"steps.{id}.{name}")

    def _must_be_earlier(self, id: str) -> None:
        if id == self._current:
            raise LookupError(f"step {id} cannot read its own outputs here")
        if id in self._outputs:
            return
        if any(step.id == id for step in self._raw.steps):
            raise LookupError(f"step {id} comes later: only earlier steps can be read")
        earlier = ", ".join(self._outputs) or "none"
        raise LookupError(f"unknown step {id!r}; earlier steps: {earlier}")


def _descend(type: Type, path: Path, parts: tuple[str | int, ...], so_far: str) -> Type:
    for part in parts:
        found = type.descend(part)
        if found is None:
            known = f"; it has {', '.join(type.names())}" if type.names() else ""
            raise LookupError(f"{so_far} is {type}: it has no {part!r}{known}")
        type = found
        so_far += f"[{part}]" if isinstance(part, int) else f".{part}"
    return type


def _depth(operation: Operation) -> int:
    if not isinstance(operation.runs, Workflow):
        return 0
    return max(1 + len(step.id) + _depth(step.operation) for step in operation.runs.steps)
