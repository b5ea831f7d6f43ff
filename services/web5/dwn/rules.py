"""The checks of a protocol: a write must fit its path, and an action must be allowed by a rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.web5.dwn.errors import Code, DwnError, UnauthorizedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from services.web5.dwn.protocol import ActionRule, Protocol, RuleSet
    from services.web5.dwn.records_write import RecordsWrite


def check_write(protocol: Protocol, write: RecordsWrite, parent: RecordsWrite | None) -> RuleSet:
    """Returns the rule set of the write's path. Raises DwnError if the write does not fit it.

    ``parent``: the latest write of the parent record, or None if the write has no parent or the
    parent does not exist in this protocol.
    """
    _check_type(protocol, write)
    _check_place(write, parent)
    rule_set = protocol.rule_sets.get(write.protocol_path)
    if rule_set is None:
        raise DwnError(
            Code.PROTOCOL_MISSING_RULE_SET,
            f"No rule set defined for protocolPath {write.protocol_path}",
        )
    _check_size(rule_set, write)
    _check_tags(protocol, rule_set, write)
    return rule_set


def authorize(
    rule_set: RuleSet,
    actions: Iterable[str],
    author: str | None,
    chain: Sequence[RecordsWrite],
    *,
    kind: str,
) -> None:
    """Raises UnauthorizedError unless a rule allows ``author`` one of the actions.

    ``chain`` holds the initial writes from the root to the record, or to its parent if the record
    does not exist yet. Callers permit the tenant, and readers without need of a rule, beforehand.
    """
    if not rule_set.rules:
        raise UnauthorizedError(
            Code.PROTOCOL_ACTION_RULES_NOT_FOUND,
            f"no action rule defined for {kind}, {author} is unauthorized",
        )
    wanted = frozenset(actions)
    if not any(rule.can & wanted and _is_met(rule, author, chain) for rule in rule_set.rules):
        raise UnauthorizedError(
            Code.PROTOCOL_ACTION_NOT_ALLOWED,
            f"Inbound message action {kind} by author {author} not allowed.",
        )


def changes(action: str, author: str | None, initial: RecordsWrite | None) -> Sequence[str]:
    """Returns the actions of which ``author`` needs one to update, delete or prune the record.

    Returns none if the record does not exist.
    """
    if initial is None:
        return ()
    if author == initial.author:
        return (action, f"co-{action}")
    return (f"co-{action}",)


def _is_met(rule: ActionRule, author: str | None, chain: Sequence[RecordsWrite]) -> bool:
    if rule.who == "anyone":
        return True
    if author is None or not chain:
        return False
    if rule.of is None:  # of this record
        return chain[-1].recipient == author
    for record in chain:
        if record.protocol_path == rule.of:
            return author == (record.author if rule.who == "author" else record.recipient)
    return False


def _check_type(protocol: Protocol, write: RecordsWrite) -> None:
    name = write.protocol_path.rpartition("/")[2]
    declared = protocol.types.get(name)
    if declared is None:
        raise DwnError(
            Code.PROTOCOL_INVALID_TYPE, f"record with type {name} not allowed in protocol"
        )
    schema, data_format = write.descriptor.get("schema"), write.descriptor["dataFormat"]
    if declared.schema is not None and declared.schema != schema:
        raise DwnError(
            Code.PROTOCOL_INVALID_SCHEMA,
            f"type '{name}' must have schema '{declared.schema}', instead has '{schema}'",
        )
    if declared.data_formats is not None and data_format not in declared.data_formats:
        raise DwnError(
            Code.PROTOCOL_INCORRECT_DATA_FORMAT,
            f"type '{name}' must have data format in ({','.join(declared.data_formats)}),"
            f" instead has '{data_format}'",
        )


def _check_place(write: RecordsWrite, parent: RecordsWrite | None) -> None:
    above, _, name = write.protocol_path.rpartition("/")
    if write.parent_id is None:
        if above:
            raise DwnError(
                Code.PROTOCOL_PARENTLESS_INCORRECT_PATH,
                f"Declared protocol path '{write.protocol_path}' is not valid for records with"
                " no parent'.",
            )
        return
    if parent is None or f"{parent.protocol_path}/{name}" != write.protocol_path:
        raise DwnError(
            Code.PROTOCOL_INCORRECT_PATH,
            "Could not find matching parent record to verify declared protocol path"
            f" '{write.protocol_path}'.",
        )
    expected = f"{parent.context_id}/{write.record_id}"
    if write.context_id != expected:
        raise DwnError(
            Code.PROTOCOL_INCORRECT_CONTEXT_ID,
            f"Declared contextId '{write.context_id}' is not the same as expected: '{expected}'.",
        )


def _check_size(rule_set: RuleSet, write: RecordsWrite) -> None:
    if write.data_size < rule_set.min_size:
        raise DwnError(
            Code.PROTOCOL_MIN_SIZE_INVALID,
            f"data size {write.data_size} is less than allowed {rule_set.min_size}",
        )
    if rule_set.max_size is not None and write.data_size > rule_set.max_size:
        raise DwnError(
            Code.PROTOCOL_MAX_SIZE_INVALID,
            f"data size {write.data_size} is more than allowed {rule_set.max_size}",
        )


def _check_tags(protocol: Protocol, rule_set: RuleSet, write: RecordsWrite) -> None:
    tags = write.descriptor.get("tags", {})
    if rule_set.tags is None or rule_set.tags.is_valid(tags):
        return
    error = next(iter(rule_set.tags.iter_errors(tags)))
    raise DwnError(
        Code.PROTOCOL_TAGS_INVALID_SCHEMA,
        f"tags schema validation error: {protocol.url}/{rule_set.path}/$tags:"
        f" {error.message[:200]}",
    )
