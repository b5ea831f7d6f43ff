"""Bitcoin's word on a payment, beside what the journal knows of it."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from anya.bitcoin.v1 import wallet_pb2 as pb
from mesh.errors import Reason, Unavailable
from mesh.rpc import contracts
from services.orchestrator.definition.workflow import Effect
from services.orchestrator.engine.model import StepError

if TYPE_CHECKING:
    from services.orchestrator.engine.model import RunState
    from services.orchestrator.peers import Peers

SERVICE = "bitcoin"
SEND = pb.DESCRIPTOR.services_by_name["WalletService"].methods_by_name["SendPayment"]
PATH = f"/{SEND.containing_service.full_name}"
# The contract of a payment says who tells what became of it, and who refuses it.
OUTCOME = f"{PATH}/{contracts.operation(SEND).outcome}"
CANCEL = f"{PATH}/{contracts.operation(SEND).cancel}"


class WalletPeer:
    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    async def find(self, payment_id: str, *, within: float) -> pb.Payment | StepError | None:
        """The payment or its cancellation, None if bitcoin has neither, or why it did not say."""
        request = pb.GetPaymentRequest(payment_id=payment_id).SerializeToString()
        reply = await self._peers.call(SERVICE, OUTCOME, request, timeout=within)
        if isinstance(reply, StepError):
            return None if reply.code == "NOT_FOUND" else reply
        return pb.GetPaymentResponse.FromString(reply).payment

    async def cancel(self, payment_id: str) -> pb.Payment:
        """The cancellation, or the payment that was there first. Unavailable if nobody knows."""
        request = pb.CancelPaymentRequest(payment_id=payment_id).SerializeToString()
        reply = await self._peers.call(SERVICE, CANCEL, request)
        if isinstance(reply, StepError):
            raise Unavailable(
                f"whether {payment_id} is cancelled is not known: bitcoin said {reply}",
                reason=Reason.PEER_UNAVAILABLE,
                retry_after=reply.retry_after or None,
            )
        return pb.CancelPaymentResponse.FromString(reply).payment


class PaymentAnswer:
    """What bitcoin says of one payment whose run is followed.

    It is asked when the run has gone on with the payment itself or has ended, and else now and
    then: an answer to anything else is at most ``fresh_for`` seconds old.
    """

    def __init__(self, wallet: WalletPeer, payment_id: str, *, fresh_for: float) -> None:
        self._wallet = wallet
        self._payment_id = payment_id
        self._fresh_for = fresh_for
        self._asked = -math.inf
        self._about: object = None
        self._answer: pb.Payment | StepError | None = None

    async def on(self, state: RunState, *, within: float) -> pb.Payment | StepError | None:
        now = asyncio.get_running_loop().time()
        about = (
            state.finished,
            [
                (step.status, step.attempt, step.cancel_attempt)
                for step in state.steps.values()
                if step.effect == Effect.PIVOT.name
            ],
        )
        if about != self._about or now - self._asked >= self._fresh_for:
            self._answer = await self._wallet.find(self._payment_id, within=within)
            self._about, self._asked = about, now
        return self._answer
