"""The JSON schemas (2020-12) of messages and of the payloads of their signatures."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import jsonschema_rs

from formats.canonical_json import MAX_SAFE_INTEGER
from services.web5.dwn.errors import Code, DwnError

if TYPE_CHECKING:
    from services.web5.dwn.values import Value

Schema: TypeAlias = dict[str, Any]

ACTIONS = ("create", "update", "delete", "prune", "co-update", "co-delete", "co-prune", "read")
MAX_TAGS = 10
# Properties by which records are found are keys of database indexes, whose size is limited.
MAX_DID_CHARS = 1024
MAX_PROTOCOL_CHARS = 1024
MAX_PATH_CHARS = 512
MAX_TAG_NAME_CHARS = 128
MAX_PAGE_ENTRIES = 100
MAX_ERROR_CHARS = 200  # of a validator's message


def _object(required: Schema, optional: Schema | None = None, **more: Any) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(required),
        "properties": required | (optional or {}),
    } | more


def _array(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items} | more


def _range(bound: Schema) -> Schema:
    return _object(
        {},
        dict.fromkeys(("gt", "gte", "lt", "lte"), bound),
        minProperties=1,
        allOf=[{"not": {"required": ["gt", "gte"]}}, {"not": {"required": ["lt", "lte"]}}],
    )


TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
SIZE: Schema = {"type": "integer", "minimum": 0, "maximum": MAX_SAFE_INTEGER}
TIMESTAMP: Schema = {
    "type": "string",
    "pattern": r"^[0-9]{4}-[01][0-9]-[0-3][0-9]T([0-2][0-9]:[0-5][0-9]:[0-5][0-9]|23:59:60)"
    r"\.[0-9]{6}Z$",
}
BASE64URL: Schema = {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"}
DID: Schema = {
    "type": "string",
    "pattern": "^did:[a-z0-9]+:[A-Za-z0-9._:%-]+$",
    "maxLength": MAX_DID_CHARS,
}
DIDS: Schema = {"oneOf": [DID, _array(DID, maxItems=100)]}
PROTOCOL: Schema = {"type": "string", "maxLength": MAX_PROTOCOL_CHARS}
PATH: Schema = {
    "type": "string",
    "pattern": "^[a-zA-Z]+(/[a-zA-Z]+)*$",
    "maxLength": MAX_PATH_CHARS,
}
CONTEXT: Schema = {"type": "string", "pattern": "^[a-zA-Z0-9]+(/[a-zA-Z0-9]+)*$"}
TAG: Schema = {
    "oneOf": [
        TEXT,
        NUMBER,
        BOOLEAN,
        _array(TEXT, minItems=1, maxItems=10),
        _array(NUMBER, minItems=1, maxItems=10),
    ]
}
PERIOD = _object({}, {"from": TIMESTAMP, "to": TIMESTAMP}, minProperties=1)

JWS = _object(
    {
        "payload": BASE64URL,
        "signatures": _array(_object({"protected": BASE64URL, "signature": BASE64URL}), minItems=1),
    }
)
AUTHORIZATION = _object({"signature": JWS})


def _head(interface: str, method: str) -> Schema:
    return {
        "interface": {"const": interface},
        "method": {"const": method},
        "messageTimestamp": TIMESTAMP,
    }


def _message(descriptor: Schema, *, is_signed: bool) -> Schema:
    own = {"descriptor": descriptor}
    if is_signed:
        return _object(own | {"authorization": AUTHORIZATION})
    return _object(own, {"authorization": AUTHORIZATION})


_INVOKED = {"delegatedGrantId": TEXT, "permissionGrantId": TEXT, "protocolRole": TEXT}
GENERIC_PAYLOAD = _object({"descriptorCid": TEXT}, _INVOKED)
RECORDS_WRITE_PAYLOAD = _object(
    {"recordId": TEXT, "descriptorCid": TEXT},
    {"contextId": TEXT, "attestationCid": TEXT, "encryptionCid": TEXT} | _INVOKED,
)

_RECORD = _object(
    _head("Records", "Write")
    | {"dataCid": TEXT, "dataSize": SIZE, "dateCreated": TIMESTAMP, "dataFormat": TEXT},
    {
        "protocol": PROTOCOL,
        "protocolPath": PATH,
        "recipient": DID,
        "schema": TEXT,
        "tags": _object(
            {},
            minProperties=1,
            maxProperties=MAX_TAGS,
            propertyNames={"maxLength": MAX_TAG_NAME_CHARS},
            additionalProperties=TAG,
        ),
        "parentId": TEXT,
        "published": BOOLEAN,
        "datePublished": TIMESTAMP,
    },
    dependentRequired={
        "parentId": ["protocol"],
        "protocol": ["protocolPath"],
        "protocolPath": ["protocol"],
    },
    anyOf=[
        {"properties": {"published": {"const": True}}, "required": ["published", "datePublished"]},
        {"properties": {"published": {"const": False}}, "not": {"required": ["datePublished"]}},
    ],
)

_TAG_FILTER = {
    "oneOf": [TEXT, NUMBER, BOOLEAN, _object({"startsWith": TEXT}), _range(TEXT), _range(NUMBER)]
}
_FILTER = _object(
    {},
    {
        "protocol": TEXT,
        "protocolPath": TEXT,
        "author": DIDS,
        "attester": DID,
        "recipient": DIDS,
        "contextId": TEXT,
        "schema": TEXT,
        "tags": _object(
            {}, minProperties=1, maxProperties=MAX_TAGS, additionalProperties=_TAG_FILTER
        ),
        "recordId": TEXT,
        "parentId": TEXT,
        "published": BOOLEAN,
        "dataFormat": TEXT,
        "dataSize": _range(NUMBER),
        "dataCid": TEXT,
        "dateCreated": PERIOD,
        "datePublished": PERIOD,
        "dateUpdated": PERIOD,
    },
    minProperties=1,
) | {
    "not": {
        "required": ["datePublished", "published"],
        "properties": {"published": {"const": False}},
    }
}
_CURSOR = _object({"messageCid": TEXT, "value": TEXT})
_QUERY = _object(
    _head("Records", "Query") | {"filter": _FILTER},
    {
        "dateSort": {
            "enum": [
                "createdAscending",
                "createdDescending",
                "publishedAscending",
                "publishedDescending",
            ]
        },
        "pagination": _object({}, {"limit": SIZE | {"minimum": 1}, "cursor": _CURSOR}),
    },
)

_ACTION = _object(
    {"who": {"enum": ["anyone", "author", "recipient"]}, "can": _array({"enum": [*ACTIONS]})},
    {"of": TEXT},
)
_BOUNDS = (
    "enum minimum maximum exclusiveMinimum exclusiveMaximum minLength maxLength"
    " minItems maxItems uniqueItems minContains maxContains"
)
_BOUND: Schema = {name: {} for name in _BOUNDS.split()}
_ITEM = _object({}, {"type": {"enum": ["string", "number", "integer"]}} | _BOUND)
_TAG_TYPE = {"enum": ["string", "number", "integer", "boolean", "array"]}
_TAG_RULE = _object({}, {"type": _TAG_TYPE, "items": _ITEM, "contains": _ITEM} | _BOUND)
_RULE_SET = _object(
    {},
    {
        "$actions": _array(_ACTION, minItems=1),
        "$size": _object({}, {"min": SIZE, "max": SIZE}),
        "$tags": _object(
            {},
            {"$requiredTags": _array(TEXT), "$allowUndefinedTags": BOOLEAN},
            minProperties=1,
            additionalProperties=_TAG_RULE,
        ),
    },
    patternProperties={"^[^$]": {"$ref": "#/$defs/ruleSet"}},
)
_TYPE = _object({}, {"schema": TEXT, "dataFormats": _array(TEXT, minItems=1)})
_DEFINITION = _object(
    {
        "protocol": PROTOCOL,
        "published": BOOLEAN,
        "types": _object({}, additionalProperties=_TYPE),
        "structure": _object({}, additionalProperties={"$ref": "#/$defs/ruleSet"}),
    }
)

MESSAGES = {
    "ProtocolsConfigure": _message(
        _object(_head("Protocols", "Configure") | {"definition": _DEFINITION}), is_signed=True
    )
    | {"$defs": {"ruleSet": _RULE_SET}},
    "ProtocolsQuery": _message(
        _object(_head("Protocols", "Query"), {"filter": _object({"protocol": TEXT})}),
        is_signed=False,
    ),
    "RecordsDelete": _message(
        _object(_head("Records", "Delete") | {"recordId": TEXT, "prune": BOOLEAN}), is_signed=True
    ),
    "RecordsQuery": _message(_QUERY, is_signed=False),
    "RecordsRead": _message(
        _object(_head("Records", "Read") | {"filter": _FILTER}), is_signed=False
    ),
    "RecordsWrite": _object(
        {"recordId": TEXT, "descriptor": _RECORD, "authorization": AUTHORIZATION},
        {"contextId": CONTEXT},
        # A record has a context id if and only if it has a protocol.
        oneOf=[
            {
                "required": ["contextId"],
                "properties": {"descriptor": {"required": ["protocol"]}},
            },
            {
                "not": {"required": ["contextId"]},
                "properties": {"descriptor": {"not": {"required": ["protocol"]}}},
            },
        ],
    ),
}
PAYLOADS = {
    name: RECORDS_WRITE_PAYLOAD if name == "RecordsWrite" else GENERIC_PAYLOAD for name in MESSAGES
}


def check_message(kind: str, value: Value) -> None:
    """Raises DwnError, naming the member, if a message is not valid. ``kind``: key of MESSAGES."""
    _check(_validator("message", kind), value)


def check_payload(kind: str, value: Value) -> None:
    """Raises DwnError if the signature payload of such a message is not valid."""
    _check(_validator("payload", kind), value)


@cache
def _validator(part: str, kind: str) -> jsonschema_rs.Draft202012Validator:
    schemas = MESSAGES if part == "message" else PAYLOADS
    return jsonschema_rs.Draft202012Validator(schemas[kind])


def _check(validator: jsonschema_rs.Draft202012Validator, value: Value) -> None:
    if validator.is_valid(value):
        return
    errors = [(_is_additional(error), error) for error in validator.iter_errors(value)]
    is_additional, error = max(
        errors, key=lambda judged: (judged[0], -len(judged[1].instance_path))
    )
    code = Code.SCHEMA_ADDITIONAL_PROPERTY if is_additional else Code.SCHEMA_FAILURE
    where = "".join(f"/{step}" for step in error.instance_path) or "/"
    raise DwnError(code, f"{where}: {error.message[:MAX_ERROR_CHARS]}")


def _is_additional(error: jsonschema_rs.ValidationError) -> bool:
    """Returns whether the error is an additional member, which dwn-sdk-js reports first."""
    return isinstance(error.kind, jsonschema_rs.ValidationErrorKind.AdditionalProperties)
