"""The tables of the web5 service, one module for each group, and what its transactions do."""

from __future__ import annotations

from mesh.data import idempotency, outbox
from services.web5.store import did, identity, link
from services.web5.store.dwn import messages

SCHEMA = (
    idempotency.SCHEMA
    + outbox.SCHEMA
    + did.SCHEMA
    + identity.SCHEMA
    + link.SCHEMA
    + messages.SCHEMA
)
