"""Conditions: CEL over paths, typed by the contracts, and told apart from their mistakes.

A condition that cannot be judged is an error, never a false one: it must not pass for a decision.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cel_expr_python import cel

from services.orchestrator.definition.path import Path, PathMissing, parse_path
from services.orchestrator.definition.types import Kind, Type

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from services.orchestrator.definition.path import Scope

MAX_LENGTH = 4096  # characters
MAX_SHOWN = 80  # characters of a value in a reason

_TOKEN = re.compile(
    r"""(?P<quoted>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|\{\{(?P<path>.*?)\}\}|(?P<open>\{\{)""",
    re.DOTALL,
)
_CEL_POSITION = re.compile(r"ERROR: <input>:\d+:\d+: (.+?)(?:\n|$)")

_CEL_TYPES = {
    Kind.BOOL: cel.Type.BOOL,
    Kind.INT: cel.Type.INT,
    Kind.DOUBLE: cel.Type.DOUBLE,
    Kind.STRING: cel.Type.STRING,
    Kind.ENUM: cel.Type.STRING,
    Kind.BYTES: cel.Type.STRING,
    Kind.TIME: cel.Type.STRING,
}


class ConditionInvalid(ValueError):  # noqa: N818  (a state, as in mesh.errors)
    """The text is no condition; ``offset`` is where, if that can be told."""

    def __init__(self, message: str, offset: int | None = None) -> None:
        super().__init__(message)
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Verdict:
    holds: bool | None  # None: it could not be judged
    operands: dict[str, Any]  # path -> value
    reason: str  # why it does not hold; empty if it does


@dataclass(frozen=True, slots=True)
class Clause:
    """What stands between two ``&&``, judged alone to name what was false."""

    expression: Any
    operands: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Condition:
    text: str
    _expression: Any
    _operands: Mapping[Path, Type]
    _clauses: tuple[Clause, ...]

    def judge(self, scope: Scope) -> Verdict:
        values: dict[Path, Any] = {}
        for path in self._operands:
            try:
                values[path] = path.read(scope)
            except PathMissing as error:
                return Verdict(None, _by_text(values), str(error))
        bound = {path.variable: value for path, value in values.items()}
        operands = _by_text(values)
        holds = _evaluate(self._expression, bound)
        if holds is None:
            nulls = [path for path, value in values.items() if value is None]
            return Verdict(None, operands, self._tell(nulls or list(values), values))
        if holds:
            return Verdict(True, operands, "")
        return Verdict(False, operands, self._tell(self._culprits(bound), values))

    def _culprits(self, bound: dict[str, Any]) -> list[Path]:
        """The operands of the first clause that is false."""
        for clause in self._clauses:
            if _evaluate(clause.expression, bound) is False:
                return list(clause.operands)
        return list(self._operands)

    def _tell(self, paths: list[Path], values: Mapping[Path, Any]) -> str:
        told = [f"{path} is {self._show(path, values[path])}" for path in paths]
        return " and ".join(told) or "it depends on nothing"

    def _show(self, path: Path, value: Any) -> str:
        if value is not None and not self._operands[path].may_be_shown:
            return "such a value"
        text = json.dumps(value, ensure_ascii=False)
        return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def compile_condition(text: str, typed: Callable[[Path, int], Type | None]) -> Condition:
    """Compile CEL with paths in ``{{ }}``.

    ``typed`` gives the type of the path at an offset, or reports it and gives None; then, and
    wherever the text is no CEL or no truth value, this raises ConditionInvalid.
    """
    if len(text) > MAX_LENGTH:
        raise ConditionInvalid(f"longer than {MAX_LENGTH} characters")
    placed = _paths(text)
    operands: dict[Path, Type] = {}
    for path, offset in placed:
        found = typed(path, offset)
        if found is None:
            raise ConditionInvalid("")
        operands[path] = found
    environment = cel.NewEnv(
        variables={path.variable: _cel_type(operand) for path, operand in operands.items()}
    )
    expression = _compile(environment, text)
    if expression.return_type() != cel.Type.BOOL:
        raise ConditionInvalid("a condition must be true or false; compare it: == true, > 0, ...")
    return Condition(text, expression, operands, _clauses(environment, text))


def _evaluate(expression: Any, bound: dict[str, Any]) -> bool | None:
    """None for every way not to come to a truth value: errors are returned, except the budget's."""
    try:
        result = expression.eval(data=bound)
    except RuntimeError:
        return None
    return bool(result.value()) if result.type() == cel.Type.BOOL else None


def paths_in(text: str) -> list[Path]:
    """The paths of a condition, or none if it is malformed."""
    try:
        return [path for path, _ in _paths(text)]
    except ConditionInvalid:
        return []


def _clauses(environment: Any, text: str) -> tuple[Clause, ...]:
    try:
        return tuple(
            Clause(_compile(environment, part), tuple(path for path, _ in _paths(part)))
            for part in _conjuncts(text)
        )
    except ConditionInvalid:
        return ()  # a comment that holds a bracket: then all operands are named


def _compile(environment: Any, text: str) -> Any:
    try:
        return environment.compile(_to_cel(text))
    except RuntimeError as error:
        said = _CEL_POSITION.search(str(error))
        message = said[1] if said else str(error).splitlines()[0]
        if "undeclared reference" in message:
            message += "; write paths as {{path}}"
        raise ConditionInvalid(message) from None


def _paths(text: str) -> list[tuple[Path, int]]:
    found = []
    for token in _TOKEN.finditer(text):
        if token["quoted"] is not None:
            if "{{" in token["quoted"]:
                raise ConditionInvalid(
                    "a path inside quotes is only text; remove the quotes", token.start()
                )
            continue
        path = None if token["path"] is None else parse_path(token["path"])
        if path is None:
            raise ConditionInvalid(
                f"{token[0]!r} is no path; one begins with input, steps, ctx or item", token.start()
            )
        found.append((path, token.start()))
    return found


def _to_cel(text: str) -> str:
    def replace(token: re.Match[str]) -> str:
        path = parse_path(token["path"] or "")
        return f"({path.variable})" if path else token[0]

    return _TOKEN.sub(replace, text)


def _conjuncts(text: str) -> list[str]:
    """The parts between the outermost ``&&``; none if an outer ``||`` or ``?:`` binds weaker."""
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


def _cel_type(operand: Type) -> Any:
    """Null has no place in CEL's scalar types: what may be null is typed when it is judged."""
    return cel.Type.DYN if operand.nullable else _CEL_TYPES.get(operand.kind, cel.Type.DYN)


def _by_text(values: Mapping[Path, Any]) -> dict[str, Any]:
    return {str(path): value for path, value in values.items()}
