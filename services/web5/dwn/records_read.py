"""RecordsRead: reads one record with its data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.web5.dwn import message, timestamp, url
from services.web5.dwn.errors import Code, UnauthorizedError

if TYPE_CHECKING:
    from datetime import datetime

    from services.web5.dwn.message import Message
    from services.web5.dwn.values import Value
    from services.web5.proof import Signer


def check(read: Message) -> None:
    """Raises DwnError if the filter is not valid."""
    check_filter(read.descriptor["filter"])


def check_filter(filter: Value) -> None:
    """Raises DwnError for URLs that are not normalized and for timestamps that do not exist."""
    if "protocol" in filter:
        url.check_protocol(filter["protocol"])
    if "schema" in filter:
        url.check_schema(filter["schema"])
    for name in ("dateCreated", "datePublished", "dateUpdated"):
        for moment in filter.get(name, {}).values():
            timestamp.read(moment)


def check_role(request: Message) -> None:
    """Raises UnauthorizedError if a role is invoked, because no protocol on this node has roles."""
    role = request.signature and request.signature.payload.get("protocolRole")
    if role is not None:
        raise UnauthorizedError(
            Code.PROTOCOL_NOT_A_ROLE, f"Protocol path {role} does not match role record type."
        )


def create(filter: Value, now: datetime, signer: Signer | None = None) -> bytes:
    """Returns the JSON of a read of the one record that ``filter`` matches."""
    descriptor = {
        "interface": "Records",
        "method": "Read",
        "filter": filter,
        "messageTimestamp": timestamp.write(now),
    }
    return message.create(descriptor, signer)
