"""The obligation to broadcast: what is signed is sent until mempool or chain has it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from mesh import failpoint
from mesh.errors import MeshError
from services.bitcoin.actors import Broadcast, ListMempool
from services.bitcoin.mempool import TransactionRejected
from services.bitcoin.payment import advance

if TYPE_CHECKING:
    from mesh.actor import ActorRef
    from services.bitcoin.actors import ChainMessage
    from services.bitcoin.hashes import Txid
    from services.bitcoin.payment import Sighting
    from services.bitcoin.store.payment import Open, PaymentStore

log = logging.getLogger(__name__)


class Broadcaster:
    """Called by one turn of an actor at a time: no refusal is judged while another send is out."""

    def __init__(
        self, store: PaymentStore, chain: ActorRef[ChainMessage], *, final_depth: int
    ) -> None:
        self._store = store
        self._chain = chain
        self._final_depth = final_depth

    async def send(self, payment_id: str, *, is_first: bool) -> None:
        """Send one payment if nobody has it.

        ``is_first``: no send of it can have happened before, so a refusal is the end of it.
        """
        for owed in await self._store.open(payment_id):
            if owed.sighting.is_unseen:
                await self._broadcast(owed, is_first=is_first)
            else:
                await self._move(owed, owed.sighting)

    async def sweep(self) -> None:
        """Follow every payment that is not over, and send again what nobody has."""
        payments = await self._store.open()
        waiting = await self._waiting() if payments else frozenset()
        for owed in payments:
            is_waiting = owed.payment.txid in waiting
            sighting = replace(owed.sighting, is_waiting=is_waiting)
            if sighting.is_unseen:
                await self._broadcast(owed, is_first=False)
            else:
                await self._move(owed, sighting)

    async def _broadcast(self, owed: Open, *, is_first: bool) -> None:
        """What is in mempool or chain already is accepted again."""
        payment_id = owed.payment.payment_id
        try:
            await self._chain.ask(Broadcast(owed.raw))
            failpoint.reach("payment.after_send", payment_id)
            await self._move(owed, replace(owed.sighting, is_waiting=True))
        except TransactionRejected as refusal:
            log.warning("payment %s: %s", payment_id, refusal)
            if is_first:
                await self._store.reject(payment_id)
            else:
                await self._move(owed, owed.sighting)
        except MeshError as error:  # nobody knows what came of it; the next sweep will
            log.warning("payment %s was not sent: %s", payment_id, error)

    async def _move(self, owed: Open, sighting: Sighting) -> None:
        """Only what changes is written."""
        payment = owed.payment
        state, is_over = advance(payment.state, sighting, final_depth=self._final_depth)
        if (state, is_over) != (payment.state, payment.is_over):
            await self._store.observe(payment.payment_id, is_waiting=sighting.is_waiting)

    async def _waiting(self) -> frozenset[Txid]:
        candidates = await self._chain.ask(ListMempool())
        return frozenset(candidate.transaction.txid for candidate in candidates)
