"""The JSON Schema of definitions, for editors: made from the bounds that the check itself reads.

It tells shape only. Whether paths lead somewhere and types fit, the check tells; also what one
value says about another: ids differ, no case follows that without ``when``, no quorum is more than
the approvers.
"""

from __future__ import annotations

import json
from typing import Any

from services.orchestrator.definition import (
    cel,
    duration,
    parser,
    shape,
    step_parsers,
    values,
)
from services.orchestrator.definition.check.waits import MAX_SUBJECT
from services.orchestrator.definition.workflow import MAX_ITEMS

DRAFT = "https://json-schema.org/draft/2020-12/schema"
TITLE = "Workflow of Anya Mesh"
TEMPLATE = r"\{\{"  # what a text that stands for another value has somewhere


def schema_text() -> str:
    """As it is published."""
    return json.dumps(schema(), indent=2) + "\n"


def schema() -> dict[str, Any]:
    top = {
        "id": _ref("id"),
        "name": {**_ref("text"), "maxLength": parser.MAX_NAME},
        "deadline": _ref("duration"),
        "steps": _ref("steps"),
    }
    document = _object(top, required=("id", "name", "steps"))
    return {"$schema": DRAFT, "title": TITLE, **document, "$defs": _definitions()}


def _definitions() -> dict[str, Any]:
    mapping = {"type": "object"}
    return {
        "id": {
            "type": "string",
            "pattern": f"^{shape.ID}$",
            "not": {"enum": sorted(shape.RESERVED | shape.OWN)},
        },
        "duration": {"type": "string", "pattern": f"^{duration.PATTERN}$"},
        "text": {"type": "string", "pattern": shape.TEXT},
        "template": {"type": "string", "pattern": TEMPLATE},
        "condition": {**_ref("text"), "maxLength": cel.MAX_LENGTH},
        "errors": {"type": "array", "items": {"type": "string", "pattern": f"^{shape.ERROR}$"}},
        "named": {"type": "object", "propertyNames": _ref("id")},
        "mapping": mapping,
        "concurrency": _integer(1, parser.MAX_CONCURRENCY),
        "retry": _retry(),
        "event": {
            "type": "string",
            "maxLength": step_parsers.MAX_EVENT,
            "pattern": f"^{step_parsers.EVENT}$",
        },
        "on_error": _object({"errors": _ref("errors"), "steps": _ref("steps")}),
        "steps": {
            "type": "array",
            "minItems": 1,
            "maxItems": parser.MAX_STEPS_PER_LIST,
            "items": {"anyOf": [_call_step(), _sub_workflow(), *map(_step, parser.KINDS)]},
        },
    }


def _call_step() -> dict[str, Any]:
    compensate = _object(
        {**_call(), "retry": _ref("retry"), "timeout": _ref("duration")}, required=parser.CALL[:3]
    )
    properties = {
        "id": _ref("id"),
        "condition": _ref("condition"),
        **_call(),
        "output_mapping": _ref("named"),
        "retry": _ref("retry"),
        "timeout": _ref("duration"),
        "on_error": _ref("on_error"),
        "compensate": compensate,
        "payment": _ref("text"),
    }
    return _object(properties, required=("id", *parser.CALL))


def _call() -> dict[str, Any]:
    return {
        "protocol": _ref("text"),
        "operation": _ref("text"),
        "input_mapping": _ref("mapping"),
    }


def _sub_workflow() -> dict[str, Any]:
    properties = {
        "id": _ref("id"),
        "condition": _ref("condition"),
        "workflow": _ref("id"),
        "input_mapping": _ref("mapping"),
        "output_mapping": _ref("named"),
        "on_error": _ref("on_error"),
        "payment": _ref("text"),
    }
    return _object(properties, required=("id", *parser.SUB_WORKFLOW))


def _step(kind: str) -> dict[str, Any]:
    properties = {"id": _ref("id"), "condition": _ref("condition"), kind: _ACTIONS[kind]()}
    if kind in parser.CATCHING:
        properties["on_error"] = _ref("on_error")
    return _object(properties, required=("id", kind))


def _switch() -> dict[str, Any]:
    case = _object({"when": _ref("condition"), "steps": _ref("steps")}, required=("steps",))
    otherwise = {"contains": {"not": {"required": ["when"]}}, "minContains": 0, "maxContains": 1}
    return {
        "type": "array",
        "minItems": 1,
        "maxItems": shape.MAX_BRANCHES,
        "prefixItems": [{"required": ["when"]}],
        "items": True,
        "allOf": [{"items": case}, otherwise],
    }


