"""The demo's economy on a real chain: each planned transaction happens once, also after a stop."""

from __future__ import annotations

import uuid
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from opentelemetry.trace import NoOpTracer

from anya.bitcoin.v1 import chain_pb2, regtest_pb2
from anya.bitcoin.v1.chain_pb2_grpc import ChainServiceStub
from anya.bitcoin.v1.regtest_pb2_grpc import RegtestServiceStub
from cli.economy import EconomyState, Payer, Rendering, Replay
from cli.errors import CommandError
from formats.bitcoin.block import Block, parse_block
from formats.bitcoin.network import Network
from formats.bitcoin.p2wpkh import Key
from mesh.breaker import Breakers
from mesh.clock import SystemClock
from mesh.config import MeshConfig
from mesh.rpc.client import open_channel
from mesh.rpc.interceptors import ClientRules
from services.bitcoin.__main__ import bitcoin
from services.bitcoin.config import BitcoinConfig
from services.ml.simulation.population import demo_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from cli.connection import Channels
    from mesh.testing import Authority
    from services.ml.simulation.plan import Plan

TIP_TIME_S = 1_790_000_000
STATE = EconomyState(secret="07" * 32, tip_time=TIP_TIME_S)
TIP = 116  # height: the empty blocks, and a few with transactions


@cache
def beginning() -> Plan:
    plan = demo_world().plan
    return replace(plan, blocks=plan.blocks[:TIP])


@pytest.fixture
async def channels(authority: Authority, tmp_path: Path) -> AsyncIterator[Channels]:
    """A channel of the operator to a bitcoin service."""
    mesh = MeshConfig(service="bitcoin", identity=authority.issue_service("bitcoin"), home=tmp_path)
    operator = authority.issue("spiffe://anya.internal/client/operator")
    rules = ClientRules(
        target="bitcoin", tracer=NoOpTracer(), breakers=Breakers(SystemClock()), timeout=30.0
    )
    async with (
        bitcoin(BitcoinConfig(mesh=mesh)) as service,
        open_channel(f"127.0.0.1:{service.port}", rules, operator) as channel,
    ):
        yield {"bitcoin": channel}


class Bystander:
    """A payer that makes no payment and counts the calls."""

    def __init__(self) -> None:
        self.settled = 0
        self.key = Key.from_secret(bytes([5]) * 32)
        self.payer = Payer(self.key.address(Network.REGTEST), self.settle, self.pay)

    async def settle(self) -> None:
        self.settled += 1

    async def pay(self, address: str, amount_sat: int) -> None:
        """Makes no payment, which the plan allows."""


def replay(channels: Channels, bystander: Bystander) -> Replay:
    return Replay(channels, beginning(), STATE, bystander.payer)


async def blocks(channels: Channels) -> list[Block]:
    stub = ChainServiceStub(channels["bitcoin"])
    info = await stub.GetChainInfo(chain_pb2.GetChainInfoRequest())
    replies = [
        await stub.GetBlock(chain_pb2.GetBlockRequest(height=height))
        for height in range(1, info.height + 1)
    ]
    return [parse_block(reply.raw) for reply in replies]


async def test_planned_transactions_confirm_in_their_blocks(channels: Channels) -> None:
    plan, bystander = beginning(), Bystander()

    await replay(channels, bystander).run(lambda height, tip: None)

    chain = await blocks(channels)
    assert [len(block.transactions) for block in chain] == [
        len(planned.transactions) for planned in plan.blocks
    ]
    assert bystander.settled == 1


async def test_blocks_are_ten_minutes_apart_up_to_the_tip_time(channels: Channels) -> None:
    await replay(channels, Bystander()).run(lambda height, tip: None)

    times = [block.header.time for block in await blocks(channels)]
    assert {after - before for before, after in pairwise(times)} == {600}
    assert times[-1] == TIP_TIME_S


async def test_interrupted_replay_continues_where_it_stopped(channels: Channels) -> None:
    plan = beginning()

    def stop(height: int, tip: int) -> None:
        if height == TIP - 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await replay(channels, Bystander()).run(stop)

    await replay(channels, Bystander()).run(lambda height, tip: None)

    assert [len(block.transactions) for block in await blocks(channels)] == [
        len(planned.transactions) for planned in plan.blocks
    ]


async def test_chain_with_foreign_blocks_is_refused_and_unchanged(channels: Channels) -> None:
    mine = regtest_pb2.MineBlocksRequest(request_id=str(uuid.uuid4()), count=1)
    await RegtestServiceStub(channels["bitcoin"]).MineBlocks(mine)

    with pytest.raises(CommandError) as refusal:
        await replay(channels, Bystander()).run(lambda height, tip: None)

    assert refusal.value.reason == "CHAIN_NOT_FRESH"
    assert len(await blocks(channels)) == 1


def test_payer_slot_pays_the_payers_own_address() -> None:
    plan, script = beginning(), Bystander().key.script_pubkey
    rendering = Rendering(plan, bytes(32), script)

    assert plan.payer_slot is not None
    assert rendering.script(plan.payer_slot) == script


def test_another_secret_gives_other_keys() -> None:
    plan = beginning()

    assert Rendering(plan, bytes(32), b"").key(1) != Rendering(plan, bytes([1]) * 32, b"").key(1)
