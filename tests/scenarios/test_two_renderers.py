"""A plan rendered in memory and on a regtest chain has the same features for every payment."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from opentelemetry.trace import NoOpTracer

from anya.bitcoin.v1 import chain_pb2, regtest_pb2
from anya.bitcoin.v1.chain_pb2_grpc import ChainServiceStub
from anya.bitcoin.v1.regtest_pb2_grpc import RegtestServiceStub
from cli.economy import Rendering
from features.payment_risk import extract
from formats.bitcoin.block import parse_block
from formats.bitcoin.network import Network
from mesh.breaker import Breakers
from mesh.clock import SystemClock
from mesh.config import MeshConfig
from mesh.data.database import open_database
from mesh.rpc.client import open_channel
from mesh.rpc.interceptors import ClientRules
from services.bitcoin.__main__ import bitcoin
from services.bitcoin.config import BitcoinConfig
from services.bitcoin.store import SCHEMA
from services.bitcoin.store.history import HistoryStore
from services.ml.simulation.index import AddressIndex, proposals
from services.ml.simulation.plan import FUNDING_SLOT
from services.ml.simulation.population import demo_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import grpc

    from features.payment_risk import PaymentFacts
    from mesh.testing import Authority
    from services.ml.simulation.plan import Plan, PlannedBlock
    from services.ml.simulation.truth import Payment

TIP = 180
FORK = TIP - 3
SECRET = b"\x07" * 32
WORLD = demo_world()


class RegtestRenderer:
    """The plan's first blocks on the chain of a running bitcoin service."""

    def __init__(self, channel: grpc.aio.Channel, histories: HistoryStore, plan: Plan) -> None:
        self._chain = ChainServiceStub(channel)
        self._regtest = RegtestServiceStub(channel)
        self._histories = histories
        self._plan = plan
        keys = Rendering(plan, SECRET, b"")
        assert plan.payer_slot is not None
        self.rendering = Rendering(plan, SECRET, keys.key(plan.payer_slot).script_pubkey)

    async def build(self) -> None:
        empty = [block for block in self._plan.blocks if len(block.transactions) == 1]
        await self._mine(len(empty))
        for block in empty:
            self.rendering.mined(block.transactions[0], await self._coinbase(block))
        for block in self._plan.blocks[len(empty) : TIP]:
            raws = [self.rendering.transaction(number) for number in block.transactions[1:]]
            await asyncio.gather(*map(self._broadcast, raws))
            await self._mine(1)

    async def reorganize(self, depth: int) -> int:
        """Replaces the last blocks by empty ones. Returns the new height."""
        request = regtest_pb2.ReorganizeChainRequest(request_id=str(uuid.uuid4()), depth=depth)
        return (await self._regtest.ReorganizeChain(request)).height

    async def facts(self, like: PaymentFacts, payment: Payment) -> PaymentFacts:
        """Returns the facts with the histories of the service's index."""
        slots = [payment.recipient_slot, *payment.sender_slots]
        scripts = [self.rendering.script(slot) for slot in slots]
        read = await self._histories.read(scripts, height=like.height)
        recipient, *senders = read.addresses
        known = tuple(history for history in senders if history is not None)
        return replace(like, recipient=recipient, sender=known)

    async def _mine(self, count: int) -> None:
        address = self.rendering.key(FUNDING_SLOT).address(Network.REGTEST)
        request = regtest_pb2.MineBlocksRequest(
            request_id=str(uuid.uuid4()), count=count, address=address
        )
        await self._regtest.MineBlocks(request)

    async def _broadcast(self, raw: bytes) -> None:
        await self._chain.BroadcastTransaction(chain_pb2.BroadcastTransactionRequest(raw=raw))

    async def _coinbase(self, block: PlannedBlock) -> bytes:
        reply = await self._chain.GetBlock(chain_pb2.GetBlockRequest(height=block.height))
        return parse_block(reply.raw).transactions[0].txid


@pytest.fixture
async def renderer(authority: Authority, tmp_path: Path) -> AsyncIterator[RegtestRenderer]:
    mesh = MeshConfig(service="bitcoin", identity=authority.issue_service("bitcoin"), home=tmp_path)
    config = BitcoinConfig(mesh=mesh)
    operator = authority.issue("spiffe://anya.internal/client/operator")
    rules = ClientRules(
        target="bitcoin", tracer=NoOpTracer(), breakers=Breakers(SystemClock()), timeout=60.0
    )
    async with (
        bitcoin(config) as service,
        open_channel(f"127.0.0.1:{service.port}", rules, operator) as channel,
        open_database(config.location, schema=SCHEMA) as database,
    ):
        renderer = RegtestRenderer(channel, HistoryStore(database), WORLD.plan)
        await renderer.build()
        yield renderer


async def test_both_renderers_have_equal_features_also_after_a_reorganization(
    renderer: RegtestRenderer,
) -> None:
    compared = 0
    for payment, index in proposals(WORLD):
        if payment.height > TIP:
            break
        in_memory = index.facts(payment)
        on_chain = await renderer.facts(in_memory, payment)
        assert extract(on_chain) == extract(in_memory), payment
        compared += 1
    assert compared > 100

    height = await renderer.reorganize(TIP - FORK)

    index = AddressIndex(WORLD.plan)
    for block in WORLD.plan.blocks[:FORK]:
        index.connect(block)
    undone = [p for p in WORLD.truth.payments if FORK < p.height <= TIP]
    assert undone
    for payment in undone:
        in_memory = replace(index.facts(payment), height=height)
        on_chain = await renderer.facts(in_memory, payment)
        assert extract(on_chain) == extract(in_memory), payment
