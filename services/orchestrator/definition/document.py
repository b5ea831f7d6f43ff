"""A definition's text as JSON values that remember where each of them stands."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from services.orchestrator.definition.faults import DefinitionInvalid, Fault

Pointer: TypeAlias = "tuple[str | int, ...]"

MAX_SIZE = 256 * 1024  # bytes of UTF-8
MAX_DEPTH = 32
MAX_INTEGER = 2**53 - 1  # beyond it RFC 8785 has no form

_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True, slots=True)
class Document:
    value: Any
    _text: str
    _values: dict[Pointer, int]  # offsets into the text
    _keys: dict[Pointer, int]

    def fault(self, pointer: Pointer, message: str, *, offset: int | None = None) -> Fault:
        """A fault of the value there, or ``offset`` characters into it if it is a string."""
        start = self._values[pointer]
        if offset is not None:
            start += self._within(start, self.at(pointer), offset)
        return fault_at(self._text, start, message)

    def key_fault(self, pointer: Pointer, message: str) -> Fault:
        """A fault of the key that leads to ``pointer``."""
        return fault_at(self._text, self._keys[pointer], message)

    def at(self, pointer: Pointer) -> Any:
        value = self.value
        for part in pointer:
            value = value[part]
        return value

    def _within(self, start: int, value: Any, offset: int) -> int:
        """How far into the text a place in a string is; 0 where it is not written as it reads."""
        quoted = self._text[start : start + 1] in ('"', "'")
        written = self._text[start + quoted : start + quoted + offset]
        return quoted + offset if written == value[:offset] else 0


def parse_json(text: str) -> Document:
    """Read strict JSON (RFC 8259): no duplicate keys, no NaN. DefinitionInvalid otherwise."""
    check_size(text)
    reader = _Reader(text)
    value = reader.read_document()
    return Document(value, text, reader.values, reader.keys)


def check_size(text: str) -> None:
    """DefinitionInvalid if nobody should have to read it."""
    if len(text.encode(errors="replace")) > MAX_SIZE:
        raise DefinitionInvalid([Fault(1, 1, f"longer than {MAX_SIZE // 1024} KiB")])


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
                self._refuse(f"duplicate key {key!r}")
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
        except DefinitionInvalid:
            raise
        except ValueError:  # digits beyond what int() takes
            self._refuse("number out of range")
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            self._refuse("half of a surrogate pair is no character")
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            self._refuse("integers reach from -(2^53 - 1) to 2^53 - 1")
        if isinstance(value, float) and value in (float("inf"), float("-inf")):
            self._refuse("number out of range")
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
        raise DefinitionInvalid([fault_at(self._text, self._at, message)])


def fault_at(text: str, offset: int, message: str) -> Fault:
    """A fault at an offset in the text, as line and column."""
    lines = [0, *(found.end() for found in re.finditer("\n", text))]
    line = bisect_right(lines, offset)
    return Fault(line, offset - lines[line - 1] + 1, message)


def _plain(message: str) -> str:
    return "expected a value" if message == "Expecting value" else message[0].lower() + message[1:]
