"""RegtestService over gRPC: parses requests, and formats replies. It has no rules of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anya.bitcoin.v1 import regtest_pb2 as pb
from anya.bitcoin.v1.regtest_pb2_grpc import RegtestServiceServicer
from formats.bitcoin.network import Network
from mesh.rpc.interceptors import request_key
from mesh.security.payment_intent import parse_address
from services.bitcoin.actors.chain_messages import MineBlocks, ReorganizeChain
from services.bitcoin.miner import UNSPENDABLE_SCRIPT

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    from mesh.actor import ActorRef
    from services.bitcoin.actors.chain_messages import ChainMessage

TIMEOUT_S = 120.0  # of a thousand blocks


class RegtestServicer(RegtestServiceServicer):
    def __init__(self, chain: ActorRef[ChainMessage]) -> None:
        self._chain = chain

    async def MineBlocks(
        self,
        request: pb.MineBlocksRequest,
        context: ServicerContext[pb.MineBlocksRequest, pb.MineBlocksResponse],
    ) -> pb.MineBlocksResponse:
        script = (
            parse_address(request.address, Network.REGTEST)
            if request.address
            else UNSPENDABLE_SCRIPT
        )
        times = tuple(time.seconds for time in request.block_times)
        message = MineBlocks(request.count, script, times, request_key.current())
        mined = await self._chain.ask(message, timeout=TIMEOUT_S)
        return pb.MineBlocksResponse(block_hashes=mined.hashes, height=mined.height)

    async def ReorganizeChain(
        self,
        request: pb.ReorganizeChainRequest,
        context: ServicerContext[pb.ReorganizeChainRequest, pb.ReorganizeChainResponse],
    ) -> pb.ReorganizeChainResponse:
        message = ReorganizeChain(request.depth, request_key.current())
        done = await self._chain.ask(message, timeout=TIMEOUT_S)
        return pb.ReorganizeChainResponse(
            disconnected=done.disconnected, connected=done.connected, height=done.height
        )
