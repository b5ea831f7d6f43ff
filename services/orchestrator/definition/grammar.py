"""The grammar of definitions: the keys of each node, and the kind and limits of each value.

The parser reads definitions by these tables, and the JSON Schema is generated from them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from services.orchestrator.definition.cel import MAX_EXPRESSION_CHARS
from services.orchestrator.definition.problems import shown
from services.orchestrator.definition.values import TIME
from services.orchestrator.definition.workflow import MAX_ITEMS

MAX_ID_CHARS = 48
ID = rf"[a-z][a-z0-9_]{{0,{MAX_ID_CHARS - 1}}}"
# CEL keeps these words for itself: they cannot be part of a path in a condition.
# fmt: off
RESERVED = frozenset([
    "as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in",
    "let", "loop", "namespace", "null", "package", "return", "true", "var", "void", "while",
])
# fmt: on
ENGINE_NAMES = frozenset(["compensate", "on_error"])  # parts of paths that the engine makes

ERROR = r"[A-Z][A-Z0-9_]{0,63}"
TEXT_CHARACTER = r"[^ \t\r\n]"  # each text has one
EVENT = r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*"
MAX_EVENT_TYPE_CHARS = 100
ENGINE_EVENTS = "orchestrator."  # the types of the engine's own events begin with it
MAX_EVENT_BYTES = 64 * 1024  # of JSON in an event
MAX_SUBJECT_CHARS = 200
DID = r"did:[a-z0-9]+:[A-Za-z0-9._:%-]{1,2000}"
MAX_APPROVERS = 32
MAX_BRANCHES = 32  # of a switch or a parallel, and names to wait for
MAX_STEPS_PER_LIST = 100
MAX_NAME_CHARS = 200
MAX_CONCURRENCY = 64
MAX_ATTEMPTS = 1000
OUTCOMES = ("succeeded", "failed", "refused")


def is_id(text: str) -> bool:
    """Returns whether a text can be an id."""
    return re.fullmatch(ID, text) is not None and text not in RESERVED | ENGINE_NAMES


def not_an_id(text: str) -> str:
    """Returns the message for a text that cannot be an id."""
    if text in RESERVED:
        return f"{text!r} is reserved by the language of conditions; choose another name"
    if text in ENGINE_NAMES:
        return f"{text!r} is reserved by the engine; choose another name"
    return (
        f"{shown(text)} must be 1 to {MAX_ID_CHARS} of a-z, 0-9 and _, beginning with a letter"
        " (names with a leading _ are the engine's)"
    )


# Kinds of values.


@dataclass(frozen=True, slots=True)
class TextValue:
    max_length: int | None = None  # characters


@dataclass(frozen=True, slots=True)
class ConditionValue:
    """CEL. The check, which knows the place of each mistake, limits its length."""

    max_length: int = MAX_EXPRESSION_CHARS


@dataclass(frozen=True, slots=True)
class TemplateValue:
    """A text with paths. Without any the check requires the pattern or the length."""

    pattern: str | None = None
    max_length: int | None = None


@dataclass(frozen=True, slots=True)
class IdValue:
    pass


@dataclass(frozen=True, slots=True)
class DurationValue:
    pass


@dataclass(frozen=True, slots=True)
class IntegerValue:
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class FractionValue:
    """A number from 0 to 1."""


@dataclass(frozen=True, slots=True)
class WordValue:
    """One of a few words, the first of which is the default."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ErrorList:
    """Codes of gRPC and reasons of the mesh."""


@dataclass(frozen=True, slots=True)
class MappingValue:
    """An object whose values may be templates."""

    named: bool = False  # its keys are ids


@dataclass(frozen=True, slots=True)
class EventType:
    engine_events: bool = True  # the engine's own types are allowed


@dataclass(frozen=True, slots=True)
class MessageList:
    """Signals and events: at least two, all different."""

    most: int = MAX_BRANCHES


@dataclass(frozen=True, slots=True)
class ApproverList:
    """Different DIDs, or a path to a list of DIDs."""

    most: int = MAX_APPROVERS


@dataclass(frozen=True, slots=True)
class ItemList:
    """A list, or a path to one. The check counts the items."""

    most: int = MAX_ITEMS


@dataclass(frozen=True, slots=True)
class StepList:
    most: int = MAX_STEPS_PER_LIST


@dataclass(frozen=True, slots=True)
class CaseList:
    """Cases; the last of several may lack its condition."""

    most: int = MAX_BRANCHES


@dataclass(frozen=True, slots=True)
class BranchMap:
    """Steps by the name of their branch, which is an id."""

    least: int = 2
    most: int = MAX_BRANCHES


@dataclass(frozen=True, slots=True)
class KeyRule:
    name: str
    value: ValueKind
    required: bool = False


@dataclass(frozen=True, slots=True)
class NodeRule:
    """An object with these keys and no others."""

    keys: tuple[KeyRule, ...]
    exactly_one: tuple[str, ...] = ()  # exactly one of these keys is there
    # A key, the word that it has, and another key that must then be there.
    needs: tuple[str, str, str] | None = None


