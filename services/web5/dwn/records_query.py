"""RecordsQuery: finds the records that match a filter, page by page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.web5.dwn import message, records_read, timestamp
from services.web5.dwn.errors import Code, DwnError
from services.web5.dwn.schemas import MAX_PAGE_ENTRIES

if TYPE_CHECKING:
    from datetime import datetime

    from services.web5.dwn.message import Message
    from services.web5.dwn.values import Value
    from services.web5.proof import Signer


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last entry of the previous page: its sort value, and its message CID to break ties."""

    value: str
    message_cid: str


@dataclass(frozen=True, slots=True)
class RecordsQuery:
    filter: Value
    sort: str  # "dateCreated" or "datePublished"
    descending: bool
    limit: int  # entries, 1 to MAX_PAGE_ENTRIES
    cursor: Cursor | None

    @property
    def published(self) -> bool | None:
        """True for published records only, False for unpublished ones only, None for both."""
        if "datePublished" in self.filter or self.sort == "datePublished":
            return True
        published: bool | None = self.filter.get("published")
        return published


def parse(query: Message) -> RecordsQuery:
    """Returns the query of a message. Raises DwnError if filter or sort order are not valid."""
    descriptor = query.descriptor
    filter = descriptor["filter"]
    sort = descriptor.get("dateSort", "createdAscending")
    records_read.check_filter(filter)
    if filter.get("published") is False and sort.startswith("published"):
        raise DwnError(
            Code.RECORDS_QUERY_SORT_INVALID,
            f"queries must not filter for `published:false` and sort by {sort}",
        )
    pagination = descriptor.get("pagination", {})
    cursor = pagination.get("cursor")
    return RecordsQuery(
        filter,
        "datePublished" if sort.startswith("published") else "dateCreated",
        sort.endswith("Descending"),
        min(pagination.get("limit", MAX_PAGE_ENTRIES), MAX_PAGE_ENTRIES),
        cursor and Cursor(cursor["value"], cursor["messageCid"]),
    )


def create(
    filter: Value, now: datetime, signer: Signer | None = None, **properties: Value
) -> bytes:
    """Returns the JSON of a query. ``properties``: ``dateSort`` and ``pagination``."""
    descriptor = {
        "interface": "Records",
        "method": "Query",
        "messageTimestamp": timestamp.write(now),
        "filter": filter,
    }
    return message.create(descriptor | properties, signer)
