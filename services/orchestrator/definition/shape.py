"""Reading the values of a definition, each of the kind it must be, and noting all that are not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from services.orchestrator.definition.duration import EXPECTED, parse_duration
from services.orchestrator.definition.problems import MAX_PROBLEMS, DefinitionInvalidError, shown

if TYPE_CHECKING:
    from collections.abc import Collection

    from services.orchestrator.definition.problems import Problem
    from services.orchestrator.definition.source import Pointer, Source

MAX_ID = 48  # characters
MAX_BRANCHES = 32  # of a switch or a parallel, and names to wait for
ID = rf"[a-z][a-z0-9_]{{0,{MAX_ID - 1}}}"

# What CEL keeps for itself cannot be part of a path in a condition.
# fmt: off
RESERVED = frozenset([
    "as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in",
    "let", "loop", "namespace", "null", "package", "return", "true", "var", "void", "while",
])
# fmt: on
OWN = frozenset(["compensate", "on_error"])  # the engine's own parts of a path

ERROR = r"[A-Z][A-Z0-9_]{0,63}"
_ERROR = re.compile(ERROR)
TEXT = r"[^ \t\r\n]"  # what a text must have somewhere
_TEXT = re.compile(TEXT)


class Shape:
    """Goes on after a problem with an empty value, to report all of them at once."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.problems: list[Problem] = []

    def keys(
        self,
        pointer: Pointer,
        value: dict[str, Any],
        *,
        required: Collection[str] = (),
        optional: Collection[str] = (),
    ) -> None:
        known = (*required, *optional)
        for key in value:
            if key not in known:
                message = f"unknown key {shown(key)}; known: {', '.join(known)}"
                self.key_problem((*pointer, key), message)
        if isinstance(self.source.at(pointer), dict):
            for key in required:
                if key not in value:
                    self.problem(pointer, f"{key} is missing")

    def object(self, pointer: Pointer, value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        self.problem(pointer, "must be an object")
        return {}

    def member(self, pointer: Pointer, parent: dict[str, Any]) -> dict[str, Any]:
        name = str(pointer[-1])
        return self.object(pointer, parent[name]) if name in parent else {}

    def text(self, pointer: Pointer, parent: dict[str, Any]) -> str:
        name = str(pointer[-1])
        if name not in parent:
            return ""
        value = parent[name]
        if isinstance(value, str) and _TEXT.search(value):
            return value
        self.problem(
            pointer, "must be a text" if not isinstance(value, str) else "must not be empty"
        )
        return ""

    def id(self, pointer: Pointer, parent: dict[str, Any]) -> str:
        id = self.text(pointer, parent)
        if id and not is_id(id):
            self.problem(pointer, not_an_id(id))
        return id

    def names(self, pointer: Pointer, value: dict[str, Any]) -> None:
        for name in value:
            if not is_id(name):
                self.key_problem((*pointer, name), not_an_id(name))

    def duration(self, pointer: Pointer, parent: dict[str, Any]) -> int | None:
        """Microseconds; None where there is none."""
        name = str(pointer[-1])
        if name not in parent:
            return None
        found = parse_duration(parent[name])
        if found is None:
            self.problem(pointer, f"must be {EXPECTED}")
        return found

    def integer(
        self, pointer: Pointer, parent: dict[str, Any], least: int, most: int
    ) -> int | None:
        name = str(pointer[-1])
        if name not in parent:
            return None
        value = parent[name]
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        self.problem(pointer, f"must be an integer from {least} to {most}")
        return None

    def word(
        self, pointer: Pointer, parent: dict[str, Any], words: Collection[str], default: str
    ) -> str:
        value = parent.get(str(pointer[-1]), default)
        if isinstance(value, str) and value in words:
            return value
        self.problem(pointer, f"must be one of {', '.join(words)}")
        return default

    def errors(self, pointer: Pointer, parent: dict[str, Any]) -> frozenset[str]:
        """Codes of gRPC and reasons of the mesh."""
        value = parent.get(str(pointer[-1]), [])
        if isinstance(value, list) and all(map(_is_error, value)):
            return frozenset(value)
        self.problem(pointer, "must be a list of codes or reasons, such as NOT_FOUND")
        return frozenset()

    def problem(self, pointer: Pointer, message: str) -> None:
        self._note(self.source.problem(pointer, message))

    def key_problem(self, pointer: Pointer, message: str) -> None:
        self._note(self.source.key_problem(pointer, message))

    def _note(self, problem: Problem) -> None:
        self.problems.append(problem)
        if len(self.problems) == MAX_PROBLEMS:
            raise DefinitionInvalidError(sorted(self.problems))


def _is_error(value: Any) -> bool:
    return isinstance(value, str) and _ERROR.fullmatch(value) is not None


def is_id(text: str) -> bool:
    return re.fullmatch(ID, text) is not None and text not in RESERVED | OWN


def not_an_id(text: str) -> str:
    if text in RESERVED:
        return f"{text!r} is reserved by the language of conditions; choose another name"
    if text in OWN:
        return f"{text!r} is the engine's own; choose another name"
    return (
        f"{shown(text)} must be 1 to {MAX_ID} of a-z, 0-9 and _, beginning with a letter"
        " (names with a leading _ are the engine's)"
    )
