"""Delivers messages to runs: directly if this process drives the run, otherwise through the store.

A run that this process drives stores a message in the commit of the transition that the message
leads to, and its sender is answered after that commit. Every other message is stored first and
read later.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mesh.errors import Unavailable
from services.orchestrator.actors.run import PendingMessage
from services.orchestrator.store.commits import Envelope
from services.orchestrator.worker.store_retry import retry_while_unavailable, within_deadline

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from mesh.data.idempotency import IdempotencyKey
    from services.orchestrator.actors.run import RunActor
    from services.orchestrator.engine.records import Record
    from services.orchestrator.store.messages import Message
    from services.orchestrator.store.run_store import RunStore


class RunInbox:
    """Messages to runs, from senders in this process."""

    def __init__(
        self,
        store: RunStore,
        active_runs: Mapping[str, RunActor],
        stopping: asyncio.Event,
        notify_claimable: Callable[[], None],
    ) -> None:
        self._store = store
        self._active_runs = active_runs
        self._stopping = stopping
        self._notify_claimable = notify_claimable

    async def send(
        self, key: IdempotencyKey, run_id: str, message: Message, reply: bytes = b""
    ) -> bytes:
        """Sends the message once per ``key`` and returns the first reply, see ``Messages.send``.

        Raises Unavailable if the store does not answer: the message may have been stored.
        """
        run = None if self._stopping.is_set() else self._active_runs.get(run_id)
        if run is not None and key.request_id not in run.answered:
            pending = PendingMessage(message, key, reply)
            run.push_pending(pending)
            if await within_deadline(pending.stored):
                return reply
        sent = await self._store.messages.send(key, run_id, message, reply)
        if run := self._active_runs.get(run_id):
            run.notify_inbox()
        elif sent.claimable:
            self._notify_claimable()
        return sent.reply

    async def drain(self, run: RunActor, apply: Callable[..., Awaitable[bool]]) -> None:
        """Applies each message to the run, in a transition of its own.

        ``apply`` takes the message and, if it is not stored yet, its ``PendingMessage``.
        """
        for message in await self._stored(run):
            if not run.state.finished:
                await apply(message)
        while pending := run.take_pending():
            try:
                pending.complete(stored=await apply(pending.message, pending))
            finally:
                pending.complete(stored=False)
        if run.state.finished:
            run.return_pending()

    async def store(
        self, run: RunActor, records: Sequence[Record], pending: PendingMessage
    ) -> bool:
        """Stores the message and the records of its transition in one commit.

        Returns False, with the run's state read again, if the message must not be stored: another
        message precedes it, the run has too many messages, or its key was used.
        """
        state = run.state
        envelope = Envelope(pending.message, pending.key, pending.reply)

        async def deliver() -> bool:
            try:
                return await self._store.deliver(state, run.epoch, records, envelope)
            except Unavailable as error:
                pending.fail(error)
                raise

        if await retry_while_unavailable(deliver, state.run_id):
            run.answered.add(pending.key.request_id)
            return True
        load = partial(self._store.load, state.run_id)  # the state in memory has the transition
        run.state = (await retry_while_unavailable(load, state.run_id)).state
        run.inbox_dirty = True
        return False

    def close(self) -> None:
        """Returns all pending messages to their senders, which store these themselves."""
        for run in self._active_runs.values():
            run.return_pending()

    async def _stored(self, run: RunActor) -> list[Message]:
        if prefetched := run.take_prefetched():
            return prefetched
        if not run.inbox_dirty:
            return []
        run.inbox_dirty = False
        read = partial(
            self._store.messages.read_after, run.state.run_id, position=run.state.inbox_position
        )
        return await retry_while_unavailable(read, run.state.run_id)
