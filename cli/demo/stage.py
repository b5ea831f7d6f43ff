"""The setting of the scenes: a mesh, its chain with an economy, and a payer with proofs."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from anya.bitcoin.v1 import chain_pb2, regtest_pb2, wallet_pb2
from anya.bitcoin.v1.chain_pb2_grpc import ChainServiceStub
from anya.bitcoin.v1.regtest_pb2_grpc import RegtestServiceStub
from anya.bitcoin.v1.wallet_pb2_grpc import WalletServiceStub
from cli import payment_client, runs
from cli.connection import traced
from cli.paging import pages
from cli.spans import store
from cli.spans.span import Trace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from anya.orchestrator.v1 import workflow_pb2
    from cli.connection import Channels
    from cli.home import Home
    from cli.identities import Identity
    from cli.payment_client import Proposal

AMOUNT_SAT = 5_000_000  # what every scene pays, or tries to
TRACE_TIMEOUT_S = 10.0  # for the last span to arrive
POLL_INTERVAL_S = 0.1


@dataclass(slots=True)
class Stage:
    """The objects that all scenes share."""

    home: Home
    channels: Channels
    say: Callable[[str], None]  # progress
    payer: Identity  # proven, with a linked address that holds coins
    stranger: Identity  # as well proven, but nothing is linked to it
    licit: str  # address of the merchant with the most distinct funders
    scam: str  # address of the scam that collected most often
    keeps_traces: bool = True  # False where they go to a collector of the user's
    last: Proposal | None = None  # the payment that was proposed last

    async def run(
        self, proposing: Awaitable[Proposal], *, workflow_id: str = payment_client.WORKFLOW
    ) -> workflow_pb2.Run:
        """Proves a payment, starts it and follows it to its end."""
        with traced("pay"):
            self.last = await proposing
            started = await payment_client.start(self.channels, self.last, workflow_id=workflow_id)
        return await runs.finish(self.channels, started.run_id, self.say)

    async def mine(self, count: int = 1) -> None:
        request = regtest_pb2.MineBlocksRequest(request_id=str(uuid.uuid4()), count=count)
        await RegtestServiceStub(self.channels["bitcoin"]).MineBlocks(request)

    async def payments_to(self, address: str) -> set[bytes]:
        """Returns the txids that pay the address and are unspent, in the chain or the mempool."""
        stub = ChainServiceStub(self.channels["bitcoin"])
        request = chain_pb2.ListUtxosRequest(address=address, page_size=1000)
        replies = pages(stub.ListUtxos, request)
        return {utxo.txid async for reply in replies for utxo in reply.utxos}

    async def was_signed(self, payment_id: str) -> bool:
        """Returns True if the wallet has a payment of this id, which it has once it is signed."""
        request = wallet_pb2.GetPaymentRequest(payment_id=payment_id)
        try:
            await WalletServiceStub(self.channels["bitcoin"]).GetPayment(request)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return False
            raise
        return True

    async def trace(
        self, trace_id: str, *, answered: bool = True, through: Collection[str] = ()
    ) -> Trace:
        """Returns the trace once it is complete, or as far as it is after the time limit.

        ``answered``: complete includes the server's span of each call, which a kill may have lost.
        ``through``: complete includes a span of each of these services.
        """
        trace = Trace(trace_id, ())
        for _ in range(round(TRACE_TIMEOUT_S / POLL_INTERVAL_S) if self.keeps_traces else 0):
            trace = await asyncio.to_thread(store.load, self.home.traces, trace_id)
            has_come = trace.is_whole and not (answered and trace.unanswered)
            if has_come and set(trace.services).issuperset(through):
                break
            await asyncio.sleep(POLL_INTERVAL_S)
        return trace
