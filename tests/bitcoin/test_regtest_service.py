"""RegtestService through the wire: one effect for each request_id."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from anya.bitcoin.v1 import chain_pb2, regtest_pb2
from anya.bitcoin.v1.chain_pb2_grpc import ChainServiceStub
from anya.bitcoin.v1.regtest_pb2_grpc import RegtestServiceStub

if TYPE_CHECKING:
    from collections.abc import Awaitable

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT


async def mine(operator: grpc.aio.Channel, count: int) -> None:
    request = regtest_pb2.MineBlocksRequest(request_id=f"mine {count}", count=count)
    await RegtestServiceStub(operator).MineBlocks(request)


async def height(operator: grpc.aio.Channel) -> int:
    return (await ChainServiceStub(operator).GetChainInfo(chain_pb2.GetChainInfoRequest())).height


async def refused(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await call
    return refusal.value


async def test_a_retried_request_to_mine_gets_the_first_reply_and_mines_nothing(
    operator: grpc.aio.Channel,
) -> None:
    request = regtest_pb2.MineBlocksRequest(request_id="m", count=3)

    replies = [await RegtestServiceStub(operator).MineBlocks(request) for _ in range(3)]
    await mine(operator, 1)
    replies.append(await RegtestServiceStub(operator).MineBlocks(request))

    assert all(reply == replies[0] for reply in replies)
    assert replies[0].height == 3
    assert await height(operator) == 4


async def test_a_retried_reorganisation_gets_the_first_reply_whatever_the_chain_is_by_then(
    operator: grpc.aio.Channel,
) -> None:
    await mine(operator, 3)
    request = regtest_pb2.ReorganizeChainRequest(request_id="r", depth=2)

    first = await RegtestServiceStub(operator).ReorganizeChain(request)
    await RegtestServiceStub(operator).ReorganizeChain(
        regtest_pb2.ReorganizeChainRequest(request_id="other", depth=1)
    )
    retried = await RegtestServiceStub(operator).ReorganizeChain(request)

    assert retried == first
    assert (first.height, await height(operator)) == (4, 5)


@pytest.mark.parametrize("request_id", ["", "x" * 129])
async def test_blocks_are_mined_only_under_a_request_id(
    operator: grpc.aio.Channel, request_id: str
) -> None:
    request = regtest_pb2.MineBlocksRequest(request_id=request_id, count=1)

    refusal = await refused(RegtestServiceStub(operator).MineBlocks(request))

    assert refusal.code() is INVALID_ARGUMENT
    assert await height(operator) == 0


async def test_another_body_under_a_used_request_id_is_refused(operator: grpc.aio.Channel) -> None:
    await RegtestServiceStub(operator).MineBlocks(
        regtest_pb2.MineBlocksRequest(request_id="m", count=1)
    )

    refusal = await refused(
        RegtestServiceStub(operator).MineBlocks(
            regtest_pb2.MineBlocksRequest(request_id="m", count=2)
        )
    )

    assert refusal.code() is grpc.StatusCode.ALREADY_EXISTS
    assert await height(operator) == 1
