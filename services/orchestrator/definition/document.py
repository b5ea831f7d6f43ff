"""A definition's text as JSON values that remember where each of them stands."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

from services.orchestrator.definition.position import line_and_column, line_starts, place_within
from services.orchestrator.definition.problems import DefinitionInvalidError, Problem, shown

Pointer: TypeAlias = "tuple[str | int, ...]"

MAX_SIZE = 256 * 1024  # bytes of UTF-8
MAX_DEPTH = 32
MAX_INTEGER = 2**53 - 1  # beyond it RFC 8785 has no form
OUT_OF_RANGE = "number out of range: integers reach from -(2^53 - 1) to 2^53 - 1"

_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True, slots=True)
class Document:
    value: Any
    _text: str
    _values: dict[Pointer, int]  # offsets into the text
    _keys: dict[Pointer, int]
    _lines: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_lines", line_starts(self._text))

    def problem(self, pointer: Pointer, message: str, *, offset: int | None = None) -> Problem:
        """A problem of the value there, or ``offset`` characters into it if it is a string."""
        start = self._values[pointer]
        if offset is not None:
            start += place_within(self._text, start, self.at(pointer), offset)
        return Problem(*line_and_column(self._lines, start), message)

    def key_problem(self, pointer: Pointer, message: str) -> Problem:
        """A problem of the key that leads to ``pointer``."""
        return Problem(*line_and_column(self._lines, self._keys[pointer]), message)

    def at(self, pointer: Pointer) -> Any:
        value = self.value
        for part in pointer:
            value = value[part]
        return value


def parse_json(text: str) -> Document:
    """Read strict JSON (RFC 8259): no duplicate keys, no NaN. DefinitionInvalidError otherwise."""
    check_size(text)
    reader = _Reader(text)
    value = reader.read_document()
    return Document(value, text, reader.values, reader.keys)


def check_size(text: str) -> None:
    """DefinitionInvalidError if nobody should have to read it."""
    if len(text.encode(errors="replace")) > MAX_SIZE:
        raise DefinitionInvalidError([Problem(1, 1, f"longer than {MAX_SIZE // 1024} KiB")])


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._leaves = json.JSONDecoder(parse_constant=self._refuse_constant)
        self.values: dict[Pointer, int] = {}
        self.keys: dict[Pointer, int] = {}

    def read_document(self) -> Any:
        self._skip_space()
        value = self._read(())
        self._skip_space()
        if self._at < len(self._text):
            self._refuse("nothing may follow the definition")
        return value

    def _read(self, pointer: Pointer) -> Any:
        if len(pointer) > MAX_DEPTH:
            self._refuse(f"nested deeper than {MAX_DEPTH} levels")
        self.values[pointer] = self._at
        match self._text[self._at : self._at + 1]:
            case "{":
                return self._read_object(pointer)
            case "[":
                return self._read_array(pointer)
            case _:
                return self._read_leaf()

    def _read_object(self, pointer: Pointer) -> dict[str, Any]:
        members: dict[str, Any] = {}
        while self._next_member(first=not members, opening="{", closing="}"):
            key_at = self._at
            if self._text[self._at : self._at + 1] != '"':
                self._refuse("expected a key in double quotes")
            key = self._read_leaf()
            if key in members:
                self._at = key_at
                self._refuse(f"duplicate key {shown(key)}")
            self._skip_space()
            self._take(":")
            self._skip_space()
            self.keys[*pointer, key] = key_at
            members[key] = self._read((*pointer, key))
        return members

    def _read_array(self, pointer: Pointer) -> list[Any]:
        items: list[Any] = []
        while self._next_member(first=not items, opening="[", closing="]"):
            items.append(self._read((*pointer, len(items))))
        return items

    def _next_member(self, *, first: bool, opening: str, closing: str) -> bool:
        """Move to the next member. False, and past the end, if there is none."""
        if first:
            self._take(opening)
        self._skip_space()
        if self._text.startswith(closing, self._at):
            self._at += 1
            return False
        if not first:
            self._take(",")
            self._skip_space()
        return True

    def _read_leaf(self) -> Any:
        try:
            value, end = self._leaves.raw_decode(self._text, self._at)
        except json.JSONDecodeError as error:
            self._at = min(error.pos, len(self._text))
            self._refuse(_plain(error.msg))
        except DefinitionInvalidError:
            raise
        except ValueError:  # digits beyond what int() takes
            self._refuse(OUT_OF_RANGE)
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            self._refuse("half of a surrogate pair is no character")
        if isinstance(value, int | float) and not isinstance(value, bool):
            number = plain_number(value)
            if number is None:
                self._refuse(OUT_OF_RANGE)
            value = number
        self._at = end
        return value

    def _refuse_constant(self, name: str) -> NoReturn:
        self._refuse(f"{name} is not JSON")

    def _skip_space(self) -> None:
        space = _SPACE.match(self._text, self._at)
        self._at = space.end() if space else self._at

    def _take(self, mark: str) -> None:
        if not self._text.startswith(mark, self._at):
            self._refuse(f"expected {mark!r}")
        self._at += 1

    def _refuse(self, message: str) -> NoReturn:
        raise DefinitionInvalidError([problem_at(self._text, self._at, message)])


def problem_at(text: str, offset: int, message: str) -> Problem:
    """A problem at an offset in the text, as line and column."""
    return Problem(*line_and_column(line_starts(text), offset), message)


def plain_number(value: int | float) -> int | float | None:
    """As JSON means it: 2.0 is 2. None beyond what a definition may hold."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_INTEGER:
        return int(value)
    out_of_range = value in (float("inf"), float("-inf"))
    return None if out_of_range or (isinstance(value, int) and abs(value) > MAX_INTEGER) else value


def _plain(message: str) -> str:
    return "expected a value" if message == "Expecting value" else message[0].lower() + message[1:]
