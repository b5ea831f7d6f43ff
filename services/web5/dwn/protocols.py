"""ProtocolsConfigure and ProtocolsQuery: the definitions of protocols on a node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.web5.dwn import message, timestamp, url

if TYPE_CHECKING:
    from datetime import datetime

    from services.web5.dwn.message import Message
    from services.web5.dwn.values import Value
    from services.web5.proof import Signer


def configure(definition: Value, signer: Signer, now: datetime) -> bytes:
    """Returns the signed JSON of a ProtocolsConfigure."""
    descriptor = {
        "interface": "Protocols",
        "method": "Configure",
        "messageTimestamp": timestamp.write(now),
        "definition": definition,
    }
    return message.create(descriptor, signer)


def query(protocol: str | None, now: datetime, signer: Signer | None = None) -> bytes:
    """Returns the JSON of a ProtocolsQuery for one protocol, or for all if it is None.

    An unsigned query finds published protocols only.
    """
    descriptor = {
        "interface": "Protocols",
        "method": "Query",
        "messageTimestamp": timestamp.write(now),
    }
    filter = {} if protocol is None else {"filter": {"protocol": protocol}}
    return message.create(descriptor | filter, signer)


def queried(received: Message) -> str | None:
    """Returns the protocol that a query names, or None. Raises DwnError if it is not normalized."""
    protocol: str | None = received.descriptor.get("filter", {}).get("protocol")
    if protocol is not None:
        url.check_protocol(protocol)
    return protocol
