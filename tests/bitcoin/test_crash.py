"""SIGKILL at critical moments: every logged block is there once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
from asyncio.subprocess import PIPE
from contextlib import asynccontextmanager
from shutil import copyfile
from typing import TYPE_CHECKING

import grpc
import pytest

from anya.bitcoin.v1 import chain_pb2, regtest_pb2
from anya.bitcoin.v1.chain_pb2_grpc import ChainServiceStub
from anya.bitcoin.v1.regtest_pb2_grpc import RegtestServiceStub
from tests.bitcoin.conftest import channel_to

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mesh.config import Identity
    from mesh.testing import Authority


class House:
    """A home folder, and the service processes that run in it."""

    def __init__(self, authority: Authority, home: Path) -> None:
        (home / "pki").mkdir()
        identity = authority.issue_service("bitcoin")
        copyfile(identity.ca, home / "pki" / "ca.pem")
        copyfile(identity.certificate, home / "pki" / "bitcoin.pem")
        copyfile(identity.key, home / "pki" / "bitcoin.key")
        self._home = home
        self._operator: Identity = authority.issue("spiffe://anya.internal/client/operator")

    @asynccontextmanager
    async def service(
        self, failpoints: str = ""
    ) -> AsyncIterator[tuple[Process, grpc.aio.Channel]]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.bitcoin"),
            env={
                "PATH": os.environ["PATH"],
                "ANYA_HOME": str(self._home),
                "ANYA_FAILPOINTS": failpoints,
            },
            stdout=PIPE,
        )
        try:
            assert process.stdout
            ready = json.loads(await process.stdout.readline())["ready"]
            async with channel_to(ready["port"], self._operator) as channel:
                yield process, channel
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


@pytest.fixture
def house(authority: Authority, tmp_path: Path) -> House:
    return House(authority, tmp_path)


async def mine(channel: grpc.aio.Channel, count: int) -> None:
    await RegtestServiceStub(channel).MineBlocks(
        regtest_pb2.MineBlocksRequest(request_id=str(uuid.uuid4()), count=count)
    )


async def reorganize(channel: grpc.aio.Channel, depth: int) -> None:
    request = regtest_pb2.ReorganizeChainRequest(request_id=str(uuid.uuid4()), depth=depth)
    await RegtestServiceStub(channel).ReorganizeChain(request)


async def tip(channel: grpc.aio.Channel) -> tuple[int, bytes]:
    info = await ChainServiceStub(channel).GetChainInfo(chain_pb2.GetChainInfoRequest())
    block = await ChainServiceStub(channel).GetBlock(chain_pb2.GetBlockRequest(height=info.height))
    assert block.hash == info.tip_hash
    return info.height, info.tip_hash


async def test_no_block_is_lost_when_the_idle_process_is_killed(house: House) -> None:
    async with house.service() as (process, channel):
        await mine(channel, 7)
        before = await tip(channel)
        process.send_signal(signal.SIGKILL)
        await process.wait()

    async with house.service() as (_, channel):
        assert await tip(channel) == before
        await mine(channel, 1)
        assert (await tip(channel))[0] == 8


@pytest.mark.parametrize("moment", ["logged", "accepted", "indexed"])
async def test_logged_blocks_survive_a_kill_at_any_moment(house: House, moment: str) -> None:
    async with house.service() as (_, channel):
        await mine(channel, 3)

    async with house.service(f"bitcoin.block.{moment}=kill") as (process, channel):
        with pytest.raises(grpc.aio.AioRpcError):
            await mine(channel, 2)
        assert await process.wait() == -signal.SIGKILL

    async with house.service() as (_, channel):
        assert (await tip(channel))[0] == 5


@pytest.mark.parametrize("moment", ["logged", "accepted", "indexed"])
async def test_reorganisation_that_was_logged_is_finished_after_a_kill(
    house: House, moment: str
) -> None:
    async with house.service() as (_, channel):
        await mine(channel, 5)
        _, before = await tip(channel)

    async with house.service(f"bitcoin.block.{moment}=kill") as (process, channel):
        with pytest.raises(grpc.aio.AioRpcError):
            await reorganize(channel, 3)
        await process.wait()

    async with house.service() as (_, channel):
        height, hash = await tip(channel)
        assert height == 6
        assert hash != before


@pytest.mark.parametrize(
    "moment", ["bitcoin.block.logged", "bitcoin.block.accepted", "bitcoin.block.indexed"]
)
async def test_a_retry_after_a_kill_mines_nothing_more_and_gets_the_first_reply(
    house: House, moment: str
) -> None:
    request = regtest_pb2.MineBlocksRequest(request_id="once", count=150)
    async with house.service(f"{moment}=kill") as (process, channel):
        with pytest.raises(grpc.aio.AioRpcError):
            await RegtestServiceStub(channel).MineBlocks(request)
        assert await process.wait() == -signal.SIGKILL

    async with house.service() as (_, channel):
        before = await tip(channel)
        replies = [await RegtestServiceStub(channel).MineBlocks(request) for _ in range(2)]
        after = await tip(channel)

    assert before == after == (150, replies[0].block_hashes[-1])
    assert replies[0] == replies[1]
    assert (replies[0].height, len(replies[0].block_hashes)) == (150, 150)


async def test_a_kill_before_the_blocks_are_stored_leaves_no_reply(house: House) -> None:
    request = regtest_pb2.MineBlocksRequest(request_id="once", count=2)
    async with house.service("idempotency.before_commit=kill") as (process, channel):
        with pytest.raises(grpc.aio.AioRpcError):
            await RegtestServiceStub(channel).MineBlocks(request)
        await process.wait()

    async with house.service() as (_, channel):
        before = await tip(channel)
        reply = await RegtestServiceStub(channel).MineBlocks(request)
        after = await tip(channel)

    assert before[0] == 0
    assert after == (2, reply.block_hashes[-1])


async def test_a_retried_reorganisation_after_a_kill_replaces_nothing_more(house: House) -> None:
    request = regtest_pb2.ReorganizeChainRequest(request_id="once", depth=3)
    async with house.service() as (_, channel):
        await mine(channel, 5)
    async with house.service("bitcoin.block.accepted=kill") as (process, channel):
        with pytest.raises(grpc.aio.AioRpcError):
            await RegtestServiceStub(channel).ReorganizeChain(request)
        await process.wait()

    async with house.service() as (_, channel):
        reply = await RegtestServiceStub(channel).ReorganizeChain(request)
        after = await tip(channel)

    assert (len(reply.disconnected), len(reply.connected)) == (3, 4)
    assert after == (6, reply.connected[-1])