def _wait() -> dict[str, Any]:
    time = {"type": "string", "pattern": f"^{values.TIME}$"}
    until = {"anyOf": [time, _ref("template")]}
    properties = {"duration": _ref("duration"), "until": until}
    return {**_object(properties), "minProperties": 1, "maxProperties": 1}


def _wait_for() -> dict[str, Any]:
    names = {
        "type": "array",
        "minItems": 2,
        "maxItems": shape.MAX_BRANCHES,
        "uniqueItems": True,
        "items": {"anyOf": [_ref("id"), _object({"event": _ref("event")}, required=("event",))]},
    }
    properties = {
        "signal": _ref("id"),
        "event": _ref("event"),
        "any": names,
        "all": names,
        "correlation": _ref("text"),
        "timeout": _ref("duration"),
        "on_timeout": {"enum": ["fail", "continue"]},
    }
    one = [{"required": [kind]} for kind in step_parsers.SIGNALS]
    ends = {"properties": {"on_timeout": {"const": "continue"}}, "required": ["on_timeout"]}
    timed = {"if": ends, "then": {"required": ["timeout"]}}
    return {**_object(properties), "oneOf": one, **timed}


def _emit() -> dict[str, Any]:
    own = {"not": {"pattern": f"^{step_parsers.RESERVED.replace('.', '[.]')}"}}
    properties = {
        "type": {"allOf": [_ref("event"), own]},
        "subject": {"anyOf": [{**_ref("text"), "maxLength": MAX_SUBJECT}, _ref("template")]},
        "data": _ref("mapping"),
    }
    return _object(properties, required=("type",))


def _approval() -> dict[str, Any]:
    most = step_parsers.MAX_APPROVERS
    listed = {"type": "array", "minItems": 1, "maxItems": most, "uniqueItems": True}
    did = {"anyOf": [{"type": "string", "pattern": f"^{step_parsers.DID}$"}, _ref("template")]}
    properties = {
        "approvers": {"anyOf": [_ref("template"), {**listed, "items": did}]},
        "quorum": _integer(1, most),
        "text": _ref("text"),
        "values": _ref("named"),
        "timeout": _ref("duration"),
    }
    return _object(properties, required=("approvers", "quorum", "text"))


def _parallel() -> dict[str, Any]:
    branches = {
        **_ref("named"),
        "minProperties": 2,
        "maxProperties": shape.MAX_BRANCHES,
        "additionalProperties": _ref("steps"),
    }
    properties = {
        "wait_for": {"enum": ["all", "first"]},
        "max_concurrency": _ref("concurrency"),
        "branches": branches,
    }
    return _object(properties, required=("branches",))


def _for_each() -> dict[str, Any]:
    properties = {
        "items": {"anyOf": [{"type": "array", "maxItems": MAX_ITEMS}, _ref("template")]},
        "max_concurrency": _ref("concurrency"),
        "on_item_error": {"enum": ["fail", "continue"]},
        "steps": _ref("steps"),
        "collect": _ref("named"),
    }
    return _object(properties, required=("items", "steps"))


def _end() -> dict[str, Any]:
    properties = {"outcome": {"enum": list(parser.OUTCOMES)}, "reason": _ref("text")}
    return _object(properties, required=("outcome",))


def _retry() -> dict[str, Any]:
    return _object(
        {
            "max_attempts": _integer(1, parser.MAX_ATTEMPTS),
            "backoff": _ref("duration"),
            "max_delay": _ref("duration"),
            "jitter": {"type": "number", "minimum": 0, "maximum": 1},
            "max_duration": _ref("duration"),
            "errors": _ref("errors"),
        }
    )


_ACTIONS = {
    "set": lambda: _ref("named"),
    "switch": _switch,
    "wait": _wait,
    "wait_for": _wait_for,
    "emit": _emit,
    "approval": _approval,
    "parallel": _parallel,
    "for_each": _for_each,
    "end": _end,
}


def _object(properties: dict[str, Any], required: tuple[str, ...] = ()) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        found["required"] = list(required)
    return {**found, "additionalProperties": False}


def _integer(least: int, most: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}
