"""The check of mappings and conditions: every path leads somewhere, and to what fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from services.orchestrator.definition import values
from services.orchestrator.definition.cel import ConditionInvalidError, compile_condition
from services.orchestrator.definition.problems import MAX_PROBLEMS, DefinitionInvalidError, shown
from services.orchestrator.definition.templates import Path, TemplateSyntaxError, parse_template
from services.orchestrator.definition.types import (
    ANY,
    BOOL,
    DOUBLE,
    INT,
    OPTIONAL,
    STRING,
    TypeKind,
    ValueType,
    list_of,
)

if TYPE_CHECKING:
    from services.orchestrator.definition.cel import Condition
    from services.orchestrator.definition.check.scope import Scope
    from services.orchestrator.definition.problems import Problem
    from services.orchestrator.definition.source import Pointer, Source
    from services.orchestrator.definition.templates import Placeholder, Template


class MappingChecks:
    """Judges what stands in a definition against what is visible there, and notes the problems."""

    def __init__(self, source: Source, visible: Scope) -> None:
        self.source = source
        self.visible = visible
        self.problems: list[Problem] = []
        self.asked: dict[Path, list[ValueType]] = {}  # of inputs, by conditions

    def problem(self, pointer: Pointer, message: str, offset: int | None = None) -> None:
        self._note(self.source.problem(pointer, message, offset=offset))

    def _note(self, problem: Problem) -> None:
        self.problems.append(problem)
        if len(self.problems) == MAX_PROBLEMS:
            raise DefinitionInvalidError(sorted(set(self.problems)))

    def condition(self, text: str | None, pointer: Pointer) -> Condition | None:
        if text is None:
            return None

        def typed(path: Path, offset: int) -> ValueType | None:
            return self._path_type(path, pointer, offset, output=None)

        try:
            found = compile_condition(text, typed)
        except ConditionInvalidError as error:
            if str(error):  # else the path's own problem is there already
                self.problem(pointer, str(error), error.offset)
            return None
        for path, types in found.asked_of_inputs().items():
            self.asked.setdefault(path, []).extend(types)
        return found

    def fits(self, value: Any, target: ValueType, pointer: Pointer) -> None:
        """Report what in a mapping cannot stand where the contract has ``target``."""
        match value:
            case str():
                self._text_fits(value, target, pointer)
            case dict() if target.kind in (TypeKind.OBJECT, TypeKind.STRUCT, TypeKind.ANY):
                self._members_fit(value, target, pointer)
            case list() if target.kind in (TypeKind.LIST, TypeKind.ANY):
                for at, item in enumerate(value):
                    self.fits(item, target.element or ANY, (*pointer, at))
            case dict() | list() if target.kind in (TypeKind.SIZED, TypeKind.COLLECTION):
                self.type_of(value, pointer)
            case _:
                self._literal_fits(value, target, pointer)

    def _members_fit(self, value: dict[str, Any], target: ValueType, pointer: Pointer) -> None:
        for name, item in value.items():
            declared = target.descend(name)
            if declared is None and target.open:
                self.fits(item, ANY, (*pointer, name))
            elif declared is None:
                self._unknown_member(name, target, (*pointer, name))
            else:
                self.fits(item, declared, (*pointer, name))
        for name in target.members:
            if name not in value:
                self.problem(pointer, f"{name} is missing: the operation needs it")

    def _unknown_member(self, name: str, target: ValueType, pointer: Pointer) -> None:
        message = f"unknown field {shown(name)}; known: {', '.join(target.names()) or 'none'}"
        if name in ("context", "request_id"):
            message = f"{name} is the engine's alone: leave it out"
        self._note(self.source.key_problem(pointer, message))

    def _text_fits(self, text: str, target: ValueType, pointer: Pointer) -> None:
        template = self._template(text, pointer)
        if template is None:
            return
        if not template.paths:
            self._literal_fits("".join(map(str, template.parts)), target, pointer)
            return
        for placed in template.paths:
            source = self._path_type(placed.path, pointer, placed.offset, output=None)
            if source is not None and template.whole and not target.accepts(source):
                self.problem(pointer, f"{placed.path} is {source}, not {target}", placed.offset)
            elif source is not None:
                into = target if template.whole else STRING
                self._must_be_there(placed, into, pointer, None)
        if not template.whole and not target.accepts(STRING):
            self.problem(pointer, f"a text cannot be {target}")

    def _must_be_there(
        self, placed: Placeholder, target: ValueType, pointer: Pointer, output: ValueType | None
    ) -> None:
        """Report what may be null, and no condition asks whether it is, where null cannot stand."""
        path, lacking = placed.path, self.visible.lacking(placed.path, output)
        takes_null = target.nullable or target.kind is TypeKind.ANY
        if lacking is None or (lacking == path and takes_null):
            return
        what = f"{lacking} may be null"
        what += f": {target} is needed" if lacking == path else f": then there is no {path}"
        remedy = "give the step the condition"
        if path.root == "output":
            remedy = "name it alone, and use it in a step with the condition"
            lacking = Path("steps", (self.visible.current, "NAME"))
        self.problem(pointer, f"{what}; {remedy} {{{{{lacking}}}}} != null", placed.offset)

    def _literal_fits(self, value: Any, target: ValueType, pointer: Pointer) -> None:
        try:
            values.conform(value, target)
        except values.MismatchError as error:
            self.problem(pointer, str(error))

    def _template(self, text: str, pointer: Pointer) -> Template | None:
        try:
            return parse_template(text)
        except TemplateSyntaxError as error:
            self.problem(pointer, str(error), error.offset)
            return None

    def type_of(self, value: Any, pointer: Pointer, output: ValueType | None = None) -> ValueType:
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
                    name: self.type_of(item, (*pointer, name), output)
                    for name, item in value.items()
                }
                return ValueType(TypeKind.OBJECT, members=members)
            case list():
                return list_of(
                    self.type_of(item, (*pointer, at), output) for at, item in enumerate(value)
                )
            case _:
                return ANY.or_null(OPTIONAL)

    def _text_type(
        self, template: Template, pointer: Pointer, output: ValueType | None
    ) -> ValueType:
        def typed(placed: Placeholder) -> ValueType:
            found = self._path_type(placed.path, pointer, placed.offset, output=output)
            if found is not None:
                into = ANY if template.whole else STRING
                self._must_be_there(placed, into, pointer, output)
            return found or ANY

        types = [typed(placed) for placed in template.paths]
        if template.whole:
            return types[0]
        return ValueType(TypeKind.STRING, showable=all(type.may_be_shown for type in types))

    def _path_type(
        self, path: Path, pointer: Pointer, offset: int, *, output: ValueType | None
    ) -> ValueType | None:
        """The type of what a path leads to; None, and a problem, if that is nothing."""
        try:
            return self.visible.look_up(path, output)
        except LookupError as error:
            self.problem(pointer, str(error.args[0]), offset)
            return None
