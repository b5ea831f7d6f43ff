"""Bitcoin's word on a payment, beside what the journal knows of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anya.bitcoin.v1 import wallet_pb2 as pb
from mesh.errors import Reason, Unavailable
from services.orchestrator.engine.state import Error

if TYPE_CHECKING:
    from services.orchestrator.peers import Peers

SERVICE = "bitcoin"
GET = "/anya.bitcoin.v1.WalletService/GetPayment"
CANCEL = "/anya.bitcoin.v1.WalletService/CancelPayment"


class Wallet:
    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    async def find(self, payment_id: str, *, within: float) -> pb.Payment | Error | None:
        """The payment or its cancellation, None if bitcoin has neither, or why it did not say."""
        request = pb.GetPaymentRequest(payment_id=payment_id).SerializeToString()
        reply = await self._peers.call(SERVICE, GET, request, timeout=within)
        if isinstance(reply, Error):
            return None if reply.code == "NOT_FOUND" else reply
        return pb.GetPaymentResponse.FromString(reply).payment

    async def cancel(self, payment_id: str) -> pb.Payment:
        """The cancellation, or the payment that was there first. Unavailable if nobody knows."""
        request = pb.CancelPaymentRequest(payment_id=payment_id).SerializeToString()
        reply = await self._peers.call(SERVICE, CANCEL, request)
        if isinstance(reply, Error):
            raise Unavailable(
                f"whether {payment_id} is cancelled is not known: bitcoin said {reply}",
                reason=Reason.PEER_UNAVAILABLE,
                retry_after=reply.retry_after or None,
            )
        return pb.CancelPaymentResponse.FromString(reply).payment
