"""The obligation to broadcast: what is signed is sent until mempool or chain has it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from mesh import failpoint
from mesh.errors import MeshError
from services.bitcoin.actors import Broadcast
from services.bitcoin.mempool import TransactionRejected
from services.bitcoin.payment import advance

if TYPE_CHECKING:
    from mesh.actor import ActorRef
    from services.bitcoin.actors import ChainMessage
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
            await self._follow(owed, is_first=is_first)

    async def sweep(self) -> None:
        """Follow every payment that is not over, and send again what nobody has."""
        for owed in await self._store.open():
            await self._follow(owed, is_first=False)

    async def _follow(self, owed: Open, *, is_first: bool) -> None:
        payment, sighting = owed.payment, owed.sighting
        if sighting.is_unseen:
            try:
                await self._chain.ask(Broadcast(owed.raw))
                failpoint.reach("payment.after_send", payment.payment_id)
                sighting = replace(sighting, is_waiting=True)
            except TransactionRejected as refusal:
                log.warning("payment %s: %s", payment.payment_id, refusal)
                if is_first:
                    await self._store.reject(payment.payment_id)
                    return
            except MeshError as error:  # nobody knows what came of it; the next sweep will
                log.warning("payment %s was not sent: %s", payment.payment_id, error)
                return
        state, is_over = advance(payment.state, sighting, final_depth=self._final_depth)
        if (state, is_over) != (payment.state, payment.is_over):
            await self._store.observe(payment.payment_id, is_waiting=sighting.is_waiting)
