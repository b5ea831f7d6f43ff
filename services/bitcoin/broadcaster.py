"""The broadcaster: sends each committed payment until mempool or chain has it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from mesh import failpoint
from mesh.errors import MeshError
from services.bitcoin.actors.chain_messages import Broadcast, ListMempool
from services.bitcoin.mempool import TransactionRejectedError
from services.bitcoin.payment import advance

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from formats.bitcoin.hashes import Txid
    from mesh.actor import ActorRef
    from services.bitcoin.actors.chain_messages import ChainMessage
    from services.bitcoin.payment import TxStatus
    from services.bitcoin.store.payment import PaymentStore
    from services.bitcoin.store.payment_row import OpenPayment

BATCH_SIZE = 50  # payments of one commit, so that a new payment does not wait long

log = logging.getLogger(__name__)


class Broadcaster:
    """Used by one actor, which runs one call at a time: no two sends of a payment overlap."""

    def __init__(
        self, store: PaymentStore, chain: ActorRef[ChainMessage], *, final_depth: int
    ) -> None:
        self._store = store
        self._chain = chain
        self._final_depth = final_depth

    async def send_first(self, payment_id: str, raw: bytes) -> bool:
        """Sends a payment that was just committed, and returns whether mempool or chain has it.

        A rejection ends the payment: no node can have it from an earlier send.
        """
        try:
            await self._broadcast(payment_id, raw)
        except TransactionRejectedError as rejection:
            log.warning("payment %s: %s", payment_id, rejection)
            await self._store.reject(payment_id)
        except MeshError as error:  # outcome unknown: the next poll sends it again
            log.warning("payment %s was not sent: %s", payment_id, error)
        else:
            return True
        return False

    async def send(self, payment_id: str) -> None:
        """Sends one payment again if neither mempool nor chain has it."""
        await self._follow(await self._store.open(payment_id), mempool=frozenset())

    async def follow_all(self) -> None:
        """Updates every open payment, and sends those again that mempool and chain lack."""
        payments = await self._store.open()
        await self._follow(payments, await self._mempool() if payments else frozenset())

    async def _follow(
        self, payments: Sequence[OpenPayment], mempool: Collection[Txid | None]
    ) -> None:
        """Writes changed payments only, in few commits."""
        changed: list[tuple[str, bool]] = []
        for open_payment in payments:
            payment = open_payment.payment
            status = replace(open_payment.status, in_mempool=payment.txid in mempool)
            if status.needs_broadcast:
                status = await self._send_again(open_payment)
            state, is_final = advance(payment.state, status, final_depth=self._final_depth)
            if (state, is_final) != (payment.state, payment.is_final):
                changed.append((payment.payment_id, status.in_mempool))
        for start in range(0, len(changed), BATCH_SIZE):
            await self._store.update_all(changed[start : start + BATCH_SIZE])

    async def _send_again(self, open_payment: OpenPayment) -> TxStatus:
        """Sends the payment, and returns its status; a rejection changes nothing."""
        payment_id = open_payment.payment.payment_id
        try:
            await self._broadcast(payment_id, open_payment.raw)
        except TransactionRejectedError as rejection:
            log.warning("payment %s: %s", payment_id, rejection)
        except MeshError as error:  # outcome unknown: the next poll sends it again
            log.warning("payment %s was not sent: %s", payment_id, error)
        else:
            return replace(open_payment.status, in_mempool=True)
        return open_payment.status

    async def _broadcast(self, payment_id: str, raw: bytes) -> None:
        """Sends the bytes; the chain's actor accepts a transaction that it has again."""
        await self._chain.ask(Broadcast(raw))
        failpoint.reach("payment.after_send", payment_id)

    async def _mempool(self) -> frozenset[Txid | None]:
        entries = await self._chain.ask(ListMempool())
        return frozenset(entry.transaction.txid for entry in entries)
