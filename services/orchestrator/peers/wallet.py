"""Bitcoin's answer on a payment, beside the records of its run."""

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
# The contract of SendPayment names the methods that return its outcome and that cancel it.
OUTCOME = f"{PATH}/{contracts.operation(SEND).outcome}"
CANCEL = f"{PATH}/{contracts.operation(SEND).cancel}"


class WalletPeer:
    """Finds and cancels payments at bitcoin."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    async def find(self, payment_id: str, *, timeout: float) -> pb.Payment | StepError | None:
        """Returns the payment or its cancellation, None if there is neither, or the error."""
        request = pb.GetPaymentRequest(payment_id=payment_id).SerializeToString()
        reply = await self._peers.call(SERVICE, OUTCOME, request, timeout=timeout)
        if isinstance(reply, StepError):
            return None if reply.code == "NOT_FOUND" else reply
        return pb.GetPaymentResponse.FromString(reply).payment

    async def cancel(self, payment_id: str) -> pb.Payment:
        """Cancels the payment; returns the cancellation, or the payment if it was made before.

        Raises Unavailable if bitcoin does not answer.
        """
        request = pb.CancelPaymentRequest(payment_id=payment_id).SerializeToString()
        reply = await self._peers.call(SERVICE, CANCEL, request)
        if isinstance(reply, StepError):
            raise Unavailable(
                f"payment {payment_id} may be cancelled or not, try again: bitcoin said {reply}",
                reason=Reason.PEER_UNAVAILABLE,
                retry_after=reply.retry_after_s or None,
            )
        return pb.CancelPaymentResponse.FromString(reply).payment


class PaymentAnswer:
    """Bitcoin's answer on one payment, for a watch of its run.

    It is asked for again if the payment's own step has changed, if the run has ended, or if the
    last answer is older than ``fresh_for_s`` seconds.
    """

    def __init__(self, wallet: WalletPeer, payment_id: str, *, fresh_for_s: float) -> None:
        self._wallet = wallet
        self._payment_id = payment_id
        self._fresh_for_s = fresh_for_s
        self._answered_at = -math.inf
        self._key: object = None
        self._answer: pb.Payment | StepError | None = None

    async def for_state(self, state: RunState, *, timeout: float) -> pb.Payment | StepError | None:
        """Returns the answer for this state of the run, from memory if it is fresh enough."""
        now = asyncio.get_running_loop().time()
        key = (
            state.finished,
            [
                (step.status, step.attempt, step.cancel_attempt)
                for step in state.steps.values()
                if step.effect == Effect.PIVOT.name
            ],
        )
        if key != self._key or now - self._answered_at >= self._fresh_for_s:
            self._answer = await self._wallet.find(self._payment_id, timeout=timeout)
            self._key, self._answered_at = key, now
        return self._answer
