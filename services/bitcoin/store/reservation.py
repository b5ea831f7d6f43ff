"""Coins of a script that are free for payments, and coins reserved for one payment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from formats.bitcoin.transaction import outpoint, split_outpoint
from services.bitcoin.chain import COINBASE_MATURITY_BLOCKS
from services.bitcoin.coin_selection import MAX_COINS, SpendableCoin
from services.bitcoin.store.chain import script_hash

if TYPE_CHECKING:
    from collections.abc import Collection

    from mesh.data.database import Transaction

SCHEMA = """
CREATE TABLE IF NOT EXISTS reservation (  -- a coin belongs to at most one payment
    txid       BLOB NOT NULL,
    vout       INTEGER NOT NULL,
    payment_id TEXT NOT NULL,
    PRIMARY KEY (txid, vout)
) STRICT;
CREATE INDEX IF NOT EXISTS reservation_by_payment ON reservation (payment_id);
"""


_FREE = """
SELECT txo.txid, txo.vout, txo.amount_sat FROM txo
LEFT JOIN reservation ON reservation.txid = txo.txid AND reservation.vout = txo.vout
WHERE script_hash = ? AND spent_txid IS NULL AND reservation.payment_id IS NULL
    AND (is_coinbase = 0 OR height <= ?) AND txo.amount_sat >= ?
"""
_SMALLEST = "ORDER BY txo.amount_sat, txo.txid, txo.vout LIMIT ?"
_LARGEST = "ORDER BY txo.amount_sat DESC, txo.txid, txo.vout LIMIT ?"


async def spendable_coins(
    tx: Transaction, script: bytes, *, single_coin_sat: int | None = None
) -> tuple[SpendableCoin, ...]:
    """Returns the largest confirmed, mature coins of a script that are not reserved.

    If one coin has at least ``single_coin_sat``, returns only the smallest such coin.
    """
    if single_coin_sat is not None:
        single = await _fetch(tx, _FREE + _SMALLEST, script, single_coin_sat, 1)
        if single:
            return single
    return await _fetch(tx, _FREE + _LARGEST, script, 0, MAX_COINS)


async def _fetch(
    tx: Transaction, sql: str, script: bytes, min_sat: int, limit: int
) -> tuple[SpendableCoin, ...]:
    mature = await last_mature_height(tx)
    rows = await tx.fetch(sql, script_hash(script), mature, min_sat, limit)
    return tuple(SpendableCoin(outpoint(txid, vout), amount) for txid, vout, amount in rows)


async def reserve_coins(tx: Transaction, payment_id: str, coins: Collection[SpendableCoin]) -> bool:
    """Reserves the coins for a payment; returns False if one is spent or reserved for another."""
    for coin in coins:
        reserved = await tx.execute(
            "INSERT INTO reservation SELECT txid, vout, ? FROM txo"
            " WHERE txid = ? AND vout = ? AND spent_txid IS NULL ON CONFLICT DO NOTHING",
            payment_id,
            *split_outpoint(coin.prevout),
        )
        if not reserved:
            return False
    return True


async def release_coins(tx: Transaction, payment_id: str) -> None:
    """Releases the coins of a final payment; those it has spent are no longer in the index."""
    await tx.execute("DELETE FROM reservation WHERE payment_id = ?", payment_id)


# The coins that open payments spend, and those that their ancestors spent which a reorganisation
# took out of the chain; then the deepest spend of one of them by another transaction.
_CONFLICTS = """
WITH RECURSIVE input (payment_id, txid, prev_txid, prev_vout) AS (
    SELECT payment.payment_id, payment.txid, reservation.txid, reservation.vout
    FROM payment JOIN reservation ON reservation.payment_id = payment.payment_id
    WHERE payment.is_final = 0 {which}
    UNION
    SELECT input.payment_id, lost_input.txid, lost_input.prev_txid, lost_input.prev_vout
    FROM input JOIN lost_input ON lost_input.txid = input.prev_txid
)
SELECT input.payment_id, (SELECT MAX(height) FROM block) - MIN(txo.spent_height) + 1
FROM input JOIN txo ON txo.txid = input.prev_txid AND txo.vout = input.prev_vout
WHERE txo.spent_txid <> input.txid GROUP BY input.payment_id
"""
_CONFLICTS_OF_ALL = _CONFLICTS.format(which="")
_CONFLICTS_OF_ONE = _CONFLICTS.format(which="AND payment.payment_id = ?")


async def conflict_depths(tx: Transaction, payment_id: str | None = None) -> dict[str, int]:
    """Returns the open payments that cannot confirm on this chain, or only the one with this id.

    The value is the number of confirmations of the transaction that spends a coin of the payment,
    or of an ancestor, in its place.
    """
    if payment_id is None:
        rows = await tx.fetch(_CONFLICTS_OF_ALL)
    else:
        rows = await tx.fetch(_CONFLICTS_OF_ONE, payment_id)
    return {id: int(depth) for id, depth in rows}


async def last_mature_height(tx: Transaction) -> int:
    """Returns the height up to which a coinbase may be spent in the next block."""
    row = await tx.fetch_one("SELECT MAX(height) FROM block")
    tip = row[0] if row and row[0] is not None else 0
    return int(tip) + 1 - COINBASE_MATURITY_BLOCKS
