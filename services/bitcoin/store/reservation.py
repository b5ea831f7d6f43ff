"""Coins that payments may choose from, and coins that are promised to one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from formats.bitcoin.transaction import outpoint, split_outpoint
from services.bitcoin.chain import COINBASE_MATURITY
from services.bitcoin.coin_selection import MAX_CANDIDATES, SpendableCoin
from services.bitcoin.store.chain import script_hash

if TYPE_CHECKING:
    from collections.abc import Collection

    from formats.bitcoin.hashes import Txid
    from mesh.data.database import Transaction

SCHEMA = """
CREATE TABLE IF NOT EXISTS reservation (  -- a coin is promised to one payment at most
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


async def candidates(
    tx: Transaction, script: bytes, *, alone_sat: int | None = None
) -> tuple[SpendableCoin, ...]:
    """The largest confirmed coins of a script that are mature and promised to nobody.

    If one of them has ``alone_sat``, only the smallest that has.
    """
    if alone_sat is not None:
        alone = await _fetch(tx, _FREE + _SMALLEST, script, alone_sat, 1)
        if alone:
            return alone
    return await _fetch(tx, _FREE + _LARGEST, script, 0, MAX_CANDIDATES)


async def _fetch(
    tx: Transaction, sql: str, script: bytes, least_sat: int, limit: int
) -> tuple[SpendableCoin, ...]:
    mature = await last_mature_height(tx)
    rows = await tx.fetch(sql, script_hash(script), mature, least_sat, limit)
    return tuple(SpendableCoin(outpoint(txid, vout), amount) for txid, vout, amount in rows)


async def reserve(tx: Transaction, payment_id: str, coins: Collection[SpendableCoin]) -> bool:
    """Promise the coins to a payment; False if one of them is spent, or promised to another."""
    for coin in coins:
        promised = await tx.execute(
            "INSERT INTO reservation SELECT txid, vout, ? FROM txo"
            " WHERE txid = ? AND vout = ? AND spent_txid IS NULL ON CONFLICT DO NOTHING",
            payment_id,
            *split_outpoint(coin.prevout),
        )
        if not promised:
            return False
    return True


async def release(tx: Transaction, payment_id: str) -> None:
    """Take back what was promised to a payment that is over."""
    await tx.execute("DELETE FROM reservation WHERE payment_id = ?", payment_id)


async def conflict_depth(tx: Transaction, payment_id: str, txid: Txid) -> int:
    """Confirmations of what spent a coin of the payment's and is not its own ``txid``; else 0."""
    row = await tx.fetch_one(
        "SELECT (SELECT MAX(height) FROM block) - MAX(spent_height) + 1 FROM reservation"
        " JOIN txo ON txo.txid = reservation.txid AND txo.vout = reservation.vout"
        " WHERE payment_id = ? AND spent_txid <> ?",
        payment_id,
        txid,
    )
    return (row[0] if row else None) or 0


async def last_mature_height(tx: Transaction) -> int:
    """A coinbase at this height or below may be spent in the next block."""
    row = await tx.fetch_one("SELECT MAX(height) FROM block")
    tip = row[0] if row and row[0] is not None else 0
    return int(tip) + 1 - COINBASE_MATURITY
