"""Runs that commit concurrently share their commits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from services.orchestrator.engine.model import RunState
from services.orchestrator.store.callbacks import AttachedWorker
from services.orchestrator.store.commits import AppendCommit
from services.orchestrator.store.group_commit import GroupCommit

if TYPE_CHECKING:
    from services.orchestrator.store.group_commit import PendingCommit

TRANSITIONS = 4


class Store(GroupCommit):
    """Completes each batch once the test allows it."""

    def __init__(self) -> None:
        super().__init__(AttachedWorker())
        self.sizes: list[int] = []
        self.began = asyncio.Event()
        self.allowed = asyncio.Semaphore(0)

    async def _write(self, batch: list[PendingCommit]) -> None:
        self.sizes.append(len(batch))
        self.began.set()
        await self.allowed.acquire()
        for pending in batch:
            pending.complete(committed=True)


async def test_runs_that_start_during_a_commit_share_the_following_commits() -> None:
    store = Store()

    async def run(name: str) -> None:
        for _ in range(TRANSITIONS):
            assert await store.commit(AppendCommit(RunState(name), 0, ()))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(run("first"))
        await store.began.wait()
        tasks.create_task(run("second"))
        await asyncio.sleep(0)
        for _ in range(TRANSITIONS + 1):
            store.allowed.release()
    await store.close()

    assert store.sizes == [1, 2, 2, 2, 1]


async def test_a_batch_has_at_most_one_transition_of_a_run() -> None:
    store = Store()
    for _ in range(2):
        store.allowed.release()

    committed = await asyncio.gather(
        store.commit(AppendCommit(RunState("run"), 0, ())),
        store.commit(AppendCommit(RunState("run"), 0, ())),
    )
    await store.close()

    assert all(committed)
    assert store.sizes == [1, 1]
