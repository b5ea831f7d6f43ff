"""The actor of the chain: the only owner of kernel and mempool."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from functools import partial
from itertools import chain, islice
from secrets import token_bytes
from time import time
from typing import TYPE_CHECKING, TypeAlias, assert_never

from formats.bitcoin.hashes import BlockHash, Txid, display
from formats.bitcoin.network import Network
from formats.bitcoin.script import ScriptType, script_type
from formats.bitcoin.transaction import outpoint
from mesh import failpoint
from mesh.actor import Actor
from mesh.errors import InvalidArgument, MeshError, NotFound
from services.bitcoin import extension
from services.bitcoin.actors.chain_messages import (
    Broadcast,
    ChainMessage,
    FindTransaction,
    GetBlock,
    GetChainInfo,
    ListMempool,
    ListUtxos,
    MineBlocks,
    ReorganizeChain,
    TestAccept,
)
from services.bitcoin.arguments import parse_transaction
from services.bitcoin.chain import ChainInfo, LocatedBlock, LocatedTransaction, UtxoPage
from services.bitcoin.extension import Mined, Reorganized
from services.bitcoin.kernel import BlockRejectedError, find_invalid_input
from services.bitcoin.mempool import Mempool, MempoolRule, TransactionRejectedError
from services.bitcoin.miner import extend
from services.bitcoin.recovery import BATCH_BLOCKS, follow, read_block

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from formats.bitcoin.block import Block
    from formats.bitcoin.transaction import Outpoint, Output, Transaction
    from mesh.data.idempotency import IdempotencyKey
    from services.bitcoin.chain import Chain, Coin, TxPosition, Utxo
    from services.bitcoin.kernel import Kernel
    from services.bitcoin.mempool import MempoolTx
    from services.bitcoin.store.block_log import BlockLog
    from services.bitcoin.store.chain import ChainStore

MAX_REORG_DEPTH = 100
MAX_CHECKED = 64  # transactions whose scripts were run, kept until they are broadcast
MAX_INLINE_INPUTS = 4  # with one signature each: a check takes less time than a thread switch

Coins: TypeAlias = "Mapping[Outpoint, Coin]"
NOT_CHECKED: tuple[BlockHash | None, Coins] = (None, {})

log = logging.getLogger(__name__)


class ChainBehindError(RuntimeError):
    """Block log, kernel and index may differ: the actor must restart, which runs the recovery."""


class ChainActor(Actor[ChainMessage]):
    """Owns kernel and mempool. Every block is in the block log before the kernel gets it."""

    def __init__(
        self,
        chain: Chain,
        *,
        kernel: Kernel,
        block_log: BlockLog,
        store: ChainStore,
        on_filled: Callable[[], None] = lambda: None,
        on_moved: Callable[[], None] = lambda: None,
        checkpoint_blocks: int = 1000,
    ) -> None:
        """Stores the parts; calls ``on_filled`` if the mempool may have grown, ``on_moved`` if the
        chain may have moved.
        """
        self._chain = chain
        self._mempool = Mempool()
        self._kernel = kernel
        self._block_log = block_log
        self._store = store
        self._on_filled = on_filled
        self._on_moved = on_moved
        # By raw transaction: the tip at its last check, and its coins then. Its scripts hold.
        self._checked: OrderedDict[bytes, tuple[BlockHash, Coins]] = OrderedDict()
        self._checkpoint_blocks = checkpoint_blocks
        self._uncheckpointed = 0

    async def receive(self, message: ChainMessage) -> object:
        match message:
            case GetChainInfo():
                return self._info()
            case FindTransaction(txid):
                return await self._find_transaction(txid)
            case TestAccept(raw):
                return (await self._check(parse_transaction(raw))).acceptance
            case Broadcast(raw):
                return await self._broadcast(parse_transaction(raw))
            case ListMempool():
                return tuple(self._mempool)
            case ListUtxos(script_pubkey, after, limit):
                utxos = await self._list_utxos(script_pubkey, after, limit)
                return UtxoPage(tuple(utxos), self._chain.height)
            case GetBlock(wanted):
                return await self._block(wanted)
            case MineBlocks(key=key):
                return await self._first(Mined, key) or await self._mine(message)
            case ReorganizeChain(depth, key):
                return await self._first(Reorganized, key) or await self._reorganize(depth, key)
            case _:
                assert_never(message)

    def _info(self) -> ChainInfo:
        return ChainInfo(
            network=Network.REGTEST,
            height=self._chain.height,
            tip_hash=self._chain.tip.hash,
            tip_time=self._chain.tip.time,
            mempool_size=len(self._mempool),
        )

    async def _find_transaction(self, txid: Txid) -> LocatedTransaction:
        if entry := self._mempool.get(txid):
            return LocatedTransaction(
                txid=txid,
                raw=entry.transaction.raw,
                confirmations=0,
                block_height=None,
                block_hash=None,
            )
        found = await self._store.find_transaction(txid)
        if found is None:
            raise NotFound(
                f"transaction {display(txid)} is in neither the chain nor the mempool", field="txid"
            )
        block = await read_block(found.block_hash, self._kernel, self._block_log)
        return LocatedTransaction(
            txid=txid,
            raw=block.transactions[found.index].raw,
            confirmations=self._chain.height - found.height + 1,
            block_height=found.height,
            block_hash=found.block_hash,
        )

    async def _broadcast(self, transaction: Transaction) -> Txid:
        txid = transaction.txid
        if txid not in self._mempool:
            try:
                self._mempool.add(await self._check(transaction))
            except TransactionRejectedError:  # a confirmed transaction, too: its coins are spent
                if await self._store.find_transaction(txid) is None:
                    raise
            else:
                self._on_filled()
        return txid

    async def _check(self, transaction: Transaction) -> MempoolTx:
        """Checks every rule of the mempool; scripts once for the same bytes."""
        if entry := self._mempool.get(transaction.txid):
            return entry
        tip = self._chain.tip.hash
        checked_at, coins = self._checked.get(transaction.raw, NOT_CHECKED)
        if checked_at != tip:
            coins = await self._store.coins(transaction.prevouts)
        entry = self._mempool.check(transaction, coins, self._chain)
        if checked_at is None:
            await self._check_scripts(entry)
        self._checked[transaction.raw] = (tip, coins)
        if len(self._checked) > MAX_CHECKED:
            self._checked.popitem(last=False)
        return entry

    async def _check_scripts(self, entry: MempoolTx) -> None:
        """Runs the scripts of all inputs.

        The result holds for ever: a prevout names the txid, and thereby the script, that it spends.
        """
        transaction, spent = entry.transaction, entry.spent
        if _is_cheap(spent):
            failing = find_invalid_input(transaction.raw, spent)
        else:
            failing = await asyncio.to_thread(find_invalid_input, transaction.raw, spent)
        if failing is not None:
            raise TransactionRejectedError(
                transaction.txid, MempoolRule.SCRIPT, f"input {failing} does not satisfy its script"
            )

    async def _list_utxos(
        self, script: bytes, after: TxPosition | None, limit: int
    ) -> Iterable[Utxo]:
        """Lists confirmed coins first, without those that the mempool spends."""
        found: list[Utxo] = []
        while after is None or after.height is not None:
            page = await self._store.utxos(script, after=after, limit=limit)
            found += [coin for coin in page if not self._mempool.spends(_outpoint(coin))]
            if len(found) >= limit:
                return found[:limit]
            if len(page) < limit:
                return islice(chain(found, self._mempool.utxos(script)), limit)
            after = page[-1].position
        return islice(self._mempool.utxos(script, after=after), limit)

    async def _block(self, wanted: BlockHash | int) -> LocatedBlock:
        if isinstance(wanted, int):
            height = wanted if wanted <= self._chain.height else None
        else:
            height = await self._store.find_height(wanted)
        if height is None:
            shown = wanted if isinstance(wanted, int) else display(wanted)
            raise NotFound(f"block {shown} is not in the active chain")
        block = await read_block(self._chain[height].hash, self._kernel, self._block_log)
        return LocatedBlock(block, height, self._chain.height - height + 1)

    async def _first(
        self, kind: type[extension.E], key: IdempotencyKey | None
    ) -> extension.E | None:
        """Returns the result of the first request under ``key``, or None if there was none."""
        if key is None:
            return None
        blocks_of = partial(extension.added, kind)
        raw = await self._block_log.first_reply(key, blocks_of)
        return None if raw is None else extension.decode(kind, raw)

    async def _mine(self, request: MineBlocks) -> Mined:
        blocks = extend(
            self._chain,
            count=request.count,
            now=int(time()),
            times=request.times,
            script_pubkey=request.script_pubkey,
            mempool=tuple(self._mempool),
        )
        mined = Mined(tuple(block.hash for block in blocks), self._chain.height + len(blocks))
        await self._connect(blocks, request.key, extension.encode(mined))
        return mined

    async def _reorganize(self, depth: int, key: IdempotencyKey | None) -> Reorganized:
        fork = self._chain.height - depth
        maximum = min(MAX_REORG_DEPTH, self._chain.height)
        if not 1 <= depth <= maximum:
            raise InvalidArgument(
                f"depth must be 1 to {maximum} on a chain of height {self._chain.height},"
                f" not {depth}",
                field="depth",
            )
        gone = tuple(self._chain[height].hash for height in range(self._chain.height, fork, -1))
        blocks = extend(
            self._chain.fork(fork), count=depth + 1, now=int(time()), branch=token_bytes(8)
        )
        done = Reorganized(gone, tuple(block.hash for block in blocks), fork + len(blocks))
        await self._connect(blocks, key, extension.encode(done))
        return done

    async def _connect(
        self, blocks: Sequence[Block], key: IdempotencyKey | None, reply: bytes
    ) -> None:
        """Appends to the block log, then to the kernel, then to the index.

        Raises BlockRejectedError if the kernel rejects a block, ChainBehindError if the three may
        differ now.
        """
        try:
            # All at once: a retry after a kill must find every block of the reply, or no reply.
            await self._block_log.append(blocks, key=key, reply=reply)
            failpoint.reach("bitcoin.block.logged")
            for start in range(0, len(blocks), BATCH_BLOCKS):
                batch = blocks[start : start + BATCH_BLOCKS]
                rejection = await asyncio.to_thread(self._submit, batch)
                failpoint.reach("bitcoin.block.accepted")
                if rejection:
                    hashes = [block.hash for block in blocks]
                    rejected = hashes[hashes.index(rejection.hash) :]
                    await self._block_log.remove(rejected, key=key)
                await self._follow()
                failpoint.reach("bitcoin.block.indexed")
                if rejection:
                    raise rejection
        except BlockRejectedError:
            raise
        except MeshError as error:
            raise ChainBehindError("block log, kernel and index may differ") from error
        if self._chain.tip.hash != blocks[-1].hash:
            raise ChainBehindError(f"block {display(blocks[-1].hash)} did not become the tip")

    def _submit(self, blocks: Sequence[Block]) -> BlockRejectedError | None:
        for block in blocks:
            try:
                self._kernel.submit(block)
            except BlockRejectedError as rejection:
                return rejection
        self._uncheckpointed += len(blocks)
        if self._uncheckpointed >= self._checkpoint_blocks:
            self._kernel.checkpoint()
            self._uncheckpointed = 0
        return None

    async def _follow(self) -> None:
        """Moves index and mempool to the kernel's chain."""
        gone: list[Block] = []
        async for step in follow(self._chain, self._kernel, self._block_log, self._store):
            gone += [
                await read_block(hash, self._kernel, self._block_log)
                for hash in reversed(step.disconnected)
            ]
            for connected in step.connected:
                self._mempool.confirm(connected.transactions)
        if gone:
            returned = [transaction for block in gone for transaction in block.transactions[1:]]
            await self._readmit([*returned, *self._mempool.clear()])
        self._on_filled()
        self._on_moved()

    async def _readmit(self, transactions: Sequence[Transaction]) -> None:
        """Adds transactions that are still valid after a reorganisation; their scripts were run."""
        for transaction in transactions:
            coins = await self._store.coins(transaction.prevouts)
            try:
                self._mempool.add(self._mempool.check(transaction, coins, self._chain))
            except TransactionRejectedError as rejection:
                log.info("after the reorganisation: %s", rejection)


def _is_cheap(spent: Sequence[Output]) -> bool:
    return len(spent) <= MAX_INLINE_INPUTS and all(
        script_type(output.script_pubkey) is ScriptType.P2WPKH for output in spent
    )


def _outpoint(utxo: Utxo) -> Outpoint:
    return outpoint(utxo.txid, utxo.position.vout)
