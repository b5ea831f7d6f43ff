"""Reads a definition from YAML, as the JSON that it stands for.

Refuses what different readers of YAML read differently: anchors, tags, merge keys and plain scalars
such as ``yes``.
"""

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

from services.orchestrator.definition.problems import DefinitionInvalidError, shown
from services.orchestrator.definition.source import OUT_OF_RANGE, SourceBuilder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.orchestrator.definition.source import Source

# YAML costs 2 to 6 us a byte, and holds the interpreter: larger definitions are JSON.
MAX_YAML_BYTES = 64 * 1024  # of UTF-8
MAX_EVENTS = 10_000  # scalars, and the beginnings and ends of mappings and sequences

_JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_JSON_WORDS = {"true": True, "false": False, "null": None}
# Plain scalars that some reader of YAML takes for something else than a string.
_AMBIGUOUS = re.compile(
    r"|~|true|false|null|yes|no|on|off|y|n|[-+]?\.?[0-9][0-9_]*([.:eExob][-+0-9a-f_.:]*)?"
    r"|[-+]?\.(inf|nan)|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}.*|<<|=",
    re.IGNORECASE,
)
_READ_EVENTS = (
    AliasEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)


def read_yaml(text: str) -> Source:
    """Reads one YAML 1.2 document. Raises DefinitionInvalidError if the text is none."""
    builder = SourceBuilder(text)
    if len(text.encode(errors="replace")) > MAX_YAML_BYTES:
        builder.refuse(f"YAML longer than {MAX_YAML_BYTES // 1024} KiB: write it as JSON", 0)
    _YamlScanner(text, builder).scan()
    return builder.source()


class _YamlScanner:
    def __init__(self, text: str, builder: SourceBuilder) -> None:
        self._builder = builder
        self._events = self._parse(text)

    def scan(self) -> None:
        first = next(self._events)
        if isinstance(first, StreamEndEvent):
            self._refuse("expected a definition", 0)
        self._scan_value(first)
        more = next(self._events)
        if not isinstance(more, StreamEndEvent):
            self._refuse("nothing may follow the definition", more.start_mark.index)

    def _parse(self, text: str) -> Iterator[Any]:
        """Yields the events that carry values, and the end of the stream."""
        try:
            for number, event in enumerate(YAML(typ="safe", pure=True).parse(text)):
                if number > MAX_EVENTS:
                    message = f"more than {MAX_EVENTS} values: write it as JSON"
                    self._refuse(message, event.start_mark.index)
                if isinstance(event, _READ_EVENTS):
                    yield event
        except DefinitionInvalidError:
            raise
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            message = error.problem or error.context or "not YAML"
            self._refuse(" ".join(str(message).split()), mark.index if mark else 0)
        except ReaderError as error:
            self._refuse("a character that YAML does not allow", error.position)
        except (YAMLError, ValueError):
            self._refuse("not YAML", 0)

    def _scan_value(self, event: Any) -> None:
        start = event.start_mark.index
        self._builder.start(start)
        if isinstance(event, AliasEvent) or event.anchor is not None:
            self._refuse("anchors and aliases are not read: write the value out", start)
        if event.tag is not None:
            self._refuse("tags are not read: leave it out", start)
        match event:
            case MappingStartEvent():
                self._scan_mapping()
            case SequenceStartEvent():
                self._scan_sequence()
            case _:
                self._builder.add(self._scalar(event))

    def _scan_mapping(self) -> None:
        self._builder.open({})
        while not isinstance(event := next(self._events), MappingEndEvent):
            start = event.start_mark.index
            key = self._scalar(event) if isinstance(event, ScalarEvent) else None
            if not isinstance(key, str) or event.anchor is not None or event.tag is not None:
                self._refuse("a key must be a text: write it in quotes", start)
            self._builder.key(key, start)
            value = next(self._events)
            if isinstance(value, ScalarEvent) and value.style is None and value.value == "":
                self._refuse(f"{shown(key)} has no value; write null or '' for nothing", start)
            self._scan_value(value)
        self._builder.close()

    def _scan_sequence(self) -> None:
        self._builder.open([])
        while not isinstance(event := next(self._events), SequenceEndEvent):
            self._scan_value(event)
        self._builder.close()

    def _scalar(self, event: Any) -> Any:
        start = event.start_mark.index
        text = self._builder.whole_text(event.value, start)
        if event.style is not None:
            return text
        if text in _JSON_WORDS:
            return _JSON_WORDS[text]
        if _JSON_NUMBER.fullmatch(text):
            return self._number(text, start)
        if text == "":
            self._refuse("an item has no value; write null or '' for nothing", start)
        if text == "<<":
            self._refuse("merge keys are not read: write the members out", start)
        if _AMBIGUOUS.fullmatch(text):
            self._refuse(f"{shown(text)} is ambiguous: write it as JSON does, or in quotes", start)
        return text

    def _number(self, text: str, start: int) -> int | float:
        try:
            number = json.loads(text)
        except ValueError:  # more digits than int() takes
            self._refuse(OUT_OF_RANGE, start)
        return self._builder.number(number, start)

    def _refuse(self, message: str, offset: int) -> NoReturn:
        self._builder.refuse(message, offset)
