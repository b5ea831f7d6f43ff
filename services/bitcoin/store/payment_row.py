"""Rows of payments: read, moved to another state, and announced in the outbox."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from formats.bitcoin.hashes import Txid, display
from mesh.data import outbox
from mesh.errors import NotFound
from services.bitcoin.payment import Payment, PaymentState, TxStatus
from services.bitcoin.store.reservation import conflict_depths, release_coins

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mesh.data.database import Row
    from mesh.data.database import Transaction as Tx

SCHEMA = """
CREATE TABLE IF NOT EXISTS payment (  -- never pruned
    payment_id   TEXT PRIMARY KEY,
    state        TEXT NOT NULL,
    is_final     INTEGER NOT NULL,
    txid         BLOB,  -- this and all below: NULL if it was cancelled before it existed
    raw          BLOB,  -- signed
    caller       TEXT,
    boundary     TEXT,
    day          INTEGER,  -- of the budget that it was charged to
    sender_did   TEXT,
    from_address TEXT,
    to_address   TEXT,
    amount_sat   INTEGER,
    fee_sat      INTEGER,
    digest       BLOB,
    policy       TEXT,  -- digest of the trust policy that permitted it
    metadata     BLOB,
    traceparent  TEXT,  -- of the call that made it, for its events
    created_ms   INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS payment_open ON payment (created_ms) WHERE is_final = 0;
"""

_SELECT = """
SELECT payment_id, state, is_final, payment.txid, from_address, to_address, amount_sat, fee_sat,
    created_ms, (SELECT MAX(height) FROM block) - tx.height + 1, raw
FROM payment LEFT JOIN tx ON tx.txid = payment.txid"""


@dataclass(frozen=True, slots=True)
class OpenPayment:
    """A payment that is not final, with its status in the chain; ``in_mempool`` is not known."""

    payment: Payment
    raw: bytes
    status: TxStatus


async def get(tx: Tx, payment_id: str) -> Payment:
    """Returns the payment. Raises NotFound if it neither exists nor was cancelled."""
    row = await tx.fetch_one(f"{_SELECT} WHERE payment_id = ?", payment_id)
    if row is None:
        raise NotFound(f"there is no payment {payment_id}")
    return _payment(row)


async def list_open(tx: Tx, payment_id: str | None) -> list[OpenPayment]:
    """Returns the payments that are not final, oldest first, or only the one with this id."""
    if payment_id is None:
        rows = await tx.fetch(f"{_SELECT} WHERE is_final = 0 ORDER BY created_ms")
    else:
        rows = await tx.fetch(f"{_SELECT} WHERE is_final = 0 AND payment_id = ?", payment_id)
    depths = await conflict_depths(tx, payment_id) if rows else {}
    return [_open_payment(row, depths) for row in rows]


async def read_status(tx: Tx, payment: Payment, *, in_mempool: bool = False) -> TxStatus:
    """Returns the status of a payment's transaction and coins in the active chain."""
    depths = await conflict_depths(tx, payment.payment_id)
    return TxStatus(
        confirmations=payment.confirmations,
        conflict_depth=depths.get(payment.payment_id, 0),
        in_mempool=in_mempool,
    )


async def set_state(tx: Tx, payment: Payment, state: PaymentState, *, is_final: bool) -> None:
    """Moves the payment, with an event if its state changes; a final state releases its coins."""
    if (state, is_final) == (payment.state, payment.is_final):
        return
    await tx.execute(
        "UPDATE payment SET state = ?, is_final = ? WHERE payment_id = ?",
        state,
        int(is_final),
        payment.payment_id,
    )
    if is_final:
        await release_coins(tx, payment.payment_id)
    if state is not payment.state:
        await announce(tx, payment.payment_id, state, payment.txid, was=payment.state)


async def announce(
    tx: Tx,
    payment_id: str,
    state: PaymentState,
    txid: Txid | None,
    *,
    was: PaymentState | None = None,
) -> None:
    """Appends the event of a state to the outbox; ``was`` is the previous state."""
    members = {"payment_id": payment_id, "txid": txid and display(txid), "was": was}
    data = {name: value for name, value in members.items() if value is not None}
    row = await tx.fetch_one("SELECT traceparent FROM payment WHERE payment_id = ?", payment_id)
    await outbox.append(
        tx,
        type=f"bitcoin.payment.{state}",
        key=payment_id,
        data=json.dumps(data).encode(),
        traceparent=(row and row[0]) or "",
    )


def _payment(row: Row) -> Payment:
    payment_id, state, is_final, txid, source, target, amount, fee, created, confirmations, _ = row
    return Payment(
        payment_id=payment_id,
        state=PaymentState(state),
        is_final=bool(is_final),
        txid=Txid(txid) if txid is not None else None,
        from_address=source or "",
        to_address=target or "",
        amount_sat=amount or 0,
        fee_sat=fee or 0,
        confirmations=confirmations or 0,
        created=datetime.fromtimestamp(created / 1000, UTC),
    )


def _open_payment(row: Row, depths: Mapping[str, int]) -> OpenPayment:
    payment = _payment(row)
    status = TxStatus(
        confirmations=payment.confirmations,
        conflict_depth=depths.get(payment.payment_id, 0),
    )
    return OpenPayment(payment, bytes(row[-1]), status)
