"""Group commit: the commits that runs request during one commit are written together in the next.

The queue is the orchestrator's own: a request may fail alone after it was written with others, and
of one run only one transition may be in a batch.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mesh.errors import MeshError, Reason, ResourceExhausted

if TYPE_CHECKING:
    from collections.abc import Collection

    from services.orchestrator.store.commits import Commit

MAX_BATCH = 512
MAX_PENDING = 4096


@dataclass(slots=True, eq=False)
class PendingCommit:
    """A commit that was accepted, and the future of its caller."""

    commit: Commit
    committed: asyncio.Future[bool]

    def complete(self, *, committed: bool) -> None:
        """Answers the caller, unless the caller is gone."""
        if not self.committed.done():
            self.committed.set_result(committed)

    def fail(self, error: BaseException) -> None:
        """Raises the error at the caller, unless the caller is gone."""
        fail(self.committed, error)


class CommitObserver(Protocol):
    """The part of a worker that the commits of its store concern."""

    def notify_claimable(self) -> None:
        """Announces that a commit has resumed suspended runs."""
        ...

    def drop_all_runs(self) -> None:
        """Announces that the lease is lost: no run is owned any more."""
        ...


class GroupCommit(ABC):
    """Writes one batch at a time. An accepted commit is written even if its caller is cancelled."""

    def __init__(self, worker: CommitObserver) -> None:
        self._worker = worker
        self._pending: deque[PendingCommit] = deque()
        self._wakeup = asyncio.Event()
        self._closing = False
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._write_forever(), name="write commits")

    async def commit(self, commit: Commit) -> bool:
        """Returns True once the commit is durable, or False if it did not apply.

        Raises ResourceExhausted (OVERLOADED) if too many commits are pending, and Unavailable if
        the store does not answer: the commit may then have been written or not.
        """
        pending = PendingCommit(commit, self._loop.create_future())
        self._admit(self._pending)
        self._pending.append(pending)
        return await pending.committed

    async def close(self) -> None:
        """Returns once every accepted commit was written or has failed."""
        self._closing = True
        self._wakeup.set()
        await self._task

    @abstractmethod
    async def _write(self, batch: list[PendingCommit]) -> None:
        """Writes the batch and completes each of its commits."""

    async def _between(self) -> None:
        """Does work that must not run during a commit."""
        return

    def _admit(self, queue: Collection[Any]) -> None:
        if len(queue) >= MAX_PENDING or self._closing:
            raise ResourceExhausted(
                "too many writes are pending; retry later", reason=Reason.OVERLOADED
            )
        self._wakeup.set()

    async def _write_forever(self) -> None:
        while True:
            self._wakeup.clear()
            await self._between()
            if self._pending:
                # Callers that were just answered may commit again at once: they join this batch.
                await asyncio.sleep(0)
            if batch := self._batch():
                await self._write_batch(batch)
            elif self._closing:
                return
            else:
                await self._wakeup.wait()

    async def _write_batch(self, batch: list[PendingCommit]) -> None:
        """Writes the batch; after an unexpected error each commit alone. An error boundary."""
        try:
            await self._write(batch)
        except MeshError as error:
            for pending in batch:
                pending.fail(error)
        except Exception as error:
            if len(batch) > 1:
                await self._write_each(batch)
            else:
                batch[0].fail(error)

    async def _write_each(self, batch: list[PendingCommit]) -> None:
        for pending in batch:
            await self._write_batch([pending])

    def _batch(self) -> list[PendingCommit]:
        """Takes the next commits off the queue, of each run at most one."""
        batch: dict[str, PendingCommit] = {}
        while self._pending and len(batch) < MAX_BATCH:
            run_id = self._pending[0].commit.state.run_id
            if run_id in batch:
                break
            batch[run_id] = self._pending.popleft()
        return list(batch.values())


def fail(future: asyncio.Future[Any], error: BaseException) -> None:
    """Sets the error, unless the future is done. Its caller may be gone: no warning is logged."""
    if not future.done():
        future.set_exception(error)
        future.exception()
