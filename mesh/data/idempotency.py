"""Stores the first reply to each mutation, in the transaction of its effect (AIP-155)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh import failpoint
from mesh.errors import AlreadyExists, Reason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mesh.data.database import Transaction

SCHEMA = """
CREATE TABLE IF NOT EXISTS idempotency_key (
    caller     TEXT NOT NULL,
    method     TEXT NOT NULL,
    request_id TEXT NOT NULL,
    body       BLOB NOT NULL,  -- SHA-256 of the request as received
    reply      BLOB NOT NULL,
    PRIMARY KEY (caller, method, request_id)
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """Identifies the attempts of one mutation, which must have the same body."""

    caller: str  # SPIFFE ID
    method: str
    request_id: str
    body: bytes  # SHA-256 of the request


async def find_reply(tx: Transaction, key: IdempotencyKey) -> bytes | None:
    """Returns the reply of the first call under ``key``, or None if there was none.

    Raises AlreadyExists (REQUEST_ID_REUSED) if the first call had another body.
    """
    first = await tx.fetch_one(
        "SELECT body, reply FROM idempotency_key"
        " WHERE caller = ? AND method = ? AND request_id = ?",
        key.caller,
        key.method,
        key.request_id,
    )
    if first is None:
        return None
    body, reply = first
    if body != key.body:
        raise AlreadyExists(
            f"request_id {key.request_id} was used with another body; choose a new one",
            reason=Reason.REQUEST_ID_REUSED,
            field="request_id",
        )
    return bytes(reply)


async def store_reply(tx: Transaction, key: IdempotencyKey, reply: bytes) -> None:
    """Stores the reply of the first call under ``key``, in the transaction of its effect."""
    await tx.execute(
        "INSERT INTO idempotency_key VALUES (?, ?, ?, ?, ?)",
        key.caller,
        key.method,
        key.request_id,
        key.body,
        reply,
    )
    failpoint.reach("idempotency.before_commit", key.method)


async def forget_reply(tx: Transaction, key: IdempotencyKey) -> None:
    """Removes the reply of a call whose effect was undone: the next attempt is the first again."""
    await tx.execute(
        "DELETE FROM idempotency_key WHERE caller = ? AND method = ? AND request_id = ?",
        key.caller,
        key.method,
        key.request_id,
    )


async def run_once(
    tx: Transaction, key: IdempotencyKey, effect: Callable[[], Awaitable[bytes]]
) -> bytes:
    """Runs ``effect`` if this is the first call under ``key``; returns the reply of the first call.

    An effect that raises stores no reply, so the next attempt runs it again.
    Raises AlreadyExists (REQUEST_ID_REUSED) if the first call had another body.
    """
    reply = await find_reply(tx, key)
    if reply is None:
        reply = await effect()
        await store_reply(tx, key, reply)
    return reply
