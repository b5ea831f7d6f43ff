"""Reads a definition from strict JSON.

A scanner of its own, as a reader of YAML does not take all JSON: it refuses keys of more than 1,024
characters, a colon on the line below its key and the character U+007F; it reads U+0085 as a line
break; and it takes twenty times as long.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NoReturn

from services.orchestrator.definition.problems import DefinitionInvalidError
from services.orchestrator.definition.source import OUT_OF_RANGE, SourceBuilder

if TYPE_CHECKING:
    from services.orchestrator.definition.source import Source

_SPACE = re.compile(r"[ \t\n\r]*")


def read_json(text: str) -> Source:
    """Reads JSON (RFC 8259) without duplicate keys. Raises DefinitionInvalidError if it is none."""
    builder = SourceBuilder(text)
    _JsonScanner(text, builder).scan()
    return builder.source()


class _JsonScanner:
    def __init__(self, text: str, builder: SourceBuilder) -> None:
        self._text = text
        self._builder = builder
        self._at = 0
        self._decoder = json.JSONDecoder(parse_constant=self._refuse_constant)

    def scan(self) -> None:
        self._skip_space()
        self._scan_value()
        self._skip_space()
        if self._at < len(self._text):
            self._refuse("nothing may follow the definition")

    def _scan_value(self) -> None:
        self._builder.start(self._at)
        match self._text[self._at : self._at + 1]:
            case "{":
                self._scan_object()
            case "[":
                self._scan_array()
            case _:
                self._builder.add(self._decode())

    def _scan_object(self) -> None:
        self._builder.open({})
        first = True
        while self._next_member(first=first, opening="{", closing="}"):
            first, start = False, self._at
            if self._text[start : start + 1] != '"':
                self._refuse("expected a key in double quotes")
            self._builder.key(self._decode(), start)
            self._skip_space()
            self._take(":")
            self._skip_space()
            self._scan_value()
        self._builder.close()

    def _scan_array(self) -> None:
        self._builder.open([])
        first = True
        while self._next_member(first=first, opening="[", closing="]"):
            first = False
            self._scan_value()
        self._builder.close()

    def _next_member(self, *, first: bool, opening: str, closing: str) -> bool:
        """Moves to the next member. Returns False, behind the container, if there is none."""
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

    def _decode(self) -> Any:
        """Returns the scalar that starts here, and moves behind it."""
        start = self._at
        try:
            value, end = self._decoder.raw_decode(self._text, start)
        except json.JSONDecodeError as error:
            self._at = min(error.pos, len(self._text))
            self._refuse(_plain(error.msg))
        except DefinitionInvalidError:
            raise
        except ValueError:  # more digits than int() takes
            self._refuse(OUT_OF_RANGE)
        if isinstance(value, str):
            value = self._builder.whole_text(value, start)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            value = self._builder.number(value, start)
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
        self._builder.refuse(message, self._at)


def _plain(message: str) -> str:
    return "expected a value" if message == "Expecting value" else message[0].lower() + message[1:]
