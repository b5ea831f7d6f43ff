"""The index of the active chain and the histories read from it, on either store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from features.history import AddressHistory, Receipt, Spend
from features.history import Output as Paid
from formats.bitcoin.block import Block, parse_block
from formats.bitcoin.hashes import BlockHash
from formats.bitcoin.transaction import (
    Input,
    Output,
    Transaction,
    outpoint,
    parse_transaction,
    serialize,
)
from formats.money import SAT_PER_BTC
from mesh.data import outbox
from mesh.data.database import open_database
from services.bitcoin import miner
from services.bitcoin.chain import Chain, HeaderRef, TxPosition
from services.bitcoin.mempool import MempoolTx
from services.bitcoin.store import chain as chain_store
from services.bitcoin.store import history
from services.bitcoin.store.chain import ChainStore
from services.bitcoin.store.history import HistoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from mesh.data.database import Database
    from mesh.data.database import Transaction as DatabaseTransaction

ALICE, BOB, CAROL = (b"\x00\x14" + bytes([n]) * 20 for n in (1, 2, 3))
LONG_SCRIPT = b"\x51" * 9_000  # spendable, and longer than an index key
BURN = b"\x6a\x04burn"
SUBSIDY = 50 * SAT_PER_BTC


@pytest.fixture
async def database(location: str) -> AsyncIterator[Database]:
    async with open_database(location, schema=outbox.SCHEMA + chain_store.SCHEMA) as database:
        yield database


class Index:
    """A store, and unvalidated blocks for it."""

    def __init__(self, database: Database) -> None:
        self.store = ChainStore(database)
        self.histories = HistoryStore(database)
        genesis = miner.mine(
            height=0, prev_hash=BlockHash(bytes(32)), time=1_600_000_000, script_pubkey=b"\x6a"
        )
        self.blocks: list[Block] = [genesis]

    async def start(self) -> None:
        await self.store.follow(height=0, disconnected=[], connected=self.blocks)

    async def connect(
        self, script: bytes, *transactions: Transaction, branch: bytes = b""
    ) -> Block:
        block = self.draft(script, *transactions, branch=branch)
        await self.store.follow(height=len(self.blocks), disconnected=[], connected=[block])
        self.blocks.append(block)
        return block

    async def disconnect(self, depth: int) -> None:
        gone = [self.blocks.pop().hash for _ in range(depth)]
        await self.store.follow(height=len(self.blocks), disconnected=gone, connected=[])

    def draft(self, script: bytes, *transactions: Transaction, branch: bytes = b"") -> Block:
        tip = self.blocks[-1]
        return miner.mine(
            height=len(self.blocks),
            prev_hash=tip.hash,
            time=tip.header.time + 600,
            script_pubkey=script,
            selected=[MempoolTx(transaction, (), 0) for transaction in transactions],
            branch=branch,
        )

    async def history(self, script: bytes, height: int | None = None) -> AddressHistory:
        found = (await self.histories.read([script], height=height)).addresses[0]
        assert found is not None
        return found


@pytest.fixture
async def index(database: Database) -> Index:
    index = Index(database)
    await index.start()
    return index


def spend(coins: Sequence[tuple[Transaction, int]], *outputs: tuple[bytes, int]) -> Transaction:
    inputs = [Input(outpoint(transaction.txid, vout)) for transaction, vout in coins]
    paid = [Output(amount_sat, script) for script, amount_sat in outputs]
    return parse_transaction(serialize(version=2, inputs=inputs, outputs=paid))


async def test_history_has_receipts_funders_and_spends(index: Index) -> None:
    first = (await index.connect(ALICE)).transactions[0]
    second = (await index.connect(BOB)).transactions[0]
    joint = spend([(first, 0), (second, 0)], (CAROL, 7), (ALICE, 5), (BURN, 0))
    await index.connect(CAROL, joint)
    onward = spend([(joint, 0)], (BOB, 6))
    await index.connect(CAROL, onward)

    alice, carol = await index.history(ALICE), await index.history(CAROL, height=4)

    spent = Spend(joint.txid, 3, (Paid(CAROL, 7), Paid(ALICE, 5)))
    assert alice.receipts == (
        Receipt(first.txid, 0, 1, SUBSIDY, frozenset(), spent),
        Receipt(joint.txid, 1, 3, 5, frozenset({ALICE, BOB})),
    )
    assert carol.receipts[1] == Receipt(
        joint.txid, 0, 3, 7, frozenset({ALICE, BOB}), Spend(onward.txid, 4, (Paid(BOB, 6),))
    )


async def test_history_as_of_a_height_ignores_later_blocks(index: Index) -> None:
    first = (await index.connect(ALICE)).transactions[0]
    await index.connect(BOB, spend([(first, 0)], (BOB, 1)))

    past = await index.histories.read([ALICE, BOB], height=1)

    assert past.height == 1
    assert past.tip.hash == index.blocks[1].hash
    assert past.addresses == (
        AddressHistory(ALICE, (Receipt(first.txid, 0, 1, SUBSIDY, frozenset()),)),
        AddressHistory(BOB),
    )


async def test_spend_that_leaves_nothing_spendable_is_still_a_spend(index: Index) -> None:
    first = (await index.connect(ALICE)).transactions[0]
    burning = spend([(first, 0)], (BURN, 0))
    await index.connect(BOB, burning)

    assert (await index.history(ALICE)).receipts[0].spend == Spend(burning.txid, 2, ())


async def test_history_above_the_limit_is_none(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MAX_RECEIPTS", 1)
    await index.connect(ALICE)
    await index.connect(ALICE)

    assert (await index.histories.read([ALICE])).addresses == (None,)


async def test_extended_history_equals_a_fresh_read(index: Index, database: Database) -> None:
    first = (await index.connect(ALICE)).transactions[0]
    await index.history(ALICE)
    joint = spend([(first, 0)], (CAROL, 7), (ALICE, 5))
    await index.connect(ALICE, joint)
    await index.history(ALICE)
    await index.connect(CAROL, spend([(joint, 1)], (ALICE, 2), (BOB, 1)))

    followed = await index.history(ALICE)

    fresh = (await HistoryStore(database).read([ALICE])).addresses[0]
    assert followed == fresh
    assert [receipt.spend is None for receipt in followed.receipts] == [
        False,
        True,
        False,
        True,
    ]


async def test_history_at_one_tip_is_the_same_object(index: Index) -> None:
    await index.connect(ALICE)
    read = await index.history(ALICE)
    again = await index.history(ALICE)
    await index.connect(BOB)

    assert again is read
    assert await index.history(ALICE) is read  # no new block pays it


async def test_reorganisation_removes_receipts_from_a_history(index: Index) -> None:
    first = (await index.connect(ALICE)).transactions[0]
    before = await index.history(ALICE)
    await index.connect(BOB, spend([(first, 0)], (ALICE, 5)))
    await index.history(ALICE)
    await index.disconnect(1)
    await index.connect(BOB, branch=b"other")

    assert await index.history(ALICE) == before


async def test_cache_holds_a_limited_number_of_receipts(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MAX_CACHED_RECEIPTS", 3)
    await index.connect(ALICE)
    alice = await index.history(ALICE)
    await index.connect(BOB)
    await index.history(BOB)

    again = await index.history(ALICE)

    assert again == alice
    assert again is not alice


async def test_height_beyond_the_index_is_refused(index: Index) -> None:
    with pytest.raises(ValueError, match="does not reach height 9"):
        await index.histories.read([ALICE], height=9)


async def test_disconnecting_restores_the_previous_index(index: Index) -> None:
    first = (await index.connect(ALICE)).transactions[0]
    before = await index.history(ALICE)
    coins = await index.store.coins([outpoint(first.txid, 0)])
    parent = spend([(first, 0)], (BOB, 3), (ALICE, 2))
    child = spend([(parent, 1)], (CAROL, 1))  # spent in its own block
    await index.connect(BOB, parent, child)
    await index.connect(BOB)

    await index.disconnect(2)

    assert await index.history(ALICE) == before
    assert await index.store.coins([outpoint(first.txid, 0)]) == coins
    assert await index.store.find_transaction(parent.txid) is None
    assert [link.hash for link in await index.store.headers()] == [b.hash for b in index.blocks]


async def test_150_blocks_are_disconnected_at_once(index: Index) -> None:
    before = await index.history(ALICE)
    for _ in range(150):
        await index.connect(ALICE)

    await index.disconnect(150)

    assert await index.history(ALICE) == before
    assert len(await index.store.headers()) == 1


async def test_reorganisation_is_atomic_and_announced_in_order(
    index: Index, database: Database
) -> None:
    old = [await index.connect(ALICE), await index.connect(ALICE)]
    index.blocks = index.blocks[:1]
    new = [index.draft(BOB, branch=b"b")]
    index.blocks += new
    new.append(index.draft(BOB, branch=b"b"))

    await index.store.follow(
        height=1, disconnected=[block.hash for block in reversed(old)], connected=new
    )

    async def work(tx: DatabaseTransaction) -> list[outbox.OutboxEvent]:
        return await outbox.read(tx, after=3, limit=10)

    kinds = [event.type.rpartition(".")[2] for event in await database.read(work)]
    assert kinds == ["disconnected", "disconnected", "connected", "connected"]
    assert await index.history(ALICE) == AddressHistory(ALICE)
    assert len((await index.history(BOB)).receipts) == 2


async def test_stale_writer_does_not_move_the_index(index: Index) -> None:
    await index.connect(ALICE)
    late = index.draft(BOB)
    await index.connect(CAROL)
    links = await index.store.headers()

    with pytest.raises(chain_store.IndexMovedError):
        await index.store.follow(height=3, disconnected=[], connected=[late])
    with pytest.raises(chain_store.IndexMovedError):
        await index.store.follow(height=2, disconnected=[late.hash], connected=[])

    assert await index.store.headers() == links


async def test_script_longer_than_an_index_key_is_found(index: Index) -> None:
    await index.connect(LONG_SCRIPT)

    assert [
        utxo.amount_sat for utxo in await index.store.utxos(LONG_SCRIPT, after=None, limit=9)
    ] == [SUBSIDY]


async def test_coins_are_listed_in_order_after_a_position(index: Index) -> None:
    first = (await index.connect(ALICE)).transactions[0]
    await index.connect(BOB, spend([(first, 0)], (ALICE, 11), (BOB, 1), (ALICE, 12)))
    await index.connect(ALICE)

    places = [utxo.position for utxo in await index.store.utxos(ALICE, after=None, limit=9)]
    behind = await index.store.utxos(ALICE, after=TxPosition(2, 1, 0), limit=1)

    assert places == [TxPosition(2, 1, 0), TxPosition(2, 1, 2), TxPosition(3, 0, 0)]
    assert [utxo.amount_sat for utxo in behind] == [12]


async def test_genesis_has_no_coins(database: Database) -> None:
    index = Index(database)
    index.blocks = [
        miner.mine(height=0, prev_hash=BlockHash(bytes(32)), time=1, script_pubkey=ALICE)
    ]

    await index.start()

    assert await index.history(ALICE) == AddressHistory(ALICE)


def test_fork_leaves_the_chain_unchanged() -> None:
    links = [HeaderRef(BlockHash(bytes([n]) * 32), n) for n in range(5)]
    chain = Chain(links)

    fork = chain.fork(2)
    fork.connect(HeaderRef(BlockHash(b"x" * 32), 9))

    assert (chain.height, chain.tip) == (4, links[4])
    assert (fork.height, fork[2]) == (3, links[2])


def test_mined_block_parses_back_to_itself() -> None:
    block = miner.mine(height=7, prev_hash=BlockHash(b"p" * 32), time=5, script_pubkey=ALICE)

    assert parse_block(block.raw) == block
