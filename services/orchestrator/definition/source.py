"""A definition's text as JSON values, with the position of each value and key.

Two scanners read the text: ``json_source`` and ``yaml_source``. Both hand what they find to a
``SourceBuilder``, which enforces the limits and refuses duplicate keys.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from formats.canonical_json import MAX_SAFE_INTEGER
from services.orchestrator.definition.problems import (
    MAX_PROBLEMS,
    DefinitionInvalidError,
    Problem,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Pointer: TypeAlias = "tuple[str | int, ...]"

MAX_SOURCE_BYTES = 256 * 1024  # of UTF-8
MAX_DEPTH = 32
MAX_SEARCH_CHARS = 8192  # of a string in which the position of an offset is searched
OUT_OF_RANGE = "number out of range: integers reach from -(2^53 - 1) to 2^53 - 1"

_SPACE = re.compile(r"[ \t\r\n]*")
# An escape in double quotes, of JSON and of YAML. Two halves of a surrogate pair are one character.
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|u.{4}|U.{8}|x..|[^\r\n])|(?P<join>\\\r?\n[ \t]*)"
)


@dataclass(frozen=True, slots=True)
class Source:
    """The value of a definition and the position of each part of it in the text."""

    value: Any
    _text: str
    _values: dict[Pointer, int]  # offsets into the text
    _keys: dict[Pointer, int]
    _lines: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_lines", _line_starts(self._text))

    def problem(self, pointer: Pointer, message: str, *, offset: int | None = None) -> Problem:
        """Returns a problem at a value, or at a character of it.

        ``offset`` counts characters of the value, which is then a string.
        """
        start = self._values[pointer]
        if offset is not None:
            start += _offset_in_text(self._text, start, self.at(pointer), offset)
        return Problem(*_line_and_column(self._lines, start), message)

    def key_problem(self, pointer: Pointer, message: str) -> Problem:
        """Returns a problem at the key that leads to ``pointer``."""
        return Problem(*_line_and_column(self._lines, self._keys[pointer]), message)

    def at(self, pointer: Pointer) -> Any:
        """Returns the value at ``pointer``."""
        value = self.value
        for part in pointer:
            value = value[part]
        return value


class Problems:
    """Collects the problems of one source, so that one check reports all of them."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._found: list[Problem] = []

    def add(self, pointer: Pointer, message: str, offset: int | None = None) -> None:
        """Adds a problem at a value, or at character ``offset`` of it."""
        self._add(self.source.problem(pointer, message, offset=offset))

    def add_at_key(self, pointer: Pointer, message: str) -> None:
        """Adds a problem at the key that leads to ``pointer``."""
        self._add(self.source.key_problem(pointer, message))

    def raise_if_any(self) -> None:
        """Raises DefinitionInvalidError with all problems, in order of position."""
        if self._found:
            raise DefinitionInvalidError(sorted(set(self._found)))

    @contextmanager
    def ignored(self) -> Iterator[None]:
        """Drops what the block adds, which an earlier check has reported."""
        count = len(self._found)
        yield
        del self._found[count:]

    def _add(self, problem: Problem) -> None:
        self._found.append(problem)
        if len(self._found) == MAX_PROBLEMS:
            self.raise_if_any()


