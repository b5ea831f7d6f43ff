"""The JSON Schema of definitions, for editors, generated from the grammar.

The schema describes one value at a time. Only the check sees whether paths exist and types fit, and
what one value says about another: ids differ, only the last case may lack ``when``, and a quorum is
not larger than the number of approvers.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from services.orchestrator.definition import duration, grammar

if TYPE_CHECKING:
    from services.orchestrator.definition.grammar import NodeRule, ValueKind

DRAFT = "https://json-schema.org/draft/2020-12/schema"
TITLE = "Workflow of Anya Mesh"
TEMPLATE = r"\{\{"  # somewhere in a text that stands for another value

# Kinds that the schema defines once, under these names.
_SHARED: dict[ValueKind, str] = {
    grammar.IDENTIFIER: "id",
    grammar.DURATION: "duration",
    grammar.TEXT: "text",
    grammar.CONDITION: "condition",
    grammar.ERRORS: "errors",
    grammar.NAMED: "named",
    grammar.MAPPING: "mapping",
    grammar.CONCURRENCY: "concurrency",
    grammar.RETRY: "retry",
    grammar.EVENT_TYPE: "event",
    grammar.MESSAGES: "messages",
    grammar.CATCH: "on_error",
    grammar.STEPS: "steps",
}


def schema_text() -> str:
    """Returns the schema as it is published."""
    return json.dumps(schema(), indent=2) + "\n"


def schema() -> dict[str, Any]:
    """Returns the schema."""
    shared = {name: _define(kind) for kind, name in _SHARED.items()}
    shared["template"] = {"type": "string", "pattern": TEMPLATE}
    document = _object(grammar.WORKFLOW)
    return {"$schema": DRAFT, "title": TITLE, **document, "$defs": shared}


def _describe(kind: ValueKind) -> dict[str, Any]:
    return _ref(_SHARED[kind]) if kind in _SHARED else _define(kind)


def _define(kind: ValueKind) -> dict[str, Any]:
    match kind:
        case grammar.TextValue(None):
            return {"type": "string", "pattern": grammar.TEXT_CHARACTER}
        case grammar.TextValue(int(most)) | grammar.ConditionValue(most):
            return {**_ref("text"), "maxLength": most}
        case grammar.TemplateValue(str(pattern)):
            return {"anyOf": [_text(pattern), _ref("template")]}
        case grammar.TemplateValue(None, most):
            return {"anyOf": [{**_ref("text"), "maxLength": most}, _ref("template")]}
        case grammar.IdValue():
            reserved = sorted(grammar.RESERVED | grammar.ENGINE_NAMES)
            return {**_text(grammar.ID), "not": {"enum": reserved}}
        case grammar.DurationValue():
            return _text(duration.PATTERN)
        case grammar.IntegerValue(least, most):
            return {"type": "integer", "minimum": least, "maximum": most}
        case grammar.FractionValue():
            return {"type": "number", "minimum": 0, "maximum": 1}
        case grammar.WordValue(words):
            return {"enum": list(words)}
        case grammar.ErrorList():
            return {"type": "array", "items": _text(grammar.ERROR)}
        case grammar.MappingValue(named):
            names = {"propertyNames": _ref("id")} if named else {}
            return {"type": "object", **names}
        case grammar.EventType(engine_events=True):
            return {**_text(grammar.EVENT), "maxLength": grammar.MAX_EVENT_TYPE_CHARS}
        case grammar.EventType():
            engine = grammar.ENGINE_EVENTS.replace(".", "[.]")
            return {"allOf": [_ref("event"), {"not": {"pattern": f"^{engine}"}}]}
        case grammar.NodeRule():
            return _object(kind)
        case _:
            return _define_list(kind)


def _define_list(kind: ValueKind) -> dict[str, Any]:
    """Describes the kinds that hold several values."""
    match kind:
        case grammar.MessageList(most):
            item = {"anyOf": [_ref("id"), _object(grammar.NAMED_EVENT)]}
            return {**_list(2, most, item), "uniqueItems": True}
        case grammar.ApproverList(most):
            did = {"anyOf": [_text(grammar.DID), _ref("template")]}
            listed = {**_list(1, most, did), "uniqueItems": True}
            return {"anyOf": [_ref("template"), listed]}
        case grammar.ItemList(most):
            return {"anyOf": [{"type": "array", "maxItems": most}, _ref("template")]}
        case grammar.StepList(most):
            kinds = (grammar.CALL_STEP, grammar.SUB_WORKFLOW_STEP, *grammar.STEP_KINDS.values())
            return _list(1, most, {"anyOf": [_object(kind) for kind in kinds]})
        case grammar.CaseList(most):
            return _cases(most)
        case grammar.BranchMap(least, most):
            size = {"minProperties": least, "maxProperties": most}
            return {**_ref("named"), **size, "additionalProperties": _ref("steps")}
        case _:
            raise TypeError(f"the grammar has no {kind}")


def _cases(most: int) -> dict[str, Any]:
    """Describes cases of which the first has ``when``, and at most one of the others lacks it."""
    case = {**_object(grammar.CASE), "required": ["steps"]}
    otherwise = {"contains": {"not": {"required": ["when"]}}, "minContains": 0, "maxContains": 1}
    first = {"prefixItems": [{"required": ["when"]}]}
    return {**_list(1, most, True), **first, "allOf": [{"items": case}, otherwise]}


def _object(rule: NodeRule) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "object",
        "properties": {key.name: _describe(key.value) for key in rule.keys},
    }
    if required := [key.name for key in rule.keys if key.required]:
        found["required"] = required
    found["additionalProperties"] = False
    if rule.exactly_one:
        found["oneOf"] = [{"required": [name]} for name in rule.exactly_one]
    if rule.needs is not None:
        name, word, needed = rule.needs
        found["if"] = {"properties": {name: {"const": word}}, "required": [name]}
        found["then"] = {"required": [needed]}
    return found


def _list(least: int, most: int, items: dict[str, Any] | bool) -> dict[str, Any]:
    return {"type": "array", "minItems": least, "maxItems": most, "items": items}


def _text(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^{pattern}$"}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}
