"""ChainService and RegtestService, from the stub to the kernel and back."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from anya.bitcoin.v1 import chain_pb2, regtest_pb2
from anya.bitcoin.v1.chain_pb2_grpc import ChainServiceStub
from anya.bitcoin.v1.regtest_pb2_grpc import RegtestServiceStub
from anya.mesh.v1 import outbox_pb2
from anya.mesh.v1.outbox_pb2_grpc import OutboxServiceStub
from formats.bitcoin.block import check_commitments, parse_block
from formats.bitcoin.hashes import display
from formats.bitcoin.transaction import Output, Transaction
from mesh.testing import reason
from services.bitcoin.chain import COINBASE_MATURITY_BLOCKS, SUBSIDY_SAT
from tests.bitcoin.payer import FEE_SAT, Payer

if TYPE_CHECKING:
    from collections.abc import Sequence

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND


class Client:
    """Calls of the two services, as these tests need them."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.chain = ChainServiceStub(channel)
        self.regtest = RegtestServiceStub(channel)

    async def mine(
        self, count: int = 1, address: str = "", times: Sequence[int] = ()
    ) -> regtest_pb2.MineBlocksResponse:
        stamps = [Timestamp(seconds=time) for time in times]
        request = regtest_pb2.MineBlocksRequest(
            request_id=str(uuid.uuid4()), count=count, address=address, block_times=stamps
        )
        return await self.regtest.MineBlocks(request)

    async def info(self) -> chain_pb2.GetChainInfoResponse:
        return await self.chain.GetChainInfo(chain_pb2.GetChainInfoRequest())

    async def block(self, height: int) -> chain_pb2.GetBlockResponse:
        return await self.chain.GetBlock(chain_pb2.GetBlockRequest(height=height))

    async def coinbase(self, height: int) -> Transaction:
        return parse_block((await self.block(height)).raw).transactions[0]

    async def find(self, txid: bytes) -> chain_pb2.GetTransactionResponse:
        return await self.chain.GetTransaction(chain_pb2.GetTransactionRequest(txid=txid))

    async def broadcast(self, transaction: Transaction) -> bytes:
        request = chain_pb2.BroadcastTransactionRequest(raw=transaction.raw)
        return (await self.chain.BroadcastTransaction(request)).txid

    async def mempool(self) -> list[bytes]:
        reply = await self.chain.GetMempool(chain_pb2.GetMempoolRequest())
        return [entry.txid for entry in reply.entries]

    async def utxos(
        self, address: str, *, page_size: int = 0, page_token: str = ""
    ) -> chain_pb2.ListUtxosResponse:
        request = chain_pb2.ListUtxosRequest(
            address=address, page_size=page_size, page_token=page_token
        )
        return await self.chain.ListUtxos(request)

    async def reorganize(self, depth: int) -> regtest_pb2.ReorganizeChainResponse:
        request = regtest_pb2.ReorganizeChainRequest(request_id=str(uuid.uuid4()), depth=depth)
        return await self.regtest.ReorganizeChain(request)


@pytest.fixture
def client(operator: grpc.aio.Channel) -> Client:
    return Client(operator)


@pytest.fixture
def payer() -> Payer:
    return Payer()


@pytest.fixture
async def funded(client: Client, payer: Payer) -> Transaction:
    """Mines a mature coinbase to the payer."""
    await client.mine(1, payer.address)
    await client.mine(COINBASE_MATURITY_BLOCKS)
    return await client.coinbase(1)