class SourceBuilder:
    """Builds a source from the values that a scanner finds, in the order of the text.

    The scanner calls ``start`` before each value, then ``add`` for a scalar, or ``open`` and
    ``close`` around the content of a container, and ``key`` before the value of each member.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        if len(text.encode(errors="replace")) > MAX_SOURCE_BYTES:
            self.refuse(f"longer than {MAX_SOURCE_BYTES // 1024} KiB", 0)
        self._value: Any = None
        self._containers: list[dict[str, Any] | list[Any]] = []  # those that are open
        self._path: list[str | int] = []  # of the value that comes next
        self._values: dict[Pointer, int] = {}
        self._keys: dict[Pointer, int] = {}

    def start(self, offset: int) -> None:
        """Notes where the next value starts. Raises DefinitionInvalidError if it is too deep."""
        if len(self._path) > MAX_DEPTH:
            self.refuse(f"nested deeper than {MAX_DEPTH} levels", offset)
        if self._containers and isinstance(container := self._containers[-1], list):
            self._path[-1] = len(container)
        self._values[tuple(self._path)] = offset

    def add(self, value: Any) -> None:
        """Adds a value to the innermost open container, or as the value of the source."""
        if not self._containers:
            self._value = value
        elif isinstance(container := self._containers[-1], list):
            container.append(value)
        else:
            container[str(self._path[-1])] = value

    def open(self, container: dict[str, Any] | list[Any]) -> None:
        """Adds an empty container; what follows goes into it until ``close``."""
        self.add(container)
        self._containers.append(container)
        self._path.append(0)

    def close(self) -> None:
        """Closes the innermost container."""
        self._containers.pop()
        self._path.pop()

    def key(self, key: str, offset: int) -> None:
        """Notes the key of the next value. Raises DefinitionInvalidError if it is a duplicate."""
        if key in self._containers[-1]:
            self.refuse(f"duplicate key {shown(key)}", offset)
        self._path[-1] = key
        self._keys[tuple(self._path)] = offset

    def whole_text(self, text: str, offset: int) -> str:
        r"""Returns a string in which two escapes, ``\ud83d\ude00``, are one character.

        Raises DefinitionInvalidError if half of a surrogate pair stands alone.
        """
        if not any("\ud800" <= character <= "\udfff" for character in text):
            return text
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self.refuse("half of a surrogate pair is no character", offset)

    def number(self, value: int | float, offset: int) -> int | float:
        """Returns a number as JSON means it: 2.0 is 2.

        Raises DefinitionInvalidError if it is out of range.
        """
        if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_SAFE_INTEGER:
            return int(value)
        is_infinite = value in (float("inf"), float("-inf"))
        if is_infinite or (isinstance(value, int) and abs(value) > MAX_SAFE_INTEGER):
            self.refuse(OUT_OF_RANGE, offset)
        return value

    def refuse(self, message: str, offset: int) -> NoReturn:
        """Raises DefinitionInvalidError with one problem, at an offset of the text."""
        position = _line_and_column(_line_starts(self._text), min(offset, len(self._text)))
        raise DefinitionInvalidError([Problem(*position, message)])

    def source(self) -> Source:
        """Returns what was built."""
        return Source(self._value, self._text, self._values, self._keys)


def _line_starts(text: str) -> list[int]:
    return [0, *(found.end() for found in re.finditer("\n", text))]


def _line_and_column(starts: Sequence[int], offset: int) -> tuple[int, int]:
    """Returns line and column, both from 1, the column in characters."""
    line = bisect_right(starts, offset)
    return line, offset - starts[line - 1] + 1


def _offset_in_text(text: str, start: int, value: str, offset: int) -> int:
    """Returns how far behind ``start`` the text writes character ``offset`` of a string.

    Returns 0 if that cannot be found out.
    """
    mark = text[start : start + 1]
    at = start + (mark in ('"', "'"))
    if mark in ("|", ">"):
        at = text.find("\n", start) + 1
    elif text.startswith(value[:offset], at):
        return at + offset - start  # written without escapes or folded lines
    if offset > MAX_SEARCH_CHARS:
        return 0
    for character in value[:offset]:
        found = _behind(text, at, mark, character)
        if found is None:
            return 0
        at = found
    if not value[offset : offset + 1].isspace():
        at = _end_of_space(text, at)
    return at - start


def _behind(text: str, at: int, mark: str, character: str) -> int | None:
    """Returns the offset behind ``character``, or None if the text does not write it at ``at``."""
    if mark == '"':
        while (escape := _ESCAPE.match(text, at)) and escape["join"]:
            at = escape.end()
        if escape:
            return escape.end()
    if character.isspace():
        return _end_of_space(text, at)  # YAML folds lines and indents them
    at = _end_of_space(text, at)
    if not text.startswith(character, at):
        return None
    return at + (2 if mark == "'" == character else 1)


def _end_of_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
