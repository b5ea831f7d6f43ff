"""Reads values by the grammar, and adds a problem for each value that does not fit."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from services.orchestrator.definition import grammar
from services.orchestrator.definition.duration import EXPECTED, parse_duration
from services.orchestrator.definition.problems import shown
from services.orchestrator.definition.workflow import EventPattern

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.orchestrator.definition.ast import StepNode
    from services.orchestrator.definition.grammar import NodeRule, ValueKind
    from services.orchestrator.definition.source import Pointer, Problems

_TEXT_CHARACTER = re.compile(grammar.TEXT_CHARACTER)
_ERROR = re.compile(grammar.ERROR)


class FieldReader:
    """Continues after a problem with the default of the value, to find all problems at once."""

    def __init__(
        self, problems: Problems, steps: Callable[[Pointer, list[Any]], tuple[StepNode, ...]]
    ) -> None:
        """Needs a function that parses a list of steps, which calls this reader in turn."""
        self._problems = problems
        self._parse_steps = steps

    def node(
        self, pointer: Pointer, value: Any, rule: NodeRule, *, check_keys: bool = True
    ) -> dict[str, Any]:
        """Returns the value of each key of the rule, and the default of a key that is not there.

        Without ``check_keys`` unknown and missing keys are no problem.
        """
        if not isinstance(value, dict):
            self._problems.add(pointer, "must be an object")
            return {key.name: _default(key.value) for key in rule.keys}
        if check_keys:
            self._check_keys(pointer, value, rule)
        fields = {
            key.name: self._value((*pointer, key.name), value[key.name], key.value)
            if key.name in value
            else _default(key.value)
            for key in rule.keys
        }
        if rule.needs is not None:
            key, word, needed = rule.needs
            if fields[key] == word and needed not in value:
                self._problems.add((*pointer, key), f"needs a {needed}")
        return fields

    def _check_keys(self, pointer: Pointer, value: dict[str, Any], rule: NodeRule) -> None:
        known = [key.name for key in rule.keys]
        for name in value:
            if name not in known:
                message = f"unknown key {shown(name)}; known: {', '.join(known)}"
                self._problems.add_at_key((*pointer, name), message)
        for key in rule.keys:
            if key.required and key.name not in value:
                self._problems.add(pointer, f"{key.name} is missing")
        if rule.exactly_one and len(value.keys() & set(rule.exactly_one)) != 1:
            self._problems.add(pointer, f"needs exactly one of {', '.join(rule.exactly_one)}")

    def _value(self, pointer: Pointer, value: Any, kind: ValueKind) -> Any:
        match kind:
            case grammar.TextValue(max_length):
                return self._text(pointer, value, max_length)
            case grammar.ConditionValue() | grammar.TemplateValue():
                return self._text(pointer, value)
            case grammar.IdValue():
                return self._id(pointer, value)
            case grammar.DurationValue():
                found = parse_duration(value)
                return self._expect(pointer, found is not None, found, EXPECTED)
            case grammar.IntegerValue(least, most):
                fits = _is_number(value) and isinstance(value, int) and least <= value <= most
                return self._expect(pointer, fits, value, f"an integer from {least} to {most}")
            case grammar.FractionValue():
                fits = _is_number(value) and 0 <= value <= 1
                return self._expect(pointer, fits, value, "a number from 0 to 1")
            case grammar.WordValue(words):
                fits = isinstance(value, str) and value in words
                expected = f"one of {', '.join(words)}"
                return self._expect(pointer, fits, value, expected, default=words[0])
            case grammar.ErrorList():
                return self._errors(pointer, value)
            case grammar.MappingValue(named):
                return self._mapping(pointer, value, named=named)
            case grammar.EventType(engine_events):
                return self._event_type(pointer, value, engine_events=engine_events)
            case grammar.MessageList(most):
                return self._messages(pointer, value, most)
            case grammar.ApproverList():
                expected = "a list of DIDs, or a path to one"
                return self._expect(pointer, isinstance(value, list | str), value, expected)
            case grammar.ItemList():
                return value
            case grammar.StepList(most):
                return self._steps(pointer, value, most)
            case grammar.CaseList(most):
                return self._cases(pointer, value, most)
            case grammar.BranchMap(least, most):
                return self._branches(pointer, value, least, most)
            case grammar.NodeRule():
                return self.node(pointer, value, kind)

    def _expect(
        self, pointer: Pointer, fits: bool, value: Any, expected: str, default: Any = None
    ) -> Any:
        if fits:
            return value
        self._problems.add(pointer, f"must be {expected}")
        return default

    def _text(self, pointer: Pointer, value: Any, max_length: int | None = None) -> str | None:
        if not isinstance(value, str):
            self._problems.add(pointer, "must be a text")
        elif not _TEXT_CHARACTER.search(value):
            self._problems.add(pointer, "must not be empty")
        elif max_length is not None and len(value) > max_length:
            self._problems.add(pointer, f"longer than {max_length} characters")
        else:
            return value
        return None

    def _id(self, pointer: Pointer, value: Any) -> str | None:
        id = self._text(pointer, value)
        if id is not None and not grammar.is_id(id):
            self._problems.add(pointer, grammar.not_an_id(id))
        return id

    def _errors(self, pointer: Pointer, value: Any) -> frozenset[str]:
        fits = isinstance(value, list) and all(
            isinstance(item, str) and _ERROR.fullmatch(item) for item in value
        )
        expected = "a list of codes or reasons, such as NOT_FOUND"
        return frozenset(self._expect(pointer, fits, value, expected, default=[]))

    def _mapping(self, pointer: Pointer, value: Any, *, named: bool) -> dict[str, Any]:
        mapping: dict[str, Any] = self._expect(
            pointer, isinstance(value, dict), value, "an object", default={}
        )
        for name in mapping if named else ():
            if not grammar.is_id(name):
                self._problems.add_at_key((*pointer, name), grammar.not_an_id(name))
        return mapping

    def _event_type(self, pointer: Pointer, value: Any, *, engine_events: bool) -> str:
        most = grammar.MAX_EVENT_TYPE_CHARS
        fits = isinstance(value, str) and re.fullmatch(grammar.EVENT, value) and len(value) <= most
        words = "words of a-z, 0-9 and _, each beginning with a letter, joined by dots"
        type = str(
            self._expect(pointer, bool(fits), value, f"{words}, at most {most} characters", value)
        )
        if not engine_events and type.startswith(grammar.ENGINE_EVENTS):
            message = f"types that begin with {grammar.ENGINE_EVENTS} are the engine's"
            self._problems.add(pointer, message)
        return type

    def _messages(self, pointer: Pointer, value: Any, most: int) -> tuple[EventPattern, ...]:
        expected = f"a list of 2 to {most} different names"
        fits = isinstance(value, list) and 2 <= len(value) <= most
        listed = self._expect(pointer, fits, value, expected, default=[])
        patterns = tuple(self._message((*pointer, at), item) for at, item in enumerate(listed))
        different = len({pattern.key for pattern in patterns}) == len(patterns)
        return tuple(self._expect(pointer, different, patterns, expected, default=()))

    def _message(self, pointer: Pointer, value: Any) -> EventPattern:
        """Reads the name of a signal, or an object that names an event."""
        if isinstance(value, dict):
            event = self.node(pointer, value, grammar.NAMED_EVENT)["event"]
            return EventPattern(str(event), is_event=True)
        if not isinstance(value, str) or not grammar.is_id(value):
            self._problems.add(pointer, grammar.not_an_id(str(value)))
        return EventPattern(str(value))

    def _steps(self, pointer: Pointer, value: Any, most: int) -> tuple[StepNode, ...]:
        fits = isinstance(value, list) and 1 <= len(value) <= most
        listed = self._expect(pointer, fits, value, f"a list of 1 to {most} steps", default=[])
        return self._parse_steps(pointer, listed)

    def _cases(self, pointer: Pointer, value: Any, most: int) -> list[dict[str, Any]]:
        fits = isinstance(value, list) and 1 <= len(value) <= most
        listed = self._expect(pointer, fits, value, f"a list of 1 to {most} cases", default=[])
        return [self._case((*pointer, at), case, len(listed)) for at, case in enumerate(listed)]

    def _case(self, pointer: Pointer, value: Any, count: int) -> dict[str, Any]:
        is_last = 0 < int(pointer[-1]) == count - 1
        otherwise = is_last and isinstance(value, dict) and "when" not in value
        fields = self.node(pointer, value, grammar.OTHERWISE if otherwise else grammar.CASE)
        return {"when": None, **fields}

    def _branches(
        self, pointer: Pointer, value: Any, least: int, most: int
    ) -> dict[str, tuple[StepNode, ...]]:
        branches = self._mapping(pointer, value, named=True)
        if isinstance(value, dict) and not least <= len(branches) <= most:
            self._problems.add(pointer, f"must have {least} to {most} branches")
        return {
            name: self._steps((*pointer, name), steps, grammar.MAX_STEPS_PER_LIST)
            for name, steps in branches.items()
        }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _default(kind: ValueKind) -> Any:
    """Returns the value of a key that is missing or does not fit."""
    match kind:
        case grammar.MappingValue() | grammar.BranchMap():
            return {}
        case grammar.StepList() | grammar.CaseList() | grammar.MessageList():
            return ()
        case grammar.ErrorList():
            return frozenset()
        case grammar.WordValue(words):
            return words[0]
        case _:
            return None
