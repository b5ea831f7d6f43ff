"""The actor that owns the chain and the mempool, and what may be asked of it."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass
from itertools import chain, islice
from secrets import token_bytes
from time import time
from typing import TYPE_CHECKING, TypeAlias, assert_never

from formats.bitcoin.hashes import BlockHash, Txid, display
from formats.bitcoin.network import Network
from formats.bitcoin.script import ScriptType, script_type
from formats.bitcoin.transaction import outpoint
from mesh import failpoint
from mesh.actor import Actor, Message
from mesh.errors import InvalidArgument, MeshError, NotFound
from services.bitcoin.arguments import parse_transaction
from services.bitcoin.chain import ChainInfo, Located, LocatedBlock, UtxoPage
from services.bitcoin.kernel import BlockRejected, find_invalid_input
from services.bitcoin.mempool import Acceptance, Mempool, MempoolTx, Rule, TransactionRejected
from services.bitcoin.miner import extend
from services.bitcoin.recovery import BATCH, follow, read_block

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from formats.bitcoin.block import Block
    from formats.bitcoin.transaction import Outpoint, Output, Transaction
    from services.bitcoin.chain import Chain, Coin, TxPosition, Utxo
    from services.bitcoin.kernel import Kernel
    from services.bitcoin.store.block_log import BlockLog
    from services.bitcoin.store.chain import ChainStore

MAX_REORG_DEPTH = 100
SATISFIED = 64  # transactions whose scripts are known to hold, until they are broadcast
CHEAP_INPUTS = 4  # of one signature each: checked sooner than handed to a thread

Coins: TypeAlias = "Mapping[Outpoint, Coin]"
NOTHING: tuple[BlockHash | None, Coins] = (None, {})

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Info(Message[ChainInfo]):
    """The network, the tip, and how many transactions wait."""


@dataclass(frozen=True, slots=True)
class FindTransaction(Message[Located]):
    """Where a transaction is; NotFound if neither in the active chain nor in the mempool."""

    txid: Txid


@dataclass(frozen=True, slots=True)
class TestAccept(Message[Acceptance]):
    """What the mempool would say to a transaction; it stays as it is.

    InvalidArgument unless ``raw`` is exactly one transaction; TransactionRejected with the rule.
    One that is in the mempool already is accepted again; one in the chain breaks INPUTS_MISSING.
    """

    __test__ = False  # not a test, though its name begins like one

    raw: bytes


@dataclass(frozen=True, slots=True)
class Broadcast(Message[Txid]):
    """Put a transaction into the mempool; without effect if it is there or in the chain already.

    InvalidArgument and TransactionRejected as ``TestAccept``.
    """

    raw: bytes


@dataclass(frozen=True, slots=True)
class ListMempool(Message[tuple[MempoolTx, ...]]):
    """What waits for a block, parents before children."""


@dataclass(frozen=True, slots=True)
class GetBlock(Message[LocatedBlock]):
    """A block of the active chain by hash or height; NotFound if it is not there."""

    wanted: BlockHash | int


@dataclass(frozen=True, slots=True)
class ListUtxos(Message[UtxoPage]):
    """At most ``limit`` coins of one script behind ``after``, oldest first.

    What a waiting transaction spends is left out; what one creates comes last.
    """

    script_pubkey: bytes
    after: TxPosition | None
    limit: int


@dataclass(frozen=True, slots=True)
class Mined:
    hashes: tuple[BlockHash, ...]
    height: int


@dataclass(frozen=True, slots=True)
class MineBlocks(Message[Mined]):
    """Mine ``count`` blocks on the tip that pay ``script_pubkey``; regtest only.

    ``times`` has one Unix time per block, or is empty: then each block takes the time of mining.
    InvalidArgument for a count outside 1 to 1000, and for times that break BIP 113 or lie more than
    two hours ahead.
    """

    count: int
    script_pubkey: bytes
    times: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Reorganized:
    disconnected: tuple[BlockHash, ...]  # tip first
    connected: tuple[BlockHash, ...]
    height: int


@dataclass(frozen=True, slots=True)
class ReorganizeChain(Message[Reorganized]):
    """Replace the last ``depth`` blocks by ``depth + 1`` empty ones; regtest only.

    InvalidArgument for a depth outside 1 to 100, or beyond the chain.
    """

    depth: int


ChainMessage: TypeAlias = (
    Info
    | FindTransaction
    | TestAccept
    | Broadcast
    | ListMempool
    | ListUtxos
    | GetBlock
    | MineBlocks
    | ReorganizeChain
)


class ChainBehindError(RuntimeError):
    """Something failed half way: the actor must be built anew, which brings all in line again."""


class ChainActor(Actor[ChainMessage]):
    """The only owner of kernel and mempool. What it knows of the chain, the journal knew first."""

    def __init__(
        self,
        chain: Chain,
        *,
        kernel: Kernel,
        journal: BlockLog,
        store: ChainStore,
        filled: Callable[[], None] = lambda: None,
        moved: Callable[[], None] = lambda: None,
        checkpoint_blocks: int = 1000,
    ) -> None:
        self._chain = chain
        self._mempool = Mempool()
        self._kernel = kernel
        self._journal = journal
        self._store = store
        # Called after the mempool may have got, and the chain or what waits may have moved.
        self._filled = filled
        self._moved = moved
        # Transactions by their bytes: the tip at which they were judged last, and their coins then.
        self._satisfied: OrderedDict[bytes, tuple[BlockHash, Coins]] = OrderedDict()
        self._checkpoint_blocks = checkpoint_blocks
        self._uncheckpointed = 0

    async def receive(self, message: ChainMessage) -> object:
        match message:
            case Info():
                return self._info()
            case FindTransaction(txid):
                return await self._find_transaction(txid)
            case TestAccept(raw):
                return (await self._judge(parse_transaction(raw))).acceptance
            case Broadcast(raw):
                return await self._broadcast(parse_transaction(raw))
            case ListMempool():
                return tuple(self._mempool)
            case ListUtxos(script_pubkey, after, limit):
                utxos = await self._list_utxos(script_pubkey, after, limit)
                return UtxoPage(tuple(utxos), self._chain.height)
            case GetBlock(wanted):
                return await self._block(wanted)
            case MineBlocks(count, script_pubkey, times):
                return await self._mine(count, script_pubkey, times)
            case ReorganizeChain(depth):
                return await self._reorganize(depth)
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

    async def _find_transaction(self, txid: Txid) -> Located:
        if candidate := self._mempool.get(txid):
            raw = candidate.transaction.raw
            return Located(txid=txid, raw=raw, confirmations=0, block_height=None, block_hash=None)
        position = await self._store.find_transaction(txid)
        if position is None:
            raise NotFound(
                f"transaction {display(txid)} is in neither the chain nor the mempool", field="txid"
            )
        block = await read_block(position.block_hash, self._kernel, self._journal)
        return Located(
            txid=txid,
            raw=block.transactions[position.index].raw,
            confirmations=self._chain.height - position.height + 1,
            block_height=position.height,
            block_hash=position.block_hash,
        )

    async def _broadcast(self, transaction: Transaction) -> Txid:
        txid = transaction.txid
        if txid not in self._mempool:
            try:
                self._mempool.add(await self._judge(transaction))
            except TransactionRejected:  # what the chain has breaks rules, too: its coins are spent
                if await self._store.find_transaction(txid) is None:
                    raise
            else:
                self._filled()
        return txid

    async def _judge(self, transaction: Transaction) -> MempoolTx:
        if known := self._mempool.get(transaction.txid):
            return known
        tip = self._chain.tip.hash
        known_at, coins = self._satisfied.get(transaction.raw, NOTHING)
        if known_at != tip:
            coins = await self._store.coins(transaction.prevouts)
        candidate = self._mempool.judge(transaction, coins, self._chain)
        if known_at is None:
            await self._check_scripts(candidate)
        self._satisfied[transaction.raw] = (tip, coins)
        if len(self._satisfied) > SATISFIED:
            self._satisfied.popitem(last=False)
        return candidate

    async def _check_scripts(self, candidate: MempoolTx) -> None:
        """Once for the same bytes: their inputs name for ever what scripts they must satisfy."""
        transaction, spent = candidate.transaction, candidate.spent
        if _are_cheap(spent):
            failing = find_invalid_input(transaction.raw, spent)
        else:
            failing = await asyncio.to_thread(find_invalid_input, transaction.raw, spent)
        if failing is not None:
            raise TransactionRejected(
                transaction.txid, Rule.SCRIPT, f"input {failing} does not satisfy its script"
            )

    async def _list_utxos(
        self, script: bytes, after: TxPosition | None, limit: int
    ) -> Iterable[Utxo]:
        """Confirmed ones first, those that a waiting transaction spends left out."""
        found: list[Utxo] = []
        while after is None or after.height is not None:
            page = await self._store.utxos(script, after=after, limit=limit)
            found += [coin for coin in page if not self._mempool.spends(_outpoint(coin))]
            if len(found) >= limit:
                return found[:limit]
            if len(page) < limit:
                return islice(chain(found, self._mempool.utxos(script)), limit)
            after = page[-1].place
        return islice(self._mempool.utxos(script, after=after), limit)

    async def _block(self, wanted: BlockHash | int) -> LocatedBlock:
        if isinstance(wanted, int):
            height = wanted if wanted <= self._chain.height else None
        else:
            height = await self._store.find_height(wanted)
        if height is None:
            shown = wanted if isinstance(wanted, int) else display(wanted)
            raise NotFound(f"block {shown} is not in the active chain")
        block = await read_block(self._chain[height].hash, self._kernel, self._journal)
        return LocatedBlock(block, height, self._chain.height - height + 1)

    async def _mine(self, count: int, script_pubkey: bytes, times: Sequence[int]) -> Mined:
        blocks = extend(
            self._chain,
            count=count,
            now=int(time()),
            times=times,
            script_pubkey=script_pubkey,
            waiting=tuple(self._mempool),
        )
        await self._connect(blocks)
        return Mined(tuple(block.hash for block in blocks), self._chain.height)

    async def _reorganize(self, depth: int) -> Reorganized:
        fork = self._chain.height - depth
        most = min(MAX_REORG_DEPTH, self._chain.height)
        if not 1 <= depth <= most:
            raise InvalidArgument(
                f"depth must be 1 to {most} on a chain of height {self._chain.height}, not {depth}",
                field="depth",
            )
        gone = tuple(self._chain[height].hash for height in range(self._chain.height, fork, -1))
        blocks = extend(
            self._chain.fork(fork), count=depth + 1, now=int(time()), branch=token_bytes(8)
        )
        await self._connect(blocks)
        return Reorganized(gone, tuple(block.hash for block in blocks), self._chain.height)

    async def _connect(self, blocks: Sequence[Block]) -> None:
        """Journal first, then the kernel, then the index; BlockRejected if the kernel refuses."""
        try:
            for start in range(0, len(blocks), BATCH):
                batch = blocks[start : start + BATCH]
                await self._journal.append(batch)
                failpoint.reach("bitcoin.block.journalled")
                refusal = await asyncio.to_thread(self._submit, batch)
                failpoint.reach("bitcoin.block.accepted")
                if refusal:
                    refused = [block.hash for block in batch]
                    refused = refused[refused.index(refusal.hash) :]
                    await self._journal.remove(refused)
                await self._follow()
                failpoint.reach("bitcoin.block.indexed")
                if refusal:
                    raise refusal
        except BlockRejected:
            raise
        except MeshError as error:
            raise ChainBehindError("journal, kernel and index are no longer one") from error
        if self._chain.tip.hash != blocks[-1].hash:
            raise ChainBehindError(f"block {display(blocks[-1].hash)} did not become the tip")

    def _submit(self, blocks: Sequence[Block]) -> BlockRejected | None:
        for block in blocks:
            try:
                self._kernel.submit(block)
            except BlockRejected as refusal:
                return refusal
        self._uncheckpointed += len(blocks)
        if self._uncheckpointed >= self._checkpoint_blocks:
            self._kernel.checkpoint()
            self._uncheckpointed = 0
        return None

    async def _follow(self) -> None:
        """Let index and mempool go where the kernel went."""
        gone: list[Block] = []
        async for moved in follow(self._chain, self._kernel, self._journal, self._store):
            gone += [
                await read_block(hash, self._kernel, self._journal)
                for hash in reversed(moved.disconnected)
            ]
            for connected in moved.connected:
                self._mempool.confirm(connected.transactions)
        if gone:
            returned = [transaction for block in gone for transaction in block.transactions[1:]]
            await self._requalify([*returned, *self._mempool.clear()])
        self._filled()
        self._moved()

    async def _requalify(self, transactions: Sequence[Transaction]) -> None:
        """Take back what a reorganisation left valid; scripts that held before hold now."""
        for transaction in transactions:
            coins = await self._store.coins(transaction.prevouts)
            try:
                self._mempool.add(self._mempool.judge(transaction, coins, self._chain))
            except TransactionRejected as rejection:
                log.info("after the reorganisation: %s", rejection)


def _are_cheap(spent: Sequence[Output]) -> bool:
    return len(spent) <= CHEAP_INPUTS and all(
        script_type(output.script_pubkey) is ScriptType.P2WPKH for output in spent
    )


def _outpoint(utxo: Utxo) -> Outpoint:
    return outpoint(utxo.txid, utxo.place.vout)