async def refused(call: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await call  # type: ignore[misc]
    return refusal.value


async def test_new_chain_has_only_genesis(client: Client) -> None:
    info = await client.info()

    genesis = await client.block(0)
    assert (info.network, info.height, info.mempool_transaction_count) == ("regtest", 0, 0)
    assert info.tip_hash == genesis.hash
    assert display(genesis.hash).startswith("0f9188f13cb7b2c7")


async def test_mined_blocks_are_valid_and_have_the_requested_times(client: Client) -> None:
    mined = await client.mine(3, times=[1_700_000_000, 1_700_000_600, 1_700_001_200])

    tip = await client.chain.GetBlock(chain_pb2.GetBlockRequest(hash=mined.block_hashes[-1]))
    block = parse_block(tip.raw)
    check_commitments(block)
    assert (tip.height, tip.confirmations, block.height) == (3, 1, 3)
    assert block.header.time == 1_700_001_200
    assert (await client.info()).tip_time == Timestamp(seconds=1_700_001_200)


async def test_transaction_enters_the_mempool_then_confirms(
    client: Client, payer: Payer, funded: Transaction
) -> None:
    payment = payer.sweep(funded, Payer(b"\x02").script)

    assert await client.broadcast(payment) == payment.txid

    waiting = await client.find(payment.txid)
    assert (waiting.confirmations, waiting.HasField("block_height")) == (0, False)
    assert waiting.raw == payment.raw
    mined = await client.mine(2)
    confirmed = await client.find(payment.txid)
    assert (confirmed.confirmations, confirmed.block_height) == (2, mined.height - 1)
    assert confirmed.block_hash == mined.block_hashes[0]
    assert await client.mempool() == []


async def test_broadcast_is_idempotent_in_mempool_and_chain(
    client: Client, payer: Payer, funded: Transaction
) -> None:
    payment = payer.sweep(funded, payer.script)
    await client.broadcast(payment)

    await client.broadcast(payment)
    await client.mine()
    await client.broadcast(payment)

    assert await client.mempool() == []


async def test_coinbase_includes_the_fees_of_its_block(
    client: Client, payer: Payer, funded: Transaction
) -> None:
    await client.broadcast(payer.sweep(funded, payer.script))

    height = (await client.mine(1, payer.address)).height

    coinbase = await client.coinbase(height)
    assert coinbase.outputs[0].amount_sat == SUBSIDY_SAT + FEE_SAT


async def test_children_follow_parents_and_confirm_with_them(
    client: Client, payer: Payer, funded: Transaction
) -> None:
    parent = payer.sweep(funded, payer.script)
    child = payer.sweep(parent, payer.script)
    await client.broadcast(parent)
    await client.broadcast(child)

    waiting = await client.mempool()
    await client.mine()

    assert waiting == [parent.txid, child.txid]
    assert (await client.find(child.txid)).confirmations == 1


async def test_second_spend_of_a_coin_is_rejected_by_rule(
    client: Client, payer: Payer, funded: Transaction
) -> None:
    await client.broadcast(payer.sweep(funded, payer.script))

    refusal = await refused(client.broadcast(payer.sweep(funded, Payer(b"\x02").script)))

    assert reason(refusal) == "TRANSACTION_REJECTED"
    assert "txn-mempool-conflict" in str(refusal.details())


async def test_wrong_signature_is_refused_by_the_consensus_code(
    client: Client, payer: Payer, funded: Transaction
) -> None:
    thief = Payer(b"\x03")
    prevout, amount_sat = payer.coin(funded)

    theft = thief.pay([(prevout, amount_sat)], [Output(amount_sat - FEE_SAT, thief.script)])

    refusal = await refused(client.broadcast(theft))
    assert reason(refusal) == "TRANSACTION_REJECTED"
    assert "script-verify" in str(refusal.details())


async def test_bytes_that_are_no_transaction_are_refused(client: Client) -> None:
    call = client.chain.BroadcastTransaction(chain_pb2.BroadcastTransactionRequest(raw=b"\x02"))

    assert (await refused(call)).code() is INVALID_ARGUMENT


async def test_reorganisation_removes_confirmations_and_keeps_the_payment(
    client: Client, payer: Payer, funded: Transaction
) -> None:
    payment = payer.sweep(funded, Payer(b"\x02").script)
    await client.broadcast(payment)
    mined = await client.mine(2)

    reorg = await client.reorganize(2)

    assert list(reorg.disconnected) == list(reversed(mined.block_hashes))
    assert reorg.height == mined.height + 1
    assert (await client.find(payment.txid)).confirmations == 0
    await client.mine()
    assert (await client.find(payment.txid)).confirmations == 1


async def test_reorganisation_that_makes_a_coinbase_immature_drops_its_spend(
    client: Client, payer: Payer
) -> None:
    await client.mine(1, payer.address)
    await client.mine(COINBASE_MATURITY_BLOCKS - 1)
    coinbase = await client.coinbase(1)
    payment = payer.sweep(coinbase, payer.script)
    await client.broadcast(payment)

    await client.reorganize(100)

    assert (await refused(client.find(payment.txid))).code() is NOT_FOUND
    assert (await client.utxos(payer.address)).utxos == []


async def test_every_chain_move_has_events_disconnects_first(
    client: Client, orchestrator: grpc.aio.Channel
) -> None:
    mined = await client.mine(2)
    reorg = await client.reorganize(1)

    reply = await OutboxServiceStub(orchestrator).ReadOutbox(outbox_pb2.ReadOutboxRequest())

    events = [(entry.event.type, json.loads(entry.event.binary_data)) for entry in reply.entries]
    assert [(type, data["height"]) for type, data in events] == [
        ("bitcoin.block.connected", 0),
        ("bitcoin.block.connected", 1),
        ("bitcoin.block.connected", 2),
        ("bitcoin.block.disconnected", 2),
        ("bitcoin.block.connected", 2),
        ("bitcoin.block.connected", 3),
    ]
    assert events[3][1]["hash"] == display(mined.block_hashes[1])
    assert events[5][1]["hash"] == display(reorg.connected[1])


async def test_coins_are_paged_oldest_first_and_unconfirmed_last(
    client: Client, payer: Payer, funded: Transaction
) -> None:
    other = Payer(b"\x02")
    fan_out = payer.pay(
        [payer.coin(funded)], [Output(1_000_000 + n, other.script) for n in range(5)]
    )
    await client.broadcast(fan_out)
    await client.mine()
    await client.broadcast(other.sweep(fan_out, other.script))

    pages = [await client.utxos(other.address, page_size=2)]
    while token := pages[-1].next_page_token:
        pages.append(await client.utxos(other.address, page_size=2, page_token=token))

    coins = [(utxo.amount_sat, utxo.confirmations) for page in pages for utxo in page.utxos]
    assert coins == [
        (1_000_001, 1),
        (1_000_002, 1),
        (1_000_003, 1),
        (1_000_004, 1),
        (1_000_000 - FEE_SAT, 0),
    ]


async def test_negative_page_size_is_refused(client: Client, payer: Payer) -> None:
    assert (await refused(client.utxos(payer.address, page_size=-1))).code() is INVALID_ARGUMENT


async def test_page_token_of_another_address_is_refused(
    client: Client, payer: Payer, funded: Transaction
) -> None:
    await client.mine(1, payer.address)
    token = (await client.utxos(payer.address, page_size=1)).next_page_token

    for stranger in (token[:-4], "!", token):
        call = client.utxos(Payer(b"\x02").address, page_token=stranger)
        assert (await refused(call)).code() is INVALID_ARGUMENT


@pytest.mark.parametrize(
    "address",
    ["bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", "bcrt1qqqq", "", "x" * 200],
    ids=["mainnet", "malformed", "empty", "long"],
)
async def test_address_of_another_network_or_of_none_is_refused(
    client: Client, address: str
) -> None:
    refusal = await refused(client.utxos(address))

    assert refusal.code() is INVALID_ARGUMENT
    if address.startswith("bc1"):
        assert "is an address of main; this network is regtest" in str(refusal.details())


@pytest.mark.parametrize(
    ("txid", "code"),
    [
        pytest.param(b"?" * 32, NOT_FOUND, id="unknown"),
        pytest.param(b"short", INVALID_ARGUMENT, id="malformed"),
    ],
)
async def test_unknown_txid_is_not_found(
    client: Client, txid: bytes, code: grpc.StatusCode
) -> None:
    assert (await refused(client.find(txid))).code() is code


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (chain_pb2.GetBlockRequest(), INVALID_ARGUMENT),
        (chain_pb2.GetBlockRequest(height=1, hash=b"?" * 32), INVALID_ARGUMENT),
        (chain_pb2.GetBlockRequest(hash=b"?"), INVALID_ARGUMENT),
        (chain_pb2.GetBlockRequest(hash=b"?" * 32), NOT_FOUND),
        (chain_pb2.GetBlockRequest(height=1), NOT_FOUND),
    ],
    ids=["neither", "both", "short", "unknown", "beyond the tip"],
)
async def test_block_is_requested_by_one_existing_hash_or_height(
    client: Client, request_: chain_pb2.GetBlockRequest, code: grpc.StatusCode
) -> None:
    assert (await refused(client.chain.GetBlock(request_))).code() is code


@pytest.mark.parametrize(
    ("count", "times"),
    [(0, []), (1001, []), (2, [1_700_000_000]), (1, [1_000_000_000]), (1, [32_503_680_000])],
    ids=["none", "too many", "fewer times", "before genesis", "far ahead"],
)
async def test_invalid_mining_requests_mine_no_block(
    client: Client, count: int, times: list[int]
) -> None:
    assert (await refused(client.mine(count, times=times))).code() is INVALID_ARGUMENT
    assert (await client.info()).height == 0


@pytest.mark.parametrize("depth", [0, 3, 101])
async def test_reorganisation_beyond_the_chain_is_refused(client: Client, depth: int) -> None:
    await client.mine(2)

    assert (await refused(client.reorganize(depth))).code() is INVALID_ARGUMENT
    assert (await client.info()).height == 2
