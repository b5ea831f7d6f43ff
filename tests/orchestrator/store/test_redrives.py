"""Redrives on both databases: each is stored once and fences the former owner."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mesh.data import outbox
from mesh.data.idempotency import IdempotencyKey
from mesh.errors import FailedPrecondition
from services.orchestrator.engine.model import RunStatus
from services.orchestrator.engine.redrive import redrive as judge
from services.orchestrator.registry import WorkflowRegistry
from services.orchestrator.store.open import open_store
from services.orchestrator.store.redrives import redrive
from services.orchestrator.store.run_store import FencedError
from tests.orchestrator.store.run_stores import begin, fails

if TYPE_CHECKING:
    from services.orchestrator.engine.model import RunState
    from services.orchestrator.engine.records import Record
    from services.orchestrator.engine.transition import Transition
    from services.orchestrator.store.open import OrchestratorStore


def key(request_id: str) -> IdempotencyKey:
    return IdempotencyKey("spiffe://ops", "RedriveRun", request_id, b"body")


def redrive_record(state: RunState, ended: RunStatus) -> Record:
    return judge(state, ended, reason="mended", requester="spiffe://ops", at_us=5_000_000)


async def fail(store: OrchestratorStore) -> Transition:
    registry = WorkflowRegistry(store.definitions)
    await registry.register_built_in()
    ended = fails(await begin(store.runs, registry))
    await store.runs.append(ended.state, 0, ended.records)
    return ended


async def test_redriven_run_is_claimable(location: str) -> None:
    async with open_store(location) as store:
        ended = await fail(store)

        await redrive(store.database, key("a"), "run", redrive_record)
        (claimed,) = await store.runs.claim(10)
        events = await store.database.read(lambda tx: outbox.read(tx, after=0, limit=10))

        assert claimed.row.epoch == 1
        assert claimed.row.status == RunStatus.RUNNING
        assert claimed.state.sequence == ended.state.sequence + 1
        assert not claimed.state.finished
        assert [event.type.rpartition(".")[2] for event in events] == [
            "started",
            "finished",
            "redriven",
        ]


async def test_only_one_of_two_redrives_is_stored(location: str) -> None:
    async with open_store(location) as store:
        await fail(store)

        await redrive(store.database, key("a"), "run", redrive_record)
        await redrive(store.database, key("a"), "run", redrive_record)
        others = await asyncio.gather(
            *(redrive(store.database, key(name), "run", redrive_record) for name in "bc"),
            return_exceptions=True,
        )
        stored = await store.runs.load("run")

    assert all(isinstance(other, FailedPrecondition) for other in others)
    assert len(stored.state.redrives) == 1


async def test_redrive_fences_the_former_owner(location: str) -> None:
    async with open_store(location) as store:
        ended = await fail(store)
        await redrive(store.database, key("a"), "run", redrive_record)
        late = fails(ended)

        with pytest.raises(FencedError):
            await store.runs.append(late.state, 0, late.records or ended.records)


async def test_run_that_was_set_aside_is_redriven_once_readable(
    location: str,
) -> None:
    async with open_store(location) as store:
        registry = WorkflowRegistry(store.definitions)
        await registry.register_built_in()
        await begin(store.runs, registry)
        await store.database.write(
            lambda tx: tx.execute(
                "UPDATE run SET status = 'NEEDS_ATTENTION', finished_us = updated_us"
            )
        )

        await redrive(store.database, key("a"), "run", redrive_record)
        (claimed,) = await store.runs.claim(10)

    assert claimed.state.redrives[0].previous_status is RunStatus.NEEDS_ATTENTION
    assert claimed.row.status == RunStatus.RUNNING
