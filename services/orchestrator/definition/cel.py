"""Conditions: CEL over paths in ``{{ }}``, typed by the contracts.

A condition that cannot be evaluated is an error, never false: it must not pass for a decision.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cel_expr_python import cel

from services.orchestrator.definition.cel_cost import (
    INLINE_UNITS,
    ExpressionCost,
    PatternInvalidError,
    cost_of,
)
from services.orchestrator.definition.cel_types import common_use, uses_of
from services.orchestrator.definition.problems import shown
from services.orchestrator.definition.templates import NO_PATH, Path, PathMissingError, parse_path
from services.orchestrator.definition.types import ANY, TypeKind, ValueType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from services.orchestrator.definition.templates import Variables

MAX_EXPRESSION_CHARS = 4096
MAX_LEVELS = 32  # CEL's parser spends one or more on every bracket and operator

_TOKEN = re.compile(
    r"""(?P<quoted>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|\{\{(?P<path>.*?)\}\}|(?P<open>\{\{)""",
    re.DOTALL,
)
_CEL_POSITION = re.compile(r"ERROR: <input>:(\d+):(\d+): (.+?)(?:\n|$)")
_TOO_DEEP = re.compile(r"recursion (limit|depth)")
_HINTS = (
    ("at: '= ", "; compare with =="),
    ("at: '='", "; compare with =="),
    ("'and'", "; write &&"),
    ("'or'", "; write ||"),
    ("'not'", "; write !"),
    ("'<EOF>'", ": it ends too early"),
    ("undeclared reference", "; write paths as {{path}}, and texts in quotes"),
    ("(int, double)", "; an integer is compared with 7, not with 7.0"),
    ("(double, int)", "; a number is compared with 7.0, not with 7"),
)
MAX_SHOWN_CHARS = 80  # of a value in a reason

_CEL_TYPES = {
    TypeKind.BOOL: cel.Type.BOOL,
    TypeKind.INT: cel.Type.INT,
    TypeKind.DOUBLE: cel.Type.DOUBLE,
    TypeKind.STRING: cel.Type.STRING,
    TypeKind.ENUM: cel.Type.STRING,
    TypeKind.BYTES: cel.Type.STRING,
    TypeKind.TIME: cel.Type.STRING,
}

_SCALARS = (TypeKind.BOOL, TypeKind.INT, TypeKind.DOUBLE)


class ConditionInvalidError(ValueError):
    """A text is no condition. ``offset`` is the place of the mistake, or None if it is unknown."""

    def __init__(self, message: str, offset: int | None = None) -> None:
        super().__init__(message)
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Expression:
    """A condition as it is written, and as CEL."""

    text: str
    paths: tuple[tuple[Path, int], ...]  # with their offsets
    cel: str  # with ``(steps.a.b)`` for ``{{steps.a.b}}``
    _pieces: tuple[tuple[int, int], ...]  # of each piece: its offsets in ``cel`` and in ``text``

    def compile(self, environment: Any) -> Any:
        """Compiles the expression. Raises ConditionInvalidError if CEL refuses it."""
        try:
            return environment.compile(self.cel)
        except RuntimeError as error:
            raise self._explain(str(error)) from None

    def _explain(self, error: str) -> ConditionInvalidError:
        if _TOO_DEEP.search(error):
            return ConditionInvalidError(
                f"nests deeper than the {MAX_LEVELS} levels of CEL, by brackets or by operators in"
                " a row: split it with && or ||, which may join any number, or give a part of it"
                " to a step around this one",
                self._deepest(),
            )
        found = _CEL_POSITION.search(error)
        if found is None:
            return ConditionInvalidError(error.splitlines()[0])
        message = found[3].partition(" expecting ")[0].replace(" (in container '')", "")
        message += next((hint for mark, hint in _HINTS if mark in message), "")
        return ConditionInvalidError(message, self._offset(int(found[1]), int(found[2])))

    def _offset(self, line: int, column: int) -> int:
        """Returns the offset in the text of a line and column of the CEL."""
        before = self.cel.splitlines(keepends=True)[: line - 1]
        at = sum(map(len, before)) + column - 1
        cel, text = max(piece for piece in self._pieces if piece[0] <= at)
        is_path = self.text.startswith("{{", text)
        return min(text if is_path else text + at - cel, max(0, len(self.text) - 1))

    def _deepest(self) -> int | None:
        """Returns the offset of the innermost bracket, or None if there are no brackets."""
        depth, most, where = 0, 0, None
        for token in re.finditer(_TOKEN.pattern + r"|[()\[\]{}]", self.text, re.DOTALL):
            if len(token[0]) == 1:
                depth += 1 if token[0] in "([{" else -1
                if depth > most:
                    most, where = depth, token.start()
        return where


def read_expression(text: str) -> Expression:
    """Reads a condition and its paths.

    Raises ConditionInvalidError if the text is too long or holds a malformed path.
    """
    if len(text) > MAX_EXPRESSION_CHARS:
        raise ConditionInvalidError(
            f"{len(text)} characters, at most {MAX_EXPRESSION_CHARS}: give a part of it to a step"
            " around this one, or compare with a list: in [...]",
            MAX_EXPRESSION_CHARS,
        )
    paths, texts, pieces, end, length = [], [], [], 0, 0
    for token in _TOKEN.finditer(text):
        if token["quoted"] is not None and "{{" not in token["quoted"]:
            continue
        path = _path(token)
        paths.append((path, token.start()))
        for piece, start in ((text[end : token.start()], end), (_as_cel(path), token.start())):
            texts.append(piece)
            pieces.append((length, start))
            length += len(piece)
        end = token.end()
    pieces.append((length, end))
    return Expression(text, tuple(paths), "".join([*texts, text[end:]]), tuple(pieces))


def _as_cel(path: Path) -> str:
    return f"({path.variable})"


def _path(token: re.Match[str]) -> Path:
    if token["quoted"] is not None:
        message = "a path inside quotes is only text; remove the quotes"
        raise ConditionInvalidError(message, token.start())
    path = None if token["path"] is None else parse_path(token["path"])
    if path is None:
        raise ConditionInvalidError(f"{shown(token[0])} {NO_PATH}", token.start())
    return path


def conjuncts(text: str) -> list[str]:
    """Returns the parts between the outermost ``&&``.

    Returns none if an outer ``||`` or ``?:`` binds weaker.
    """
    parts, depth, start, at = [], 0, 0, 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token:
            at = token.end()
            continue
        depth += (text[at] in "([{") - (text[at] in ")]}")
        if depth == 0 and (text.startswith("||", at) or text[at] == "?"):
            return []
        if depth == 0 and text.startswith("&&", at):
            parts.append(text[start:at])
            start = at = at + 2
            continue
        at += 1
    return [*parts, text[start:]]


@dataclass(frozen=True, slots=True)
class ConditionResult:
    """The result of a condition."""

    holds: bool | None  # None if the condition could not be evaluated
    operands: dict[str, Any]  # path -> value
    reason: str  # why the condition does not hold; empty if it does
    units: int = 0  # that it may have cost, see cel_cost; 0: few


@dataclass(frozen=True, slots=True)
class Clause:
    """A part between two ``&&``, evaluated alone to name the operands that were false."""

    expression: Any
    operands: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled condition."""

    text: str
    _expression: Any
    operands: Mapping[Path, ValueType]
    _clauses: tuple[Clause, ...]
    _uses: Mapping[Path, Sequence[ValueType]]  # of operands whose type no contract gives
    _cost: ExpressionCost
    _is_of_scalars: bool  # it costs next to nothing, whatever its operands are

    def input_uses(self) -> dict[Path, Sequence[ValueType]]:
        """Returns the types that it uses inputs as to which no contract gives a type."""
        return {path: types for path, types in self._uses.items() if path.root == "input"}

    def evaluate(self, variables: Variables, limit: int = INLINE_UNITS) -> ConditionResult:
        """Evaluates the condition.

        Raises ConditionTooCostlyError if it might cost more than ``limit`` units, see cel_cost.
        """
        values: dict[Path, Any] = {}
        missing: list[Path] = []
        for path in self.operands:
            try:
                values[path] = path.read(variables)
            except PathMissingError:
                missing.append(path)
        bound = {path.variable: value for path, value in values.items()}
        units = 0
        if not self._is_of_scalars and not self._is_free(values):
            units = self._cost.units(bound, limit)
        operands = _by_text(values)
        for path, value in values.items():
            if _holds_nul(value):
                reason = f"{path} holds the character U+0000"
                return ConditionResult(None, operands, reason, units)
        holds = _evaluate(self._expression, bound)
        if holds is None and missing:
            return ConditionResult(None, operands, str(PathMissingError(missing[0])), units)
        if holds is None:
            nulls = [path for path, value in values.items() if value is None]
            reason = self._describe(nulls or list(values), values)
            return ConditionResult(None, operands, reason, units)
        if holds:
            return ConditionResult(True, operands, "", units)
        reason = self._describe(self._false_operands(bound), values)
        return ConditionResult(False, operands, reason, units)

    def _is_free(self, values: Mapping[Path, Any]) -> bool:
        """Returns whether the operands are so small that their sizes need not be measured."""
        free_chars = self._cost.free_chars
        for value in values.values():
            if isinstance(value, str):
                if len(value) > free_chars:
                    return False
            elif isinstance(value, dict | list):
                return False
        return free_chars >= 0

    def _false_operands(self, bound: dict[str, Any]) -> list[Path]:
        """Returns the operands of the first clause that is false."""
        for clause in self._clauses if len(self._clauses) > 1 else ():
            if _evaluate(clause.expression, bound) is False:
                return list(clause.operands)
        return list(self.operands)

    def _describe(self, paths: list[Path], values: Mapping[Path, Any]) -> str:
        parts = [f"{path} is {self._show(path, values[path])}" for path in paths if path in values]
        return " and ".join(parts) or "it reads no values"

    def _show(self, path: Path, value: Any) -> str:
        if value is not None and not self.operands[path].may_be_shown:
            return "a value that is not shown"
        text = json.dumps(value, ensure_ascii=False)
        return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}..."


def compile_condition(text: str, typed: Callable[[Path, int], ValueType | None]) -> Condition:
    """Compiles CEL with paths in ``{{ }}``.

    ``typed`` returns the type of the path at an offset; it returns None if it has reported a
    problem of the path. Raises ConditionInvalidError then, with an empty message, and if the text
    is no CEL or no truth value.
    """
    expression = read_expression(text)
    operands: dict[Path, ValueType] = {}
    for path, offset in expression.paths:
        found = typed(path, offset)
        if found is None:
            raise ConditionInvalidError("")
        operands[path] = found
    environment = cel.NewEnv(
        variables={path.variable: _cel_type(operand) for path, operand in operands.items()}
    )
    compiled = expression.compile(environment)
    if compiled.return_type() != cel.Type.BOOL:
        raise ConditionInvalidError(
            "a condition must be true or false; compare it: == true, > 0, ..."
        )
    clauses = _clauses(environment, expression, compiled)
    try:
        names = {path.variable for path in operands}
        cost = cost_of(expression.cel, names, 1 if len(clauses) == 1 else 2)
    except PatternInvalidError as error:
        raise ConditionInvalidError(str(error)) from None
    scalars = cost.free_chars >= 0 and all(type.kind in _SCALARS for type in operands.values())
    uses = _dynamic_uses(expression, operands)
    return Condition(text, compiled, operands, clauses, uses, cost, scalars)


def _dynamic_uses(
    expression: Expression, operands: Mapping[Path, ValueType]
) -> dict[Path, list[ValueType]]:
    """Returns the uses of operands without a type.

    Raises ConditionInvalidError if a list or an object is used as something else.
    """
    dynamic = {path for path, type in operands.items() if type.kind not in _CEL_TYPES}
    if not dynamic:
        return {}
    found = uses_of(expression.cel, {path.variable: type for path, type in operands.items()})
    uses = {path: found[path.variable] for path in dynamic if path.variable in found}
    for path, offset in expression.paths:
        wanted, type = common_use(uses.get(path, ())), operands[path]
        if ANY.kind not in (wanted.kind, type.kind) and not wanted.accepts(type):
            raise ConditionInvalidError(f"{path} is {type}, not {wanted}", offset)
    return {path: types for path, types in uses.items() if operands[path].kind is TypeKind.ANY}


def _evaluate(expression: Any, bound: dict[str, Any]) -> bool | None:
    """Returns the result, or None if it is no truth value.

    CEL returns errors as values, except for an exhausted budget, which raises.
    """
    try:
        result = expression.eval(data=bound)
    except RuntimeError:
        return None
    return bool(result.value()) if result.type() == cel.Type.BOOL else None


def _clauses(environment: Any, whole: Expression, compiled: Any) -> tuple[Clause, ...]:
    try:
        parts = [read_expression(part) for part in conjuncts(whole.text)]
        if len(parts) == 1:
            return (Clause(compiled, tuple(path for path, _ in whole.paths)),)
        return tuple(
            Clause(part.compile(environment), tuple(path for path, _ in part.paths))
            for part in parts
        )
    except ConditionInvalidError:
        return ()  # a comment holds a bracket: the reason then names all operands


def _holds_nul(value: Any) -> bool:
    """Returns whether a value holds U+0000, at which the binding to CEL cuts a text off."""
    match value:
        case str():
            return "\0" in value
        case list():
            return any(map(_holds_nul, value))
        case dict():
            return any(map(_holds_nul, value)) or any(map(_holds_nul, value.values()))
        case _:
            return False


def _cel_type(operand: ValueType) -> Any:
    """Returns the CEL type: dynamic if null is possible, which CEL's scalar types do not allow."""
    return cel.Type.DYN if operand.nullable else _CEL_TYPES.get(operand.kind, cel.Type.DYN)


def _by_text(values: Mapping[Path, Any]) -> dict[str, Any]:
    return {str(path): value for path, value in values.items()}
