"""Searches for records: translates the filters of reads and queries to SQL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from services.web5.dwn import message
from services.web5.store.dwn.messages import StoredMessage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh.data.database import Transaction, Value
    from services.web5.dwn import values
    from services.web5.dwn.records_query import RecordsQuery

Condition: TypeAlias = "tuple[str, list[Value]]"

EQUALITIES = {
    "protocol": "protocol",
    "protocolPath": "protocol_path",
    "schema": "schema",
    "recordId": "record_id",
    "parentId": "parent_id",
    "dataFormat": "data_format",
    "dataCid": "data_cid",
}
MEMBERSHIPS = {"author": "author", "recipient": "recipient"}
PERIODS = {
    "dateCreated": "date_created",
    "datePublished": "date_published",
    "dateUpdated": "message_timestamp",
}
COMPARISONS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
SORTS = {"dateCreated": "date_created", "datePublished": "date_published"}


@dataclass(frozen=True, slots=True)
class FoundRecord:
    """The newest write of a record, as a query returns it."""

    message_cid: str
    record_id: str
    raw: bytes
    data: bytes | None  # None if it is larger than MAX_INLINE_BYTES
    is_initial: bool
    sort_value: str


async def matching(tx: Transaction, tenant: str, filter: values.Value) -> list[StoredMessage]:
    """Returns the newest message, a write or a delete, of up to two matching records.

    A read must match one record; the second one proves an ambiguous filter.
    """
    newest: Condition = ("tenant = ? AND is_latest = 1 AND method <> 'Configure'", [tenant])
    where, args = _all([newest, *_conditions(tenant, filter)])
    rows = await tx.fetch(
        f"SELECT message, message_cid, data FROM dwn_message WHERE {where} LIMIT 2",  # noqa: S608
        *args,
    )
    return [
        StoredMessage(message.restore(raw, message_cid), data) for raw, message_cid, data in rows
    ]


async def page(
    tx: Transaction, tenant: str, query: RecordsQuery, reader: str | None
) -> list[FoundRecord]:
    """Returns a page of the records that ``reader`` may find, and one more entry if there are more.

    The tenant finds all records. Other readers find published records and those that they wrote or
    received; an anonymous reader (None) finds published records only.
    """
    sort = SORTS[query.sort]
    direction, beyond = ("DESC", "<") if query.descending else ("ASC", ">")
    conditions: list[Condition] = [
        ("tenant = ? AND is_latest = 1 AND method = 'Write'", [tenant]),
        *_conditions(tenant, query.filter),
    ]
    if query.published is not None:
        conditions.append(("published = ?", [int(query.published)]))
    if reader is None:
        conditions.append(("published = 1", []))
    elif reader != tenant:
        conditions.append(("(published = 1 OR author = ? OR recipient = ?)", [reader, reader]))
    if query.cursor:
        start: list[Value] = [query.cursor.value, query.cursor.message_cid]
        conditions.append((f"({sort}, message_cid) {beyond} (?, ?)", start))
    where, args = _all(conditions)
    rows = await tx.fetch(
        f"SELECT message_cid, record_id, message, data, is_initial, {sort}"  # noqa: S608
        f" FROM dwn_message WHERE {where}"
        f" ORDER BY {sort} {direction}, message_cid {direction} LIMIT ?",
        *args,
        query.limit + 1,
    )
    return [FoundRecord(*row) for row in rows]


async def initial_raws(tx: Transaction, tenant: str, record_ids: list[str]) -> dict[str, bytes]:
    """Returns the initial writes of these records, as received, by record id."""
    if not record_ids:
        return {}
    marks = ", ".join("?" * len(record_ids))
    rows = await tx.fetch(
        "SELECT record_id, message FROM dwn_message WHERE tenant = ? AND is_initial = 1"  # noqa: S608  (only marks)
        f" AND record_id IN ({marks})",
        tenant,
        *record_ids,
    )
    return dict(rows)


def _all(conditions: list[Condition]) -> Condition:
    where = " AND ".join(sql for sql, _ in conditions)
    return where, [value for _, values in conditions for value in values]


def _conditions(tenant: str, filter: values.Value) -> Iterator[Condition]:
    for name, value in filter.items():
        if name in EQUALITIES:
            yield f"{EQUALITIES[name]} = ?", [value]
        elif name in MEMBERSHIPS:
            yield from _membership(MEMBERSHIPS[name], value)
        elif name in PERIODS:
            yield from _period(PERIODS[name], value)
        elif name == "contextId":
            under = f"{value}/"
            yield "(context_id = ? OR substr(context_id, 1, ?) = ?)", [value, len(under), under]
        elif name == "published":
            yield "published = ?", [int(value)]
        elif name == "dataSize":
            yield from _bounds("data_size", value)
        elif name == "attester":
            yield "1 = 0", []  # this node stores no attestations
        elif name == "tags":
            for tag, wanted in value.items():
                yield _tag(tenant, tag, wanted)


def _membership(column: str, value: values.Value) -> Iterator[Condition]:
    """Returns the condition for one DID or any of several; an empty list matches all records."""
    dids = value if isinstance(value, list) else [value]
    if dids:
        yield f"{column} IN ({', '.join('?' * len(dids))})", dids


def _period(column: str, wanted: values.Value) -> Iterator[Condition]:
    if "from" in wanted:
        yield f"{column} >= ?", [wanted["from"]]
    if "to" in wanted:
        yield f"{column} < ?", [wanted["to"]]


def _bounds(column: str, wanted: values.Value) -> Iterator[Condition]:
    for name, bound in wanted.items():
        if isinstance(bound, str):
            yield f"{column} {COMPARISONS[name]} ?", [bound]
        else:  # the cast also fits columns of integers
            yield f"{column} {COMPARISONS[name]} CAST(? AS DOUBLE PRECISION)", [float(bound)]


def _tag(tenant: str, name: str, wanted: values.Value) -> Condition:
    """Returns the condition that the tag, or one of its values if it is a list, matches."""
    column = _column(wanted)
    if isinstance(wanted, dict) and "startsWith" in wanted:
        prefix = wanted["startsWith"]
        conditions: list[Condition] = [("substr(tag.text, 1, ?) = ?", [len(prefix), prefix])]
    elif isinstance(wanted, dict):
        conditions = list(_bounds(f"tag.{column}", wanted))
    else:
        conditions = [_is(column, wanted)]
    where, args = _all(conditions)
    return (
        "message_cid IN (SELECT tag.message_cid FROM dwn_tag AS tag"  # noqa: S608
        f" WHERE tag.tenant = ? AND tag.name = ? AND {where})",
        [tenant, name, *args],
    )


def _is(column: str, value: values.Value) -> Condition:
    if column == "text":  # the index covers the first 64 characters
        return "substr(tag.text, 1, 64) = ? AND tag.text = ?", [value[:64], value]
    return f"tag.{column} = ?", [float(value) if column == "number" else int(value)]


def _column(wanted: values.Value) -> str:
    """Returns the column of dwn_tag that holds values of this type."""
    sample = next(iter(wanted.values())) if isinstance(wanted, dict) else wanted
    if isinstance(sample, bool):
        return "truth"
    return "text" if isinstance(sample, str) else "number"
