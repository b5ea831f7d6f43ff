"""Where in a definition's text something stands: lines, columns, and places inside strings."""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_LOOK = 8192  # characters into a string that a place is looked for

_SPACE = re.compile(r"[ \t\r\n]*")
# Of JSON and of YAML, in double quotes; two halves of a surrogate pair are one character.
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|u.{4}|U.{8}|x..|[^\r\n])|(?P<join>\\\r?\n[ \t]*)"
)


def line_starts(text: str) -> list[int]:
    return [0, *(found.end() for found in re.finditer("\n", text))]


def line_and_column(starts: Sequence[int], offset: int) -> tuple[int, int]:
    """Both from 1, the column in characters."""
    line = bisect_right(starts, offset)
    return line, offset - starts[line - 1] + 1


def place_within(text: str, start: int, value: str, offset: int) -> int:
    """How far behind ``start``, where a string is written, its character at ``offset`` stands.

    0 where that cannot be told.
    """
    mark = text[start : start + 1]
    at = start + (mark in ('"', "'"))
    if mark in ("|", ">"):
        at = text.find("\n", start) + 1
    elif text.startswith(value[:offset], at):
        return at + offset - start  # as it reads
    if offset > MAX_LOOK:
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
    """Where the next character is written; None if this one is not written here."""
    if mark == '"':
        while (escape := _ESCAPE.match(text, at)) and escape["join"]:
            at = escape.end()
        if escape:
            return escape.end()
    if character.isspace():
        return _end_of_space(text, at)  # lines are folded, and indented
    at = _end_of_space(text, at)
    if not text.startswith(character, at):
        return None
    return at + (2 if mark == "'" == character else 1)


def _end_of_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
