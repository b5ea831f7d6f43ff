"""The obligation to broadcast: what is signed is sent until mempool or chain has it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from mesh import failpoint
from mesh.errors import MeshError
from services.bitcoin.actors.chain import Broadcast, ListMempool
from services.bitcoin.mempool import TransactionRejected
from services.bitcoin.payment import advance

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from formats.bitcoin.hashes import Txid
    from mesh.actor import ActorRef
    from services.bitcoin.actors.chain import ChainMessage
    from services.bitcoin.payment import Sighting
    from services.bitcoin.store.payment import Open, PaymentStore

BATCH = 50  # payments in one commit, so that no payment in between waits long

log = logging.getLogger(__name__)


class Broadcaster:
    """Called by one turn of an actor at a time: no refusal is judged while another send is out."""

    def __init__(
        self, store: PaymentStore, chain: ActorRef[ChainMessage], *, final_depth: int
    ) -> None:
        self._store = store
        self._chain = chain
        self._final_depth = final_depth

    async def send_first(self, payment_id: str, raw: bytes) -> bool:
        """Send what was committed a moment ago; whether our mempool or chain has it.

        No send of it can have happened before, so a refusal is the end of it.
        """
        try:
            await self._broadcast(payment_id, raw)
        except TransactionRejected as refusal:
            log.warning("payment %s: %s", payment_id, refusal)
            await self._store.reject(payment_id)
        except MeshError as error:  # nobody knows what came of it; the next sweep will
            log.warning("payment %s was not sent: %s", payment_id, error)
        else:
            return True
        return False

    async def send(self, payment_id: str) -> None:
        """Send one payment again if nobody has it."""
        await self._follow(await self._store.open(payment_id), waiting=frozenset())

    async def sweep(self) -> None:
        """Follow every payment that is not over, and send again what nobody has."""
        payments = await self._store.open()
        await self._follow(payments, await self._waiting() if payments else frozenset())

    async def _follow(self, payments: Sequence[Open], waiting: Collection[Txid | None]) -> None:
        """Only what changes is written, and what changes together is written together."""
        moved: list[tuple[str, bool]] = []
        for owed in payments:
            payment = owed.payment
            sighting = replace(owed.sighting, is_waiting=payment.txid in waiting)
            if sighting.is_unseen:
                sighting = await self._send_again(owed)
            state, is_over = advance(payment.state, sighting, final_depth=self._final_depth)
            if (state, is_over) != (payment.state, payment.is_over):
                moved.append((payment.payment_id, sighting.is_waiting))
        for start in range(0, len(moved), BATCH):
            await self._store.observe_all(moved[start : start + BATCH])

    async def _send_again(self, owed: Open) -> Sighting:
        """What is seen of a payment after one more send; a refusal ends nothing."""
        payment_id = owed.payment.payment_id
        try:
            await self._broadcast(payment_id, owed.raw)
        except TransactionRejected as refusal:
            log.warning("payment %s: %s", payment_id, refusal)
        except MeshError as error:  # nobody knows what came of it; the next sweep will
            log.warning("payment %s was not sent: %s", payment_id, error)
        else:
            return replace(owed.sighting, is_waiting=True)
        return owed.sighting

    async def _broadcast(self, payment_id: str, raw: bytes) -> None:
        """What is in mempool or chain already is accepted again."""
        await self._chain.ask(Broadcast(raw))
        failpoint.reach("payment.after_send", payment_id)

    async def _waiting(self) -> frozenset[Txid | None]:
        candidates = await self._chain.ask(ListMempool())
        return frozenset(candidate.transaction.txid for candidate in candidates)
