"""PostgreSQL stops and returns: the chain answers again without a restart of the service."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import pytest

from anya.bitcoin.v1.regtest_pb2 import MineBlocksRequest
from anya.bitcoin.v1.regtest_pb2_grpc import RegtestServiceStub
from mesh.errors import MeshError, Reason, Unavailable
from mesh.testing import eventually, reason
from services.bitcoin.__main__ import bitcoin
from services.bitcoin.actors.chain_messages import GetChainInfo, MineBlocks
from services.bitcoin.miner import UNSPENDABLE_SCRIPT
from tests.bitcoin.conftest import channel_to

if TYPE_CHECKING:
    from mesh.testing import Authority
    from services.bitcoin.__main__ import Bitcoin
    from services.bitcoin.config import BitcoinConfig
    from tests.postgres_server import PostgresServer

AWAY_S = 6.0  # three times the restart budget of an actor


async def test_chain_answers_after_its_store_returns(
    server: PostgresServer, config: BitcoinConfig, authority: Authority
) -> None:
    async with (
        bitcoin(replace(config, database=server.url("tcp"))) as service,
        channel_to(
            service.port, authority.issue("spiffe://anya.internal/client/operator")
        ) as operator,
    ):
        await service.chain.ask(MineBlocks(1, UNSPENDABLE_SCRIPT))
        await server.end()
        request = MineBlocksRequest(request_id="mine", count=1)
        with pytest.raises(grpc.aio.AioRpcError) as broken:
            await RegtestServiceStub(operator).MineBlocks(request, timeout=10)
        with pytest.raises(Unavailable):  # without a request_id it fails half way: at the log
            await service.chain.ask(MineBlocks(1, UNSPENDABLE_SCRIPT))
        refusals = await refusals_of(service, AWAY_S)
        await server.start()
        await eventually(lambda: answers(service), within=15)
        before = await service.chain.ask(GetChainInfo())
        mined = await RegtestServiceStub(operator).MineBlocks(request)

    assert broken.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reason(broken.value) == "STORE_UNAVAILABLE"
    assert {refusal.reason for refusal in refusals} == {Reason.STORE_UNAVAILABLE}
    assert all("check PostgreSQL, then retry" in str(refusal) for refusal in refusals)
    assert before.height == 1  # the refused call mined nothing
    assert mined.height == 2


async def refusals_of(service: Bitcoin, seconds: float) -> list[MeshError]:
    """Returns the reasons of all calls to the chain during the outage."""
    refusals: list[MeshError] = []
    end = time.monotonic() + seconds

    async def is_past() -> bool:
        with pytest.raises(Unavailable) as refusal:
            await service.chain.ask(GetChainInfo())
        refusals.append(refusal.value)
        return time.monotonic() > end

    await eventually(is_past, within=seconds + 5)
    return refusals


async def answers(service: Bitcoin) -> bool:
    try:
        await service.chain.ask(GetChainInfo())
    except Unavailable:
        return False
    return True
