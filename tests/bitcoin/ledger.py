"""A chain index fed by a test, without a kernel."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from formats.bitcoin.hashes import BlockHash
from formats.bitcoin.transaction import Input, Output, outpoint, parse_transaction, serialize
from services.bitcoin.mempool import MempoolTx
from services.bitcoin.miner import mine
from services.bitcoin.store.chain import ChainStore

if TYPE_CHECKING:
    from formats.bitcoin.block import Block
    from formats.bitcoin.transaction import Outpoint, Transaction
    from mesh.data.database import Database

UNSPENDABLE_SCRIPT = b"\x6a"


class Ledger:
    """A chain from a genesis of its own, with unvalidated blocks."""

    def __init__(self, database: Database) -> None:
        self._store = ChainStore(database)
        self._blocks: list[Block] = []
        self._strangers = count(1)

    async def pay(self, script: bytes, *amounts: int) -> Transaction:
        """Confirms a transaction that pays these amounts to a script."""
        prevout = outpoint(next(self._strangers).to_bytes(32, "big"), 0)
        return await self.spend([prevout], *(Output(amount, script) for amount in amounts))

    async def spend(self, prevouts: list[Outpoint], *outputs: Output) -> Transaction:
        """Confirms a transaction that spends these coins."""
        inputs = [Input(prevout, b"\x00") for prevout in prevouts]
        transaction = parse_transaction(serialize(version=2, inputs=inputs, outputs=outputs))
        await self.confirm(transaction)
        return transaction

    async def confirm(self, *transactions: Transaction, to: bytes = UNSPENDABLE_SCRIPT) -> None:
        """Connects a block on the tip."""
        height = len(self._blocks)
        block = mine(
            height=height,
            prev_hash=self._blocks[-1].hash if self._blocks else BlockHash(bytes(32)),
            time=height,
            script_pubkey=to,
            selected=[MempoolTx(transaction, (), 0) for transaction in transactions],
        )
        await self._store.follow(height=height, disconnected=(), connected=[block])
        self._blocks.append(block)

    async def grow(self, blocks: int) -> None:
        for _ in range(blocks):
            await self.confirm()

    async def disconnect(self, depth: int) -> None:
        """Disconnects the last blocks."""
        gone = [self._blocks.pop().hash for _ in range(depth)]
        await self._store.follow(height=len(self._blocks), disconnected=gone, connected=())
