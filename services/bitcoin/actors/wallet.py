"""The actor that makes payments, one at a time: from their proofs to their last confirmation."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, assert_never

from formats.bitcoin.transaction import Output
from mesh import failpoint
from mesh.actor import Actor, Message
from mesh.errors import MeshError, Reason, Unavailable
from services.bitcoin.actors.chain import TestAccept
from services.bitcoin.coin_selection import alone_sat, select_coins
from services.bitcoin.descriptor import script_at
from services.bitcoin.proof import check_amount_granted, judge
from services.bitcoin.signing import sign
from services.bitcoin.store.payment import Signed, StaleBasisError
from services.bitcoin.wallet import Keychain, OwnAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from anya.mesh.v1.attestation_pb2 import Attestation
    from formats.bitcoin.network import Network
    from mesh.actor import ActorRef
    from mesh.data.idempotency import IdempotencyKey
    from mesh.security.attestation import Verifier
    from mesh.security.trust import Bounds
    from services.bitcoin.actors.chain import ChainMessage
    from services.bitcoin.broadcaster import Broadcaster
    from services.bitcoin.coin_selection import Spend
    from services.bitcoin.keyring import Keyring
    from services.bitcoin.payment import Payment, PaymentRequest
    from services.bitcoin.store.payment import Basis, PaymentStore

log = logging.getLogger(__name__)

TIMEOUT = 60.0  # seconds in line and at work; the call's own deadline may be shorter
ATTEMPTS = 5  # to build on coins that another process does not take at the same moment


@dataclass(frozen=True, slots=True)
class SendPayment(Message[bool]):
    """Make the payment if it is not made, and send it. Whether our mempool took it just now."""

    key: IdempotencyKey
    order: PaymentRequest
    bounds: Bounds
    proof: Proof | None  # None: it is made
    reply: Callable[[Payment], bytes]


@dataclass(frozen=True, slots=True)
class Sweep(Message[None]):
    """Follow every payment that is not over, and send again what nobody has."""


@dataclass(frozen=True, slots=True)
class Proof:
    """The payment may be made ``until`` then; None: for ever."""

    until: datetime | None


WalletMessage: TypeAlias = SendPayment | Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class Fees:
    feerate: int  # sat per 1000 vbytes
    max_fee_sat: int  # of one payment, whatever it asks for


class Spender:
    """Payments, from their proofs to the mempool."""

    def __init__(
        self, wallet: ActorRef[WalletMessage], payments: PaymentStore, verifier: Verifier
    ) -> None:
        self._wallet = wallet
        self._payments = payments
        self._verifier = verifier

    async def send(
        self,
        key: IdempotencyKey,
        order: PaymentRequest,
        bounds: Bounds,
        attestations: Sequence[Attestation],
        reply: Callable[[Payment], bytes],
    ) -> Payment:
        """Make the payment and send it, or tell what became of the one made under ``key`` before.

        Nothing is judged again once it exists. Before that: the errors of the RPC of this name.
        """
        is_made = await self._payments.is_made(key, order)
        proof = None if is_made else self._judge(order, bounds, attestations)
        message = SendPayment(key, order, bounds, proof, reply)
        if await self._wallet.ask(message, timeout=TIMEOUT):
            # Not in line any more: others may build while this is written.
            return await self._payments.observe(order.payment_id, is_waiting=True)
        return await self._payments.get(order.payment_id)

    def _judge(
        self, order: PaymentRequest, bounds: Bounds, attestations: Sequence[Attestation]
    ) -> Proof:
        check_amount_granted(order, bounds)
        return Proof(
            judge(
                self._verifier.require(attestations, bounds.required_attestations, order.digest),
                bounds,
            )
        )


class WalletActor(Actor[WalletMessage]):
    """Orders this process's payments, so that they do not build on the same coins.

    That no coin is spent twice does not rest on it, but on the keys of the store.
    """

    def __init__(
        self,
        *,
        store: PaymentStore,
        chain: ActorRef[ChainMessage],
        keyring: Keyring,
        network: Network,
        broadcaster: Broadcaster,
        fees: Fees,
    ) -> None:
        self._store = store
        self._chain = chain
        self._keyring = keyring
        self._network = network
        self._broadcaster = broadcaster
        self._fees = fees

    async def receive(self, message: WalletMessage) -> bool | None:
        match message:
            case SendPayment():
                return await self._send(message)
            case Sweep():
                await self._broadcaster.sweep()
                return None
            case _:
                assert_never(message)

    async def _send(self, message: SendPayment) -> bool:
        payment_id = message.order.payment_id
        raw = await self._make(message, message.proof) if message.proof else None
        if raw is None:
            await self._broadcaster.send(payment_id)
            return False
        failpoint.reach("payment.after_commit", payment_id)
        return await self._broadcaster.send_first(payment_id, raw)

    async def _make(self, message: SendPayment, proof: Proof) -> bytes | None:
        """Build, sign and commit it, and give its bytes; None if another attempt was first."""
        order, bounds = message.order, message.bounds
        alone = alone_sat(order.amount_sat, order.to_script, feerate=self._fees.feerate)
        for _ in range(ATTEMPTS):
            basis = await self._store.basis(message.key, order, bounds, alone_sat=alone)
            if basis is None:
                return None
            signed = await asyncio.to_thread(self._sign, order, bounds, proof, basis)
            await self._chain.ask(TestAccept(signed.transaction.raw))
            failpoint.reach("payment.before_commit", order.payment_id)
            with suppress(StaleBasisError):
                is_first = await self._store.commit(message.key, signed, message.reply)
                return signed.transaction.raw if is_first else None
        raise Unavailable(
            "other payments took the coins meanwhile; retry", reason=Reason.COINS_RESERVED
        )

    def _sign(self, order: PaymentRequest, bounds: Bounds, proof: Proof, basis: Basis) -> Signed:
        """Choose coins and sign. Blocks for milliseconds; the key leaves memory with this call."""
        spend = self._choose(order, basis)
        change = OwnAddress(
            basis.own.wallet_id,
            Keychain.INTERNAL,
            basis.change_index,
            script_at(basis.change_descriptor, self._network, basis.change_index),
        )
        transaction = sign(
            spend,
            self._keyring.signing_descriptor(basis.own, basis.sealed_seed),
            pay=Output(order.amount_sat, order.to_script),
            own_script=order.from_script,
            change_script=change.script_pubkey,
            network=self._network,
        )
        return Signed(
            order=order,
            bounds=bounds,
            proven_until=proof.until,
            spend=spend,
            change=change,
            transaction=transaction,
        )

    def _choose(self, order: PaymentRequest, basis: Basis) -> Spend:
        limit = self._fees.max_fee_sat
        return select_coins(
            basis.candidates,
            order.amount_sat,
            order.to_script,
            feerate=self._fees.feerate,
            max_fee_sat=min(order.max_fee_sat or limit, limit),
        )


async def poll_pending_payments(
    wallet: ActorRef[WalletMessage], stirred: asyncio.Event, *, at_least_every: float
) -> None:
    """Sweep now, whenever something stirred in chain or mempool, and after so many seconds."""
    while True:
        stirred.clear()
        try:
            await wallet.ask(Sweep(), timeout=60.0)
        except MeshError as error:
            log.warning("payments were not followed: %s", error)
        with suppress(TimeoutError):
            async with asyncio.timeout(at_least_every):
                await stirred.wait()
