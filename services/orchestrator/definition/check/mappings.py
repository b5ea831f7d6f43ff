"""Checks mappings and conditions: every path exists, and its value fits where it is used."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from services.orchestrator.definition import values
from services.orchestrator.definition.cel import ConditionInvalidError, compile_condition
from services.orchestrator.definition.conformance import conform
from services.orchestrator.definition.problems import shown
from services.orchestrator.definition.templates import (
    MAX_PLACEHOLDERS,
    Path,
    TemplateSyntaxError,
    parse_template,
)
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
    from services.orchestrator.definition.source import Pointer, Problems
    from services.orchestrator.definition.templates import Placeholder, Template


class Mappings:
    """Checks values against their targets, in the scope of the current step."""

    def __init__(self, problems: Problems, scope: Scope) -> None:
        self._problems = problems
        self._scope = scope
        self.condition_uses: dict[Path, list[ValueType]] = {}  # of inputs
        # Strings with paths, and how many paths they hold, by the step that they belong to.
        self._counted: set[Pointer] = set()
        self._placeholders: Counter[str] = Counter()

    def condition(self, text: str | None, pointer: Pointer) -> Condition | None:
        """Compiles a condition. Returns None if there is none, or if it has a problem."""
        if text is None:
            return None

        def typed(path: Path, offset: int) -> ValueType | None:
            return self._path_type(path, pointer, offset, output=None)

        try:
            found = compile_condition(text, typed)
        except ConditionInvalidError as error:
            if str(error):  # empty if a path has a problem, which was added with it
                self._problems.add(pointer, str(error), error.offset)
            return None
        for path, types in found.input_uses().items():
            self.condition_uses.setdefault(path, []).extend(types)
        return found

    def check(self, value: Any, target: ValueType, pointer: Pointer) -> None:
        """Adds a problem for every part of a mapping that does not fit ``target``."""
        match value:
            case str():
                self._check_text(value, target, pointer)
            case dict() if target.kind in (TypeKind.OBJECT, TypeKind.STRUCT, TypeKind.ANY):
                self._check_members(value, target, pointer)
            case list() if target.kind in (TypeKind.LIST, TypeKind.ANY):
                for at, item in enumerate(value):
                    self.check(item, target.element or ANY, (*pointer, at))
            case dict() | list() if target.kind in (TypeKind.SIZED, TypeKind.COLLECTION):
                self.type_of(value, pointer)
            case _:
                self._check_literal(value, target, pointer)

    def type_of(self, value: Any, pointer: Pointer, output: ValueType | None = None) -> ValueType:
        """Returns the type of a value; adds a problem for every path in it that does not exist.

        ``output`` is the type of the reply, which an output_mapping can read.
        """
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

    def types_of(
        self, mapping: dict[str, Any], pointer: Pointer, output: ValueType | None = None
    ) -> dict[str, ValueType]:
        """Returns the type of every member of a mapping."""
        return {
            name: self.type_of(value, (*pointer, name), output) for name, value in mapping.items()
        }

    def _check_members(self, value: dict[str, Any], target: ValueType, pointer: Pointer) -> None:
        for name, item in value.items():
            declared = target.descend(name)
            if declared is None and target.open:
                self.check(item, ANY, (*pointer, name))
            elif declared is None:
                self._add_unknown_member(name, target, (*pointer, name))
            else:
                self.check(item, declared, (*pointer, name))
        for name in target.members:
            if name not in value:
                self._problems.add(pointer, f"{name} is missing: the operation needs it")

    def _add_unknown_member(self, name: str, target: ValueType, pointer: Pointer) -> None:
        message = f"unknown field {shown(name)}; known: {', '.join(target.names()) or 'none'}"
        if name in ("context", "request_id"):
            message = f"only the engine sets {name}: leave it out"
        self._problems.add_at_key(pointer, message)

    def _check_text(self, text: str, target: ValueType, pointer: Pointer) -> None:
        template = self._template(text, pointer)
        if template is None:
            return
        if not template.paths:
            self._check_literal("".join(map(str, template.parts)), target, pointer)
            return
        for placeholder in template.paths:
            path, offset = placeholder.path, placeholder.offset
            source = self._path_type(path, pointer, offset, output=None)
            if source is not None and template.whole and not target.accepts(source):
                self._problems.add(pointer, f"{path} is {source}, not {target}", offset)
            elif source is not None:
                used_as = target if template.whole else STRING
                self._require_not_null(placeholder, used_as, pointer, None)
        if not template.whole and not target.accepts(STRING):
            self._problems.add(pointer, f"a text cannot be {target}")

    def _require_not_null(
        self,
        placeholder: Placeholder,
        target: ValueType,
        pointer: Pointer,
        output: ValueType | None,
    ) -> None:
        """Adds a problem if the path may be null where null does not fit, and is not guarded."""
        path, nullable = placeholder.path, self._scope.nullable_part(placeholder.path, output)
        takes_null = target.nullable or target.kind is TypeKind.ANY
        if nullable is None or (nullable == path and takes_null):
            return
        what = f"{nullable} may be null"
        what += f": {target} is needed" if nullable == path else f": then there is no {path}"
        remedy = "give the step the condition"
        if path.root == "output":
            remedy = "map it to an output of its own, and use that in a step with the condition"
            nullable = Path("steps", (self._scope.current, "NAME"))
        message = f"{what}; {remedy} {{{{{nullable}}}}} != null"
        self._problems.add(pointer, message, placeholder.offset)

    def _check_literal(self, value: Any, target: ValueType, pointer: Pointer) -> None:
        try:
            conform(value, target)
        except values.MismatchError as error:
            self._problems.add(pointer, str(error))

    def _template(self, text: str, pointer: Pointer) -> Template | None:
        try:
            template = parse_template(text)
        except TemplateSyntaxError as error:
            self._problems.add(pointer, str(error), error.offset)
            return None
        self._count(len(template.paths), pointer)
        return template

    def _count(self, paths: int, pointer: Pointer) -> None:
        """Adds one problem to a step with too many paths: each may be as large as a record."""
        if not paths or pointer in self._counted:
            return
        self._counted.add(pointer)
        before, step = self._placeholders[self._scope.current], self._scope.current
        self._placeholders[step] += paths
        if before <= MAX_PLACEHOLDERS < self._placeholders[step]:
            message = f"{step} reads more than {MAX_PLACEHOLDERS} paths: pass on what holds them"
            self._problems.add(pointer, message)

    def _text_type(
        self, template: Template, pointer: Pointer, output: ValueType | None
    ) -> ValueType:
        def typed(placeholder: Placeholder) -> ValueType:
            offset = placeholder.offset
            found = self._path_type(placeholder.path, pointer, offset, output=output)
            if found is not None:
                used_as = ANY if template.whole else STRING
                self._require_not_null(placeholder, used_as, pointer, output)
            return found or ANY

        types = [typed(placeholder) for placeholder in template.paths]
        if template.whole:
            return types[0]
        return ValueType(TypeKind.STRING, showable=all(type.may_be_shown for type in types))

    def _path_type(
        self, path: Path, pointer: Pointer, offset: int, *, output: ValueType | None
    ) -> ValueType | None:
        """Returns the type of a path, or None, with a problem, if the path does not exist."""
        try:
            return self._scope.look_up(path, output)
        except LookupError as error:
            self._problems.add(pointer, str(error.args[0]), offset)
            return None
