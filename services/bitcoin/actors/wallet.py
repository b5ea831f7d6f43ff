"""The actor of payments: builds, signs, commits and sends one at a time."""

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
from services.bitcoin.actors.chain_messages import TestAccept
from services.bitcoin.coin_selection import select_coins, single_coin_sat
from services.bitcoin.descriptor import script_at
from services.bitcoin.signing import sign
from services.bitcoin.store.payment import SignedPayment, StaleSnapshotError
from services.bitcoin.wallet import Keychain, OwnAddress

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from formats.bitcoin.network import Network
    from mesh.actor import ActorRef
    from mesh.data.idempotency import IdempotencyKey
    from mesh.security.trust import Bounds
    from services.bitcoin.actors.chain_messages import ChainMessage
    from services.bitcoin.broadcaster import Broadcaster
    from services.bitcoin.coin_selection import CoinSelection
    from services.bitcoin.keyring import Keyring
    from services.bitcoin.payment import Payment, PaymentRequest
    from services.bitcoin.store.payment import PaymentSnapshot, PaymentStore

log = logging.getLogger(__name__)

FOLLOW_TIMEOUT_S = 60.0
MAX_ATTEMPTS = 5  # to build on coins that no other process takes at the same moment


@dataclass(frozen=True, slots=True)
class Authorization:
    """Checked proofs: the payment may be committed before ``valid_until``; None: at any time."""

    valid_until: datetime | None


@dataclass(frozen=True, slots=True)
class SendPayment(Message[bool]):
    """Makes the payment if it does not exist, and sends it.

    Returns whether this service's mempool has just accepted it.
    """

    key: IdempotencyKey
    request: PaymentRequest
    bounds: Bounds
    authorization: Authorization | None  # None: the payment exists
    reply: Callable[[Payment], bytes]


@dataclass(frozen=True, slots=True)
class FollowPayments(Message[None]):
    """Updates every open payment, and sends those again that neither mempool nor chain has."""

    is_new_tip: bool = False


WalletMessage: TypeAlias = SendPayment | FollowPayments


@dataclass(frozen=True, slots=True, kw_only=True)
class FeePolicy:
    feerate: int  # sat per 1000 vbytes
    max_fee_sat: int  # of one payment, whatever its request allows


class WalletActor(Actor[WalletMessage]):
    """Orders the payments of this process, so that they do not compete for the same coins.

    The unique keys of the store, not this actor, prevent that a coin is spent twice.
    """

    def __init__(
        self,
        *,
        store: PaymentStore,
        chain: ActorRef[ChainMessage],
        keyring: Keyring,
        network: Network,
        broadcaster: Broadcaster,
        fees: FeePolicy,
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
            case FollowPayments():
                await self._broadcaster.follow_all(is_new_tip=message.is_new_tip)
                return None
            case _:
                assert_never(message)

    async def _send(self, message: SendPayment) -> bool:
        payment_id = message.request.payment_id
        raw = await self._make(message, message.authorization) if message.authorization else None
        if raw is None:
            await self._broadcaster.send(payment_id)
            return False
        failpoint.reach("payment.after_commit", payment_id)
        return await self._broadcaster.send_first(payment_id, raw)

    async def _make(self, message: SendPayment, authorization: Authorization) -> bytes | None:
        """Builds, signs and commits the payment, and returns its signed bytes.

        Returns None if another attempt has committed it first.
        """
        request, bounds = message.request, message.bounds
        feerate = self._fees.feerate
        coin_sat = single_coin_sat(request.amount_sat, request.to_script, feerate=feerate)
        for _ in range(MAX_ATTEMPTS):
            snapshot = await self._store.snapshot(
                message.key, request, bounds, single_coin_sat=coin_sat
            )
            if snapshot is None:
                return None
            signed = await asyncio.to_thread(self._sign, request, bounds, authorization, snapshot)
            await self._chain.ask(TestAccept(signed.transaction.raw))
            failpoint.reach("payment.before_commit", request.payment_id)
            with suppress(StaleSnapshotError):
                is_first = await self._store.commit(message.key, signed, message.reply)
                return signed.transaction.raw if is_first else None
        raise Unavailable(
            "other payments reserved the coins first; retry", reason=Reason.COINS_RESERVED
        )

    def _sign(
        self,
        request: PaymentRequest,
        bounds: Bounds,
        authorization: Authorization,
        snapshot: PaymentSnapshot,
    ) -> SignedPayment:
        """Selects coins and signs.

        Blocks for milliseconds. The private key is in memory for the time of this call only.
        """
        selection = self._select(request, snapshot)
        change = OwnAddress(
            snapshot.own.wallet_id,
            Keychain.INTERNAL,
            snapshot.change_index,
            script_at(snapshot.change_descriptor, self._network, snapshot.change_index),
        )
        transaction = sign(
            selection,
            self._keyring.signing_descriptor(snapshot.own, snapshot.sealed_seed),
            pay=Output(request.amount_sat, request.to_script),
            own_script=request.from_script,
            change_script=change.script_pubkey,
            network=self._network,
        )
        return SignedPayment(
            request=request,
            bounds=bounds,
            valid_until=authorization.valid_until,
            selection=selection,
            change=change,
            transaction=transaction,
        )

    def _select(self, request: PaymentRequest, snapshot: PaymentSnapshot) -> CoinSelection:
        limit_sat = self._fees.max_fee_sat
        return select_coins(
            snapshot.coins,
            request.amount_sat,
            request.to_script,
            feerate=self._fees.feerate,
            max_fee_sat=min(request.max_fee_sat or limit_sat, limit_sat),
        )


async def poll_pending_payments(
    wallet: ActorRef[WalletMessage], changed: asyncio.Event, *, interval_s: float
) -> None:
    """Follows open payments now, after each change of the chain, and every ``interval_s``."""
    is_new_tip = False  # since payments were followed
    while True:
        is_new_tip |= changed.is_set()
        changed.clear()
        try:
            await wallet.ask(FollowPayments(is_new_tip), timeout=FOLLOW_TIMEOUT_S)
            is_new_tip = False
        except MeshError as error:
            log.warning("open payments were not updated: %s", error)
        with suppress(TimeoutError):
            async with asyncio.timeout(interval_s):
                await changed.wait()
