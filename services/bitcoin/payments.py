"""The use case of a payment: its proofs are checked, and the wallet's actor makes and sends it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from services.bitcoin.actors.wallet import Authorization, SendPayment
from services.bitcoin.proof import check_amount_limit, check_attestations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mesh.actor import ActorRef
    from mesh.data.idempotency import IdempotencyKey
    from mesh.security.attestation import Verified
    from mesh.security.trust import Bounds
    from services.bitcoin.actors.wallet import WalletMessage
    from services.bitcoin.payment import Payment, PaymentRequest
    from services.bitcoin.store.payment import PaymentStore

# Verifies the attestations of a request: their kinds and the digest in, proofs by kind out.
Verify: TypeAlias = "Callable[[Iterable[str], bytes], Mapping[str, Verified]]"

TIMEOUT_S = 60.0  # in the actor's mailbox and at work; the deadline of the call may be shorter


class PaymentSender:
    def __init__(self, wallet: ActorRef[WalletMessage], payments: PaymentStore) -> None:
        self._wallet = wallet
        self._payments = payments

    async def send(
        self,
        key: IdempotencyKey,
        request: PaymentRequest,
        bounds: Bounds,
        verify: Verify,
        reply: Callable[[Payment], bytes],
    ) -> Payment:
        """Makes and sends the payment, and returns it as it stands.

        Idempotent: if ``key`` has made the payment before, ``verify`` is not called again.
        ``reply`` serialises the reply that the store keeps. Raises the errors of the SendPayment
        RPC.
        """
        exists = await self._payments.exists(key, request)
        authorization = None if exists else _authorize(request, bounds, verify)
        message = SendPayment(key, request, bounds, authorization, reply)
        if await self._wallet.ask(message, timeout=TIMEOUT_S):
            # Outside the actor: it builds the next payment while this one is updated.
            return await self._payments.update(request.payment_id, in_mempool=True)
        return await self._payments.get(request.payment_id)


def _authorize(request: PaymentRequest, bounds: Bounds, verify: Verify) -> Authorization:
    check_amount_limit(request, bounds)
    proofs = verify(bounds.required_attestations, request.digest)
    return Authorization(check_attestations(proofs, bounds))