ValueKind: TypeAlias = (
    "TextValue | ConditionValue | TemplateValue | IdValue | DurationValue | IntegerValue"
    " | FractionValue | WordValue | ErrorList | MappingValue | EventType | MessageList"
    " | ApproverList | ItemList | StepList | CaseList | BranchMap | NodeRule"
)


def _required(**values: ValueKind) -> tuple[KeyRule, ...]:
    return tuple(KeyRule(name, value, required=True) for name, value in values.items())


def _optional(**values: ValueKind) -> tuple[KeyRule, ...]:
    return tuple(KeyRule(name, value) for name, value in values.items())


TEXT = TextValue()
IDENTIFIER = IdValue()
CONDITION = ConditionValue()
DURATION = DurationValue()
ERRORS = ErrorList()
MAPPING = MappingValue()
NAMED = MappingValue(named=True)
EVENT_TYPE = EventType()
MESSAGES = MessageList()
CONCURRENCY = IntegerValue(1, MAX_CONCURRENCY)
STEPS = StepList()

WORKFLOW = NodeRule(
    (
        *_required(id=IDENTIFIER, name=TextValue(MAX_NAME_CHARS), steps=STEPS),
        *_optional(deadline=DURATION),
    )
)

RETRY = NodeRule(
    _optional(
        max_attempts=IntegerValue(1, MAX_ATTEMPTS),
        backoff=DURATION,
        max_delay=DURATION,
        jitter=FractionValue(),
        max_duration=DURATION,
        errors=ERRORS,
    )
)
CATCH = NodeRule(_optional(errors=ERRORS, steps=STEPS))
CASE = NodeRule(_required(when=CONDITION, steps=STEPS))
OTHERWISE = NodeRule(_required(steps=STEPS))  # the last case, without a condition
NAMED_EVENT = NodeRule(_required(event=EVENT_TYPE))

CALL = _required(protocol=TEXT, operation=TEXT, input_mapping=MAPPING)
COMPENSATE = NodeRule((*CALL, *_optional(retry=RETRY, timeout=DURATION)))

WAIT = NodeRule(
    _optional(duration=DURATION, until=TemplateValue(pattern=TIME)),
    exactly_one=("duration", "until"),
)
WAIT_FOR = NodeRule(
    _optional(
        signal=IDENTIFIER,
        event=EVENT_TYPE,
        any=MESSAGES,
        all=MESSAGES,
        correlation=TEXT,
        timeout=DURATION,
        on_timeout=WordValue(("fail", "continue")),
    ),
    exactly_one=("signal", "event", "any", "all"),
    needs=("on_timeout", "continue", "timeout"),
)
EMIT = NodeRule(
    (
        *_required(type=EventType(engine_events=False)),
        *_optional(subject=TemplateValue(max_length=MAX_SUBJECT_CHARS), data=MAPPING),
    )
)
APPROVAL = NodeRule(
    (
        *_required(approvers=ApproverList(), quorum=IntegerValue(1, MAX_APPROVERS), text=TEXT),
        *_optional(values=NAMED, timeout=DURATION),
    )
)
PARALLEL = NodeRule(
    (
        *_required(branches=BranchMap()),
        *_optional(wait_for=WordValue(("all", "first")), max_concurrency=CONCURRENCY),
    )
)
FOR_EACH = NodeRule(
    (
        *_required(items=ItemList(), steps=STEPS),
        *_optional(
            collect=NAMED,
            max_concurrency=CONCURRENCY,
            on_item_error=WordValue(("fail", "continue")),
        ),
    )
)
END = NodeRule((*_required(outcome=WordValue(OUTCOMES)), *_optional(reason=TEXT)))


def _step(action: tuple[KeyRule, ...], *optional: KeyRule) -> NodeRule:
    condition = _optional(condition=CONDITION)
    return NodeRule((*_required(id=IDENTIFIER), *action, *condition, *optional))


_ON_ERROR = _optional(on_error=CATCH)
_PAYMENT = _optional(payment=TEXT)

CALL_STEP = _step(
    (*CALL, *_required(output_mapping=NAMED)),
    *_optional(retry=RETRY, timeout=DURATION),
    *_ON_ERROR,
    *_optional(compensate=COMPENSATE),
    *_PAYMENT,
)
SUB_WORKFLOW_STEP = _step(
    _required(workflow=IDENTIFIER, input_mapping=MAPPING, output_mapping=NAMED),
    *_ON_ERROR,
    *_PAYMENT,
)
# The other kinds of steps, each by the key that makes a step one.
STEP_KINDS = {
    "set": _step(_required(set=NAMED)),
    "switch": _step(_required(switch=CaseList())),
    "wait": _step(_required(wait=WAIT)),
    "wait_for": _step(_required(wait_for=WAIT_FOR), *_ON_ERROR),
    "emit": _step(_required(emit=EMIT)),
    "approval": _step(_required(approval=APPROVAL), *_ON_ERROR),
    "parallel": _step(_required(parallel=PARALLEL), *_ON_ERROR),
    "for_each": _step(_required(for_each=FOR_EACH), *_ON_ERROR),
    "end": _step(_required(end=END)),
}
CALL_KEYS = tuple(key.name for key in CALL_STEP.keys if key.required and key.name != "id")
