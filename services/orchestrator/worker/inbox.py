"""How what is sent to a run reaches it: through the store, or by way of who drives it here.

A message to a run that waits in this process is stored in the commit of the turn that it leads to,
and its sender is answered behind it. In every other case it is stored first, and taken later.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mesh.errors import Unavailable
from services.orchestrator.store.commits import Envelope
from services.orchestrator.worker.pending import PendingMessage
from services.orchestrator.worker.store_retry import retry_while_unavailable, within_deadline

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from mesh.data.idempotency import IdempotencyKey
    from services.orchestrator.engine.records import Record
    from services.orchestrator.store.messages import Message
    from services.orchestrator.store.run_store import RunStore
    from services.orchestrator.worker.executor import RunActor


class RunInbox:
    def __init__(
        self,
        runs: RunStore,
        driven: Mapping[str, RunActor],
        stopping: asyncio.Event,
        notify_claimable: Callable[[], None],
    ) -> None:
        self._runs = runs
        self._driven = driven
        self._stopping = stopping
        self._notify_claimable = notify_claimable

    async def send(
        self, key: IdempotencyKey, run_id: str, message: Message, reply: bytes = b""
    ) -> bytes:
        """Send it once per ``key`` and give the first reply, see ``Messages.send``.

        Unavailable if the store does not answer: nobody knows yet whether the run has it.
        """
        run = None if self._stopping.is_set() else self._driven.get(run_id)
        if run is not None and key.request_id not in run.answered:
            pending = PendingMessage(message, key, reply)
            run.pend(pending)
            if await within_deadline(pending.stored):
                return reply
        sent = await self._runs.messages.send(key, run_id, message, reply)
        if run := self._driven.get(run_id):
            run.tell_of_mail()
        elif sent.claimable:
            self._notify_claimable()
        return sent.reply

    async def take(self, run: RunActor, advance: Callable[..., Awaitable[bool]]) -> None:
        """Have each message to the run lead to a turn of its own.

        ``advance`` is given it, and if it is not stored yet, who waits for that.
        """
        for message in await self._stored(run):
            if not run.state.finished:
                await advance(message)
        while pending := run.take_pending():
            try:
                pending.settle(stored=await advance(pending.message, pending))
            finally:
                pending.settle(stored=False)
        if run.state.finished:
            run.return_pending()

    async def store(
        self, run: RunActor, records: Sequence[Record], pending: PendingMessage
    ) -> bool:
        """Store it with the records it led to. False if it must not be: the run is as it was.

        Something else was sent to it before, and is to be read first; or it was sent too much; or
        something was sent under this key.
        """
        state = run.state
        envelope = Envelope(pending.message, pending.key, pending.reply)

        async def deliver() -> bool:
            try:
                return await self._runs.deliver(state, run.epoch, records, envelope)
            except Unavailable as error:
                pending.fail(error)
                raise

        if await retry_while_unavailable(deliver, state.run_id):
            run.answered.add(pending.key.request_id)
            return True
        load = partial(self._runs.load, state.run_id)  # the turn is in the state that we have
        run.state = (await retry_while_unavailable(load, state.run_id)).state
        run.mail = True
        return False

    def close(self) -> None:
        """Runs take nothing any more: what none has stored is its sender's again."""
        for run in self._driven.values():
            run.return_pending()

    async def _stored(self, run: RunActor) -> list[Message]:
        if handed := run.take_handed():
            return handed
        if not run.mail:
            return []
        run.mail = False
        look = partial(
            self._runs.messages.read_after, run.state.run_id, position=run.state.inbox_position
        )
        return await retry_while_unavailable(look, run.state.run_id)
