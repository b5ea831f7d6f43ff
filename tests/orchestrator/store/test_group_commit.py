"""Runs that commit side by side come to share their commits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from services.orchestrator.engine.model import RunState
from services.orchestrator.store.commits import AppendCommit
from services.orchestrator.store.group_commit import GroupCommit

if TYPE_CHECKING:
    from services.orchestrator.store.group_commit import PendingCommit

TURNS = 4


class Store(GroupCommit):
    """Lands whatever is to be committed, one batch at a time, when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.began = asyncio.Event()
        self.let = asyncio.Semaphore(0)

    async def _land(self, batch: list[PendingCommit]) -> None:
        self.sizes.append(len(batch))
        self.began.set()
        await self.let.acquire()
        for pending in batch:
            pending.complete(committed=True)


async def test_runs_that_begin_during_a_commit_share_all_that_follow() -> None:
    store = Store()

    async def run(name: str) -> None:
        for _ in range(TURNS):
            assert await store.commit(AppendCommit(RunState(name), 0, ()))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(run("first"))
        await store.began.wait()
        tasks.create_task(run("second"))
        await asyncio.sleep(0)
        for _ in range(TURNS + 1):
            store.let.release()
    await store.close()

    assert store.sizes == [1, 2, 2, 2, 1]


async def test_of_one_run_only_one_turn_is_in_a_commit() -> None:
    store = Store()
    for _ in range(2):
        store.let.release()

    landed = await asyncio.gather(
        store.commit(AppendCommit(RunState("run"), 0, ())),
        store.commit(AppendCommit(RunState("run"), 0, ())),
    )
    await store.close()

    assert all(landed)
    assert store.sizes == [1, 1]
