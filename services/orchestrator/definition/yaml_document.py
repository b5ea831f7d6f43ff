"""YAML read as the JSON it stands for, strictly: what readers of YAML disagree on is refused."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from ruamel.yaml.reader import ReaderError

from services.orchestrator.definition.document import (
    MAX_DEPTH,
    OUT_OF_RANGE,
    Document,
    check_size,
    plain_number,
    problem_at,
)
from services.orchestrator.definition.problems import DefinitionInvalidError, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.orchestrator.definition.document import Pointer

_JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_JSON_WORDS = {"true": True, "false": False, "null": None}
# Plain scalars that some reader of YAML takes for something else than the text they are.
_AMBIGUOUS = re.compile(
    r"|~|true|false|null|yes|no|on|off|y|n|[-+]?\.?[0-9][0-9_]*([.:eExob][-+0-9a-f_.:]*)?"
    r"|[-+]?\.(inf|nan)|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}.*|<<|=",
    re.IGNORECASE,
)


def parse_yaml(text: str) -> Document:
    """Read one YAML 1.2 document without anchors and tags. DefinitionInvalidError otherwise."""
    check_size(text)
    reader = _Reader(text)
    value = reader.read_document()
    return Document(value, text, reader.values, reader.keys)


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self.values: dict[Pointer, int] = {}
        self.keys: dict[Pointer, int] = {}

    def read_document(self) -> Any:
        events = self._events()
        first = next(events)
        if isinstance(first, StreamEndEvent):
            self._refuse("expected a definition", 0)
        value = self._read(events, first, ())
        more = next(events)
        if not isinstance(more, StreamEndEvent):
            self._refuse("nothing may follow the definition", more.start_mark.index)
        return value

    def _events(self) -> Iterator[Any]:
        """What carries values, and the end of the stream."""
        try:
            for event in YAML(typ="safe", pure=True).parse(self._text):
                if isinstance(event, _WITH_VALUES):
                    yield event
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            said = error.problem or error.context or "not YAML"
            self._refuse(" ".join(str(said).split()), mark.index if mark else 0)
        except ReaderError as error:
            self._refuse("a character that YAML does not allow", error.position)
        except (YAMLError, ValueError):
            self._refuse("not YAML", 0)

    def _read(self, events: Iterator[Any], event: Any, pointer: Pointer) -> Any:
        start = event.start_mark.index
        if len(pointer) > MAX_DEPTH:
            self._refuse(f"nested deeper than {MAX_DEPTH} levels", start)
        if isinstance(event, AliasEvent) or event.anchor is not None:
            self._refuse("anchors and aliases are not read: write the value out", start)
        if event.tag is not None:
            self._refuse("tags are not read: leave it out", start)
        self.values[pointer] = start
        match event:
            case MappingStartEvent():
                return self._read_mapping(events, pointer)
            case SequenceStartEvent():
                return self._read_sequence(events, pointer)
            case _:
                return self._read_scalar(event)

    def _read_mapping(self, events: Iterator[Any], pointer: Pointer) -> dict[str, Any]:
        members: dict[str, Any] = {}
        while not isinstance(event := next(events), MappingEndEvent):
            start = event.start_mark.index
            key = self._read_scalar(event) if isinstance(event, ScalarEvent) else None
            if not isinstance(key, str) or event.anchor is not None or event.tag is not None:
                self._refuse("a key must be a text: write it in quotes", start)
            if key in members:
                self._refuse(f"duplicate key {shown(key)}", start)
            self.keys[*pointer, key] = start
            value = next(events)
            if isinstance(value, ScalarEvent) and value.style is None and value.value == "":
                self._refuse(f"{shown(key)} has no value; write null or '' for nothing", start)
            members[key] = self._read(events, value, (*pointer, key))
        return members

    def _read_sequence(self, events: Iterator[Any], pointer: Pointer) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(events), SequenceEndEvent):
            items.append(self._read(events, event, (*pointer, len(items))))
        return items

    def _read_scalar(self, event: Any) -> Any:
        start = event.start_mark.index
        text = self._pair_surrogates(event.value, start)
        if event.style is not None:
            return text
        if text in _JSON_WORDS:
            return _JSON_WORDS[text]
        if _JSON_NUMBER.fullmatch(text):
            return self._read_number(text, start)
        if text == "":
            self._refuse("an item has no value; write null or '' for nothing", start)
        if text == "<<":
            self._refuse("merge keys are not read: write the members out", start)
        if _AMBIGUOUS.fullmatch(text):
            self._refuse(f"{shown(text)} is ambiguous: write it as JSON does, or in quotes", start)
        return text

    def _pair_surrogates(self, text: str, start: int) -> str:
        r"""JSON writes a character beyond U+FFFF as two escapes, ``\ud83d\ude00``."""
        if not any("\ud800" <= character <= "\udfff" for character in text):
            return text
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self._refuse("half of a surrogate pair is no character", start)

    def _read_number(self, text: str, start: int) -> int | float:
        try:
            number = plain_number(json.loads(text))
        except ValueError:  # digits beyond what int() takes
            number = None
        if number is None:
            self._refuse(OUT_OF_RANGE, start)
        return number

    def _refuse(self, message: str, offset: int) -> NoReturn:
        raise DefinitionInvalidError(
            [problem_at(self._text, min(offset, len(self._text)), message)]
        )


_WITH_VALUES = (
    AliasEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
