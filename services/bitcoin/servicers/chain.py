"""ChainService over gRPC: parse, ask, format. No rules live here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from anya.bitcoin.v1 import chain_pb2 as pb
from anya.bitcoin.v1.chain_pb2_grpc import ChainServiceServicer
from formats.bitcoin.network import Network
from mesh.errors import InvalidArgument
from services.bitcoin.actors.chain import (
    Broadcast,
    FindTransaction,
    GetBlock,
    Info,
    ListMempool,
    ListUtxos,
)
from services.bitcoin.arguments import parse_address, parse_block_hash, parse_txid
from services.bitcoin.paging import parse_page_size, parse_page_token, render_page_token

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    from mesh.actor import ActorRef
    from services.bitcoin.actors.chain import ChainMessage
    from services.bitcoin.chain import Utxo


class ChainServicer(ChainServiceServicer):
    def __init__(self, chain: ActorRef[ChainMessage]) -> None:
        self._chain = chain

    async def GetChainInfo(
        self,
        request: pb.GetChainInfoRequest,
        context: ServicerContext[pb.GetChainInfoRequest, pb.GetChainInfoResponse],
    ) -> pb.GetChainInfoResponse:
        info = await self._chain.ask(Info())
        return pb.GetChainInfoResponse(
            network=info.network,
            height=info.height,
            tip_hash=info.tip_hash,
            tip_time=Timestamp(seconds=info.tip_time),
            mempool_transaction_count=info.mempool_size,
        )

    async def GetBlock(
        self,
        request: pb.GetBlockRequest,
        context: ServicerContext[pb.GetBlockRequest, pb.GetBlockResponse],
    ) -> pb.GetBlockResponse:
        if bool(request.hash) is request.HasField("height"):
            raise InvalidArgument("give either hash or height", field="hash")
        wanted = parse_block_hash(request.hash) if request.hash else request.height
        found = await self._chain.ask(GetBlock(wanted))
        return pb.GetBlockResponse(
            hash=found.block.hash,
            height=found.height,
            confirmations=found.confirmations,
            raw=found.block.raw,
        )

    async def GetTransaction(
        self,
        request: pb.GetTransactionRequest,
        context: ServicerContext[pb.GetTransactionRequest, pb.GetTransactionResponse],
    ) -> pb.GetTransactionResponse:
        found = await self._chain.ask(FindTransaction(parse_txid(request.txid)))
        return pb.GetTransactionResponse(
            txid=found.txid,
            confirmations=found.confirmations,
            block_height=found.block_height,
            block_hash=found.block_hash or b"",
            raw=found.raw,
        )

    async def ListUtxos(
        self,
        request: pb.ListUtxosRequest,
        context: ServicerContext[pb.ListUtxosRequest, pb.ListUtxosResponse],
    ) -> pb.ListUtxosResponse:
        script = parse_address(request.address, Network.REGTEST)
        limit = parse_page_size(request.page_size)
        after = parse_page_token(request.page_token, script)
        page = await self._chain.ask(ListUtxos(script, after, limit))
        is_full = len(page.utxos) == limit
        return pb.ListUtxosResponse(
            utxos=[_format(utxo, page.tip_height) for utxo in page.utxos],
            next_page_token=render_page_token(page.utxos[-1].place, script) if is_full else "",
        )

    async def GetMempool(
        self,
        request: pb.GetMempoolRequest,
        context: ServicerContext[pb.GetMempoolRequest, pb.GetMempoolResponse],
    ) -> pb.GetMempoolResponse:
        waiting = await self._chain.ask(ListMempool())
        return pb.GetMempoolResponse(
            entries=[
                pb.GetMempoolResponse.Entry(
                    txid=candidate.transaction.txid,
                    fee_sat=candidate.fee_sat,
                    vsize=candidate.transaction.vsize,
                )
                for candidate in waiting
            ]
        )

    async def BroadcastTransaction(
        self,
        request: pb.BroadcastTransactionRequest,
        context: ServicerContext[pb.BroadcastTransactionRequest, pb.BroadcastTransactionResponse],
    ) -> pb.BroadcastTransactionResponse:
        txid = await self._chain.ask(Broadcast(request.raw))
        return pb.BroadcastTransactionResponse(txid=txid)


def _format(utxo: Utxo, tip_height: int) -> pb.Utxo:
    height = utxo.place.height
    return pb.Utxo(
        txid=utxo.txid,
        vout=utxo.place.vout,
        amount_sat=utxo.amount_sat,
        confirmations=0 if height is None else tip_height - height + 1,
        is_coinbase=utxo.is_coinbase,
    )
