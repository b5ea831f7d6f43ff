"""The broadcaster: sends each committed payment until mempool or chain has it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mesh import failpoint
from mesh.clock import SystemClock
from mesh.errors import MeshError
from services.bitcoin.actors.chain_messages import Broadcast, ListMempool
from services.bitcoin.mempool import TransactionRejectedError
from services.bitcoin.payment import advance

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from formats.bitcoin.hashes import Txid
    from mesh.actor import ActorRef
    from mesh.clock import Clock
    from services.bitcoin.actors.chain_messages import ChainMessage
    from services.bitcoin.payment import TxStatus
    from services.bitcoin.store.payment import PaymentStore
    from services.bitcoin.store.payment_row import OpenPayment

MIN_RESEND_DELAY_S = 1.0  # doubles with each send that fails
MAX_RESEND_DELAY_S = 600.0
BATCH_SIZE = 50  # payments of one commit, so that a new payment does not wait long

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Resend:
    """The sends of a payment that neither mempool nor chain has."""

    delay_s: float = MIN_RESEND_DELAY_S / 2
    due: float = 0.0  # monotonic seconds
    reason: str = ""  # why the last one failed

    def fail(self, reason: str, now: float) -> bool:
        """Postpones the next send; returns whether the reason is another one than before."""
        self.delay_s = min(self.delay_s * 2, MAX_RESEND_DELAY_S)
        self.due = now + self.delay_s
        is_new, self.reason = reason != self.reason, reason
        return is_new


class Broadcaster:
    """Used by one actor, which runs one call at a time: no two sends of a payment overlap.

    A payment that cannot be sent is sent again ever less often, but at once after a new block, and
    is logged only when the reason changes.
    """

    def __init__(
        self,
        store: PaymentStore,
        chain: ActorRef[ChainMessage],
        *,
        final_depth: int,
        clock: Clock | None = None,
    ) -> None:
        self._store = store
        self._chain = chain
        self._final_depth = final_depth
        self._clock = clock or SystemClock()
        self._resends: dict[str, _Resend] = {}  # of open payments

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
        """Sends one payment again, at once, if neither mempool nor chain has it."""
        self._resends.pop(payment_id, None)
        await self._follow(await self._store.open(payment_id), mempool=frozenset())

    async def follow_all(self, *, is_new_tip: bool = False) -> None:
        """Updates every open payment, and sends those again that are missing and due.

        ``is_new_tip``: the chain has changed, so that all that are missing are due.
        """
        payments = await self._store.open()
        open_ids = {one.payment.payment_id for one in payments}
        self._resends = {id: resend for id, resend in self._resends.items() if id in open_ids}
        for resend in self._resends.values() if is_new_tip else ():
            resend.due = 0.0
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
        """Sends the payment if that is due, and returns its status; a failure changes nothing."""
        payment_id, now = open_payment.payment.payment_id, self._clock.monotonic()
        resend = self._resends.setdefault(payment_id, _Resend())
        if now < resend.due:
            return open_payment.status
        try:
            await self._broadcast(payment_id, open_payment.raw)
        except MeshError as error:  # a rejection, or an outcome that is unknown
            if resend.fail(str(error), now):
                log.warning("payment %s is missing, and was not sent: %s", payment_id, error)
            return open_payment.status
        del self._resends[payment_id]
        return replace(open_payment.status, in_mempool=True)

    async def _broadcast(self, payment_id: str, raw: bytes) -> None:
        """Sends the bytes; the chain's actor accepts a transaction that it has again."""
        await self._chain.ask(Broadcast(raw))
        failpoint.reach("payment.after_send", payment_id)

    async def _mempool(self) -> frozenset[Txid | None]:
        entries = await self._chain.ask(ListMempool())
        return frozenset(entry.transaction.txid for entry in entries)
