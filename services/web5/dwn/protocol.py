"""Protocols: the record types under one URL, their hierarchy, and the permissions of each path."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import jsonschema_rs

from services.web5.dwn import url, values
from services.web5.dwn.errors import Code, DwnError, NotSupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from services.web5.dwn.values import Value

MAX_NESTING = 10
OF_THE_RECIPIENT = frozenset({"co-update", "co-delete", "co-prune"})


@dataclass(frozen=True, slots=True)
class ActionRule:
    """A permission on the records of a path, for one class of actors."""

    who: str  # "anyone", "author" or "recipient"
    of: str | None  # path of the record whose author or recipient is meant
    can: frozenset[str]


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The constraints of a protocol on the records of one path."""

    path: str
    rules: tuple[ActionRule, ...]
    min_size: int  # bytes of data
    max_size: int | None
    tags: jsonschema_rs.Draft202012Validator | None


@dataclass(frozen=True, slots=True)
class RecordType:
    schema: str | None  # None: any
    data_formats: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Protocol:
    url: str
    published: bool
    types: Mapping[str, RecordType]
    rule_sets: Mapping[str, RuleSet]  # by path


def parse(definition: Value) -> Protocol:
    """Returns the protocol of a definition that fits its JSON schema.

    Raises DwnError if its URLs, types, sizes, tags or rules are not valid.
    """
    url.check_protocol(definition["protocol"])
    types = {name: _type(declared) for name, declared in definition["types"].items()}
    rule_sets = {}
    for path, rules in _walk(definition["structure"], ()):
        if path[-1] not in types:
            raise DwnError(
                Code.PROTOCOLS_CONFIGURE_INVALID_RECORD_TYPE,
                f"Rule set {path[-1]} is not declared as an allowed type in the protocol"
                " definition.",
            )
        rule_sets["/".join(path)] = _rule_set("/".join(path), rules)
    return Protocol(definition["protocol"], definition["published"], types, rule_sets)


@lru_cache(maxsize=256)
def of(configure: bytes) -> Protocol:
    """Returns the protocol of a stored ProtocolsConfigure. Cached."""
    return parse(values.parse(configure)["descriptor"]["definition"])


def refuse_unserved(structure: Value) -> None:
    """Raises NotSupportedError for roles and encryption, which this node does not enforce.

    Called before the schema check, which knows neither, so that the reply names the cause.
    """
    if not isinstance(structure, dict):
        return
    for name, value in structure.items():
        is_role = name == "$actions" and isinstance(value, list) and any(map(_has_role, value))
        if is_role or name in {"$role", "$encryption"}:
            raise NotSupportedError("roles and encryption in protocols are not served by this node")
        if not name.startswith("$"):
            refuse_unserved(value)


def _has_role(action: Value) -> bool:
    return isinstance(action, dict) and "role" in action


def _type(declared: Value) -> RecordType:
    if "schema" in declared:
        url.check_schema(declared["schema"])
    formats = declared.get("dataFormats")
    return RecordType(declared.get("schema"), None if formats is None else tuple(formats))


def _walk(structure: Value, path: Sequence[str]) -> Iterator[tuple[Sequence[str], Value]]:
    if len(path) > MAX_NESTING:
        raise DwnError(
            Code.PROTOCOLS_CONFIGURE_DEPTH_EXCEEDED, "Record nesting depth exceeded 10 levels."
        )
    for name, rules in structure.items():
        if not name.startswith("$"):
            yield (*path, name), rules
            yield from _walk(rules, (*path, name))


def _rule_set(path: str, rules: Value) -> RuleSet:
    size = rules.get("$size", {})
    smallest, largest = size.get("min", 0), size.get("max")
    if largest is not None and largest < smallest:
        raise DwnError(
            Code.PROTOCOLS_CONFIGURE_INVALID_SIZE,
            f"Invalid size range found: max limit {largest} less than min limit {smallest}"
            f" at protocol path '{path}'",
        )
    actions = tuple(_rule(action) for action in rules.get("$actions", []))
    _check_distinct(actions)
    return RuleSet(path, actions, smallest, largest, _tags(path, rules.get("$tags")))


def _rule(action: Value) -> ActionRule:
    rule = ActionRule(action["who"], action.get("of"), frozenset(action["can"]))
    if rule.who == "anyone" and rule.of is not None:
        raise DwnError(
            Code.PROTOCOLS_CONFIGURE_OF_NOT_ALLOWED, "'of' is not allowed together with 'anyone'"
        )
    if rule.who == "author" and rule.of is None:
        raise DwnError(
            Code.PROTOCOLS_CONFIGURE_MISSING_OF,
            "'of' is required when 'author' is specified as 'who'",
        )
    if rule.who == "recipient" and rule.of is None and not rule.can <= OF_THE_RECIPIENT:
        raise DwnError(
            Code.PROTOCOLS_CONFIGURE_RECIPIENT_OF,
            "Rules for `recipient` without `of` property must have `can` containing only"
            " `co-update`, `co-delete`, and `co-prune`.",
        )
    if "create" not in rule.can and "update" in rule.can:
        raise DwnError(Code.PROTOCOLS_CONFIGURE_UPDATE_WITHOUT_CREATE, "'update' requires 'create'")
    if "create" not in rule.can and "delete" in rule.can:
        raise DwnError(Code.PROTOCOLS_CONFIGURE_DELETE_WITHOUT_CREATE, "'delete' requires 'create'")
    return rule


def _check_distinct(rules: Iterable[ActionRule]) -> None:
    seen = set()
    for rule in rules:
        if (rule.who, rule.of) in seen:
            raise DwnError(
                Code.PROTOCOLS_CONFIGURE_DUPLICATE_ACTOR,
                f"More than one action rule per actor {rule.who} of {rule.of} not allowed within"
                " a rule set",
            )
        seen.add((rule.who, rule.of))


def _tags(path: str, tags: Value) -> jsonschema_rs.Draft202012Validator | None:
    if tags is None:
        return None
    properties = {name: rule for name, rule in tags.items() if not name.startswith("$")}
    schema = {
        "type": "object",
        "properties": properties,
        "required": tags.get("$requiredTags", []),
        "additionalProperties": tags.get("$allowUndefinedTags", False),
    }
    try:
        return jsonschema_rs.Draft202012Validator(schema)
    except jsonschema_rs.ValidationError as error:
        raise DwnError(
            Code.PROTOCOLS_CONFIGURE_INVALID_TAG_SCHEMA,
            f"tags schema validation error at {path}/$tags: {error.message[:200]}",
        ) from None
