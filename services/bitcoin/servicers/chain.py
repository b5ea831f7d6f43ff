"""ChainService over gRPC: parses requests, and formats replies. It has no rules of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from anya.bitcoin.v1 import chain_pb2 as pb
from anya.bitcoin.v1.chain_pb2_grpc import ChainServiceServicer
from formats.bitcoin.network import Network
from mesh.errors import InvalidArgument
from mesh.rpc import paging
from mesh.security.payment_intent import parse_address
from services.bitcoin.actors.chain_messages import (
    Broadcast,
    FindTransaction,
    GetBlock,
    GetChainInfo,
    ListMempool,
    ListUtxos,
)
from services.bitcoin.arguments import parse_block_hash, parse_txid
from services.bitcoin.chain import TxPosition

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    from mesh.actor import ActorRef
    from services.bitcoin.actors.chain_messages import ChainMessage
    from services.bitcoin.chain import Utxo

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000


class ChainServicer(ChainServiceServicer):
    def __init__(self, chain: ActorRef[ChainMessage]) -> None:
        self._chain = chain

    async def GetChainInfo(
        self,
        request: pb.GetChainInfoRequest,
        context: ServicerContext[pb.GetChainInfoRequest, pb.GetChainInfoResponse],
    ) -> pb.GetChainInfoResponse:
        info = await self._chain.ask(GetChainInfo())
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
        limit = paging.page_size(
            request.page_size, default=DEFAULT_PAGE_SIZE, maximum=MAX_PAGE_SIZE
        )
        query = f"utxos {script.hex()}"
        after = _read_position(request.page_token, query)
        found = await self._chain.ask(ListUtxos(script, after, limit + 1))
        page, has_more = found.utxos[:limit], len(found.utxos) > limit
        return pb.ListUtxosResponse(
            utxos=[_format(utxo, found.tip_height) for utxo in page],
            next_page_token=_make_token(query, page[-1].position) if has_more else "",
        )

    async def GetMempool(
        self,
        request: pb.GetMempoolRequest,
        context: ServicerContext[pb.GetMempoolRequest, pb.GetMempoolResponse],
    ) -> pb.GetMempoolResponse:
        entries = await self._chain.ask(ListMempool())
        return pb.GetMempoolResponse(
            entries=[
                pb.GetMempoolResponse.Entry(
                    txid=entry.transaction.txid,
                    fee_sat=entry.fee_sat,
                    vsize=entry.transaction.vsize,
                )
                for entry in entries
            ]
        )

    async def BroadcastTransaction(
        self,
        request: pb.BroadcastTransactionRequest,
        context: ServicerContext[pb.BroadcastTransactionRequest, pb.BroadcastTransactionResponse],
    ) -> pb.BroadcastTransactionResponse:
        txid = await self._chain.ask(Broadcast(request.raw))
        return pb.BroadcastTransactionResponse(txid=txid)


def _make_token(query: str, last: TxPosition) -> str:
    """Returns the page token after ``last``; height 0 in it means the mempool."""
    height = 0 if last.height is None else last.height + 1
    return paging.make_token(query, height, last.index, last.vout)


def _read_position(token: str, query: str) -> TxPosition | None:
    """Returns the position in a page token, or None for the first page."""
    parts = paging.read_token(token, query, int, int, int)
    if parts is None:
        return None
    height, index, vout = parts
    return TxPosition(height - 1 if height else None, index, vout)


def _format(utxo: Utxo, tip_height: int) -> pb.Utxo:
    height = utxo.position.height
    return pb.Utxo(
        txid=utxo.txid,
        vout=utxo.position.vout,
        amount_sat=utxo.amount_sat,
        confirmations=0 if height is None else tip_height - height + 1,
        is_coinbase=utxo.is_coinbase,
    )
