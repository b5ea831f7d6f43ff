"""Coins of a script that are free for payments, and coins reserved for one payment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from formats.bitcoin.transaction import outpoint, split_outpoint
from services.bitcoin.chain import COINBASE_MATURITY_BLOCKS
from services.bitcoin.coin_selection import MAX_COINS, SpendableCoin
from services.bitcoin.store.chain import script_hash

if TYPE_CHECKING:
    from collections.abc import Collection

    from formats.bitcoin.hashes import Txid
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


async def conflict_depth(tx: Transaction, payment_id: str, txid: Txid) -> int:
    """Returns the confirmations of another transaction than ``txid`` that spends a coin, or 0."""
    row = await tx.fetch_one(
        "SELECT (SELECT MAX(height) FROM block) - MAX(spent_height) + 1 FROM reservation"
        " JOIN txo ON txo.txid = reservation.txid AND txo.vout = reservation.vout"
        " WHERE payment_id = ? AND spent_txid <> ?",
        payment_id,
        txid,
    )
    return (row[0] if row else None) or 0


async def last_mature_height(tx: Transaction) -> int:
    """Returns the height up to which a coinbase may be spent in the next block."""
    row = await tx.fetch_one("SELECT MAX(height) FROM block")
    tip = row[0] if row and row[0] is not None else 0
    return int(tip) + 1 - COINBASE_MATURITY_BLOCKS
