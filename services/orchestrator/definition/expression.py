"""The text of a condition: CEL with paths in ``{{ }}``, and where its mistakes stand."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from services.orchestrator.definition.path import NO_PATH, Path, parse_path
from services.orchestrator.definition.problems import shown

MAX_LENGTH = 4096  # characters
MAX_LEVELS = 32  # of the parser, which spends one or more on every bracket and operator

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


class ConditionInvalidError(ValueError):
    """The text is no condition; ``offset`` is where, if that can be told."""

    def __init__(self, message: str, offset: int | None = None) -> None:
        super().__init__(message)
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Expression:
    text: str
    paths: tuple[tuple[Path, int], ...]  # with their offsets
    cel: str  # with ``(steps.a.b)`` for ``{{steps.a.b}}``
    _shifts: tuple[tuple[int, int], ...]  # offsets in ``cel`` and in ``text``, of every piece

    def compile(self, environment: Any) -> Any:
        """ConditionInvalid if CEL does not take it."""
        try:
            return environment.compile(self.cel)
        except RuntimeError as error:
            raise self._explain(str(error)) from None

    def _explain(self, said: str) -> ConditionInvalidError:
        if _TOO_DEEP.search(said):
            return ConditionInvalidError(
                f"nests deeper than the {MAX_LEVELS} levels of CEL, by brackets or by operators in"
                " a row: split it with && or ||, which may join any number, or give a part of it"
                " to a step around this one",
                self._deepest(),
            )
        found = _CEL_POSITION.search(said)
        if found is None:
            return ConditionInvalidError(said.splitlines()[0])
        message = found[3].partition(" expecting ")[0].replace(" (in container '')", "")
        message += next((hint for mark, hint in _HINTS if mark in message), "")
        return ConditionInvalidError(message, self._offset(int(found[1]), int(found[2])))

    def _offset(self, line: int, column: int) -> int:
        """Where in the text it stands."""
        before = self.cel.splitlines(keepends=True)[: line - 1]
        at = sum(map(len, before)) + column - 1
        cel, text = max(shift for shift in self._shifts if shift[0] <= at)
        is_path = self.text.startswith("{{", text)
        return min(text if is_path else text + at - cel, max(0, len(self.text) - 1))

    def _deepest(self) -> int | None:
        """The innermost bracket; None if there are none."""
        depth, most, where = 0, 0, None
        for token in re.finditer(_TOKEN.pattern + r"|[()\[\]{}]", self.text, re.DOTALL):
            if len(token[0]) == 1:
                depth += 1 if token[0] in "([{" else -1
                if depth > most:
                    most, where = depth, token.start()
        return where


def read_expression(text: str) -> Expression:
    """ConditionInvalid if it is too long, or what stands between ``{{`` and ``}}`` is no path."""
    if len(text) > MAX_LENGTH:
        raise ConditionInvalidError(
            f"{len(text)} characters, at most {MAX_LENGTH}: give a part of it to a step around"
            " this one, or compare with a list: in [...]",
            MAX_LENGTH,
        )
    paths, pieces, shifts, end, length = [], [], [], 0, 0
    for token in _TOKEN.finditer(text):
        if token["quoted"] is not None and "{{" not in token["quoted"]:
            continue
        path = _path(token)
        paths.append((path, token.start()))
        for piece, start in ((text[end : token.start()], end), (_as_cel(path), token.start())):
            pieces.append(piece)
            shifts.append((length, start))
            length += len(piece)
        end = token.end()
    shifts.append((length, end))
    return Expression(text, tuple(paths), "".join([*pieces, text[end:]]), tuple(shifts))


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
