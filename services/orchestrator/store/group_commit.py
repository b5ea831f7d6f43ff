"""Group commit: what runs want to commit while a commit is under way goes into the next one."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mesh.errors import MeshError, Reason, ResourceExhausted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from services.orchestrator.store.commits import Commit

MAX_BATCH = 512
MAX_WAITING = 4096


@dataclass(slots=True, eq=False)
class PendingCommit:
    commit: Commit
    committed: asyncio.Future[bool]

    def complete(self, *, committed: bool) -> None:
        if not self.committed.done():
            self.committed.set_result(committed)

    def fail(self, error: BaseException) -> None:
        fail(self.committed, error)


class GroupCommit(ABC):
    """One batch at a time. What was accepted happens, even if who asked goes away.

    ``on_woken`` is called when a commit has woken runs that slept.
    """

    def __init__(self) -> None:
        self.on_woken: Callable[[], None] = lambda: None
        self._pending: deque[PendingCommit] = deque()
        self._something = asyncio.Event()
        self._closing = False
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._write_forever(), name="write journal")

    async def commit(self, commit: Commit) -> bool:
        """True once it is durable; False if it did not apply.

        ResourceExhausted (OVERLOADED) if too many wait; Unavailable if the store does not answer:
        then nobody knows whether it landed.
        """
        pending = PendingCommit(commit, self._loop.create_future())
        self._admit(self._pending)
        self._pending.append(pending)
        return await pending.committed

    async def close(self) -> None:
        """Return once everything that was accepted has landed or failed."""
        self._closing = True
        self._something.set()
        await self._task

    @abstractmethod
    async def _land(self, batch: list[PendingCommit]) -> None:
        """Commit it, and tell each of them."""

    async def _between(self) -> None:
        """Do what must not be done while a commit is under way."""
        return

    def _admit(self, waiting: Collection[Any]) -> None:
        if len(waiting) >= MAX_WAITING or self._closing:
            raise ResourceExhausted(
                "too many writes are waiting; retry later", reason=Reason.OVERLOADED
            )
        self._something.set()

    async def _write_forever(self) -> None:
        while True:
            self._something.clear()
            await self._between()
            if self._pending:
                # Who was just told of a commit may have its next one ready: it goes with the rest.
                await asyncio.sleep(0)
            if batch := self._batch():
                await self._commit_all(batch)
            elif self._closing:
                return
            else:
                await self._something.wait()

    async def _commit_all(self, batch: list[PendingCommit]) -> None:
        """The boundary of the journal: what cannot be stored is one run's own trouble."""
        try:
            await self._land(batch)
        except MeshError as error:
            for pending in batch:
                pending.fail(error)
        except Exception as error:
            if len(batch) > 1:
                await self._commit_each(batch)
            else:
                batch[0].fail(error)

    async def _commit_each(self, batch: list[PendingCommit]) -> None:
        for pending in batch:
            await self._commit_all([pending])

    def _batch(self) -> list[PendingCommit]:
        """What can go together: of one run only one turn."""
        batch: dict[str, PendingCommit] = {}
        while self._pending and len(batch) < MAX_BATCH:
            run_id = self._pending[0].commit.state.run_id
            if run_id in batch:
                break
            batch[run_id] = self._pending.popleft()
        return list(batch.values())


def fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # who asked may be gone
