"""The index of the active chain: the position of each transaction, and every confirmed output.

It follows the chain block by block; a block and its event are written in one transaction.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from formats.bitcoin.hashes import BlockHash, Txid, display
from formats.bitcoin.script import is_unspendable
from formats.bitcoin.transaction import NULL_PREVOUT, Outpoint, Output, split_outpoint
from mesh.data import outbox
from services.bitcoin.chain import Coin, HeaderRef, TxPosition, Utxo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from formats.bitcoin.block import Block
    from mesh.data.database import Database, Transaction, Value

SCHEMA = """
CREATE TABLE IF NOT EXISTS block (  -- of the active chain
    height INTEGER PRIMARY KEY,
    hash   BLOB NOT NULL UNIQUE,
    time   INTEGER NOT NULL  -- Unix seconds, as its header says
) STRICT;

CREATE TABLE IF NOT EXISTS tx (  -- of the active chain
    txid     BLOB PRIMARY KEY,
    height   INTEGER NOT NULL,
    position INTEGER NOT NULL  -- in its block
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tx_by_height ON tx (height);

-- Outputs of the active chain, spent or not, without unspendable ones.
CREATE TABLE IF NOT EXISTS txo (
    txid          BLOB NOT NULL,
    vout          INTEGER NOT NULL,
    script_hash   BLOB NOT NULL,  -- SHA-256 of script_pubkey: a script may be too long for an index
    script_pubkey BLOB NOT NULL,
    amount_sat    INTEGER NOT NULL,
    height        INTEGER NOT NULL,
    position      INTEGER NOT NULL,  -- of the transaction in its block
    is_coinbase   INTEGER NOT NULL,
    spent_txid    BLOB,
    spent_height  INTEGER,
    PRIMARY KEY (txid, vout)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS txo_by_script ON txo (script_hash, height, position, vout);
CREATE INDEX IF NOT EXISTS txo_by_script_spent ON txo (script_hash, spent_height)
    WHERE spent_height IS NOT NULL;
CREATE INDEX IF NOT EXISTS txo_by_amount ON txo (script_hash, amount_sat, txid, vout)
    WHERE spent_txid IS NULL;
CREATE INDEX IF NOT EXISTS txo_by_height ON txo (height);
CREATE INDEX IF NOT EXISTS txo_by_spender ON txo (spent_txid) WHERE spent_txid IS NOT NULL;
CREATE INDEX IF NOT EXISTS txo_by_spent_height ON txo (spent_height)
    WHERE spent_height IS NOT NULL;

-- Inputs of transactions that a reorganisation took out of the chain, and that are not back: what
-- descends from them can never confirm once one of these coins is spent elsewhere.
CREATE TABLE IF NOT EXISTS lost_input (
    txid      BLOB NOT NULL,
    prev_txid BLOB NOT NULL,
    prev_vout INTEGER NOT NULL,
    PRIMARY KEY (txid, prev_txid, prev_vout)
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class TxLocation:
    """The block of a confirmed transaction, and its index there."""

    height: int
    block_hash: BlockHash
    index: int  # in the block


class IndexMovedError(RuntimeError):
    """The index is at another block than its writer assumed: another process moved it."""


class ChainStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def headers(self) -> list[HeaderRef]:
        """Returns the indexed chain, genesis first; empty before the first start."""

        async def work(tx: Transaction) -> list[HeaderRef]:
            rows = await tx.fetch("SELECT hash, time FROM block ORDER BY height")
            return [HeaderRef(BlockHash(hash), time) for hash, time in rows]

        return await self._database.read(work)

    async def follow(
        self, *, height: int, disconnected: Sequence[BlockHash], connected: Sequence[Block]
    ) -> None:
        """Disconnects blocks, tip first, then connects blocks, the first one at ``height``.

        Writes one event for each block. All of it is one transaction: no reader sees half of a
        reorganisation. Raises IndexMovedError, and changes nothing, if the index is elsewhere.
        """

        async def work(tx: Transaction) -> None:
            tip = height + len(disconnected) - 1
            for depth, hash in enumerate(disconnected):
                await _disconnect(tx, tip - depth, hash)
            for ahead, block in enumerate(connected):
                await _connect(tx, height + ahead, block)

        await self._database.write(work)

    async def find_transaction(self, txid: Txid) -> TxLocation | None:
        async def work(tx: Transaction) -> TxLocation | None:
            row = await tx.fetch_one(
                "SELECT tx.height, block.hash, tx.position FROM tx"
                " JOIN block ON block.height = tx.height WHERE txid = ?",
                txid,
            )
            return TxLocation(row[0], BlockHash(row[1]), row[2]) if row else None

        return await self._database.read(work)

    async def find_height(self, hash: BlockHash) -> int | None:
        """Returns the height of a block of the active chain, or None."""

        async def work(tx: Transaction) -> int | None:
            row = await tx.fetch_one("SELECT height FROM block WHERE hash = ?", hash)
            return row[0] if row else None

        return await self._database.read(work)

    async def coins(self, prevouts: Iterable[Outpoint]) -> dict[Outpoint, Coin]:
        """Returns the outputs that are confirmed and unspent."""

        async def work(tx: Transaction) -> dict[Outpoint, Coin]:
            found = {}
            for prevout in prevouts:
                row = await tx.fetch_one(
                    "SELECT amount_sat, script_pubkey, height, is_coinbase FROM txo"
                    " WHERE txid = ? AND vout = ? AND spent_txid IS NULL",
                    *split_outpoint(prevout),
                )
                if row:
                    amount_sat, script, height, is_coinbase = row
                    found[prevout] = Coin(Output(amount_sat, script), height, bool(is_coinbase))
            return found

        return await self._database.read(work)

    async def utxos(self, script: bytes, *, after: TxPosition | None, limit: int) -> list[Utxo]:
        """Returns at most ``limit`` confirmed coins of a script after ``after``, oldest first."""
        start = (after.height or 0, after.index, after.vout) if after else (-1, -1, -1)

        async def work(tx: Transaction) -> list[Utxo]:
            rows = await tx.fetch(
                "SELECT txid, vout, amount_sat, height, position, is_coinbase FROM txo"
                " WHERE script_hash = ? AND spent_txid IS NULL"
                " AND (height, position, vout) > (?, ?, ?)"
                " ORDER BY height, position, vout LIMIT ?",
                script_hash(script),
                *start,
                limit,
            )
            return [
                Utxo(Txid(txid), TxPosition(height, position, vout), amount_sat, bool(is_coinbase))
                for txid, vout, amount_sat, height, position, is_coinbase in rows
            ]

        return await self._database.read(work)


def script_hash(script: bytes) -> bytes:
    """Returns the key of a script in the index."""
    return sha256(script).digest()


async def _connect(tx: Transaction, height: int, block: Block) -> None:
    tip = await tx.fetch_one("SELECT hash FROM block WHERE height = ?", height - 1)
    if height and (tip is None or tip[0] != block.header.prev_hash):
        raise IndexMovedError(
            f"block {display(block.hash)} does not follow the indexed block {height - 1}"
        )
    await tx.execute("INSERT INTO block VALUES (?, ?, ?)", height, block.hash, block.header.time)
    await tx.execute_many(
        "INSERT INTO tx VALUES (?, ?, ?)",
        [
            (transaction.txid, height, position)
            for position, transaction in enumerate(block.transactions)
        ],
    )
    await tx.execute_many(
        "INSERT INTO txo VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
        _outputs(height, block),
    )
    await tx.execute_many(
        "UPDATE txo SET spent_txid = ?, spent_height = ? WHERE txid = ? AND vout = ?",
        [
            (spender.txid, height, *split_outpoint(prevout))
            for spender in block.transactions
            for prevout in spender.prevouts
            if prevout != NULL_PREVOUT
        ],
    )
    if await tx.fetch_one("SELECT 1 FROM lost_input LIMIT 1") is not None:
        await tx.execute_many(
            "DELETE FROM lost_input WHERE txid = ?",
            [(transaction.txid,) for transaction in block.transactions],
        )
    await _announce(tx, "bitcoin.block.connected", height, block.hash)


def _outputs(height: int, block: Block) -> Iterator[tuple[Value, ...]]:
    """Yields rows of txo; consensus lets no input spend the outputs of genesis."""
    if height == 0:
        return
    for position, transaction in enumerate(block.transactions):
        for vout, output in enumerate(transaction.outputs):
            if not is_unspendable(output.script_pubkey):
                yield (
                    transaction.txid,
                    vout,
                    script_hash(output.script_pubkey),
                    output.script_pubkey,
                    output.amount_sat,
                    height,
                    position,
                    int(position == 0),
                )


async def _disconnect(tx: Transaction, height: int, hash: BlockHash) -> None:
    await tx.execute(
        "INSERT INTO lost_input SELECT spent_txid, txid, vout FROM txo WHERE spent_height = ?"
        " ON CONFLICT DO NOTHING",
        height,
    )
    await tx.execute(
        "UPDATE txo SET spent_txid = NULL, spent_height = NULL WHERE spent_height = ?", height
    )
    await tx.execute("DELETE FROM txo WHERE height = ?", height)
    await tx.execute("DELETE FROM tx WHERE height = ?", height)
    gone = await tx.execute("DELETE FROM block WHERE height = ? AND hash = ?", height, hash)
    if gone != 1:
        raise IndexMovedError(f"block {display(hash)} is not at height {height}")
    await _announce(tx, "bitcoin.block.disconnected", height, hash)


async def _announce(tx: Transaction, type: str, height: int, hash: BlockHash) -> None:
    data = json.dumps({"height": height, "hash": display(hash)}).encode()
    await outbox.append(tx, type=type, key=display(hash), data=data)
