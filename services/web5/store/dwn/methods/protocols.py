"""ProtocolsConfigure and ProtocolsQuery."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.web5.dwn.errors import Code, UnauthorizedError
from services.web5.dwn.reply import ACCEPTED, CONFLICT, OK, Reply, json_array
from services.web5.store.dwn import messages as store

if TYPE_CHECKING:
    from mesh.data.database import Transaction
    from services.web5.dwn.message import Message


async def configure(tx: Transaction, tenant: str, configure: Message) -> Reply:
    """Stores an authenticated definition if it is newer than the stored one."""
    if configure.author != tenant:
        raise UnauthorizedError(
            Code.PROTOCOLS_CONFIGURE_AUTHORIZATION_FAILED, "message failed authorization"
        )
    url = configure.descriptor["definition"]["protocol"]
    kept = await store.configure_messages(tx, tenant, url=url)
    if any(configure.recency <= older.recency for older in kept):
        return CONFLICT
    await store.insert_configure(tx, tenant, configure)
    await store.append_event(tx, tenant, configure.cid)
    for older in kept:
        await store.remove(tx, tenant, older.cid)
    return ACCEPTED


async def query(tx: Transaction, tenant: str, url: str | None, *, only_published: bool) -> Reply:
    """Replies with the definitions of one protocol, or of all if ``url`` is None."""
    found = await store.configure_messages(tx, tenant, url=url, only_published=only_published)
    return Reply(OK, "OK", {"entries": json_array(configure.raw for configure in found)})
